"""CORE: the nodes of this machine's local networks, found by multicast.

Each node tells its own record every 30 s and whenever something changed, from the port that it can
be reached on: so a record without an address (client mode) does, and what is heard is where to ask.
Who is new is answered at once. What is told here is true on the local network only and never goes
to the DHT. A record proves nothing but its key: a session still has to be made with it.

Shape: RLP [1, ENR, services, ...] in one datagram to port 41642 of 239.255.71.73 or ff02::4749;
services bit 0: stores registrations for its local network. Without it a node only asks, or leaves.

Invariant: only senders inside a prefix of ours count; per sender, per second and in total bounded.

Source: docs/formats.md, "Local networks".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from ginnel.base import rlp
from ginnel.base.chance import Rng
from ginnel.base.core import TimerTable
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.limits import BoundedLru, RateLimiter, TokenBucket
from ginnel.base.types import Address, Deadline, NodeId, Transmit
from ginnel.discv5.enr import Enr, RecordCache
from ginnel.discv5.requests import Contact

GROUP4 = "239.255.71.73"  # administratively scoped (RFC 2365); 71, 73 are "GI"
GROUP6 = "ff02::4749"  # link-local scope (RFC 4291)
PORT = 41_642
VERSION = 1
SERVES = 1  # bit 0 of services
INTERVAL_S = 30.0  # seconds between two announcements
REPEAT_S = 2.0  # seconds after a change until it is told once more: multicast on Wi-Fi is lossy
MIN_GAP_S = 1.0  # seconds between two announcements, whatever happens
ANSWER_S = 0.2  # seconds within which who is new is answered; drawn, so that not all speak at once
LIFETIME_S = 3.2 * INTERVAL_S  # seconds that a node counts after its last announcement
MAX_SIZE = 400  # bytes; a record has at most 300
MAX_NODES = 64  # nodes known; the one heard least recently goes
MAX_PER_SOURCE = 16  # nodes of one IP: members of several networks on one machine
MAX_LINKS = 32  # addresses of ours that are told from
MAX_SOURCES = 256  # senders whose rates are remembered
SOURCE_PER_S, SOURCE_BURST = 2.0, 20.0  # datagrams of one IP
TOTAL_PER_S, TOTAL_BURST = 50.0, 200.0  # datagrams of all together
NEAR_IPV6 = 64  # bits: a host may know only its own address as a prefix (RFC 5942)

_Network: TypeAlias = IPv4Network | IPv6Network


class LanDrop(Enum):
    """Why a datagram of the group was not taken."""

    SIZE = "size"
    OFF_LINK = "sender outside our local networks"
    RATE = "rate"
    MALFORMED = "malformed"
    OWN = "our own"
    FULL = "too many nodes of one sender"


@dataclass(frozen=True, slots=True)
class Link:
    """An address of this machine on a local network."""

    name: str  # of the interface
    ip: str
    prefix_len: int

    @property
    def network(self) -> _Network:
        """Return the prefix whose addresses are near."""
        length = min(self.prefix_len, NEAR_IPV6) if ":" in self.ip else self.prefix_len
        return ip_network(f"{self.ip}/{length}", strict=False)


@dataclass(frozen=True, slots=True)
class NeighbourFound:
    """A node that was not known, or was elsewhere."""

    contact: Contact
    record: Enr


@dataclass(frozen=True, slots=True)
class NeighbourLost:
    """A node left, or was not heard for long."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class NeighbourAsks:
    """Somebody who stores nothing (it joins, say) asks who is there: be found by it."""


LanEvent: TypeAlias = NeighbourFound | NeighbourLost | NeighbourAsks


@dataclass(slots=True)
class _Neighbour:
    record: Enr
    addresses: dict[bool, tuple[Address, float]]  # and when it was heard there, by "is IPv6"

    @property
    def heard_at(self) -> float:
        return max(at for _, at in self.addresses.values())

    def contact(self) -> Contact:
        """Return where it is: by IPv4, if it was heard there not much longer ago."""
        address, _ = max(
            self.addresses.values(),
            key=lambda found: (found[1] > self.heard_at - INTERVAL_S, not found[0].is_ipv6),
        )
        return Contact(self.record.node_id, address, self.record.public_key)


class _Timer(Enum):
    ANNOUNCE = 1
    EXPIRE = 2
    ASKER = 3


