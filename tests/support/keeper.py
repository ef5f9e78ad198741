"""Keeps what Ginnel's processes hold as secret, and how they were started, for tests that search.

`install` runs inside every process (see `witness.environment`), before Ginnel is imported. Every
value that is ever put into a `Secret` goes into one file, arguments and environment of the process
into another. A tunnel that gets SIGUSR1 logs a canary at DEBUG, and reads, with the rights that it
has then, whatever it may of the files that root named.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ginnel.base.types import Secret
from support.witness import Notes, open_high, read_plaintexts

CANARY = bytes.fromhex("7e57ca4a21a5b1ab0ff1ce0ddba11ace")
LOG_TEXT = f"a canary: {CANARY.hex()}"
KINDS = ("secrets", "argv", "environ", "files")
CANDIDATES = "candidates"  # file of root's, one path a line
MAX_FILE = 8 * 1024 * 1024  # bytes read of one file


def make_folders(folder: Path) -> None:
    """Make what `install` needs."""
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
    (folder / CANDIDATES).touch()


def read(folder: Path, kind: str) -> list[bytes]:
    """Return all notes of a kind."""
    return read_plaintexts(folder / kind)


def install(folder: str) -> None:
    """Become a keeper if this process is one of Ginnel's."""
    words = sys.orig_argv
    if not any(word.endswith("/ginnel") or word == "ginnel.cli.main" for word in words):
        return
    name = f"{os.getpid()}-{time.monotonic_ns()}"
    notes = {kind: Notes(open_high(Path(folder) / kind / name)).note for kind in KINDS}
    for kind, source in (("argv", "cmdline"), ("environ", "environ")):
        notes[kind](Path("/proc/self", source).read_bytes())
    keep = notes["secrets"]
    original = Secret.__init__

    def init(self: Secret, value: bytes) -> None:
        original(self, value)
        keep(bytes(value))

    setattr(Secret, "__init__", init)  # noqa: B010  # mypy forbids the plain assignment
    if "tunnel" in words:
        wanted = os.open(Path(folder) / CANDIDATES, os.O_RDONLY)
        note = notes["files"]

        def look() -> None:
            logging.getLogger("ginnel.canary").debug("%s", LOG_TEXT)
            for path, data in readable(os.pread(wanted, 1 << 20, 0).decode().splitlines()):
                note(path.encode() + b"\n" + data)

        def on_signal(*_: object) -> None:
            asyncio.get_running_loop().call_soon_threadsafe(look)

        signal.signal(signal.SIGUSR1, on_signal)


def readable(paths: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield those files that this process may read."""
    for path in paths:
        try:
            with open(path, "rb") as stream:
                yield path, stream.read(MAX_FILE)
        except OSError:
            continue
