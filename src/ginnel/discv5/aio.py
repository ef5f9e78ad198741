"""`Discovery`: a discv5 node on asyncio, with its own UDP sockets or on one of the caller's.

A thin shell: every decision is the core's (`protocol.py`). Chance is drawn here by default. The
driver lives on the loop's callbacks; the only tasks are asynchronous talk handlers at work.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import DatagramSource
from ginnel.base.errors import GinnelError, SystemFailure, UsageError
from ginnel.base.types import Address, Secret, Transmit
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.enr import Enr, FieldValue, RecordCache
from ginnel.discv5.errors import (
    MessageTooLarge,
    NoAddressError,
    RequestError,
    RequestRefused,
    RequestTimeout,
    error_of,
)
from ginnel.discv5.events import (
    AddressChanged,
    AddressDiffers,
    DiscoveryEvent,
    LookupDone,
    NodeAdded,
    NodeRemoved,
    NodesReceived,
    PongReceived,
    PopulateDone,
    QueryDone,
    ReflexiveChanged,
    RequestFailed,
    Resolved,
    Revalidated,
    SessionOpened,
    TalkAnswered,
    TalkReceived,
)
from ginnel.discv5.keys import new_private_key
from ginnel.discv5.lookup import lookup_distances
from ginnel.discv5.metrics import Sample, failed_sends
from ginnel.discv5.packet import MAX_PACKET_SIZE
from ginnel.discv5.protocol import DiscoveryCore
from ginnel.discv5.questions import NodeQuestions
from ginnel.discv5.requests import Failure
from ginnel.discv5.saved import choose_nodes, format_nodes, parse_nodes
from ginnel.discv5.view import TalkHandler
from ginnel.net.driver import Driver
from ginnel.net.dual import open_pair
from ginnel.net.files import read_text, replace_text
from ginnel.net.jobs import Jobs
from ginnel.net.outlet import CallbackSource
from ginnel.net.stream import EventStream

__all__ = [
    "Discovery",
    "EventStream",
    "MessageTooLarge",
    "NoAddressError",
    "RequestError",
    "RequestRefused",
    "RequestTimeout",
    "TalkHandler",
    "lookup_distances",
]

SAVED_NODES = 256  # nodes kept on disk
SAVE_INTERVAL = 300.0  # seconds between writes of them
SHARED_RECORDS = 8192  # verified records of all nodes of one thread; about 6 MB

HANDLER_FAILED = "a talk handler failed: the asker gets the empty answer"

log = logging.getLogger(__name__)

EventT = TypeVar("EventT")
_TOLD = (
    NodeAdded
    | NodeRemoved
    | SessionOpened
    | TalkReceived
    | AddressChanged
    | AddressDiffers
    | ReflexiveChanged
)


class _Shared(threading.local):
    """What the nodes of one thread share."""

    def __init__(self) -> None:
        self.records = RecordCache(SHARED_RECORDS)


_shared = _Shared()


class _Source(DatagramSource, Protocol):
    """Sockets that can be closed, and count what they could not send."""

    @property
    def failed(self) -> int: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Running:
    core: DiscoveryCore
    source: _Source
    driver: Driver[DiscoveryEvent]
    addresses: tuple[Address, ...]


class Discovery(NodeQuestions):
    """One node of the DHT.

    Use it as `async with Discovery(Address("0.0.0.0", 9000), ...) as node:`, or `open`, `start`
    and `close_wait`.

    Args:
        bind: local address and port; port 0 lets the system choose.
        bind6: a second one, of IPv6 where `bind` is of IPv4: dual stack.
        private_key: 32 bytes; drawn at random if left out.
        advertise: address to publish in the record (port 0: the one that is bound); without it
            nobody finds the node, unless `auto_update` is set.
        advertise6: the same for IPv6.
        bootstrap: nodes to begin with, as records or their text.
        fields: further fields of the record.
        enr_seq: of the first record; higher than the last run's.
        previous: the last run's record, from disk: its fields and its seq go on; addresses that
            are not given anew count as learned.
        nodes_file: nodes are read from it at `open` and written to it every 5 min and at the end.
        config: all settings.
        on_address_changed: called when the record was updated to the address others see.
        transport: sends a packet, for a caller with a socket of its own: `bind` is then only told,
            and packets come in by `receive`.
    """

    def __init__(
        self,
        bind: Address,
        *,
        bind6: Address | None = None,
        private_key: Secret | None = None,
        advertise: Address | None = None,
        advertise6: Address | None = None,
        bootstrap: Iterable[Enr | str] = (),
        fields: Mapping[str, FieldValue] | None = None,
        enr_seq: int = 1,
        previous: Enr | None = None,
        nodes_file: Path | None = None,
        config: DiscoveryConfig | None = None,
        on_address_changed: Callable[[Address], None] | None = None,
        transport: Callable[[Address, bytes], None] | None = None,
        random_bytes: RandomBytes = os.urandom,
        rng: Rng | None = None,
    ) -> None:
        if bind6 is not None and (bind.is_ipv6 or not bind6.is_ipv6):
            raise UsageError("bind is of IPv4 and bind6 of IPv6 where both are given")
        self.settings = config or DiscoveryConfig()
        self._bind, self._bind6 = bind, bind6
        self._advertise = (advertise, advertise6)
        self._bootstrap = tuple(_as_record(node) for node in bootstrap)
        self._fields = dict(fields or {})
        self._enr_seq = enr_seq
        self._previous = previous
        self._nodes_file = nodes_file
        self._loaded: list[Enr] = []  # nodes of the file
        self._on_address_changed = on_address_changed
        self._transport = transport
        self._random_bytes = random_bytes
        key = private_key or Secret(new_private_key(random_bytes))
        super().__init__(key, rng or random.Random())
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._streams: list[EventStream[DiscoveryEvent]] = []
        self._jobs = Jobs(self.settings.talk_handlers)
        self._save_timer: asyncio.TimerHandle | None = None
        self._running: _Running | None = None
        self.reflexive: ReflexiveChanged | None = None

    async def __aenter__(self) -> Self:
        """Open the sockets and join the network."""
        self.open()
        self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close."""
        await self.close_wait()

    def open(self) -> None:
        """Open the sockets and seed the table, inside a running loop; others get answers from now.

        Raises:
            SystemFailure: the address is taken or not ours, or `nodes_file` can't be read.
            UsageError: it is open, or the record would be too long.
        """
        if self._running is not None:
            raise UsageError("the node is open already")
        source, addresses = self._open_sockets()
        now = asyncio.get_running_loop().time()
        try:
            core = self._make_core(addresses, now)
        except GinnelError:
            source.close()
            raise
        driver: Driver[DiscoveryEvent] = Driver(core, source, self._on_event)
        self._running = _Running(core, source, driver, addresses)
        core.seed(now)
        driver.start()

    def start(self) -> None:
        """Populate the table and keep it alive; calling it again does nothing."""
        running = self._parts()
        running.core.start(running.driver.now())
        running.driver.wake()
        if self._nodes_file is not None and self._save_timer is None:
            self._save_later(asyncio.get_running_loop())

    def close(self) -> None:
        """Stop at once; requests under way fail. Harmless when closed."""
        running = self._running
        if running is None:
            return
        if self._save_timer is not None:
            self._save_timer.cancel()
            self._save_timer = None
            self._save()
        self._running = None
        self._jobs.cancel()
        running.driver.stop()
        running.source.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(RequestRefused(Failure.CLOSED))
        self._waiting.clear()
        for stream in self._streams:
            stream.close()
        self._streams.clear()

    async def close_wait(self) -> None:
        """Close, wait for talk handlers at work to end and for requests' callers to be told."""
        self.close()
        await self._jobs.join()
        await asyncio.sleep(0)

    # ourselves

    @property
    def listening_address(self) -> Address:
        """Where the (first) socket is bound."""
        return self._parts().addresses[0]

    @property
    def listening_addresses(self) -> tuple[Address, ...]:
        """Where the sockets are bound."""
        return self._parts().addresses

    def update_record(self, fields: Mapping[str, FieldValue | None]) -> Enr:
        """Change fields of our record (None removes one); its seq rises.

        Raises:
            UsageError: the record would be too long.
        """
        running = self._parts()
        running.core.update_record(fields, now=running.driver.now())
        return running.core.record

    def update_external_ip(self, address: Address) -> Enr:
        """Publish an address that the caller found out; `auto_update` may follow another later.

        Raises:
            UsageError: the record would be too long.
        """
        running = self._parts()
        running.core.set_endpoint(address, now=running.driver.now(), learned=True)
        return running.core.record

    def _samples(self) -> Iterator[Sample]:
        """Yield every metric."""
        yield from super()._samples()
        yield failed_sends(self._parts().source.failed)

    def events(self) -> EventStream[DiscoveryEvent]:
        """Return an async iterator over what happens from now on, until the node closes.

        It tells NodeAdded, NodeRemoved, SessionOpened, TalkReceived, AddressChanged,
        AddressDiffers and ReflexiveChanged.
        """
        self._parts()
        stream: EventStream[DiscoveryEvent] = EventStream()
        self._streams = [other for other in self._streams if not other.is_closed]
        self._streams.append(stream)
        return stream

    # the table

    def add_node(self, node: Enr | str) -> bool:
        """Offer a node, as record or its text, to the table; return whether it is new there.

        Raises:
            RemoteProtocolError: the text is no valid record.
        """
        running = self._parts()
        added = running.core.add_node(_as_record(node), running.driver.now())
        running.driver.wake()
        return added

    def seed(self) -> int:
        """Offer the bootstrap and saved nodes to the table again; return how many were new."""
        running = self._parts()
        return running.core.seed(running.driver.now())

    # a caller's own socket

    def receive(self, address: Address, packet: bytes) -> None:
        """Take a packet that came to the caller's socket; harmless whatever it holds."""
        running = self._parts()
        running.core.handle_datagram(packet, address, now=running.driver.now())
        running.driver.wake()

    def send(self, address: Address, packet: bytes) -> None:
        """Send any bytes from the node's socket."""
        self._parts().source.send([Transmit(packet, address)])

    @property
    def core(self) -> DiscoveryCore:
        """The core, for what is not here; call no command of it without `wake`."""
        return self._parts().core

    def wake(self) -> None:
        """Send what commands to the core have left."""
        self._parts().driver.wake()

    def _parts(self) -> _Running:
        if self._running is None:
            raise UsageError("the node is not open")
        return self._running

    def _now(self) -> float:
        return self._parts().driver.now()

    def _open_sockets(self) -> tuple[_Source, tuple[Address, ...]]:
        if self._transport is not None:
            return CallbackSource(self._transport), (self._bind,)
        return open_pair(self._bind, self._bind6, max_datagram=MAX_PACKET_SIZE + 1)

    def _make_core(self, addresses: tuple[Address, ...], now: float) -> DiscoveryCore:
        self._loaded = self._load()
        published = [self._published(address, addresses) for address in self._advertise]
        versions = tuple(dict.fromkeys(6 if item.is_ipv6 else 4 for item in addresses))
        return DiscoveryCore(
            replace(self.settings, ip_versions=versions),
            self.private_key,
            fields=self._fields,
            endpoint=published[0],
            endpoint6=published[1],
            bootstrap=self._bootstrap,
            saved=self._loaded,
            random_bytes=self._random_bytes,
            rng=self._rng,
            now=now,
            enr_seq=self._enr_seq,
            previous=self._previous,
            records=_shared.records,
        )

    def _published(self, address: Address | None, bound: Sequence[Address]) -> Address | None:
        if address is None or address.port:
            return address
        ports = [item.port for item in bound if item.is_ipv6 == address.is_ipv6]
        return Address(address.ip, (ports or [bound[0].port])[0])

    async def _wait(self, kind: type[EventT], number: int) -> EventT:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._parts().driver.wake()
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
            case Resolved() | PopulateDone() | Revalidated():
                self._finish(event.request, event)
            case RequestFailed():
                self._finish(event.request, error_of(event.reason))
            case LookupDone():
                self._finish(event.lookup, event)
            case QueryDone():
                self._finish(event.query, event)
            case ReflexiveChanged():
                self.reflexive = event
            case AddressChanged():
                self._tell_address(event.address)
        if isinstance(event, _TOLD):
            for stream in self._streams:
                stream.put(event)

    def _tell_address(self, address: Address) -> None:
        try:
            if self._on_address_changed is not None:
                self._on_address_changed(address)
        except Exception:  # whatever the caller's function does, the node goes on
            log.exception("on_address_changed failed")

    def _on_talk(self, event: TalkReceived) -> None:
        handler = self._handlers.get(event.protocol)
        contact = event.contact
        answer: bytes | Awaitable[bytes] = b""
        try:
            if handler is not None:
                answer = handler(contact.node_id, contact.address, event.payload)
        except Exception:  # whatever the caller's handler does, the node goes on
            log.exception(HANDLER_FAILED)
        if not isinstance(answer, Awaitable):
            self._respond(event.token, answer)
        elif not self._jobs.start(self._respond_later(event.token, answer)):
            if isinstance(answer, Coroutine):
                answer.close()
            self.core.refuse_talk(event.token)

    async def _respond_later(self, token: int, answer: Awaitable[bytes]) -> None:
        try:
            async with asyncio.timeout(self.settings.response_timeout):
                payload = await answer
        except TimeoutError:
            log.warning("a talk handler took too long: the asker gets no answer")
            self.core.refuse_talk(token)
            return
        except Exception:  # whatever the caller's handler does, the node goes on
            log.exception(HANDLER_FAILED)
            payload = b""
        self._respond(token, payload)
        self.wake()

    def _respond(self, token: int, answer: bytes) -> None:
        try:
            self.core.respond_talk(token, answer, now=self._now())
        except Exception:  # it is too large, or no bytes at all
            log.exception(HANDLER_FAILED)
            self.core.respond_talk(token, b"", now=self._now())

    def _finish(self, number: int, outcome: DiscoveryEvent | RequestError) -> None:
        future = self._waiting.get(number)
        if future is None or future.done():
            return
        if isinstance(outcome, RequestError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def _save_later(self, loop: asyncio.AbstractEventLoop) -> None:
        def save() -> None:
            self._save()
            self._save_later(loop)

        self._save_timer = loop.call_later(SAVE_INTERVAL, save)

    def _save(self) -> None:
        if self._nodes_file is None:
            return
        nodes = choose_nodes(self.core.table, self._loaded, SAVED_NODES, self._rng)
        if nodes is None:
            return
        try:
            replace_text(self._nodes_file, format_nodes(nodes))
        except SystemFailure as error:  # it can be done without
            log.warning("nodes were not saved: %s", error)

    def _load(self) -> list[Enr]:
        if self._nodes_file is None:
            return []
        return parse_nodes(read_text(self._nodes_file) or "", SAVED_NODES)


def _as_record(node: Enr | str) -> Enr:
    return node if isinstance(node, Enr) else Enr.from_text(node)
