"""The control socket: whole requests answered, everything else refused and closed."""

import asyncio
import json
import socket
from pathlib import Path

import pytest

from ginnel.base.errors import UsageError
from ginnel.daemon.control import MAX_REQUEST, ControlServer, Json


async def _echo(body: Json) -> Json:
    return {"got": body}


async def _refuse(_body: Json) -> Json:
    raise UsageError("name a peer")


async def _exchange(folder: Path, raw: bytes) -> bytes:
    path = str(folder / "s.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    server = ControlServer({("GET", "/v1/echo"): _echo, ("POST", "/v1/refuse"): _refuse})
    await server.start(listener)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(raw)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    server.close()
    return answer


def exchange(folder: Path, raw: bytes) -> tuple[int, Json]:
    answer = asyncio.run(_exchange(folder, raw))
    if not answer:
        return 0, {}
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_a_request_is_answered(tmp_path: Path) -> None:
    body = b'{"a": 1}'
    raw = b"GET /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n" + body
    assert exchange(tmp_path, raw) == (200, {"got": {"a": 1}})


def test_our_errors_are_told(tmp_path: Path) -> None:
    raw = b"POST /v1/refuse HTTP/1.1\r\nHost: x\r\n\r\n"
    assert exchange(tmp_path, raw) == (400, {"error": "name a peer"})


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"\x00\x01\x02\r\n\r\n", 400),
        (b"GET /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]", 400),
        (b"GET /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{", 400),
        (b"GET /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4096\r\n\r\n" + b"[" * 4096, 400),
        (b"GET /v1/echo HTTP/1.1\r\nHost: " + b"x" * (2 * MAX_REQUEST) + b"\r\n\r\n", 431),
        (
            b"GET /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n" + b" " * 5000,
            413,
        ),
        (b"GET /v1/echo HTTP/1.1\r\nHo", 400),
        (b"", 0),
    ],
)
def test_bad_requests_are_refused(tmp_path: Path, raw: bytes, status: int) -> None:
    assert exchange(tmp_path, raw)[0] == status
