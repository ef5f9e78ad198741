"""What a tunnel may ask of its manager: every field is checked, and what is wrong is named.

The tunnel is not trusted: only what `Allowance` names passes. The outcome is a `Plan` of texts.

Source: seed 002 (NetworkSettingsRequest); DESIGN, "Processes".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from ipaddress import (
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import TypeAlias

from ginnel.base.addresses import OVERLAY_IPV4
from ginnel.base.errors import UsageError
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.net.dns import DnsPlan, reverse_zones
from ginnel.net.netlink import DEFAULT_MTU

MIN_MTU = 1280  # bytes; IPv6 needs it (RFC 8200, section 5)
MAX_MTU = 9000  # bytes; jumbo frames
MAX_OVERHEAD = 512  # bytes around an inner packet; WireGuard over IPv6 takes 80
MAX_ADDRESSES = 8  # of one node and family
MAX_ADDRESS = 45  # characters of an IPv6 address with an IPv4 one in it
MAX_ROUTES = 64  # of one network and family, included or excluded
MAX_SERVERS = 4  # DNS servers; a resolver looks at three
MAX_DOMAINS = 16  # to search, or to match
MAX_DOMAIN = 253  # characters (RFC 1035)
OVERLAY_IPV6 = IPv6Network("fd00::/8")  # RFC 4193, locally assigned

Interface: TypeAlias = IPv4Interface | IPv6Interface
Network: TypeAlias = IPv4Network | IPv6Network
_Routes: TypeAlias = list[tuple[str, Network]]
_LENGTHS = "ipv6_settings.prefix_lengths"
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a tunnel may ask for: addresses and routes inside these prefixes, names of a domain."""

    prefixes: tuple[Network, ...] = (OVERLAY_IPV4, OVERLAY_IPV6)
    addresses: tuple[str, ...] = ()  # exactly these IPs if any are named; also the DNS servers
    domain: str = ""  # with all below it, and the prefixes' reverse names; "": no DNS settings
    default_route: bool = False  # root's settings say so

    @classmethod
    def of(
        cls,
        prefixes: Sequence[str],
        addresses: Sequence[str] = (),
        domain: str = "",
        *,
        default_route: bool = False,
    ) -> Allowance:
        """Make one from texts (`100.64.0.0/16`, `100.64.0.1`).

        Raises:
            UsageError: a text is no prefix.
        """
        try:
            networks = tuple(ip_network(text) for text in prefixes)
        except ValueError as error:
            raise UsageError(str(error)) from None
        return cls(networks, tuple(addresses), domain, default_route)


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings that passed every check, as texts that netlink takes."""

    mtu: int
    addresses: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    dns: DnsPlan | None = None


def check_settings(
    request: pb.NetworkSettingsRequest, allowance: Allowance, *, physical_mtu: int = DEFAULT_MTU
) -> Plan:
    """Return what the request asks for; mtu 0 means the physical MTU less the overhead.

    Raises:
        UsageError: something in it is wrong or not allowed; nothing may be applied.
    """
    _check_counts(request)
    _refuse_routers(request)
    mtu = _mtu(request, physical_mtu)
    addresses = _addresses(request)
    included, excluded = _routes(request, "included_routes"), _routes(request, "excluded_routes")
    for field_name, address in addresses:
        _check_inside(field_name, ip_network(address.ip), allowance)
        if allowance.addresses and str(address.ip) not in allowance.addresses:
            raise UsageError(f"{field_name}: {address.ip} is not this node's address")
    _check_routes(included, excluded, allowance)
    _check_remote(request.tunnel_remote_address, included, excluded)
    return Plan(
        mtu,
        tuple(dict.fromkeys(str(address) for _, address in addresses)),
        tuple(dict.fromkeys(str(route) for _, route in included)),
        tuple(
            dict.fromkeys(
                str(route) for _, route in excluded if not _without_effect(route, included)
            )
        ),
        _dns(request, allowance),
    )


def _check_counts(request: pb.NetworkSettingsRequest) -> None:
    """Look at the sizes of lists before anything walks through them."""
    v4, v6, dns = request.ipv4_settings, request.ipv6_settings, request.dns_settings
    counts: tuple[tuple[str, Sized, int], ...] = (
        ("ipv4_settings.addrs", v4.addrs, MAX_ADDRESSES),
        ("ipv4_settings.subnet_masks", v4.subnet_masks, MAX_ADDRESSES),
        ("ipv4_settings.included_routes", v4.included_routes, MAX_ROUTES),
        ("ipv4_settings.excluded_routes", v4.excluded_routes, MAX_ROUTES),
        ("ipv6_settings.addrs", v6.addrs, MAX_ADDRESSES),
        ("ipv6_settings.prefix_lengths", v6.prefix_lengths, MAX_ADDRESSES),
        ("ipv6_settings.included_routes", v6.included_routes, MAX_ROUTES),
        ("ipv6_settings.excluded_routes", v6.excluded_routes, MAX_ROUTES),
        ("dns_settings.servers", dns.servers, MAX_SERVERS),
        ("dns_settings.search_domains", dns.search_domains, MAX_DOMAINS),
        ("dns_settings.match_domains", dns.match_domains, MAX_DOMAINS),
    )
    for name, items, most in counts:
        if len(items) > most:
            raise UsageError(f"{name}: more than {most}")


def _refuse_routers(request: pb.NetworkSettingsRequest) -> None:
    v4, v6 = request.ipv4_settings, request.ipv6_settings
    named = {
        "ipv4_settings.router": [v4.router],
        "ipv4_settings.included_routes.router": [route.router for route in v4.included_routes],
        "ipv4_settings.excluded_routes.router": [route.router for route in v4.excluded_routes],
        "ipv6_settings.included_routes.router": [route.router for route in v6.included_routes],
        "ipv6_settings.excluded_routes.router": [route.router for route in v6.excluded_routes],
    }
    for name, routers in named.items():
        if any(routers):
            raise UsageError(f"{name}: a point-to-point device has no next hop; leave it empty")


def _mtu(request: pb.NetworkSettingsRequest, physical_mtu: int) -> int:
    overhead = request.tunnel_overhead_bytes
    if overhead > MAX_OVERHEAD:
        raise UsageError(f"tunnel_overhead_bytes: {overhead} is not in 0..{MAX_OVERHEAD}")
    mtu = request.mtu or min(physical_mtu - overhead, MAX_MTU)
    if not MIN_MTU <= mtu <= MAX_MTU:
        raise UsageError(f"mtu: {mtu} is not in {MIN_MTU}..{MAX_MTU}")
    return mtu


def _check_routes(included: _Routes, excluded: _Routes, allowance: Allowance) -> None:
    for field_name, route in included:
        if route.prefixlen > 0:
            _check_inside(field_name, route, allowance)
        elif not allowance.default_route:
            raise UsageError(f"{field_name}: {route} needs `default_route` in root's settings")
    kept = {route for _, route in included}
    for field_name, route in excluded:
        if route in kept:
            raise UsageError(f"{field_name}: {route} is included too")


def _without_effect(route: Network, included: _Routes) -> bool:
    """Say whether an exclusion changes nothing: no shorter route would lead there."""
    return not any(_is_inside(route, other) for _, other in included)


def _check_remote(text: str, included: _Routes, excluded: _Routes) -> None:
    """Refuse routes that would swallow the way to the tunnel's other end."""
    if not text:
        return
    try:
        remote = ip_network(ip_address(text))
    except ValueError:
        raise UsageError(f"tunnel_remote_address: {text[:60]!r} is no address") from None
    if _longest(remote, included) > _longest(remote, excluded):
        raise UsageError(f"tunnel_remote_address: {text} lies inside an included route")


