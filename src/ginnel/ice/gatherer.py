"""CORE: finds the candidates of one port: its addresses, how servers see them, and relays.

STUN servers are asked from every address, TURN servers from the first one of their IP version, one
new transaction each Ta. Nothing waits for anything: each candidate is told when it is found. Names
of servers are resolved and connections are made by others.

Source: RFC 8445 sections 5.1.1.1, 5.1.1.2, 5.1.3 and 14.2; RFC 8421 section 4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import TimerTable, earliest
from ginnel.base.links import LinkCommand, LinkEvent
from ginnel.base.servers import Server
from ginnel.base.types import Address, Deadline, Transmit
from ginnel.ice.allocation import Allocation
from ginnel.ice.candidate import (
    RELAY_PREFERENCES,
    Candidate,
    CandidateKind,
    host_preferences,
    make_host,
    make_relayed,
    make_server_reflexive,
)
from ginnel.ice.settings import IceSettings
from ginnel.ice.stun import Message
from ginnel.ice.stun_client import TA, ReflexiveFound, StunClient
from ginnel.ice.turn_events import (
    Allocated,
    AllocationLost,
    PeerRefused,
    RelayReceived,
    TurnConfig,
    TurnEvent,
)

MAX_ALLOCATIONS = 8  # at the servers of one port
NO_BASE = "no address of this IP version"  # of ours, to ask it from


@dataclass(frozen=True, slots=True)
class Gathered:
    """A candidate was found."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class RelayGone:
    """An address of ours at a relay is gone."""

    relayed: Address
    reason: str


@dataclass(frozen=True, slots=True)
class RelayedDatagram:
    """A datagram came for our address at a relay."""

    relayed: Address
    peer: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class RelayRefused:
    """A relay carries nothing from our address there to this peer."""

    relayed: Address
    peer: Address
    reason: str


GathererEvent: TypeAlias = Gathered | RelayGone | RelayedDatagram | RelayRefused


