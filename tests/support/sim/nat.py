"""A NAT after RFC 4787: how it maps, what it filters, when it forgets.

The kinds of the lab (`NAT_KINDS`) have the same names here. A NAT may stand behind another NAT
(`Nat.add_nat`, kind `cgnat`).

Source: RFC 4787, sections 4.1 (mapping), 4.2 (ports), 4.3 (expiry), 5 (filtering), 6 (hairpin).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from ginnel.base.types import Address
from support.sim.host import Host
from support.sim.link import Link, Packet, Realm

if TYPE_CHECKING:
    from support.sim.world import World

MAX_MAPPINGS = 16_384  # of one NAT; a new one beyond that is refused
PORT_TRIES = 64  # draws for a free port before a packet is dropped
HOME_DELAY = 0.010  # seconds one way on a home's access link
LAN_DELAY = 0.0002  # seconds one way on a LAN


class Dependence(Enum):
    """On what of the remote side a mapping or a filter depends."""

    ENDPOINT_INDEPENDENT = 0
    ADDRESS_DEPENDENT = 1
    ADDRESS_AND_PORT_DEPENDENT = 2

    def key(self, remote: Address) -> Hashable:
        """Return the part of the remote address that counts."""
        return (None, remote.ip, remote)[self.value]


@dataclass(frozen=True, slots=True)
class NatKind:
    """The behaviour of a NAT.

    `leaky`: a packet from outside that nobody asked for takes the port towards its sender, as on
    Linux routers that have no drop rule for input, so a later packet to it leaves elsewhere.
    """

    mapping: Dependence = Dependence.ENDPOINT_INDEPENDENT
    filtering: Dependence = Dependence.ADDRESS_AND_PORT_DEPENDENT
    preserves_port: bool = True
    ports: tuple[int, int] = (20_000, 65_536)  # drawn from here when not preserved
    timeout: float = 120.0  # seconds without a packet; RFC 4787 REQ-5 wants 120 or more
    inbound_refresh: bool = True
    hairpin: bool = False
    leaky: bool = False
    blocks_udp: bool = False


_INDEPENDENT = Dependence.ENDPOINT_INDEPENDENT
_DEPENDENT = Dependence.ADDRESS_AND_PORT_DEPENDENT
NAT_KINDS: dict[str, NatKind] = {
    "port-restricted": NatKind(),
    "addr-restricted": NatKind(filtering=Dependence.ADDRESS_DEPENDENT),
    "full-cone": NatKind(filtering=_INDEPENDENT),
    "symmetric": NatKind(mapping=_DEPENDENT, preserves_port=False),
    "symmetric-seq": NatKind(mapping=_DEPENDENT, preserves_port=False, ports=(40_000, 41_000)),
    "udp-blocked": NatKind(blocks_udp=True),
    "tcp443": NatKind(blocks_udp=True),
    "cgnat": NatKind(),  # `add_nat` puts it behind a second one
    "hairpin": NatKind(hairpin=True),
    "leaky": NatKind(leaky=True),
}


@dataclass(slots=True)
class _Mapping:
    inner: Address
    outer_port: int
    key: tuple[Address, Hashable]
    expires_at: float
    remotes: dict[Hashable, float] = field(default_factory=dict)  # -> allowed until


class Nat:
    """A router with one outer address and a LAN behind it; `link` is its access link."""

    def __init__(self, world: World, name: str, ip: str, kind: NatKind, outer: Realm) -> None:
        self.world = world
        self.name = name
        self.public_ip = ip
        self.kind = kind
        self.outer = outer
        self.inner_ip = ""  # of the router on its LAN; nothing answers there
        self.inner = Realm(world, name, gateway=self)
        self.link = Link(delay=HOME_DELAY)
        self._by_key: dict[tuple[Address, Hashable], _Mapping] = {}
        self._by_port: dict[int, _Mapping] = {}
        self._forwards: dict[int, Address] = {}
        self._taken: dict[tuple[int, Address], float] = {}  # leaky: until when
        outer.add(ip, self)

    def add_host(self, name: str, private_ip: str, *, link: Link | None = None) -> Host:
        """Put a host onto the LAN."""
        host = Host(self.world, name)
        host.add_interface(private_ip, self.inner, link or Link(delay=LAN_DELAY))
        self.world.keep_host(host)
        return host

    def add_nat(self, name: str, ip: str, kind: str | NatKind = "port-restricted") -> Nat:
        """Put a further NAT onto the LAN: its hosts are behind two."""
        behaviour = NAT_KINDS[kind] if isinstance(kind, str) else kind
        return Nat(self.world, name, ip, behaviour, self.inner)

    def forward(self, port: int, inner: Address) -> None:
        """Let everybody reach `inner` at `port` of the outer address (a forwarded port)."""
        self._forwards[port] = inner

    def forget(self) -> None:
        """Drop all mappings, as after a restart of the router."""
        self._by_key.clear()
        self._by_port.clear()
        self._taken.clear()

    def renumber(self, ip: str) -> None:
        """Give the outer side another address; all mappings are lost."""
        self.outer.add(ip, self)
        self.outer.remove(self.public_ip)
        self.public_ip = ip
        self.forget()

    def change(self, **fields: object) -> None:
        """Change parts of the behaviour, for example `timeout=30.0`."""
        self.kind = replace(self.kind, **fields)  # type: ignore[arg-type]  # names are the caller's

    def outer_address_of(self, inner: Address, remote: Address) -> Address | None:
        """Return what `remote` sees of `inner`, if there is a live mapping."""
        mapping = self._live(self._by_key.get((inner, self.kind.mapping.key(remote))))
        return Address(self.public_ip, mapping.outer_port) if mapping else None

    def handle_outbound(self, packet: Packet) -> None:
        """Take a packet from the LAN."""
        if self.kind.blocks_udp:
            self.world.count("blocked")
            return
        mapping = self._map(packet.source, packet.destination)
        if mapping is None:
            self.world.count("no free port")
            return
        source = Address(self.public_ip, mapping.outer_port)
        if packet.destination.ip != self.public_ip:
            self.outer.send(source, packet.destination, packet.data, self.link)
        elif self.kind.hairpin:
            self._inbound(source, packet.destination.port, packet.data)
        else:
            self.world.count("no hairpin")

    def receive(self, packet: Packet) -> None:
        """Take a packet from outside."""
        if self.kind.blocks_udp:
            self.world.count("blocked")
            return
        self._inbound(packet.source, packet.destination.port, packet.data)

    def _inbound(self, source: Address, port: int, data: bytes) -> None:
        mapping = self._live(self._by_port.get(port))
        if mapping is not None and self._allows(mapping, source):
            if self.kind.inbound_refresh:
                mapping.expires_at = self.world.now + self.kind.timeout
                mapping.remotes[self.kind.filtering.key(source)] = mapping.expires_at
            self.inner.send(source, mapping.inner, data, Link())
            return
        if port in self._forwards:
            self.inner.send(source, self._forwards[port], data, Link())
            return
        if self.kind.leaky and len(self._taken) < MAX_MAPPINGS:
            self._taken[port, source] = self.world.now + self.kind.timeout
        self.world.count("filtered")

    def _allows(self, mapping: _Mapping, source: Address) -> bool:
        if self.kind.filtering is Dependence.ENDPOINT_INDEPENDENT:
            return True
        until = mapping.remotes.get(self.kind.filtering.key(source))
        return until is not None and until > self.world.now

    def _map(self, inner: Address, remote: Address) -> _Mapping | None:
        key: tuple[Address, Hashable] = (inner, self.kind.mapping.key(remote))
        if self._taken:
            key = self._avoid_taken(key, remote)
        mapping = self._live(self._by_key.get(key)) or self._new(key)
        if mapping is not None:
            mapping.expires_at = self.world.now + self.kind.timeout
            mapping.remotes[self.kind.filtering.key(remote)] = mapping.expires_at
        return mapping

    def _avoid_taken(
        self, key: tuple[Address, Hashable], remote: Address
    ) -> tuple[Address, Hashable]:
        mapping = self._live(self._by_key.get(key))
        port = mapping.outer_port if mapping else key[0].port
        if mapping is not None and remote in mapping.remotes:
            return key
        return (key[0], remote) if self._taken.get((port, remote), 0.0) > self.world.now else key

    def _new(self, key: tuple[Address, Hashable]) -> _Mapping | None:
        if len(self._by_key) >= MAX_MAPPINGS:
            for stale in list(self._by_key.values()):
                self._live(stale)
        port = self._free_port(key[0].port)
        if port is None or len(self._by_key) >= MAX_MAPPINGS:
            return None
        mapping = _Mapping(key[0], port, key, 0.0)
        self._by_key[key] = self._by_port[port] = mapping
        return mapping

    def _free_port(self, wanted: int) -> int | None:
        if self.kind.preserves_port and self._is_free(wanted):
            return wanted
        for _ in range(PORT_TRIES):
            port = self.world.rng.randrange(*self.kind.ports)
            if self._is_free(port):
                return port
        return None

    def _is_free(self, port: int) -> bool:
        if self._live(self._by_port.get(port)) is not None or port in self._forwards:
            return False
        return not any(
            p == port and until > self.world.now for (p, _), until in self._taken.items()
        )

    def _live(self, mapping: _Mapping | None) -> _Mapping | None:
        if mapping is None or mapping.expires_at > self.world.now:
            return mapping
        self._by_key.pop(mapping.key, None)
        self._by_port.pop(mapping.outer_port, None)
        return None
