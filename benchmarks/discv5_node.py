"""Our discv5 node as a process with the commands of tests/interop/discv5/protocol.md.

It is the `Discovery` of the library as anybody would use it, with its default settings: table,
limits and metrics are on. `spawn` takes `keys` too, and then returns the records of the new nodes,
which know the nodes named in `enrs`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from ginnel.base.errors import GinnelError
from ginnel.base.types import Address, NodeId, Secret
from ginnel.discv5.aio import Discovery
from ginnel.discv5.enr import Enr
from ginnel.discv5.keys import new_private_key

GC_THRESHOLDS = (10_000, 20, 50)  # objects, then generations
LINE_LIMIT = 1 << 20  # bytes of one command


def _backwards(node_id: NodeId, address: Address, request: bytes) -> bytes:
    return request[::-1]


class Program:
    """The node that obeys; further ones are opened into `stack`."""

    def __init__(self, main: Discovery, stack: AsyncExitStack) -> None:
        self._main = main
        self._stack = stack

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        match command["op"]:
            case "ping":
                pong = await self._main.ping(Enr.from_text(command["enr"]))
                return {"seq": pong.enr_seq, "ip": pong.address.ip, "port": pong.address.port}
            case "findnode":
                record = Enr.from_text(command["enr"])
                return _records(await self._main.find_node(record, command["distances"]))
            case "lookup":
                return _records(await self._main.lookup(NodeId(bytes.fromhex(command["target"]))))
            case "table":
                return _records(self._main.nodes())
            case "record":
                return {"enr": self._main.record.to_text()}
            case "load":
                return await self._load(command)
            case "spawn":
                return await self._spawn(command)
        raise ValueError(f"unknown command {command['op']!r}")

    async def _load(self, command: dict[str, Any]) -> dict[str, Any]:
        """Send FINDNODEs to all the nodes at once, one after the other to each."""
        records = [Enr.from_text(text) for text in command["enrs"]]
        each = command["count"] // len(records)

        async def ask(record: Enr) -> list[int]:
            return [
                len(await self._main.find_node(record, command["distances"])) for _ in range(each)
            ]

        began = time.perf_counter()
        found = await asyncio.gather(*(ask(record) for record in records))
        seconds = time.perf_counter() - began
        return {
            "seconds": seconds,
            "answered": sum(len(one) for one in found),
            "records": sum(sum(one) for one in found),
        }

    async def _spawn(self, command: dict[str, Any]) -> dict[str, Any]:
        keys = [bytes.fromhex(key) for key in command.get("keys", [])]
        known = [Enr.from_text(text) for text in command.get("enrs", [])]
        made = []
        for number in range(command["count"]):
            node = make_node(0, keys[number] if keys else None, known)
            made.append(await self._stack.enter_async_context(node))
        return {"count": len(made)} | (_records([node.record for node in made]) if keys else {})


def make_node(port: int, key: bytes | None, bootnodes: Sequence[Enr]) -> Discovery:
    """Return a node on loopback with its address in its record."""
    address = Address("127.0.0.1", port or free_port())
    private_key = Secret(key if key is not None else new_private_key(os.urandom))
    return Discovery(address, private_key=private_key, advertise=address, bootstrap=bootnodes)


def free_port() -> int:
    """Return a UDP port of loopback that was free just now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _records(records: Iterable[Enr]) -> dict[str, Any]:
    return {"enrs": [record.to_text() for record in records]}


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


async def _answer(program: Program, command: dict[str, Any]) -> None:
    try:
        answer = await program.obey(command)
    except (GinnelError, ValueError, KeyError) as error:
        answer = {"error": str(error)}
    _say(answer | {"id": command["id"]})


async def _main(options: argparse.Namespace) -> None:
    bootnodes = [Enr.from_text(text) for text in options.bootnodes.split(",") if text]
    key = bytes.fromhex(options.key) if options.key else None
    lines = asyncio.StreamReader(limit=LINE_LIMIT)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    async with AsyncExitStack() as stack:
        main = await stack.enter_async_context(make_node(options.port, key, bootnodes))
        main.register_talk_protocol(b"echo", _backwards)
        program = Program(main, stack)
        gc.freeze()  # as docs/discv5.md advises for busy nodes
        gc.set_threshold(*GC_THRESHOLDS)
        _say({"event": "ready", "enr": main.record.to_text()})
        async with asyncio.TaskGroup() as tasks:
            while line := await lines.readline():
                tasks.create_task(_answer(program, json.loads(line)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key", default="")
    parser.add_argument("--bootnodes", default="")
    asyncio.run(_main(parser.parse_args()))
