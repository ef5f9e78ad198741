"""The tunnel's control socket: HTTP and JSON for the command line and for people's own tools.

Served by the unprivileged tunnel on a listener that the manager made; root parses none of it. One
request a connection, bounded in size and time. A handler gets the request's JSON object and
returns one; a `GinnelError` becomes status 400 with its text.

Source: DESIGN, "Processes" (tunnel.sock).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import h11

from ginnel.base.errors import GinnelError
from ginnel.daemon.unix_server import UnixServer

MAX_REQUEST = 4096  # bytes of headers, and as many of body: the largest request is a member's name
MAX_CONNECTIONS = 32  # at once; more are closed unanswered
READ_TIMEOUT = 5.0  # seconds for a whole request

Json: TypeAlias = dict[str, Any]
Handler: TypeAlias = Callable[[Json], Awaitable[Json]]


class _Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class ControlServer(UnixServer):
    """Serve handlers, named by method and path (`("GET", "/v1/status")`), on a Unix listener."""

    def __init__(self, handlers: Mapping[tuple[str, str], Handler]) -> None:
        self._handlers = handlers
        super().__init__(self._serve_request, name="control", max_connections=MAX_CONNECTIONS)

    async def _serve_request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
        try:
            status, answer = await self._answer(connection, reader)
            writer.write(_encode(connection, status, answer))
        except h11.ProtocolError as error:
            raise ConnectionResetError(str(error)) from error
        await asyncio.wait_for(writer.drain(), READ_TIMEOUT)

    async def _answer(
        self, connection: h11.Connection, reader: asyncio.StreamReader
    ) -> tuple[int, Json]:
        try:
            method, path, body = await asyncio.wait_for(_read(connection, reader), READ_TIMEOUT)
            handler = self._handlers.get((method, path))
            if handler is None:
                raise _Refused(404, f"no {method} {path} here")
            return 200, await handler(body)
        except _Refused as error:
            return error.status, {"error": str(error)}
        except GinnelError as error:
            return 400, {"error": str(error)}
        except h11.RemoteProtocolError as error:
            return error.error_status_hint, {"error": str(error)}


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> tuple[str, str, Json]:
    method, path, body = "", "", b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(MAX_REQUEST))
        elif isinstance(event, h11.Request):
            method, path = event.method.decode("ascii"), event.target.decode("ascii")
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_REQUEST:
                raise _Refused(413, f"more than {MAX_REQUEST} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return method, path, _parse(body)
        else:
            raise ConnectionResetError("closed before a whole request")


def _parse(body: bytes) -> Json:
    if not body:
        return {}
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        raise _Refused(400, "the body is no JSON") from None
    if not isinstance(parsed, dict):
        raise _Refused(400, "the body is no JSON object")
    return parsed


def _encode(connection: h11.Connection, status: int, answer: Json) -> bytes:
    payload = json.dumps(answer).encode() + b"\n"
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(payload))),
        ("Connection", "close"),
    ]
    parts = (
        connection.send(h11.Response(status_code=status, headers=headers)),
        connection.send(h11.Data(data=payload)),
        connection.send(h11.EndOfMessage()),
    )
    return b"".join(part for part in parts if part)
