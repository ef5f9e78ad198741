"""The name server over TCP: for answers that don't fit a datagram, ours and those of others.

Only this machine may ask; connections, questions and waits are bounded. A question about other
names goes to the servers behind us over TCP too, since who asks so wants a long answer.

Source: RFC 7766.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable, Sequence

from ginnel.net.dns_answers import MAX_QUERY, MAX_TCP_ANSWER, Foreign, Zone, answer, failure

MAX_CONNECTIONS = 16  # at once; one more is closed
IDLE_TIMEOUT = 10.0  # seconds for the next question
FORWARD_TIMEOUT = 3.0  # seconds for one server

log = logging.getLogger(__name__)


class DnsTcpServer:
    """A name server on listening sockets; make it inside a running loop, `close` ends it."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        zone: Callable[[], Zone],
        *,
        upstream: Callable[[], Sequence[str]] = tuple,
        port: int = 53,
    ) -> None:
        self.refused = 0  # connections from elsewhere, or too many
        self._listeners = tuple(listeners)
        self._own = {opened.getsockname()[0] for opened in self._listeners}
        self._zone = zone
        self._upstream = upstream
        self._port = port  # of the servers that are asked
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        for opened in self._listeners:
            opened.setblocking(False)
            self._loop.add_reader(opened.fileno(), self._on_connection, opened)

    def close(self) -> None:
        """Close all sockets and connections."""
        for opened in self._listeners:
            self._loop.remove_reader(opened.fileno())
            opened.close()
        for task in self._tasks:
            task.cancel()

    def _on_connection(self, listener: socket.socket) -> None:
        try:
            connection, source = listener.accept()
        except OSError:  # gone again
            return
        connection.setblocking(False)
        if source[0] not in self._own or len(self._tasks) >= MAX_CONNECTIONS:
            self.refused += 1
            connection.close()
            return
        task = self._loop.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            while True:
                async with asyncio.timeout(IDLE_TIMEOUT):
                    query = await _read_message(reader, MAX_QUERY)
                found = answer(query, self._zone(), max_size=MAX_TCP_ANSWER)
                if isinstance(found, Foreign):
                    found = await self._forward(query, found.refusal)
                if found is None:
                    return
                async with asyncio.timeout(IDLE_TIMEOUT):
                    await _write_message(writer, found)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            log.debug("dns over TCP: %s", error)
        finally:
            writer.close()

    async def _forward(self, query: bytes, refusal: bytes) -> bytes | None:
        servers = self._upstream()
        for server in servers:
            with contextlib.suppress(OSError, EOFError, TimeoutError, ValueError):
                async with asyncio.timeout(FORWARD_TIMEOUT):
                    reader, writer = await asyncio.open_connection(server, self._port)
                    try:
                        await _write_message(writer, query)
                        data = await _read_message(reader, MAX_TCP_ANSWER)
                    finally:
                        writer.close()
                if data[:2] == query[:2] and len(data) >= 12:
                    return data
        return failure(query) if servers else refusal


async def _read_message(reader: asyncio.StreamReader, most: int) -> bytes:
    (size,) = struct.unpack("!H", await reader.readexactly(2))
    if size > most:
        raise ValueError(f"a message of {size} bytes")
    return await reader.readexactly(size)


async def _write_message(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(struct.pack("!H", len(data)) + data)
    await writer.drain()
