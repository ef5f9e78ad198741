"""What a hostile tunnel asks for: wrong, huge, foreign, valid but forbidden, field by field."""

from __future__ import annotations

from collections.abc import Iterator

from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.messages import make_settings

Request = pb.NetworkSettingsRequest
V4, V6, DNS = Request.IPv4Settings, Request.IPv6Settings, Request.DNSSettings
OWN = "100.64.0.1"


def cases() -> Iterator[tuple[str, Request]]:
    """Yield the field that must be named, and the request."""
    yield "mtu", Request(mtu=1279)
    yield "mtu", Request(mtu=2**32 - 1)
    yield "tunnel_overhead_bytes", Request(mtu=1280, tunnel_overhead_bytes=2**32 - 1)
    yield "tunnel_remote_address", Request(mtu=1280, tunnel_remote_address="\x1b[2J")
    inside = make_settings([], ["100.64.0.0/16"], mtu=1280)
    inside.tunnel_remote_address = "100.64.0.9"
    yield "tunnel_remote_address", inside
    for address in ("192.0.2.1", "100.64.0.2", "127.0.0.1", "0.0.0.0", "x" * 100_000, ""):
        v4 = V4(addrs=[address], subnet_masks=["255.255.255.255"])
        yield "ipv4_settings.addrs", Request(mtu=1280, ipv4_settings=v4)
    for mask in ("", "255.0.255.0", "32", "x" * 100_000):
        v4 = V4(addrs=[OWN], subnet_masks=[mask])
        yield "ipv4_settings.subnet_masks", Request(mtu=1280, ipv4_settings=v4)
    yield "ipv4_settings.subnet_masks", Request(mtu=1280, ipv4_settings=V4(addrs=[OWN]))
    yield "ipv4_settings.router", Request(mtu=1280, ipv4_settings=V4(router="192.0.2.1"))
    for kind in ("included_routes", "excluded_routes"):
        name = f"ipv4_settings.{kind}"
        for route in (
            V4.IPv4Route(destination="0.0.0.0", mask="0.0.0.0"),
            V4.IPv4Route(destination="192.0.2.0", mask="255.255.255.0"),
            V4.IPv4Route(destination="100.64.0.1", mask="255.255.0.0"),
            V4.IPv4Route(destination="", mask=""),
            V4.IPv4Route(destination="100.64.0.0", mask="255.255.0.0", router=OWN),
        ):
            yield name, Request(mtu=1280, ipv4_settings=V4(**{kind: [route]}))
        name = f"ipv6_settings.{kind}"
        for length, target in ((0, "::"), (64, "2001:db8::"), (129, "fd12::"), (48, "fd12::1")):
            v6 = V6.IPv6Route(destination=target, prefix_length=length)
            yield name, Request(mtu=1280, ipv6_settings=V6(**{kind: [v6]}))
    for address in ("2001:db8::1", "fd12::2", "fe80::1", "::1", "::ffff:192.0.2.1"):
        settings = V6(addrs=[address], prefix_lengths=[128])
        yield "ipv6_settings.addrs", Request(mtu=1280, ipv6_settings=settings)
    yield "ipv6_settings.prefix_lengths", Request(mtu=1280, ipv6_settings=V6(addrs=["fd12::1"]))
    for server in ("9.9.9.9", "127.0.0.1", "100.64.0.2", "", "x" * 100_000):
        yield "dns_settings.servers", Request(mtu=1280, dns_settings=DNS(servers=[server]))
    for domain in (
        "",
        ".",
        "com",
        "example.com",
        "xhome.internal",
        "a b.home.internal",
        "x" * 9999,
    ):
        for name in ("search_domains", "match_domains"):
            dns = DNS(servers=[OWN], **{name: [domain]})
            yield f"dns_settings.{name}", Request(mtu=1280, dns_settings=dns)
    dns = DNS(servers=[OWN], domain_name="example.com")
    yield "dns_settings.domain_name", Request(mtu=1280, dns_settings=dns)
    many = make_settings([], [f"100.64.{n}.0/24" for n in range(65)], mtu=1280)
    yield "more than 8 addresses or 64 routes", many
    yield "dns_settings.servers", Request(mtu=1280, dns_settings=DNS(servers=[OWN] * 5))
    yield "dns_settings", Request(mtu=1280, dns_settings=DNS(match_domains=["home.internal"]))
