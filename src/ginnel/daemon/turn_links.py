"""Connections to TURN servers over TCP and TLS, for the mesh that asks for them.

Decides nothing: what comes goes to the mesh, what the mesh sends goes out.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from ginnel.base.config import Settings
from ginnel.base.errors import UsageError
from ginnel.base.servers import Server, Transport, parse_turn
from ginnel.base.types import Address
from ginnel.ice.turn_events import TurnConfig
from ginnel.mesh.events import (
    CloseLink,
    LinkBytes,
    LinkCommand,
    LinkEvent,
    LinkLost,
    LinkOpened,
    OpenLink,
    SendLink,
)
from ginnel.net.link import LinkHandlers, StreamLink, make_tls_context
from ginnel.net.resolve import resolve

RESOLVE_AGAIN_S = 60.0  # seconds until names that did not resolve are tried again

logger = logging.getLogger(__name__)


class TurnLinks:
    """All connections; `run` must be running when commands come.

    Args:
        tls: for servers over TLS; None where there are none.
        tell: takes what becomes of a connection, inside the loop.
    """

    def __init__(self, tls: ssl.SSLContext | None, tell: Callable[[LinkEvent], None]) -> None:
        self._tls = tls
        self._tell = tell
        self._links: dict[int, StreamLink] = {}
        self._opened: asyncio.Queue[StreamLink] = asyncio.Queue()

    async def run(self) -> None:
        """Serve the connections until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                link = await self._opened.get()
                tasks.create_task(link.run())

    def on_command(self, command: LinkCommand) -> None:
        """Carry out one command."""
        match command:
            case OpenLink():
                self._open(command)
            case SendLink(number, data, may_drop):
                link = self._links.get(number)
                if link is not None:
                    link.send(data, may_drop=may_drop)
            case CloseLink(number):
                link = self._links.pop(number, None)
                if link is not None:
                    link.close()

    def close(self) -> None:
        """End all connections."""
        for link in self._links.values():
            link.close()
        self._links.clear()

    def _open(self, command: OpenLink) -> None:
        number, config = command.link, command.config
        handlers = LinkHandlers(
            on_open=lambda: self._tell(LinkOpened(number)),
            on_bytes=lambda data: self._tell(LinkBytes(number, data)),
            on_lost=lambda reason: self._tell(LinkLost(number, reason)),
        )
        tls = self._tls if config.transport is Transport.TLS else None
        assert (tls is None) == (config.transport is not Transport.TLS), "no authorities were read"
        link = StreamLink(config.server, handlers, tls=tls, host=config.host)
        self._links[number] = link
        self._opened.put_nowait(link)


def tls_for(settings: Settings) -> ssl.SSLContext | None:
    """Read the authorities for `turns:` servers, before this process loses its rights; or None.

    Raises:
        UsageError: the file of the setting turn_ca can't be read or holds no certificate.
    """
    if all(parse_turn(text).transport is not Transport.TLS for text in settings.turn):
        return None
    extra = Path(settings.turn_ca) if settings.turn_ca else None
    try:
        return make_tls_context(extra)
    except OSError as error:
        raise UsageError(f"turn_ca = {settings.turn_ca!r}: {error.strerror or error}") from None


async def resolved(server: Server) -> list[Address]:
    """Return a server's addresses once its name resolves, at least one."""
    while not (found := await resolve(server.host, server.port)):
        logger.warning("%s does not resolve", server)
        await asyncio.sleep(RESOLVE_AGAIN_S)
    return found


async def turn_config(server: Server) -> TurnConfig:
    """Return what the client of a server needs, once its name resolves."""
    return TurnConfig(
        (await resolved(server))[0],
        server.username,
        server.password,
        transport=server.transport,
        host=server.host,
    )
