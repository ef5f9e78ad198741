"""Candidates: their kinds, priorities and foundations, and which remote ones we accept.

Source: RFC 8445 sections 5.1.1 to 5.1.2; RFC 8421 (dual stack: families take turns).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network, ip_address

from ginnel.base.addresses import Scope, scope_of
from ginnel.base.servers import Transport
from ginnel.base.types import Address

COMPONENT = 1  # one component: WireGuard's datagrams
MAX_LOCAL_CANDIDATES = 20  # a machine with more addresses offers the best
MAX_REMOTE_CANDIDATES = 20  # a session (DESIGN, "Peer connection")
MAX_PRIORITY = 2**31 - 1  # section 5.1.2
MAX_FOUNDATION = 32  # characters (RFC 8839 section 5.1)
TCP_PREFERENCE = 49_151  # local preference of addresses at relays over TCP, at most
RELAY_PREFERENCES = {  # at most; the quicker way to a relay first, below it later servers
    Transport.UDP: 65_535,
    Transport.TCP: TCP_PREFERENCE,
    Transport.TLS: 32_767,
}


class CandidateKind(IntEnum):
    """How an address was learned; the number is the one on the wire of offers."""

    HOST = 1
    SRFLX = 2
    PRFLX = 3
    RELAY = 4


TYPE_PREFERENCE = {  # section 5.1.2.2
    CandidateKind.HOST: 126,
    CandidateKind.PRFLX: 110,
    CandidateKind.SRFLX: 100,
    CandidateKind.RELAY: 0,
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One address of one side.

    `base` is where a local one sends from (a relayed one: its own address); remote: the address.
    """

    kind: CandidateKind
    address: Address
    base: Address
    priority: int
    foundation: str
    related: Address | None = None

    @property
    def is_relayed(self) -> bool:
        """Say whether it is an address at a relay."""
        return self.kind is CandidateKind.RELAY

    @property
    def is_over_stream(self) -> bool:
        """Say whether it is an address of ours at a relay that we reach over TCP or TLS."""
        preference = self.priority >> 8 & 0xFFFF
        return self.is_relayed and preference <= TCP_PREFERENCE

    def __str__(self) -> str:
        return f"{self.kind.name.lower()} {self.address}"


def compute_priority(kind: CandidateKind, local_preference: int) -> int:
    """Return the priority; `local_preference` is 0 to 65535, higher is better."""
    return (TYPE_PREFERENCE[kind] << 24) | (local_preference << 8) | (256 - COMPONENT)


def make_foundation(kind: CandidateKind, base_ip: str, server: str = "") -> str:
    """Return a short name, equal for equal kind, base and server (section 5.1.1.3)."""
    text = f"{kind.name} {base_ip} {server}".encode()
    return hashlib.sha256(text).hexdigest()[:6]


def make_host(address: Address, local_preference: int = 65535) -> Candidate:
    """Return the host candidate of an address of ours."""
    return make_local(CandidateKind.HOST, address, address, local_preference)


def make_server_reflexive(
    address: Address, base: Address, local_preference: int = 65535
) -> Candidate:
    """Return the candidate of our address as an observer saw it; base: our own."""
    return make_local(CandidateKind.SRFLX, address, base, local_preference)


def make_relayed(
    address: Address, related: Address | None = None, local_preference: int = 65535
) -> Candidate:
    """Return the candidate of our address at a relay; related: what the relay sees us as."""
    candidate = make_local(CandidateKind.RELAY, address, address, local_preference)
    return replace(candidate, related=related)


def make_local(
    kind: CandidateKind, address: Address, base: Address, local_preference: int
) -> Candidate:
    """Return a local candidate of any kind with computed priority and foundation."""
    foundation = make_foundation(kind, base.ip)
    priority = compute_priority(kind, local_preference)
    related = None if kind is CandidateKind.HOST else base
    return Candidate(kind, address, base, priority, foundation, related)


def make_remote(kind: CandidateKind, address: Address, priority: int, foundation: str) -> Candidate:
    """Return a candidate of the other side."""
    return Candidate(kind, address, address, priority, foundation)


def host_preferences(ips: Sequence[str]) -> dict[str, int]:
    """Return a local preference for each IP: the families take turns, IPv6 first (RFC 8421)."""
    turn = {True: 0, False: 0}
    result: dict[str, int] = {}
    for ip in ips:
        is_ipv6 = ":" in ip
        result[ip] = 65535 - 2 * turn[is_ipv6] - (0 if is_ipv6 else 1)
        turn[is_ipv6] += 1
    return result


def network_of(address: Address) -> bytes:
    """Return what stays when a host or its NAT changes ports: the IPv4 address, the IPv6 /64."""
    return address.packed_ip[:8]


def with_kind(candidate: Candidate, kind: CandidateKind) -> Candidate:
    """Return the candidate with another kind and nothing else changed."""
    return replace(candidate, kind=kind)


def refusal(
    address: Address,
    overlay: Sequence[IPv4Network | IPv6Network] = (),
    *,
    allow_loopback: bool = False,
) -> str | None:
    """Say why we never send checks to this address, or None if we may.

    IPv6 link-local addresses are refused because an address without its zone can't be reached.
    """
    scope = scope_of(address.ip)
    if address.port == 0:
        return "port 0"
    if scope in (Scope.MULTICAST, Scope.UNSPECIFIED):
        return str(scope.value)
    if scope is Scope.LOOPBACK and not allow_loopback:
        return str(scope.value)
    if scope is Scope.LINK_LOCAL and address.is_ipv6:
        return "link-local without zone"
    parsed = ip_address(address.ip)
    if any(parsed.version == network.version and parsed in network for network in overlay):
        return "overlay"
    return None