def _longest(address: Network, routes: _Routes) -> int:
    """Return the length of the route that decides about an address, or -1."""
    return max((r.prefixlen for _, r in routes if _is_inside(address, r)), default=-1)


def _dns(request: pb.NetworkSettingsRequest, allowance: Allowance) -> DnsPlan | None:
    if not request.HasField("dns_settings"):
        return None
    dns = request.dns_settings
    name = "dns_settings"
    if not allowance.domain or not allowance.addresses:
        raise UsageError(f"{name}: not allowed here")
    if not dns.servers and (dns.search_domains or dns.match_domains or dns.domain_name):
        raise UsageError(f"{name}.servers: domains need a server")
    for text in dns.servers:
        if text not in allowance.addresses:
            raise UsageError(f"{name}.servers: {text[:60]!r} is not this node's own address")
    primary = [dns.domain_name] if dns.domain_name else []
    search = [_domain(f"{name}.domain_name", text, allowance) for text in primary]
    search += [_domain(f"{name}.search_domains", text, allowance) for text in dns.search_domains]
    match = [_domain(f"{name}.match_domains", text, allowance) for text in dns.match_domains]
    if not dns.match_domains_no_search:
        search, match = search + match, []
    servers = tuple(dict.fromkeys(dns.servers))
    routed = tuple(text for text in dict.fromkeys(match) if text not in search)
    return DnsPlan(servers, tuple(dict.fromkeys(search)), routed)


