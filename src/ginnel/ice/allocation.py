"""One TURN client and its way to the server: datagrams of a shared port, or a connection.

Connections are made by others (`net.links.StreamLinks`): commands for them come out of `collect`,
what becomes of them goes in by `on_link`. Each has a number that its owner gives.

Source: RFC 8656 section 12.5 (padding on streams).
"""

from __future__ import annotations

from collections.abc import Callable

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.links import (
    CloseLink,
    LinkBytes,
    LinkCommand,
    LinkEvent,
    LinkLost,
    OpenLink,
    SendLink,
)
from ginnel.base.types import Address, Transmit
from ginnel.ice.framing import FramingError, StreamSplitter, frame
from ginnel.ice.stun import Message
from ginnel.ice.turn import TurnClient
from ginnel.ice.turn_events import ConnectionOver, ConnectionWanted, TurnConfig, TurnEvent

_SEND = b"\x00\x16"  # type of a Send indication


class Allocation:
    """See the module's text.

    Args:
        config: the server; over UDP `source_ip` is where it is asked from.
        next_link: gives the number of a new connection.
    """

    def __init__(
        self,
        config: TurnConfig,
        *,
        random_bytes: RandomBytes,
        rng: Rng,
        next_link: Callable[[], int],
    ) -> None:
        self.client = TurnClient(config, random_bytes=random_bytes, rng=rng)
        self.link = 0  # the connection in use; 0: none
        self._next_link = next_link
        self._splitter = StreamSplitter()

    @property
    def is_datagram(self) -> bool:
        """Say whether the server is reached over UDP, from the shared port."""
        return not self.client.config.transport.is_stream

    @property
    def relayed(self) -> Address | None:
        """Return our address at the server, if there is one now."""
        return self.client.relayed

    def owns(self, message: Message, source: Address) -> bool:
        """Say whether a STUN message of the shared port is for this one."""
        return self.is_datagram and self.client.owns(message, source)

    def knows_channel(self, source: Address, number: int) -> bool:
        """Say whether ChannelData of the shared port is for this one."""
        is_server = self.is_datagram and source == self.client.config.server
        return is_server and self.client.knows_channel(number)

    def on_link(self, event: LinkEvent, *, now: float) -> None:
        """Take what became of the connection; what is of an earlier one is ignored."""
        if event.link != self.link:
            return
        if isinstance(event, LinkBytes):
            try:
                items = self._splitter.feed(event.data)
            except FramingError as error:
                self.client.on_disconnected(f"the relay speaks no TURN: {error}", now=now)
                return
            for item in items:
                self.client.handle_datagram(item, self.client.config.server, now=now)
        elif isinstance(event, LinkLost):
            self.link = 0
            self.client.on_disconnected(event.reason, now=now)
        else:
            self.client.on_connected(now=now)

    def collect(
        self, send: Callable[[Transmit], None], command: Callable[[LinkCommand], None]
    ) -> list[TurnEvent]:
        """Hand on what is to be sent; return the events that are left to handle."""
        self._send_all(send, command)
        left: list[TurnEvent] = []
        while (event := self.client.poll_event()) is not None:
            if isinstance(event, ConnectionWanted):
                self.end_link(command)
                self.link, self._splitter = self._next_link(), StreamSplitter()
                config = self.client.config
                command(OpenLink(self.link, config.server, config.transport, config.host))
            elif isinstance(event, ConnectionOver):
                self.end_link(command)
            else:
                left.append(event)
        return left

    def end_link(self, command: Callable[[LinkCommand], None]) -> None:
        """End the connection, if there is one."""
        if self.link:
            command(CloseLink(self.link))
            self.link = 0

    def _send_all(
        self, send: Callable[[Transmit], None], command: Callable[[LinkCommand], None]
    ) -> None:
        while (transmit := self.client.poll_transmit()) is not None:
            if self.is_datagram:
                send(transmit)
            elif self.link:
                may_drop = bool(transmit.data[0] & 0xC0) or transmit.data[:2] == _SEND
                command(SendLink(self.link, frame(transmit.data), may_drop))
