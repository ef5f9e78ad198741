"""Which addresses are public: by an explicit list, not by the standard library's `is_global`.

The lab's documentation prefixes (RFC 5737, RFC 3849) count as public here, so that the product
behaves there as on the real Internet without knowing of the lab.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

OVERLAY_IPV4 = IPv4Network("100.64.0.0/10")  # also carriers' NAT (RFC 6598)


class Scope(Enum):
    """How far an address reaches."""

    PUBLIC = "public"
    PRIVATE = "private"  # RFC 1918, RFC 4193
    CGNAT = "cgnat"  # RFC 6598
    LINK_LOCAL = "link-local"  # RFC 3927, fe80::/10
    LOOPBACK = "loopback"
    MULTICAST = "multicast"  # and broadcast
    UNSPECIFIED = "unspecified"


_RANGES: tuple[tuple[IPv4Network | IPv6Network, Scope], ...] = tuple(
    (ip_network(prefix), scope)
    for prefix, scope in (
        ("0.0.0.0/8", Scope.UNSPECIFIED),
        ("10.0.0.0/8", Scope.PRIVATE),
        ("100.64.0.0/10", Scope.CGNAT),
        ("127.0.0.0/8", Scope.LOOPBACK),
        ("169.254.0.0/16", Scope.LINK_LOCAL),
        ("172.16.0.0/12", Scope.PRIVATE),
        ("192.168.0.0/16", Scope.PRIVATE),
        ("224.0.0.0/4", Scope.MULTICAST),
        ("255.255.255.255/32", Scope.MULTICAST),
        ("::/128", Scope.UNSPECIFIED),
        ("::1/128", Scope.LOOPBACK),
        ("fc00::/7", Scope.PRIVATE),
        ("fe80::/10", Scope.LINK_LOCAL),
        ("ff00::/8", Scope.MULTICAST),
    )
)
_FIRST_OCTETS = frozenset(  # of IPv4 addresses that may not be public
    str((int(network.network_address) >> 24) + index)
    for network, _ in _RANGES
    if network.version == 4
    for index in range(max(1, network.num_addresses >> 24))
)


@lru_cache(maxsize=4096)
def scope_of(ip: str) -> Scope:
    """Return how far the IP reaches (text, without zone)."""
    first, dot, rest = ip.partition(".")
    if dot and first not in _FIRST_OCTETS and first.isdigit() and rest.count(".") == 2:
        return Scope.PUBLIC  # at once: a node meets more addresses than are kept here
    parsed = ip_address(ip)
    for network, scope in _RANGES:
        if parsed.version == network.version and parsed in network:
            return scope
    return Scope.PUBLIC


@lru_cache(maxsize=4096)
def is_public(ip: str) -> bool:
    """Say whether the IP can be reached from the Internet as far as its prefix tells."""
    return scope_of(ip) is Scope.PUBLIC


def is_private_prefix(network: IPv4Network) -> bool:
    """Say whether all of the prefix is for private use, so that an overlay may have it."""
    return any(
        scope in (Scope.PRIVATE, Scope.CGNAT)
        and isinstance(private, IPv4Network)
        and network.subnet_of(private)
        for private, scope in _RANGES
    )


@lru_cache(maxsize=4096)
def subnet_key(ip: str) -> str:
    """Return the /24 (IPv4) or /48 (IPv6) of the IP as text: one source for limits and votes."""
    if ":" in ip:
        return str(ip_network(f"{ip}/48", strict=False))
    return f"{ip.rpartition('.')[0]}.0/24"
