"""What a tunnel may ask for, and that a device always has all of it or none."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.messages import make_settings
from ginnel.daemon.settings_apply import (
    MAX_ROUTES,
    Allowance,
    Plan,
    SettingsApplier,
    check_settings,
)
from ginnel.net.netlink import Netlink
from ginnel.net.tun import open_tun
from support.confined import can_enter_namespaces, enter_namespaces, in_child

GOOD = make_settings(["100.64.0.1/16", "fd12::1/48"], ["100.64.0.0/16", "fd12::/48"], mtu=1380)
PLAN = Plan(1380, ("100.64.0.1/16", "fd12::1/48"), ("100.64.0.0/16", "fd12::/48"))
IN_NAMESPACE = pytest.mark.skipif(
    not (can_enter_namespaces() and os.access("/dev/net/tun", os.R_OK | os.W_OK)),
    reason="no user namespaces or no TUN here",
)


def test_a_good_request_becomes_a_plan() -> None:
    assert check_settings(GOOD, Allowance()) == PLAN
    assert check_settings(pb.NetworkSettingsRequest(), Allowance()) == Plan(1280)


V4 = pb.NetworkSettingsRequest.IPv4Settings
V6 = pb.NetworkSettingsRequest.IPv6Settings
BAD: list[tuple[str, pb.NetworkSettingsRequest]] = [
    ("mtu", pb.NetworkSettingsRequest(mtu=1279)),
    ("mtu", pb.NetworkSettingsRequest(mtu=9001)),
    ("dns_settings", pb.NetworkSettingsRequest(dns_settings={"servers": ["9.9.9.9"]})),
    ("tunnel_remote_address", pb.NetworkSettingsRequest(tunnel_remote_address="192.0.2.1")),
    ("ipv4_settings.router", pb.NetworkSettingsRequest(ipv4_settings=V4(router="100.64.0.1"))),
    (
        "ipv4_settings.excluded_routes",
        pb.NetworkSettingsRequest(ipv4_settings=V4(excluded_routes=[V4.IPv4Route()])),
    ),
    (
        "ipv6_settings.excluded_routes",
        pb.NetworkSettingsRequest(ipv6_settings=V6(excluded_routes=[V6.IPv6Route()])),
    ),
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
    BAD.append(("ipv6_settings.addrs", pb.NetworkSettingsRequest(ipv6_settings=v6)))


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
    with pytest.raises(UsageError, match="64 routes"):
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


def on_device(body: Callable[[SettingsApplier, Callable[[], Plan]], None]) -> None:
    """Run the body in a namespace with a device; it gets a function that reads what is set."""

    def child() -> None:
        enter_namespaces()
        open_tun("gn-test")
        body(SettingsApplier("gn-test"), look)

    in_child(child)


def look() -> Plan:
    with Netlink() as netlink:
        return Plan(
            netlink.mtu_of("gn-test"),
            tuple(netlink.addresses("gn-test")),
            tuple(netlink.routes("gn-test")),
        )


@IN_NAMESPACE
def test_applied_changed_and_taken_back() -> None:
    def body(applier: SettingsApplier, look: Callable[[], Plan]) -> None:
        before = look()
        applier.apply(PLAN)
        assert look() == PLAN
        changed = Plan(1280, ("100.64.0.2/16", "fd12::1/48"), ("100.64.0.0/17", "fd12::/48"))
        applier.apply(changed)
        assert look() == applier.current == changed
        applier.take_back()
        applier.take_back()
        assert look() == before

    on_device(body)


@IN_NAMESPACE
@pytest.mark.parametrize("failing", ["route", "second route"])
def test_a_failing_step_is_named_and_all_is_rolled_back(failing: str) -> None:
    def body(applier: SettingsApplier, look: Callable[[], Plan]) -> None:
        applier.apply(Plan(1300, ("100.64.0.9/16",), ("100.64.0.0/16",)))
        before = look()
        with Netlink() as netlink:
            netlink.set_up("lo")
            netlink.add_route("lo", "100.65.0.0/16")
        bad = {
            "route": Plan(1400, ("100.64.0.1/16",), ("100.65.0.0/16",)),
            "second route": Plan(1400, (), ("100.66.0.0/16", "100.65.0.0/16")),
        }[failing]
        with pytest.raises(SystemFailure) as caught:
            applier.apply(bad)
        assert str(caught.value) == "route 100.65.0.0/16 to gn-test: File exists"
        assert look() == before

    on_device(body)


@IN_NAMESPACE
def test_taking_back_after_the_device_is_gone_is_harmless() -> None:
    def child() -> None:
        enter_namespaces()
        device = open_tun("gn-test")
        applier = SettingsApplier("gn-test")
        applier.apply(PLAN)
        os.close(device.fd)
        applier.take_back()
        with Netlink() as netlink:
            assert netlink.routes("lo") == []

    in_child(child)
