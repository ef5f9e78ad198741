"""`make bench-discv5`: our discv5 beside go-ethereum's and the Rust crate's.

Every implementation is one process on loopback with its default settings, all started at once and
measured in turns by one load program (`discv5_load.py`). Sixteen live nodes of ours (`herd`) are
what all of them serve in NODES: they have found and checked them themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from benchmarks.common import (
    Row,
    below,
    compare,
    cpu_seconds,
    in_turns,
    publish,
    resident_mb,
)
from benchmarks.discv5_load import RECORDS, Client, LoadError, Outcome, handshakes, key_beyond
from benchmarks.discv5_responder import PER_PACKET
from ginnel.discv5.enr import Enr

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.discv5_peers import NAMES, Peer, missing  # noqa: E402  # needs the path above

OUR_NODE = (sys.executable, "-m", "benchmarks.discv5_node")
RESPONDER = (sys.executable, "-m", "benchmarks.discv5_responder")
SIDES = {"ours": OUR_NODE, "go": (), "rust": ()}

FAR = 256  # log2 distance between the herd and all that is measured
HERD = 16  # nodes to serve
READY_LIMIT = 90.0  # seconds until each side serves all of the herd
IDLE_NODES = 100  # nodes in one process whose memory is measured
SETTLE_TIME = 5.0  # seconds for new nodes to come to rest

PINGS = 20_000  # of one measurement
FIND_NODES = 4_000
HANDSHAKES = 2_000
ASKED = 3_200  # FINDNODEs as a client
IN_FLIGHT = 16
HANDSHAKES_IN_FLIGHT = 8

NOTES = (
    "Requests a second on loopback; CPU: seconds of the process measured, for 1000 requests.",
    "FINDNODE as a client: 16 nodes asked, one request at a time each, 16 records in an answer.",
    "A node's records are the same each time, as in a network at rest: we check a signature",
    "once and remember that, the others check it each time. The Rust crate's call returns with",
    "the first of the four packets; it still reads the others.",
)


class Bench:
    """The processes under measurement."""

    def __init__(self, stack: AsyncExitStack, scale: float, rounds: int) -> None:
        self._stack = stack
        self._scale = scale
        self._rounds = rounds
        self._peers: dict[str, Peer] = {}
        self._cpu: dict[str, dict[str, list[float]]] = {}

    async def start(self) -> None:
        """Start all sides and wait until each serves 16 records."""
        for side, command in SIDES.items():
            peer = Peer(side, key=key_beyond(0), command=command)
            self._peers[side] = await self._stack.enter_async_context(peer)
        herd = await self._stack.enter_async_context(Peer("herd", command=OUR_NODE))
        keys = [key_beyond(1).hex() for _ in range(HERD)]
        known = [peer.enr.to_text() for peer in self._peers.values()]
        answer = await herd.ask("spawn", count=HERD, keys=keys, enrs=known)
        records = [Enr.from_text(text) for text in answer["enrs"]]
        print("all sides look for the nodes that they will serve...", file=sys.stderr)
        async with asyncio.timeout(READY_LIMIT):
            for side, peer in self._peers.items():
                await self._until_serving(side, peer, records)

    async def rates(
        self, name: str, count: int, load: Callable[[Enr, int], Outcome]
    ) -> dict[str, list[float]]:
        """Measure the answers a second of each side, and its CPU time on the way."""
        count = max(100, int(count * self._scale))
        cpu: dict[str, list[float]] = {side: [] for side in self._peers}

        async def one(side: str) -> float:
            peer = self._peers[side]
            before = cpu_seconds(peer.pid)
            outcome = await asyncio.to_thread(load, peer.enr, count)
            cpu[side].append((cpu_seconds(peer.pid) - before) / outcome.answered * 1000)
            return outcome.answered / outcome.seconds

        self._cpu[name] = cpu
        return await self._turns(name, one)

    async def asking_rates(self, name: str) -> dict[str, list[float]]:
        """Measure the answers a second that each side gets as a client."""
        process = await asyncio.create_subprocess_exec(
            *RESPONDER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        texts = json.loads(await process.stdout.readline())
        count = max(160, int(ASKED * self._scale))
        cpu: dict[str, list[float]] = {side: [] for side in self._peers}
        self._cpu[name] = cpu

        async def one(side: str) -> float:
            peer = self._peers[side]
            before = cpu_seconds(peer.pid)
            answer = await peer.ask("load", enrs=texts, distances=[FAR], count=count)
            wanted = count * (PER_PACKET if side == "rust" else RECORDS)  # see NOTES
            if answer["records"] < 0.99 * wanted:
                raise LoadError(f"{side} took {answer['records']} records of {wanted}")
            cpu[side].append((cpu_seconds(peer.pid) - before) / answer["answered"] * 1000)
            return float(answer["answered"] / answer["seconds"])

        try:
            return await self._turns(name, one)
        finally:
            process.stdin.close()
            await process.wait()

    def cpu_rows(self) -> list[Row]:
        """Return what each request cost each side."""
        return [
            compare(
                f"CPU: {name}", "s/1000", cpu["ours"], NAMES[side], cpu[side], less_is_better=True
            )
            for name, cpu in self._cpu.items()
            for side in ("go", "rust")
        ]

    async def _turns(
        self, name: str, one: Callable[[str], Awaitable[float]]
    ) -> dict[str, list[float]]:
        print(f"{name}...", file=sys.stderr)
        return await in_turns(self._rounds, {side: partial(one, side) for side in self._peers})

    async def _until_serving(self, side: str, peer: Peer, records: list[Enr]) -> None:
        """Make the side meet the herd, until it hands all of it out."""
        while True:
            client = await asyncio.to_thread(Client, peer.enr)
            served = await asyncio.to_thread(client.records_at, FAR)
            client.close()
            if served == RECORDS:
                return
            for record in records:
                await peer.ask("ping", enr=record.to_text())
            await peer.ask("lookup", target=records[0].node_id.hex())
            await asyncio.sleep(1)


async def idle_memory(side: str) -> float:
    """Return the MB that one more idle node takes in a process of this side."""
    async with Peer(side, command=SIDES[side]) as peer:
        await peer.ask("spawn", count=1)
        before = resident_mb(peer.pid)
        await peer.ask("spawn", count=IDLE_NODES)
        await asyncio.sleep(SETTLE_TIME)
        return (resident_mb(peer.pid) - before) / IDLE_NODES


def pings(server: Enr, count: int) -> Outcome:
    """Load a server with PINGs."""
    client = Client(server)
    try:
        return client.ping(count, IN_FLIGHT)
    finally:
        client.close()


def find_nodes(server: Enr, count: int) -> Outcome:
    """Load a server with FINDNODEs."""
    client = Client(server)
    try:
        return client.find_node(FAR, count, IN_FLIGHT)
    finally:
        client.close()


def new_sessions(server: Enr, count: int) -> Outcome:
    """Load a server with handshakes of new nodes."""
    return handshakes(server, count, HANDSHAKES_IN_FLIGHT)


async def measure(scale: float, rounds: int) -> list[Row]:
    """Run all of it and return the rows."""
    loads: list[tuple[str, int, Callable[[Enr, int], Outcome], dict[str, float | None]]] = [
        ("PING, 16 in flight", PINGS, pings, {"go": 1.2, "rust": None}),
        ("FINDNODE served, 16 records", FIND_NODES, find_nodes, {"go": 1.4, "rust": 0.9}),
        ("new handshakes, 8 in flight", HANDSHAKES, new_sessions, {"go": 1.0, "rust": None}),
    ]
    rows: list[Row] = []
    async with AsyncExitStack() as stack:
        bench = Bench(stack, scale, rounds)
        await bench.start()
        for name, count, load, targets in loads:
            rates = await bench.rates(name, count, load)
            for side, target in targets.items():
                ours, theirs = rates["ours"], rates[side]
                rows.append(compare(name, "/s", ours, NAMES[side], theirs, target=target))
        name = "FINDNODE as a client"
        rates = await bench.asking_rates(name)
        for side in ("go", "rust"):
            ours, theirs = rates["ours"], rates[side]
            rows.append(compare(name, "/s", ours, NAMES[side], theirs, target=4.0))
        rows += bench.cpu_rows()
    print("memory...", file=sys.stderr)
    memory = await in_turns(rounds, {side: partial(idle_memory, side) for side in SIDES})
    name = "memory per idle node"
    rows.append(below(name, "MB", memory["ours"], 0.3, "our limit"))
    for side in ("go", "rust"):
        ours, theirs = memory["ours"], memory[side]
        rows.append(compare(name, "MB", ours, NAMES[side], theirs, less_is_better=True))
    return rows


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of requests")
    parser.add_argument("--print", action="store_true", help="only print, write no results")
    options = parser.parse_args()
    for side in ("go", "rust"):
        if (reason := missing(side)) is not None:
            parser.error(reason)
    rows = asyncio.run(measure(options.scale, options.rounds))
    publish("discv5", "discv5 beside go-ethereum and the Rust crate", rows, NOTES, options.print)


if __name__ == "__main__":
    main()
