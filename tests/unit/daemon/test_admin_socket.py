from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.daemon.admin_socket import (
    MAX_REQUEST,
    AdminSocket,
    Json,
    listen_unix,
    parse_request,
    why_refused,
)

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only uid 0 may ask")


def test_verbs_take_their_keys_only() -> None:
    assert parse_request(b'{"verb": "status"}') == ("status", {})
    assert parse_request(b'{"verb": "approve", "name": "pi", "code": null}') == (
        "approve",
        {"name": "pi", "code": None},
    )


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff",
        b"[]",
        b"[" * 4000,
        b"{}",
        b'{"verb": 1}',
        b'{"verb": "root"}',
        b'{"verb": "status", "x": 1}',
        b'{"verb": "invite", "auto": 1}',
        b'{"verb": "invite", "expires_s": true}',
        b'{"verb": "approve", "name": ["pi"]}',
    ],
)
def test_other_requests_are_refused(line: bytes) -> None:
    with pytest.raises(UsageError):
        parse_request(line)


async def handler(verb: str, keys: Json) -> Json:
    if verb == "wake":
        raise SystemFailure("the tunnel does not run")
    return {"verb": verb, **keys}


def serve(path: Path, body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        admin = AdminSocket(path, handler)
        async with asyncio.timeout(20):
            serving = asyncio.ensure_future(admin.run())
            try:
                await body()
                await admin.finish()
            finally:
                serving.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await serving
                admin.close()

    asyncio.run(main())
    assert not path.exists()


ASK = (
    "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
    "s.sendall(sys.argv[2].encode()); print(s.makefile().readline(), end='')"
)


async def ask_from(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return (await process.communicate())[0]


def test_what_the_manager_started_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "manager.sock"

    async def body() -> None:
        answer = await ask_from(sys.executable, "-c", ASK, str(path), '{"verb": "status"}\n')
        assert answer == b""

    serve(path, body)


def test_we_ourselves_are_refused_and_so_is_another_uid() -> None:
    one, two = socket.socketpair()
    with one, two:
        reason = why_refused(one, os.getpid())
        assert reason is not None
        if os.geteuid() == 0:
            assert why_refused(one, os.getpid() + 1_000_000) is None
            assert "was started by the manager" in reason
        else:
            assert "is not root" in reason


@NEEDS_ROOT
@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (b'{"verb": "invite", "auto": true}\n', {"verb": "invite", "auto": True}),
        (b'{"verb": "wake"}\n', {"error": "the tunnel does not run"}),
        (b'{"verb": "status"', {"error": "one line of at most 4096 bytes is expected"}),
        (b'{"verb": "status"}\n{"verb"', {"error": "one line of at most 4096 bytes is expected"}),
        (b" " * (MAX_REQUEST + 1), {"error": "one line of at most 4096 bytes is expected"}),
    ],
)
def test_root_is_answered(tmp_path: Path, sent: bytes, received: Json) -> None:
    """The server is a child here, so that the asking process is no descendant of it."""
    path = tmp_path / "manager.sock"
    ready, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:

        async def body() -> None:
            os.write(theirs, b"1")
            async with asyncio.timeout(20):  # the parent ends it
                await asyncio.Event().wait()

        serve(path, body)
        os._exit(0)
    try:
        os.read(ready, 1)
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(20)
            stream.connect(str(path))
            stream.sendall(sent)
            stream.shutdown(socket.SHUT_WR)
            assert json.loads(stream.makefile("rb").readline()) == received
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(theirs)


def test_a_stale_file_is_replaced_and_an_impossible_path_is_named(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listen_unix(path, mode=0o600).close()
    assert path.exists()
    listen_unix(path, mode=0o666).close()
    assert path.stat().st_mode & 0o777 == 0o666
    with pytest.raises(SystemFailure, match="can't listen on"):
        listen_unix(tmp_path / "none" / "socket", mode=0o600)
