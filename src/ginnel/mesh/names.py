"""Names of members: NAME.NETWORK.internal, and the addresses behind them.

Which of two members keeps a name is `membership.py`'s business; the loser is NAME-xxxx there.

Source: docs/formats.md, "Signed objects".
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from ginnel.base.types import MemberId
from ginnel.mesh.membership import Membership
from ginnel.mesh.objects import Certificate

DOMAIN = "internal"  # the top level that ICANN reserves for private use


@dataclass(frozen=True, slots=True)
class Host:
    """One member as people and resolvers see it."""

    member_id: MemberId
    name: str
    full_name: str
    addresses: tuple[str, ...]  # IPv4 first


def full_name(name: str, network: str) -> str:
    """Return NAME.NETWORK.internal."""
    return f"{name}.{network}.{DOMAIN}"


def overlay_addresses(cert: Certificate) -> tuple[str, ...]:
    """Return a member's overlay addresses as text, IPv4 (if it has one) first."""
    packed = [cert.ipv4, cert.ipv6] if cert.ipv4 else [cert.ipv6]
    return tuple(str(ip_address(address)) for address in packed)


def allowed_ips(cert: Certificate) -> tuple[str, ...]:
    """Return what WireGuard lets through from a member: its addresses, /32 and /128."""
    return tuple(f"{ip}/{128 if ':' in ip else 32}" for ip in overlay_addresses(cert))


def hosts(membership: Membership) -> tuple[Host, ...]:
    """Return all current members, by name."""
    network = membership.network.name if membership.network is not None else ""
    listed = [
        Host(
            member.cert.member_id,
            member.name,
            full_name(member.name, network),
            overlay_addresses(member.cert),
        )
        for member in membership.members()
    ]
    return tuple(sorted(listed, key=lambda host: host.name))


def resolve(membership: Membership, text: str) -> Host | None:
    """Find a member by its name, full name (case and a last dot don't matter) or address."""
    wanted = text.lower().rstrip(".")
    for host in hosts(membership):
        if wanted in (host.name, host.full_name) or wanted in host.addresses:
            return host
    return None
