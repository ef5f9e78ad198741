"""What a tunnel may ask for, field by field."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, ip_network

import pytest

from ginnel.base.errors import UsageError
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.messages import make_settings
from ginnel.daemon.settings_check import MAX_ROUTES, Allowance, Plan, check_settings
from ginnel.net.dns import DnsPlan

GOOD = make_settings(["100.64.0.1/16", "fd12::1/48"], ["100.64.0.0/16", "fd12::/48"], mtu=1380)
PLAN = Plan(1380, ("100.64.0.1/16", "fd12::1/48"), ("100.64.0.0/16", "fd12::/48"))


def test_a_good_request_becomes_a_plan() -> None:
    assert check_settings(GOOD, Allowance()) == PLAN
    assert check_settings(pb.NetworkSettingsRequest(), Allowance()) == Plan(1500)


V4 = pb.NetworkSettingsRequest.IPv4Settings
V6 = pb.NetworkSettingsRequest.IPv6Settings
BAD: list[tuple[str, pb.NetworkSettingsRequest]] = [
    ("mtu", pb.NetworkSettingsRequest(mtu=1279)),
    ("mtu", pb.NetworkSettingsRequest(mtu=9001)),
    ("dns_settings: not allowed", pb.NetworkSettingsRequest(dns_settings={"servers": ["9.9.9.9"]})),
    ("tunnel_overhead_bytes", pb.NetworkSettingsRequest(tunnel_overhead_bytes=513)),
    ("mtu: 988", pb.NetworkSettingsRequest(tunnel_overhead_bytes=512)),
    ("tunnel_remote_address", pb.NetworkSettingsRequest(tunnel_remote_address="host.example")),
    ("ipv4_settings.router", pb.NetworkSettingsRequest(ipv4_settings=V4(router="100.64.0.1"))),
    (
        "ipv4_settings.included_routes.router",
        pb.NetworkSettingsRequest(
            ipv4_settings=V4(included_routes=[V4.IPv4Route(router="100.64.0.9")])
        ),
    ),
    ("ipv4_settings.subnet_masks", pb.NetworkSettingsRequest(ipv4_settings=V4(addrs=["1.1.1.1"]))),
    ("ipv6_settings.prefix_lengths", pb.NetworkSettingsRequest(ipv6_settings=V6(addrs=["::1"]))),
    ("ipv4_settings.addrs: 192.0.2.1/32", make_settings(["192.0.2.1/24"], mtu=1280)),
    ("ipv6_settings.addrs: 2001:db8::1/128", make_settings(["2001:db8::1/48"], mtu=1280)),
    ("ipv4_settings.included_routes: 0.0.0.0/0", make_settings([], ["0.0.0.0/0"], mtu=1280)),
    ("ipv6_settings.included_routes: ::/0", make_settings([], ["::/0"], mtu=1280)),
    ("ipv4_settings.included_routes: 100.0.0.0/8", make_settings([], ["100.0.0.0/8"], mtu=1280)),
    (
        "ipv4_settings.included_routes: 100.64.0.1/16 has bits",
        pb.NetworkSettingsRequest(
            ipv4_settings=V4(
                included_routes=[V4.IPv4Route(destination="100.64.0.1", mask="255.255.0.0")]
            )
        ),
    ),
]
for mask in ("0.0.255.255", "255.0.255.0", "16", "", "x" * 500):
    request = pb.NetworkSettingsRequest(ipv4_settings=V4(addrs=["100.64.0.1"], subnet_masks=[mask]))
    BAD.append(("ipv4_settings.subnet_masks", request))
for address in ("100.64.0.1/8", "fd00::1", "", "100.64.0", "100.64.0.1%lo", "\n"):
    v4 = V4(addrs=[address], subnet_masks=["255.255.0.0"])
    BAD.append(("ipv4_settings.addrs", pb.NetworkSettingsRequest(ipv4_settings=v4)))
for length in (129, 4_294_967_295):
    v6 = V6(addrs=["fd00::1"], prefix_lengths=[length])
    BAD.append(("ipv6_settings.prefix_lengths", pb.NetworkSettingsRequest(ipv6_settings=v6)))


@pytest.mark.parametrize(("named", "request_"), BAD)
def test_a_bad_request_is_refused_by_the_fields_name(
    named: str, request_: pb.NetworkSettingsRequest
) -> None:
    with pytest.raises(UsageError) as caught:
        check_settings(request_, Allowance())
    assert str(caught.value).startswith(named)
    assert len(str(caught.value)) < 300


def test_counts_are_bounded() -> None:
    routes = [f"100.64.{number}.0/24" for number in range(MAX_ROUTES + 1)]
    with pytest.raises(UsageError, match=r"ipv4_settings\.included_routes: more than 64"):
        check_settings(make_settings([], routes, mtu=1280), Allowance())


def test_root_can_name_the_prefixes_and_addresses() -> None:
    allowance = Allowance.of(["100.64.0.0/16", "fd12::/48"], ["100.64.0.1", "fd12::1"])
    assert check_settings(GOOD, allowance) == PLAN
    with pytest.raises(UsageError, match=r"100\.64\.0\.2 is not this node's"):
        check_settings(make_settings(["100.64.0.2/16"], mtu=1280), allowance)
    with pytest.raises(UsageError, match="not inside"):
        check_settings(make_settings(["100.65.0.1/16"], mtu=1280), allowance)
    with pytest.raises(UsageError):
        Allowance.of(["100.64.0.1/16"])


def test_mtu_0_is_the_physical_one_less_the_overhead() -> None:
    request = pb.NetworkSettingsRequest(tunnel_overhead_bytes=80)
    assert check_settings(request, Allowance(), physical_mtu=1492).mtu == 1412
    assert check_settings(request, Allowance(), physical_mtu=65_536).mtu == 9000


def test_excluded_routes_and_the_other_end_fit_the_included_ones() -> None:
    request = make_settings([], ["100.64.0.0/16"], mtu=1280)
    request.tunnel_remote_address = "100.64.9.1"
    with pytest.raises(UsageError, match=r"^tunnel_remote_address: 100\.64\.9\.1 lies inside"):
        check_settings(request, Allowance())
    route = request.ipv4_settings.excluded_routes.add(
        destination="100.64.9.0", mask="255.255.255.0"
    )
    assert check_settings(request, Allowance()).excluded == ("100.64.9.0/24",)
    route.router = "100.64.0.1"
    with pytest.raises(UsageError, match=r"^ipv4_settings\.excluded_routes\.router"):
        check_settings(request, Allowance())
    del request.ipv4_settings.excluded_routes[:]
    request.tunnel_remote_address = "192.0.2.1"
    assert check_settings(request, Allowance()).excluded == ()


def exclude(request: pb.NetworkSettingsRequest, *routes: str) -> pb.NetworkSettingsRequest:
    """Return a copy that excludes these too."""
    found = pb.NetworkSettingsRequest.FromString(request.SerializeToString())
    for route in map(ip_network, routes):
        if isinstance(route, IPv4Network):
            found.ipv4_settings.excluded_routes.add(
                destination=str(route.network_address), mask=str(route.netmask)
            )
        else:
            found.ipv6_settings.excluded_routes.add(
                destination=str(route.network_address), prefix_length=route.prefixlen
            )
    return found


def test_included_routes_may_be_nested() -> None:
    nested = ("100.64.0.0/16", "100.64.1.0/24", "fd12::/48", "fd12::/64")
    assert check_settings(make_settings([], nested, mtu=1280), Allowance()).routes == nested


def test_what_is_excluded_from_nothing_is_left_out() -> None:
    request = make_settings([], ["100.64.0.0/16", "fd12::/48"], mtu=1280)
    without_effect = ("192.0.2.0/24", "100.0.0.0/8", "0.0.0.0/0", "fd13::/48", "::/0")
    found = check_settings(exclude(request, *without_effect, "100.64.1.0/24"), Allowance())
    assert found.excluded == ("100.64.1.0/24",)
    none = exclude(pb.NetworkSettingsRequest(), "100.64.1.0/24")
    assert check_settings(none, Allowance()).excluded == ()


def test_a_route_is_not_included_and_excluded() -> None:
    both = exclude(make_settings([], ["fd12::/48"], mtu=1280), "fd12::/48")
    with pytest.raises(UsageError, match=r"^ipv6_settings\.excluded_routes: fd12::/48 is included"):
        check_settings(both, Allowance())


def test_the_longest_route_decides_about_the_other_end() -> None:
    routes = ["100.64.0.0/16", "100.64.9.1/32"]
    request = exclude(make_settings([], routes, mtu=1280), "100.64.9.0/24")
    request.tunnel_remote_address = "100.64.9.1"
    with pytest.raises(UsageError, match=r"^tunnel_remote_address: 100\.64\.9\.1 lies inside"):
        check_settings(request, Allowance())
    request.tunnel_remote_address = "100.64.9.2"
    assert check_settings(request, Allowance()).routes == tuple(routes)


def test_the_default_route_needs_roots_word() -> None:
    request = make_settings([], ["0.0.0.0/0", "100.64.0.0/16", "::/0"], mtu=1280)
    with pytest.raises(
        UsageError, match=r"^ipv4_settings\.included_routes: 0\.0\.0\.0/0 needs `def"
    ):
        check_settings(request, Allowance())
    with pytest.raises(UsageError, match=r"^ipv6_settings\.included_routes: ::/0 needs `default_r"):
        check_settings(make_settings([], ["::/0"], mtu=1280), Allowance.of(["fd12::/48"]))
    allowance = replace(Allowance(), default_route=True)
    assert check_settings(request, allowance).routes == ("0.0.0.0/0", "100.64.0.0/16", "::/0")
    assert Allowance.of(["100.64.0.0/16"], default_route=True).default_route
    with pytest.raises(
        UsageError, match=r"^ipv4_settings\.included_routes: 0\.0\.0\.0/1 is not inside"
    ):
        check_settings(make_settings([], ["0.0.0.0/1", "128.0.0.0/1"], mtu=1280), allowance)


def test_the_other_end_must_stay_outside_a_default_route_too() -> None:
    allowance = replace(Allowance(), default_route=True)
    request = make_settings([], ["0.0.0.0/0"], mtu=1280)
    request.tunnel_remote_address = "192.0.2.1"
    with pytest.raises(UsageError, match=r"^tunnel_remote_address: 192\.0\.2\.1 lies inside"):
        check_settings(request, allowance)
    request.ipv4_settings.excluded_routes.add(destination="192.0.2.1", mask="255.255.255.255")
    assert check_settings(request, allowance).excluded == ("192.0.2.1/32",)


WITH_DNS = Allowance.of(["100.64.0.0/16"], ["100.64.0.1"], "home.internal")


def dns(**fields: object) -> pb.NetworkSettingsRequest:
    return pb.NetworkSettingsRequest(mtu=1280, dns_settings={"servers": ["100.64.0.1"], **fields})


@pytest.mark.parametrize(
    ("request_", "plan"),
    [
        (dns(), DnsPlan(("100.64.0.1",))),
        (
            dns(match_domains=["HOME.internal."], match_domains_no_search=True),
            DnsPlan(("100.64.0.1",), (), ("home.internal",)),
        ),
        (
            dns(match_domains=["home.internal"], search_domains=["a.home.internal"]),
            DnsPlan(("100.64.0.1",), ("a.home.internal", "home.internal")),
        ),
        (
            dns(domain_name="home.internal", match_domains=["home.internal"]),
            DnsPlan(("100.64.0.1",), ("home.internal",)),
        ),
    ],
)
def test_dns_settings_become_a_plan(request_: pb.NetworkSettingsRequest, plan: DnsPlan) -> None:
    assert check_settings(request_, WITH_DNS).dns == plan


@pytest.mark.parametrize(
    ("named", "request_"),
    [
        ("dns_settings.servers: '9.9.9.9'", dns(servers=["9.9.9.9"])),
        ("dns_settings.servers: '100.64.0.2'", dns(servers=["100.64.0.2"])),
        ("dns_settings.servers: domains", dns(servers=[], match_domains=["home.internal"])),
        ("dns_settings.servers: more", dns(servers=["100.64.0.1"] * 5)),
        ("dns_settings.match_domains: more", dns(match_domains=["home.internal"] * 17)),
        ("dns_settings.match_domains: com", dns(match_domains=["com"])),
        ("dns_settings.match_domains: '.'", dns(match_domains=["."])),
        ("dns_settings.match_domains: evilhome", dns(match_domains=["evilhome.internal"])),
        ("dns_settings.search_domains: 'x\\ny", dns(search_domains=["x\ny.home.internal"])),
        ("dns_settings.search_domains: internal", dns(search_domains=["internal"])),
        ("dns_settings.domain_name: example.com", dns(domain_name="example.com")),
        ("dns_settings.domain_name: 'xxx", dns(domain_name="x" * 300)),
    ],
)
def test_dns_settings_stay_in_the_networks_domain(
    named: str, request_: pb.NetworkSettingsRequest
) -> None:
    with pytest.raises(UsageError) as caught:
        check_settings(request_, WITH_DNS)
    assert str(caught.value).startswith(named)
    assert len(str(caught.value)) < 300