class LanCore:
    """See the module's text; `set_links` begins.

    Args:
        record: our own; `set_record` tells a newer one.
        serves: whether we store for the local network; False only asks who is there.
    """

    def __init__(self, record: Enr, *, serves: bool, rng: Rng, now: float) -> None:
        self.drops: dict[LanDrop, int] = {}
        self._record = record
        self._serves = serves
        self._rng = rng
        self._links: tuple[Link, ...] = ()
        self._networks: tuple[_Network, ...] = ()
        self._neighbours: BoundedLru[NodeId, _Neighbour] = BoundedLru(MAX_NODES)
        self._records = RecordCache(2 * MAX_NODES)
        self._sources: RateLimiter[str] = RateLimiter(SOURCE_PER_S, SOURCE_BURST, limit=MAX_SOURCES)
        self._total = TokenBucket(TOTAL_PER_S, TOTAL_BURST, now=now)
        self._told_at = float("-inf")
        self._repeats = False
        self._out: deque[Transmit] = deque()
        self._events: deque[LanEvent] = deque()
        self._timers: TimerTable[_Timer] = TimerTable()

    # --- commands ------------------------------------------------------------------------------

    def set_links(self, links: Sequence[Link], *, now: float) -> None:
        """Tell our addresses; nodes of networks that we left are forgotten."""
        wanted = tuple(links[:MAX_LINKS])
        if wanted == self._links:
            return
        self._links = wanted
        self._networks = tuple(dict.fromkeys(link.network for link in wanted))
        for node_id in self._neighbours:
            neighbour = self._neighbours.peek(node_id)
            assert neighbour is not None
            kept = {k: v for k, v in neighbour.addresses.items() if self.is_near(v[0].ip)}
            neighbour.addresses = kept
            if not kept:
                self._forget(node_id)
        self._on_change(now)

    def set_record(self, record: Enr, *, now: float) -> None:
        """Tell our record where it is another one."""
        if record.raw != self._record.raw:
            self._record = record
            self._on_change(now)

    def close(self, *, now: float) -> None:
        """Say that we leave."""
        self._timers = TimerTable()
        if self._serves and self._told_at > float("-inf"):
            self._serves = False
            self._tell(now)

    def neighbours(self) -> list[Contact]:
        """Return the nodes that store for the local network, by node id."""
        found = [self._neighbours.peek(node_id) for node_id in sorted(self._neighbours)]
        return [item.contact() for item in found if item is not None]

    def contact_of(self, node_id: NodeId) -> Contact | None:
        """Return where a node is on our local network, or None."""
        found = self._neighbours.peek(node_id)
        return None if found is None else found.contact()

    @property
    def has_company(self) -> bool:
        """Say whether anybody else is there, be it only to ask."""
        return bool(len(self._neighbours)) or self._timers.get(_Timer.ASKER) is not None

    def is_near(self, ip: str) -> bool:
        """Say whether an IP is inside a prefix of ours."""
        parsed = ip_address(ip)
        return any(parsed.version == n.version and parsed in n for n in self._networks)

    def own_ip(self) -> str | None:
        """Return our first address there, IPv4 if there is one."""
        ips = sorted((link.ip for link in self._links), key=lambda ip: ":" in ip)
        return ips[0] if ips else None

    # --- the five verbs ------------------------------------------------------------------------

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Take one datagram that was sent to a group."""
        try:
            self._take(data, source, now)
        except _Refused as refused:
            self.drops[refused.reason] = self.drops.get(refused.reason, 0) + 1

    def handle_timeout(self, *, now: float) -> None:
        """Announce what is due, forget who was silent."""
        for timer in self._timers.expire(now):
            if timer is _Timer.ANNOUNCE:
                self._announce(now)
            elif timer is _Timer.EXPIRE:
                self._expire(now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram; its source says on which interface it goes out."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> LanEvent | None:
        """Return the next event; call until None."""
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        return self._timers.deadline()

    # --- telling -------------------------------------------------------------------------------

    def _on_change(self, now: float) -> None:
        if not self._links:
            self._timers.stop(_Timer.ANNOUNCE)
            return
        self._repeats = True
        self._timers.set_earlier(_Timer.ANNOUNCE, max(now, self._told_at + MIN_GAP_S))

    def _announce(self, now: float) -> None:
        self._tell(now)
        wait = REPEAT_S if self._repeats else INTERVAL_S * self._rng.uniform(0.9, 1.0)
        self._repeats = False
        self._timers.set(_Timer.ANNOUNCE, now + wait)

    def _tell(self, now: float) -> None:
        data = encode_announcement(self._record, serves=self._serves)
        told: dict[tuple[str, bool], None] = {}
        for link in self._links:
            place = (link.name, ":" in link.ip)  # one datagram for each interface and IP version
            if place not in told:
                told[place] = None
                group = GROUP6 if ":" in link.ip else GROUP4
                self._out.append(Transmit(data, Address(group, PORT), link.ip))
        self._told_at = now

    # --- hearing -------------------------------------------------------------------------------

    def _take(self, data: bytes, source: Address, now: float) -> None:
        if len(data) > MAX_SIZE:
            raise _Refused(LanDrop.SIZE)
        if source.port == 0 or not self.is_near(source.ip):
            raise _Refused(LanDrop.OFF_LINK)
        if not (self._sources.take(source.ip, now=now) and self._total.take(now=now)):
            raise _Refused(LanDrop.RATE)
        try:
            record, serves = decode_announcement(data, self._records)
        except RemoteProtocolError:
            raise _Refused(LanDrop.MALFORMED) from None
        if record.node_id == self._record.node_id:
            raise _Refused(LanDrop.OWN)
        if not serves:
            self._on_asker(record, source, now)
            return
        known = self._neighbours.get(record.node_id)
        if known is None:
            self._add(record, source, now)
            return
        previous = known.contact()
        if record.seq >= known.record.seq:
            known.record = record
        known.addresses[source.is_ipv6] = (source, now)
        if known.contact() != previous:
            self._events.append(NeighbourFound(known.contact(), known.record))

    def _on_asker(self, record: Enr, source: Address, now: float) -> None:
        """Answer who only asks, and forget who leaves."""
        known = self._neighbours.peek(record.node_id)
        if known is None:
            if not self.has_company:
                self._events.append(NeighbourAsks())
            self._timers.set(_Timer.ASKER, now + LIFETIME_S)
            self._answer(now)
        elif source in [address for address, _ in known.addresses.values()]:
            self._forget(record.node_id)

    def _add(self, record: Enr, source: Address, now: float) -> None:
        others = [self._neighbours.peek(node_id) for node_id in self._neighbours]
        same = [n for n in others if n is not None and n.contact().address.ip == source.ip]
        if len(same) >= MAX_PER_SOURCE:
            raise _Refused(LanDrop.FULL)
        if len(self._neighbours) >= MAX_NODES:
            self._forget(next(iter(self._neighbours)))
        neighbour = _Neighbour(record, {source.is_ipv6: (source, now)})
        self._neighbours.put(record.node_id, neighbour)
        self._events.append(NeighbourFound(neighbour.contact(), record))
        self._timers.set_earlier(_Timer.EXPIRE, now + LIFETIME_S)
        self._answer(now)

    def _answer(self, now: float) -> None:
        at = now + self._rng.uniform(0.0, ANSWER_S)
        if self._links:
            self._timers.set_earlier(_Timer.ANNOUNCE, max(at, self._told_at + MIN_GAP_S))

    def _expire(self, now: float) -> None:
        for node_id in self._neighbours:
            neighbour = self._neighbours.peek(node_id)
            assert neighbour is not None
            if neighbour.heard_at + LIFETIME_S <= now:
                self._forget(node_id)
            else:
                self._timers.set_earlier(_Timer.EXPIRE, neighbour.heard_at + LIFETIME_S)

    def _forget(self, node_id: NodeId) -> None:
        self._neighbours.pop(node_id)
        self._events.append(NeighbourLost(node_id))


class _Refused(Exception):
    def __init__(self, reason: LanDrop) -> None:
        super().__init__(reason.value)
        self.reason = reason


def encode_announcement(record: Enr, *, serves: bool) -> bytes:
    """Return the bytes of one announcement."""
    parts = (rlp.encode(VERSION), record.raw, rlp.encode(SERVES if serves else 0))
    return rlp.encode_list_payload(b"".join(parts))


def decode_announcement(data: bytes, records: RecordCache) -> tuple[Enr, bool]:
    """Return the verified record, and whether its node stores for the local network.

    Without services (`[1, ENR]`) it is taken to do so: asking it shows.

    Raises:
        RemoteProtocolError: malformed, another version, or the record does not verify.
    """
    parts = rlp.split_list(data)
    if len(parts) < 2 or rlp.as_int(rlp.decode(parts[0])) != VERSION:
        raise RemoteProtocolError("no announcement of this version")
    services = SERVES if len(parts) < 3 else rlp.as_int(rlp.decode(parts[2]))
    return records.decode(parts[1]), bool(services & SERVES)