def _domain(name: str, text: str, allowance: Allowance) -> str:
    domain = text.lower().removesuffix(".")
    if len(domain) > MAX_DOMAIN or not all(map(_LABEL.fullmatch, domain.split("."))):
        raise UsageError(f"{name}: {text[:60]!r} is no domain")
    own = (allowance.domain, *(z for prefix in allowance.prefixes for z in reverse_zones(prefix)))
    if not any(domain == zone or domain.endswith(f".{zone}") for zone in own):
        raise UsageError(f"{name}: {domain[:60]} is not under {allowance.domain}")
    return domain


def _addresses(request: pb.NetworkSettingsRequest) -> list[tuple[str, Interface]]:
    v4, v6 = request.ipv4_settings, request.ipv6_settings
    if len(v4.addrs) != len(v4.subnet_masks):
        raise UsageError("ipv4_settings.subnet_masks: not as many as addrs")
    if len(v6.addrs) != len(v6.prefix_lengths):
        raise UsageError("ipv6_settings.prefix_lengths: not as many as addrs")
    found: list[tuple[str, Interface]] = []
    for text, mask in zip(v4.addrs, v4.subnet_masks, strict=True):
        prefix = _prefix_of("ipv4_settings.subnet_masks", mask)
        found.append(("ipv4_settings.addrs", _interface("ipv4_settings.addrs", text, prefix, 4)))
    for text, length in zip(v6.addrs, v6.prefix_lengths, strict=True):
        found.append(("ipv6_settings.addrs", _interface("ipv6_settings.addrs", text, length, 6)))
    return found


def _routes(request: pb.NetworkSettingsRequest, kind: str) -> _Routes:
    found: _Routes = []
    name = f"ipv4_settings.{kind}"
    v4s: Iterable[pb.NetworkSettingsRequest.IPv4Settings.IPv4Route]
    v4s = getattr(request.ipv4_settings, kind)
    for v4 in v4s:
        interface = _interface(name, v4.destination, _prefix_of(f"{name}.mask", v4.mask), 4)
        found.append((name, _exact(name, interface)))
    name = f"ipv6_settings.{kind}"
    v6s: Iterable[pb.NetworkSettingsRequest.IPv6Settings.IPv6Route]
    v6s = getattr(request.ipv6_settings, kind)
    for v6 in v6s:
        interface = _interface(name, v6.destination, v6.prefix_length, 6)
        found.append((name, _exact(name, interface)))
    return found


def _interface(name: str, text: str, prefix: int, version: int) -> Interface:
    if prefix > (32 if version == 4 else 128):
        lengths = f"{name}.prefix_length" if name.endswith("routes") else _LENGTHS
        raise UsageError(f"{lengths}: {prefix} is over 128")
    try:
        if "/" in text or "%" in text or len(text) > MAX_ADDRESS:
            raise ValueError(f"{text[:60]!r} is not a bare address")
        interface = ip_interface(f"{text}/{prefix}")
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    if interface.version != version:
        raise UsageError(f"{name}: {text} is of IP version {interface.version}")
    return interface


def _exact(name: str, interface: Interface) -> Network:
    if interface.ip != interface.network.network_address:
        raise UsageError(f"{name}: {interface} has bits beyond its mask")
    return interface.network


def _prefix_of(name: str, mask: str) -> int:
    try:
        network = IPv4Network(f"0.0.0.0/{mask}")
    except ValueError:
        raise UsageError(f"{name}: {mask[:60]!r} is no mask") from None
    if str(network.netmask) != mask:  # a host mask or a plain number, which the library takes too
        raise UsageError(f"{name}: {mask[:60]!r} is no mask")
    return network.prefixlen


def _check_inside(name: str, network: Network, allowance: Allowance) -> None:
    if not any(_is_inside(network, prefix) for prefix in allowance.prefixes):
        allowed = ", ".join(map(str, allowance.prefixes))
        raise UsageError(f"{name}: {network} is not inside what root allows ({allowed})")


def _is_inside(network: Network, prefix: Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(prefix, IPv4Network) and network.subnet_of(prefix)
    return isinstance(prefix, IPv6Network) and network.subnet_of(prefix)
