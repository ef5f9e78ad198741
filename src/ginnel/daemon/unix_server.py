"""What servers on a Unix listener share: connections are counted and ended, whatever they say."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import TypeAlias

Talk: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

DEFAULT_LINE_LIMIT = 65_536  # bytes that a reader buffers; asyncio's own

logger = logging.getLogger(__name__)


class UnixServer:
    """Accepts connections and hands each to `talk`, which ends it by returning or raising.

    Args:
        talk: speaks with one client; TimeoutError, ConnectionError and ValueError are its ways out.
        name: for the log.
        max_connections: at once; more are closed unanswered.
        line_limit: bytes that a reader buffers.
    """

    def __init__(
        self,
        talk: Talk,
        *,
        name: str,
        max_connections: int,
        line_limit: int = DEFAULT_LINE_LIMIT,
    ) -> None:
        self._talk = talk
        self._name = name
        self._max_connections = max_connections
        self._line_limit = line_limit
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self, listener: socket.socket) -> None:
        """Accept connections from now on; the listener is owned by the server."""
        listener.setblocking(False)
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listener, limit=self._line_limit
        )

    def close(self) -> None:
        """Accept no more connections; the socket's file stays."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= self._max_connections:
            writer.close()
            return
        self._open += 1
        try:
            await self._talk(reader, writer)
        except (TimeoutError, ConnectionError, ValueError) as error:
            logger.debug("%s connection ended early: %s", self._name, type(error).__name__)
        finally:
            self._open -= 1
            writer.close()