class Gatherer:
    """See the module's text.

    Args:
        settings: which candidates are wanted; timeouts play no part.
        random_bytes: for transaction ids.
        rng: for the spread of what is repeated.
    """

    def __init__(self, settings: IceSettings, *, random_bytes: RandomBytes, rng: Rng) -> None:
        self.failures: dict[str, str] = {}  # server -> why it gave nothing, in words
        self._settings = settings
        self._random_bytes = random_bytes
        self._rng = rng
        self._stun = StunClient(
            random_bytes=random_bytes, rng=rng, allow_loopback=settings.allow_loopback
        )
        self._bases: tuple[Address, ...] = ()
        self._preferences: dict[str, int] = {}
        self._stun_servers: list[Address] = []
        self._allocations: list[Allocation] = []
        self._waiting: deque[Allocation] = deque()  # for their turn to start
        self._unresolved = len(settings.servers)
        self._unreachable: dict[Server, Sequence[Address]] = {}  # until we have such an address
        self._resolved: dict[Address, tuple[Server, Sequence[Address]]] = {}  # of allocations
        self._tried: dict[Address, bool] = {}  # TURN servers: whether they answered
        self._last_link = 0
        self._candidates: dict[Candidate, None] = {}
        self._timers: TimerTable[str] = TimerTable()
        self._out: deque[Transmit] = deque()
        self._links: deque[LinkCommand] = deque()
        self._events: deque[GathererEvent] = deque()

    # What others may know

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Return what was found and is not gone."""
        return tuple(self._candidates)

    @property
    def is_settled(self) -> bool:
        """Say whether every server has answered or failed once."""
        turn = not self._waiting and all(self._tried.values())
        return not self._unresolved and turn and self._stun.is_settled

    @property
    def is_enough(self) -> bool:
        """Say whether there is a candidate of each kind that servers were to give."""
        found = {candidate.kind for candidate in self._candidates}
        if any(seen == base for seen, base in self._stun.answers):
            found.add(CandidateKind.SRFLX)  # there is no NAT
        servers = self._settings.servers
        wanted = {CandidateKind.RELAY if s.is_turn else CandidateKind.SRFLX for s in servers}
        return all(kind in found for kind in sorted(wanted) if self._settings.wants(kind))

    def is_relay(self, base: Address) -> bool:
        """Say whether an address of ours is one at a relay."""
        return any(allocation.relayed == base for allocation in self._allocations)

    # Commands

    def start(self, bases: Sequence[Address], *, now: float) -> None:
        """Gather from these addresses of the port, the preferred first; again when they change."""
        allowed = self._settings.allowed_ips([base.ip for base in bases])
        self._bases = tuple(base for base in bases if base.ip in allowed)
        self._preferences = host_preferences([base.ip for base in self._bases])
        for base in self._bases:
            host = make_host(base, self._preferences[base.ip])
            if self._settings.wants(CandidateKind.HOST):
                self._add(host)
            for ip in self._settings.nat_1to1:
                outside = Address(ip, base.port)
                if outside.is_ipv6 == base.is_ipv6 and base == self._first(base.is_ipv6):
                    self._add_reflexive(outside, base)
        self._ask(now)
        for allocation in [a for a in self._allocations if self._is_cut_off(a)]:
            self._abandon(allocation)
        for server, addresses in list(self._unreachable.items()):
            self._allocate(server, addresses, now)

    def add_server(self, server: Server, addresses: Sequence[Address], *, now: float) -> None:
        """Use a server of the settings, whose name resolved to these; none: it did not."""
        self._unresolved = max(0, self._unresolved - 1)
        if not addresses:
            self.failures[str(server)] = "its name does not resolve"
        elif not server.is_turn:
            self._stun_servers += [a for a in addresses if a not in self._stun_servers]
            self._ask(now)
        elif self._settings.wants(CandidateKind.RELAY):
            self._allocate(server, addresses, now)

    def send(self, transmit: Transmit, *, now: float) -> bool:
        """Send from our address at a relay (`relayed_from`); return whether there is one."""
        for allocation in self._allocations:
            if allocation.relayed is not None and allocation.relayed == transmit.relayed_from:
                sent = allocation.client.send(transmit.data, transmit.destination, now=now)
                self._collect(allocation)
                return sent
        return False

    def close(self, *, now: float) -> None:
        """Give all allocations back, and ask nobody any more."""
        for allocation in self._allocations:
            allocation.client.close(now=now)
            self._collect(allocation)
            allocation.end_link(self._links.append)
        self._allocations.clear()
        self._waiting.clear()
        self._timers = TimerTable()
        self._stun.ask((), (), now=now)

    # Datagrams and connections

    def handle_message(self, message: Message, source: Address, *, now: float) -> bool:
        """Take a STUN message of the port if it is a server's; return whether it was."""
        if self._stun.owns(message, source):
            self._stun.handle_message(message, source, now=now)
            self._drain_stun()
            return True
        for allocation in self._allocations:
            if allocation.owns(message, source):
                allocation.client.handle_message(message, now=now)
                self._collect(allocation)
                return True
        return False

    def handle_channel_data(self, data: bytes, source: Address, *, now: float) -> bool:
        """Take a datagram that is no STUN if it is a server's; return whether it was."""
        number = int.from_bytes(data[:2], "big")
        for allocation in self._allocations:
            if allocation.knows_channel(source, number):
                allocation.client.handle_datagram(data, source, now=now)
                self._collect(allocation)
                return True
        return False

    def on_link(self, event: LinkEvent, *, now: float) -> None:
        """Take what became of a connection."""
        for allocation in self._allocations:
            if allocation.link == event.link:
                allocation.on_link(event, now=now)
                self._collect(allocation)
                return

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due."""
        self._stun.handle_timeout(now=now)
        self._drain_stun()
        for allocation in list(self._allocations):
            deadline = allocation.client.poll_deadline()
            if deadline is not None and deadline.at <= now:
                allocation.client.handle_timeout(now=now)
                self._collect(allocation)
        if any(True for _ in self._timers.expire(now)):
            self._start_next(now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send from the port."""
        return self._out.popleft() if self._out else self._stun.poll_transmit()

    def poll_link(self) -> LinkCommand | None:
        """Return the next command for connections; call until None."""
        return self._links.popleft() if self._links else None

    def poll_event(self) -> GathererEvent | None:
        """Return the next event, or None."""
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted, or None."""
        clients = [allocation.client.poll_deadline() for allocation in self._allocations]
        return earliest(self._stun.poll_deadline(), self._timers.deadline(), *clients)

    # Inside

    def _ask(self, now: float) -> None:
        if self._settings.wants(CandidateKind.SRFLX):
            self._stun.ask(self._stun_servers, self._bases, now=now)

    def _allocate(self, server: Server, addresses: Sequence[Address], now: float) -> None:
        """Allocate at one of the server's addresses; where none is reachable: later."""
        bases = [(address, self._first(address.is_ipv6)) for address in addresses]
        if all(base is None for _, base in bases):
            self._unreachable[server] = addresses
            self.failures[str(server)] = NO_BASE
            return
        if self._unreachable.pop(server, None) is not None:
            self.failures.pop(str(server), None)
        for address, base in bases:
            is_full = len(self._allocations) >= MAX_ALLOCATIONS
            if base is not None and not is_full and address not in self._tried:
                self._add_allocation(server, address, base)
                self._resolved[address] = server, addresses
                break  # one of its IP versions will do
        if self._timers.get("start") is None:
            self._start_next(now)

    def _add_allocation(self, server: Server, address: Address, base: Address) -> None:
        config = TurnConfig(
            address,
            server.username,
            server.password,
            None if server.transport.is_stream else base.ip,
            transport=server.transport,
            host=server.host,
        )
        allocation = Allocation(
            config, random_bytes=self._random_bytes, rng=self._rng, next_link=self._next_link
        )
        self._tried[address] = False
        self._allocations.append(allocation)
        self._waiting.append(allocation)

    def _is_cut_off(self, allocation: Allocation) -> bool:
        """Say whether the address of ours that it belongs to is gone."""
        source_ip = allocation.client.config.source_ip
        return source_ip is not None and all(base.ip != source_ip for base in self._bases)

    def _abandon(self, allocation: Allocation) -> None:
        """Forget an allocation that cannot be told so, and ask its server anew."""
        address, relayed = allocation.client.config.server, allocation.relayed
        self._allocations.remove(allocation)
        if allocation in self._waiting:
            self._waiting.remove(allocation)
        del self._tried[address]
        server, addresses = self._resolved.pop(address)
        self._unreachable[server] = addresses
        if relayed is not None:
            self._drop_relay(relayed, "our address is gone")

    def _drop_relay(self, relayed: Address, reason: str) -> None:
        self._candidates = {c: None for c in self._candidates if c.base != relayed}
        self._events.append(RelayGone(relayed, reason))

    def _start_next(self, now: float) -> None:
        if self._waiting:
            allocation = self._waiting.popleft()
            allocation.client.start(now=now)
            self._collect(allocation)
            self._timers.set("start", now + TA)

    def _next_link(self) -> int:
        self._last_link += 1
        return self._last_link

    def _first(self, is_ipv6: bool) -> Address | None:
        return next((base for base in self._bases if base.is_ipv6 == is_ipv6), None)

    def _drain_stun(self) -> None:
        while (event := self._stun.poll_event()) is not None:
            if isinstance(event, ReflexiveFound):
                self.failures.pop(str(event.server), None)
                self._add_reflexive(event.address, event.base)
            else:
                self.failures[str(event.server)] = event.reason

    def _collect(self, allocation: Allocation) -> None:
        for event in allocation.collect(self._out.append, self._links.append):
            self._on_turn(allocation, event)

    def _on_turn(self, allocation: Allocation, event: TurnEvent) -> None:
        config, relayed = allocation.client.config, allocation.relayed
        match event:
            case Allocated(relayed=address, mapped=mapped):
                self._tried[config.server] = True
                self.failures.pop(str(config.server), None)
                rank = list(self._tried).index(config.server)
                preference = RELAY_PREFERENCES[config.transport] - rank
                self._add(make_relayed(address, mapped, preference))
                base = self._first(config.server.is_ipv6)
                if mapped is not None and base is not None and allocation.is_datagram:
                    self._add_reflexive(mapped, base)
            case AllocationLost(relayed=address, reason=reason):
                self._tried[config.server] = True
                self.failures[str(config.server)] = reason
                if address is not None:
                    self._drop_relay(address, reason)
            case RelayReceived(peer, data) if relayed is not None:
                self._events.append(RelayedDatagram(relayed, peer, data))
            case PeerRefused(peer, reason) if relayed is not None:
                self._events.append(RelayRefused(relayed, peer, reason))

    def _add_reflexive(self, address: Address, base: Address) -> None:
        """Add how we are seen, unless that is an address of ours (section 5.1.3)."""
        if self._settings.wants(CandidateKind.SRFLX) and address not in self._bases:
            self._add(make_server_reflexive(address, base, self._preferences.get(base.ip, 0)))

    def _add(self, candidate: Candidate) -> None:
        if candidate not in self._candidates:
            self._candidates[candidate] = None
            self._events.append(Gathered(candidate))
