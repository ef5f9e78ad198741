"""Other implementations of discv5 as processes that obey commands: one JSON object a line.

Commands and answers: tests/interop/discv5/protocol.md. Interop tests and benchmarks use it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ginnel.base.types import Address
from ginnel.discv5.enr import Enr

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "tests" / "interop" / "discv5"
BUILT = Path(os.environ.get("GINNEL_INTEROP", ROOT / "target" / "interop-discv5"))

COMMANDS: dict[str, tuple[str, ...]] = {
    "go": (str(BUILT / "peer-go"),),
    "rust": (str(BUILT / "rust" / "release" / "peer"),),
    "js": ("node", str(SOURCES / "js" / "peer.js")),
}
NAMES = {"go": "go-ethereum", "rust": "sigp discv5", "js": "ChainSafe discv5"}

ANSWER_LIMIT = 90.0  # seconds for one command; the longest is a load of requests
STOP_LIMIT = 3.0  # seconds for a process to end by itself
LINE_LIMIT = 1 << 20  # bytes of one answer


def free_address() -> Address:
    """Return a loopback address whose UDP port was free just now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return Address("127.0.0.1", probe.getsockname()[1])


def missing(kind: str) -> str | None:
    """Return why this peer can't be started here, or None."""
    if kind == "js":
        built = shutil.which("node") and (SOURCES / "js" / "node_modules").is_dir()
    else:
        built = Path(COMMANDS[kind][0]).is_file()
    return None if built else f"needs the {kind} peer: make interop"


class PeerError(Exception):
    """The peer answered with an error."""


class Peer:
    """One process; use it as `async with Peer("go") as peer:`."""

    def __init__(
        self,
        kind: str,
        *,
        bootnodes: Sequence[Enr] = (),
        key: bytes | None = None,
        command: Sequence[str] = (),
    ) -> None:
        self.kind = kind
        self._command = [*(command or COMMANDS[kind])]
        if key is not None:
            self._command += ["--key", key.hex()]
        if bootnodes:
            self._command += ["--bootnodes", ",".join(enr.to_text() for enr in bootnodes)]
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.enr: Enr

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
        )
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), ANSWER_LIMIT)
        self.enr = Enr.from_text(json.loads(line)["enr"])
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def stop(self) -> None:
        """End the process: by closing its input, or else by its id."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_LIMIT)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reader
        await asyncio.sleep(0)  # lets asyncio close the pipes

    async def ask(self, op: str, **arguments: object) -> dict[str, Any]:
        """Send a command and return its answer.

        Raises:
            PeerError: the peer says that it failed.
        """
        number = next(self._numbers)
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        assert self._process.stdin is not None
        line = json.dumps({"id": number, "op": op, **arguments})
        self._process.stdin.write(line.encode() + b"\n")
        answer: dict[str, Any] = await asyncio.wait_for(future, ANSWER_LIMIT)
        if "error" in answer:
            raise PeerError(f"{self.kind}: {answer['error']}")
        return answer

    async def ask_records(self, op: str, **arguments: object) -> list[Enr]:
        """Send a command whose answer is a list of records."""
        return [Enr.from_text(text) for text in (await self.ask(op, **arguments))["enrs"]]

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            future = self._waiting.pop(answer.get("id", 0), None)
            if future is not None and not future.done():
                future.set_result(answer)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(PeerError(f"{self.kind} has ended"))
        self._waiting.clear()
