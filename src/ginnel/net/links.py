"""Connections to servers over TCP and TLS, for cores that ask for them by number."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from ginnel.base.links import (
    CloseLink,
    LinkBytes,
    LinkCommand,
    LinkEvent,
    LinkLost,
    LinkOpened,
    OpenLink,
    SendLink,
)
from ginnel.base.servers import Transport
from ginnel.net.link import LinkHandlers, StreamLink


class StreamLinks:
    """Connections to servers over TCP and TLS; `run` must be running when commands come.

    Decides nothing: what comes is told, what is to be sent goes out.

    Args:
        tls: for servers over TLS; None while there are none (`tls` may be set later).
        tell: takes what becomes of a connection, inside the loop.
    """

    def __init__(self, tls: ssl.SSLContext | None, tell: Callable[[LinkEvent], None]) -> None:
        self.tls = tls
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
        number, is_tls = command.link, command.transport is Transport.TLS
        handlers = LinkHandlers(
            on_open=lambda: self._tell(LinkOpened(number)),
            on_bytes=lambda data: self._tell(LinkBytes(number, data)),
            on_lost=lambda reason: self._tell(LinkLost(number, reason)),
        )
        tls = self.tls if is_tls else None
        assert (tls is not None) == is_tls, "no authorities were read"
        link = StreamLink(command.server, handlers, tls=tls, host=command.host)
        self._links[number] = link
        self._opened.put_nowait(link)
