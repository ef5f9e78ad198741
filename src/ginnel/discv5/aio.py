"""`Discovery`: a discv5 node on asyncio, with its own UDP socket.

A thin shell: every decision is the core's (`protocol.py`). Chance is drawn here by default.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.errors import GinnelError, UsageError
from ginnel.base.types import Address, NodeId, Secret
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.enr import Enr, FieldValue
from ginnel.discv5.events import (
    DiscoveryEvent,
    Drop,
    LookupDone,
    NodesReceived,
    PongReceived,
    ReflexiveChanged,
    RequestFailed,
    TalkAnswered,
    TalkReceived,
)
from ginnel.discv5.keys import new_private_key
from ginnel.discv5.protocol import Contact, DiscoveryCore
from ginnel.discv5.requests import Failure
from ginnel.net.driver import Driver
from ginnel.net.udp import UdpSocket

log = logging.getLogger(__name__)

TalkHandler = Callable[[NodeId, Address, bytes], bytes]
"""Answers a TALKREQ: the asker's node id and address, and the request."""

EventT = TypeVar("EventT")


class RequestError(GinnelError):
    """A request got no answer; `reason` says why."""

    def __init__(self, reason: Failure) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Discovery:
    """One node of the DHT.

    Use it as `async with Discovery(bind=Address("0.0.0.0", 9000), ...) as node:`.

    Args:
        bind: local address and port; port 0 lets the system choose.
        private_key: 32 bytes; drawn at random if left out.
        advertise: address to publish in the record; without it the node is a client.
        bootstrap: nodes to begin with.
        fields: further fields of the record.
        enr_seq: of the first record; higher than the last run's.
    """

    def __init__(
        self,
        bind: Address,
        *,
        private_key: Secret | None = None,
        advertise: Address | None = None,
        bootstrap: Sequence[Enr] = (),
        fields: Mapping[str, FieldValue] | None = None,
        enr_seq: int = 1,
        config: DiscoveryConfig | None = None,
        random_bytes: RandomBytes = os.urandom,
        rng: Rng | None = None,
    ) -> None:
        self._bind = bind
        self._private_key = private_key or Secret(new_private_key(random_bytes))
        self._advertise = advertise
        self._bootstrap = tuple(bootstrap)
        self._fields = dict(fields or {})
        self._enr_seq = enr_seq
        self._config = config or DiscoveryConfig()
        self._random_bytes = random_bytes
        self._rng = rng or random.Random()
        self._handlers: dict[bytes, TalkHandler] = {}
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._running: tuple[DiscoveryCore, UdpSocket, Driver[DiscoveryEvent]] | None = None
        self.reflexive: ReflexiveChanged | None = None

    async def __aenter__(self) -> Self:
        """Open the socket and join the network."""
        self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def open(self) -> None:
        """Open the socket and start, inside a running loop.

        Raises:
            SystemFailure: the address is taken or not ours.
            UsageError: it is open.
        """
        if self._running is not None:
            raise UsageError("the node is open already")
        socket = UdpSocket.open(self._bind)
        now = asyncio.get_running_loop().time()
        core = DiscoveryCore(
            self._config,
            self._private_key,
            fields=self._fields,
            endpoint=self._advertise,
            bootstrap=self._bootstrap,
            random_bytes=self._random_bytes,
            rng=self._rng,
            now=now,
            enr_seq=self._enr_seq,
        )
        driver: Driver[DiscoveryEvent] = Driver(core, socket, self._on_event)
        self._running = (core, socket, driver)
        core.start(now)
        driver.start()

    def close(self) -> None:
        """Stop at once; requests under way fail. Harmless when closed."""
        if self._running is None:
            return
        _, socket, driver = self._running
        self._running = None
        driver.stop()
        socket.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(RequestError(Failure.CLOSED))
        self._waiting.clear()

    @property
    def record(self) -> Enr:
        """Our own record."""
        return self._core.record

    @property
    def node_id(self) -> NodeId:
        """Our node id."""
        return self._core.node_id

    @property
    def listening_address(self) -> Address:
        """Where the socket is bound."""
        return self._open_parts()[1].address

    @property
    def drops(self) -> Counter[Drop]:
        """Packets and messages dropped, by reason."""
        return self._core.drops

    def nodes(self) -> list[Enr]:
        """Return the nodes of the table, those that answered first."""
        return self._core.nodes()

    def add_node(self, enr: Enr) -> bool:
        """Offer a node to the table; return whether it is new there."""
        core, _, driver = self._open_parts()
        added = core.add_node(enr, driver.now())
        driver.wake()
        return added

    def update_record(self, fields: Mapping[str, FieldValue]) -> None:
        """Change fields of our record; its seq rises."""
        core, _, driver = self._open_parts()
        core.update_record(fields, now=driver.now())

    def register_talk_protocol(self, protocol: bytes, handler: TalkHandler) -> None:
        """Answer TALKREQs of this protocol by the handler; it must not block.

        Raises:
            UsageError: the protocol has a handler.
        """
        if protocol in self._handlers:
            raise UsageError(f"the talk protocol {protocol!r} has a handler already")
        self._handlers[protocol] = handler

    async def ping(self, enr: Enr) -> PongReceived:
        """Ask whether the node is there.

        Raises:
            RequestError: no answer.
            UsageError: its record has no address we can send to.
        """
        core, _, driver = self._open_parts()
        return await self._wait(PongReceived, core.ping(self._contact(enr), now=driver.now()))

    async def find_node(self, enr: Enr, distances: Sequence[int]) -> tuple[Enr, ...]:
        """Ask the node for records at these log2 distances from it; errors as `ping`."""
        core, _, driver = self._open_parts()
        number = core.find_node(self._contact(enr), distances, now=driver.now())
        return (await self._wait(NodesReceived, number)).records

    async def talk_request(self, enr: Enr, protocol: bytes, payload: bytes) -> bytes:
        """Send a request of another protocol; empty if the node does not know it.

        Errors as `ping`, and UsageError if it does not fit into a packet.
        """
        core, _, driver = self._open_parts()
        number = core.talk_request(self._contact(enr), protocol, payload, now=driver.now())
        return (await self._wait(TalkAnswered, number)).payload

    async def lookup(self, target: NodeId) -> tuple[Enr, ...]:
        """Find the nodes closest to the target that answer, closest first."""
        core, _, driver = self._open_parts()
        return (await self._wait(LookupDone, core.lookup(target, now=driver.now()))).nodes

    async def query_random(self) -> tuple[Enr, ...]:
        """Find nodes near a random target."""
        return await self.lookup(NodeId(self._random_bytes(32)))

    @property
    def _core(self) -> DiscoveryCore:
        return self._open_parts()[0]

    def _open_parts(self) -> tuple[DiscoveryCore, UdpSocket, Driver[DiscoveryEvent]]:
        if self._running is None:
            raise UsageError("the node is not open")
        return self._running

    def _contact(self, enr: Enr) -> Contact:
        contact = Contact.from_record(enr, self._bind.is_ipv6)
        if contact is None:
            raise UsageError("the record has no address of our IP version")
        return contact

    async def _wait(self, kind: type[EventT], number: int) -> EventT:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._open_parts()[2].wake()
        try:
            answer = await future
        finally:
            self._waiting.pop(number, None)
        assert isinstance(answer, kind)
        return answer

    def _on_event(self, event: DiscoveryEvent) -> None:
        match event:
            case TalkReceived():
                self._on_talk(event)
            case PongReceived() | NodesReceived() | TalkAnswered():
                self._finish(event.request, event)
            case RequestFailed():
                self._finish(event.request, RequestError(event.reason))
            case LookupDone():
                self._finish(event.lookup, event)
            case ReflexiveChanged():
                self.reflexive = event

    def _on_talk(self, event: TalkReceived) -> None:
        core, _, driver = self._open_parts()
        handler = self._handlers.get(event.protocol)
        contact = event.contact
        answer = b""
        if handler is not None:
            answer = handler(contact.node_id, contact.address, event.payload)
        try:
            core.respond_talk(event.token, answer, now=driver.now())
        except UsageError as error:
            log.warning("a talk handler's answer was not sent: %s", error)

    def _finish(self, number: int, outcome: DiscoveryEvent | RequestError) -> None:
        future = self._waiting.get(number)
        if future is None or future.done():
            return
        if isinstance(outcome, RequestError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
