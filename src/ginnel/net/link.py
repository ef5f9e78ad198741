"""A connection to a server over TCP or TLS that carries datagrams which may be dropped.

Tells its owner what comes, and why it ended; knows nothing of what the bytes mean. What may be
dropped is dropped while the system takes no more: late packets are worse than none.

Invariant: `on_lost` is called once, and nothing after it; not at all after `close`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ginnel.base.types import Address

CONNECT_TIMEOUT_S = 10.0  # seconds for TCP and TLS together
MAX_UNSENT = 256 * 1024  # bytes that wait; 20 ms at 100 Mbit/s
DEAD_AFTER_MS = 10_000  # milliseconds that sent bytes may stay unacknowledged
SYSTEM_CAS = Path("/etc/ssl/certs/ca-certificates.crt")  # Debian's; others' by OpenSSL's defaults

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LinkHandlers:
    """What a link calls, inside the loop."""

    on_open: Callable[[], None]
    on_bytes: Callable[[bytes], None]
    on_lost: Callable[[str], None]  # why, in words


def make_tls_context(extra_cas: Path | None = None) -> ssl.SSLContext:
    """Return a client's context: TLS 1.2 or newer, certificates and names are checked.

    Args:
        extra_cas: a PEM file of further authorities.

    Raises:
        OSError: the file can't be read, or holds no certificate (ssl.SSLError).
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if SYSTEM_CAS.exists():
        context.load_verify_locations(SYSTEM_CAS)
    if extra_cas is not None:
        context.load_verify_locations(extra_cas)
    return context


class StreamLink(asyncio.Protocol):
    """One connection; `run` makes it and returns when it is over."""

    def __init__(
        self,
        server: Address,
        handlers: LinkHandlers,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "",
    ) -> None:
        self.dropped = 0  # datagrams that found no room
        self._server = server
        self._handlers = handlers
        self._tls = tls
        self._host = host or server.ip
        self._transport: asyncio.Transport | None = None
        self._is_over = False
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Connect, and stay until either side ends it."""
        try:
            await self._connect()
            if self._transport is not None:
                await self._ended.wait()
        finally:
            if self._transport is not None:
                with suppress(AttributeError):  # Python 3.11.2's TLS, where the other side closed
                    self._transport.abort()

    def send(self, data: bytes, *, may_drop: bool = False) -> bool:
        """Send; return False if it was dropped, or there is no connection."""
        transport = self._transport
        if transport is None or self._is_over:
            return False
        if may_drop and transport.get_write_buffer_size() > MAX_UNSENT:
            self.dropped += 1
            return False
        transport.write(data)
        return True

    def close(self) -> None:
        """Send what waits, then end; harmless when ended."""
        self._is_over = True
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection (asyncio calls this)."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._is_over:
            transport.close()
            return
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER_MS)
        self._handlers.on_open()

    def data_received(self, data: bytes) -> None:
        """Take bytes (asyncio calls this)."""
        if not self._is_over:
            self._handlers.on_bytes(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that it is over (asyncio calls this)."""
        self._lose(f"the connection broke: {exc}" if exc else "the server closed the connection")
        self._ended.set()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        name = self._host if self._tls is not None else None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.create_connection(
                    lambda: self,
                    self._server.ip,
                    self._server.port,
                    ssl=self._tls,
                    server_hostname=name,
                )
        except TimeoutError:
            self._lose("no connection within 10 s")
        except ssl.SSLCertVerificationError as error:
            self._lose(f"its certificate is not trusted: {error.verify_message}")
        except OSError as error:
            _log.debug("%s: %s", self._server, error)
            self._lose(f"no connection: {error.strerror or error}")

    def _lose(self, reason: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._handlers.on_lost(reason)
