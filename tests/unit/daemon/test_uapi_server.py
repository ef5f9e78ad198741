"""The socket that `wg` asks, spoken to by hand."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

from ginnel.base.errors import SystemFailure
from ginnel.daemon.uapi_server import UapiServer
from ginnel.engine.uapi import MAX_LINE, Change, UapiError

EIO, EPERM, EPROTO, EINVAL, EADDRINUSE = 5, 1, 71, 22, 98


def ask(path: Path, change: Callable[[Change], None] | None, *requests: bytes) -> list[bytes]:
    """Serve, send each request on one connection, return the answers."""

    async def main() -> list[bytes]:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            server = UapiServer(lambda: "listen_port=7\nerrno=0\n\n", change)
            await server.start(listener)
            reader, writer = await asyncio.open_unix_connection(str(path))
            answers = []
            for request in requests:
                writer.write(request)
                try:
                    answers.append(await reader.readuntil(b"\n\n"))
                except asyncio.IncompleteReadError as error:
                    answers.append(error.partial)
                    break
            writer.close()
            server.close()
            return answers

    return asyncio.run(main())


def test_a_connection_takes_many_requests(tmp_path: Path) -> None:
    ports: list[int | None] = []
    answers = ask(
        tmp_path / "s",
        lambda change: ports.append(change.listen_port),
        b"get=1\n\n",
        b"set=1\nlisten_port=9\n\n",
        b"set=1\nlisten_port=x\n\n",
        b"hello\n\n",
    )
    assert answers == [
        b"listen_port=7\nerrno=0\n\n",
        b"errno=0\n\n",
        f"errno=-{EINVAL}\n\n".encode(),
        f"errno=-{EPROTO}\n\n".encode(),
    ]
    assert ports == [9]


def test_what_may_not_be_changed_stays(tmp_path: Path) -> None:
    assert ask(tmp_path / "s", None, b"set=1\n\n") == [f"errno=-{EPERM}\n\n".encode()]


def test_failures_become_numbers(tmp_path: Path) -> None:
    def fail(change: Change) -> None:
        if change.listen_port:
            raise UapiError("in use", EADDRINUSE)
        raise SystemFailure("broken")

    answers = ask(tmp_path / "s", fail, b"set=1\nlisten_port=9\n\n", b"set=1\n\n")
    assert answers == [f"errno=-{EADDRINUSE}\n\n".encode(), f"errno=-{EIO}\n\n".encode()]


def test_hostile_bytes_end_the_connection(tmp_path: Path) -> None:
    for number, request in enumerate((b"x" * (MAX_LINE + 1), b"\xff\n\n")):
        assert ask(tmp_path / str(number), None, request) == [b""]
