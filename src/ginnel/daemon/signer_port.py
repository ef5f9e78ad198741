"""The tunnel's end of the channel to the signer, or to the parent of `ginnel join`.

Points are registered for the other side, its envelopes delivered, and what is pushed to its points
is passed on unopened: the secrets that open them never come here.

Source: DESIGN, "Processes"; docs/formats.md, "Invite and join".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from ginnel.base.errors import GinnelError, RemoteProtocolError, SystemFailure
from ginnel.base.types import NodeId
from ginnel.daemon.channel import (
    Channel,
    ChannelMessage,
    Delivered,
    DeliverTo,
    Envelope,
    NewObjects,
    Nodes,
    Points,
    Stage,
)
from ginnel.daemon.node_core import NodeEvent
from ginnel.daemon.node_shell import NodeShell
from ginnel.discv5.enr import Enr, decode_enr
from ginnel.discv5.events import NodeAdded
from ginnel.mesh.courier import Courier
from ginnel.mesh.derive import Point
from ginnel.mesh.events import (
    EnvelopeDelivered,
    EnvelopeReceived,
    Notice,
    NoticeKind,
    PointRegistered,
    PointSearched,
)

MAX_QUEUE = 64  # messages that wait for the other side; the oldest go
MAX_INVITE_NODES = 3  # records in an invite (FORMATS, "Invite and join")
NODES_DELAY_S = 0.3  # seconds in which new nodes are gathered
ENVELOPE_GAP_S = 1.0  # seconds between two envelopes to the signer

logger = logging.getLogger(__name__)


class SignerPort:
    """Serve the channel: `run` reads, events of the core go to `on_event`."""

    def __init__(
        self,
        shell: NodeShell,
        courier: Courier,
        channel: Channel,
        *,
        on_objects: Callable[[Sequence[bytes]], None] | None = None,
        envelope_gap_s: float = ENVELOPE_GAP_S,
    ) -> None:
        self._shell = shell
        self._courier = courier
        self._channel = channel
        self._on_objects = on_objects
        self._envelope_gap_s = envelope_gap_s
        self._collected: list[Point] = []
        self._points: dict[NodeId, Point] = {}
        self._deliveries: dict[int, NodeId] = {}
        self._queue: asyncio.Queue[ChannelMessage] = asyncio.Queue(MAX_QUEUE)
        self._nodes_due: asyncio.TimerHandle | None = None
        self._told_nodes: tuple[bytes, ...] = ()

    async def run(self) -> None:
        """Serve until the other side is gone or this is cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(self._send_all())
                await self._receive_all()
                sending.cancel()
        finally:
            self._channel.close()

    def on_event(self, event: NodeEvent) -> None:
        """Pass on what concerns the other side."""
        match event:
            case EnvelopeReceived():
                self._put(Envelope(event.tag, event.envelope))
            case EnvelopeDelivered():
                location = self._deliveries.pop(event.delivery, None)
                if location is not None:
                    self._put(Delivered(location, event.ok))
            case PointRegistered() if event.location in self._points:
                text = "registered" if event.storers else f"not registered: {event.reason}"
                self._put(Stage(text))
            case PointSearched():
                self._put(Stage(f"searching: {event.reason}"))
            case Notice(NoticeKind.UDP, text) if text:
                self._put(Stage(text))
            case NodeAdded():
                self.tell_nodes_soon()
            case _:
                pass

    def tell_nodes_soon(self) -> None:
        """Tell the other side which nodes are known, once they have been gathered for a moment."""
        if self._nodes_due is None:
            loop = asyncio.get_running_loop()
            self._nodes_due = loop.call_later(NODES_DELAY_S, self._tell_nodes)

    def close(self) -> None:
        """Stop the timer and close the channel; `run` is cancelled by its owner."""
        if self._nodes_due is not None:
            self._nodes_due.cancel()
        self._channel.close()

    def _tell_nodes(self) -> None:
        self._nodes_due = None
        discovery = self._shell.core.discovery
        records = [enr for enr in (discovery.record, *discovery.nodes()) if _has_address(enr)]
        raws = tuple(enr.raw for enr in records[:MAX_INVITE_NODES])
        if raws and raws != self._told_nodes:
            self._told_nodes = raws
            self._put(Nodes(raws))

    def _put(self, message: ChannelMessage) -> None:
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(message)

    async def _send_all(self) -> None:
        while True:
            message = await self._queue.get()
            try:
                await self._channel.send(message)
            except SystemFailure as error:
                logger.debug("channel: %s", error)
                return
            if isinstance(message, Envelope):
                await asyncio.sleep(self._envelope_gap_s)

    async def _receive_all(self) -> None:
        while True:
            try:
                message = await self._channel.receive()
            except RemoteProtocolError as error:
                logger.warning("channel: %s", error)
                continue
            except SystemFailure:
                return
            self._on_message(message)
            self._shell.changed()

    def _on_message(self, message: ChannelMessage) -> None:
        now, unix_now = self._shell.now, self._shell.unix_now
        match message:
            case Points():
                self._collected += message.points
                if message.is_last:
                    self._set_points(now, unix_now)
            case DeliverTo():
                number = self._courier.deliver(message.point, message.envelope, now=now)
                self._deliveries[number] = message.point.location
            case NewObjects() if self._on_objects is not None:
                self._on_objects(message.objects)
            case Nodes():
                self._add_nodes(message.records, now)
            case _:
                logger.warning("channel: %s is not for the tunnel", type(message).__name__)

    def _set_points(self, now: float, unix_now: float) -> None:
        wanted = {point.location: point for point in self._collected}
        self._collected = []
        gone = [point for location, point in self._points.items() if location not in wanted]
        self._points = wanted
        if gone:
            self._courier.remove_points(gone, now=now)
        self._courier.add_points(list(wanted.values()), now=now, unix_now=unix_now)

    def _add_nodes(self, records: Sequence[bytes], now: float) -> None:
        for raw in records:
            try:
                self._shell.core.discovery.add_node(decode_enr(raw), now)
            except GinnelError as error:
                logger.warning("channel: a record that does not verify: %s", error)
        self._shell.core.discovery.start(now)  # begin, or begin anew with these


def _has_address(enr: Enr) -> bool:
    return enr.address() is not None or enr.address(ipv6=True) is not None
