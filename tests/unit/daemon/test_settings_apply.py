"""A device always has all of the settings or none."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.daemon.settings_apply import SettingsApplier
from ginnel.daemon.settings_check import Plan
from ginnel.net.dns import DnsPlan
from ginnel.net.netlink import Netlink
from ginnel.net.tun import open_tun
from support.confined import can_enter_namespaces, enter_namespaces, in_child

PLAN = Plan(
    1380,
    ("100.64.0.1/16", "fd12::1/48"),
    ("100.64.0.0/16", "fd12::/48"),
    ("100.64.9.0/24", "fd12::9:0/112"),
    DnsPlan(("100.64.0.1",), match=("home.internal",)),
)
TABLE = 64_191
IN_NAMESPACE = pytest.mark.skipif(
    not (can_enter_namespaces() and os.access("/dev/net/tun", os.R_OK | os.W_OK)),
    reason="no user namespaces or no TUN here",
)


def on_device(body: Callable[[SettingsApplier, Callable[[], Plan]], None]) -> None:
    """Run the body in a namespace with a device; it gets a function that reads what is set."""

    def child() -> None:
        enter_namespaces()
        open_tun("gn-test")
        setter = Setter()
        body(SettingsApplier("gn-test", TABLE, setter), lambda: look(setter))

    in_child(child)


class Setter:
    """A resolver that remembers; it refuses servers of TEST-NET-1."""

    name = "memory"
    needs_forwarder = True

    def __init__(self) -> None:
        self.plan: DnsPlan | None = None

    def apply(self, plan: DnsPlan) -> None:
        if plan.servers[0].startswith("192.0.2."):
            raise SystemFailure("dns_settings: refused")
        self.plan = plan

    def take_back(self) -> None:
        self.plan = None

    def is_in_place(self) -> bool:
        return self.plan is not None


def look(setter: Setter | None = None) -> Plan:
    with Netlink() as netlink:
        assert netlink.routes("gn-test") == []  # the main table stays as it is
        return Plan(
            netlink.mtu_of("gn-test"),
            tuple(netlink.addresses("gn-test")),
            tuple(netlink.routes("gn-test", table=TABLE)),
            tuple(netlink.excluded(table=TABLE)),
            setter.plan if setter is not None else None,
        )


@IN_NAMESPACE
def test_applied_changed_and_taken_back() -> None:
    def body(applier: SettingsApplier, look: Callable[[], Plan]) -> None:
        before = look()
        applier.apply(PLAN)
        assert look() == PLAN
        changed = Plan(
            1280,
            ("100.64.0.2/16", "fd12::1/48"),
            ("100.64.0.0/17", "fd12::/48"),
            ("100.64.9.0/25", "fd12::9:0/112"),
        )
        applier.apply(changed)
        assert look() == applier.current == changed
        applier.take_back()
        applier.take_back()
        assert look() == before

    on_device(body)


IN_USE = "100.65.0.0/16"
FAILURES = [
    (Plan(1400, ("100.64.0.1/16",), (IN_USE,)), f"route {IN_USE} to gn-test: File exists"),
    (Plan(1400, (), ("100.66.0.0/16", IN_USE)), f"route {IN_USE} to gn-test: File exists"),
    (Plan(1400, ("100.64.0.1/16",), (), (IN_USE,)), f"excluded route {IN_USE}: File exists"),
    (Plan(70_000), "mtu 70000 on gn-test: Invalid argument"),
    (Plan(1400, dns=DnsPlan(("192.0.2.1",))), "dns_settings: refused"),
    (
        Plan(1400, ("100.64.0.1/16", "100.64.0.1/16")),
        "address 100.64.0.1/16 on gn-test: File exists",
    ),
]


@IN_NAMESPACE
@pytest.mark.parametrize(("bad", "error"), FAILURES)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_failing_step_is_named_and_all_is_rolled_back(
    bad: Plan, error: str, is_first: bool
) -> None:
    def body(applier: SettingsApplier, look: Callable[[], Plan]) -> None:
        with Netlink() as netlink:
            netlink.set_up("lo")
            netlink.add_route("lo", IN_USE, table=TABLE)
            netlink.exclude(IN_USE, table=TABLE + 1)
        if not is_first:
            applier.apply(PLAN)
        if bad.excluded:
            with Netlink() as netlink:
                netlink.remove_route("lo", IN_USE, table=TABLE)
                netlink.exclude(IN_USE, table=TABLE)
        before = look()
        with pytest.raises(SystemFailure) as caught:
            applier.apply(bad)
        assert str(caught.value) == error
        assert look() == before

    on_device(body)


TAKEN = ("100.65.1.0/24", "fd65::/64")  # by another device, in the same table


def bad_plans() -> list[Plan]:
    """Return plans that fail at one step each, however far the steps before it came."""
    addresses = ("100.64.0.2/16", "fd12::2/48")
    routes = ("100.64.0.0/17", "100.64.128.0/17", "fd12::/49", "fd12:0:0:8000::/49")
    excluded = ("100.64.9.0/25", "fd12::9:0/120")
    good = Plan(1280, addresses, routes, excluded, DnsPlan(("100.64.0.2",)))
    twice = ("100.64.0.9/16",) * 2  # a doubled address is refused by the kernel
    found = [replace(good, mtu=70_000), replace(good, dns=DnsPlan(("192.0.2.1",)))]
    found += [replace(good, addresses=(*addresses[:at], *twice)) for at in range(3)]
    found += [
        replace(good, routes=(*routes[:at], taken, *routes[at:]))
        for at in range(5)
        for taken in TAKEN
    ]
    found += [
        replace(good, excluded=(*excluded[:at], taken, *excluded[at:]))
        for at in range(3)
        for taken in TAKEN
    ]
    return found


@IN_NAMESPACE
@pytest.mark.parametrize("is_first", [True, False])
def test_a_failure_at_each_step_rolls_all_back(is_first: bool) -> None:
    def body(applier: SettingsApplier, look: Callable[[], Plan]) -> None:
        with Netlink() as netlink:
            netlink.set_up("lo")
            for taken in TAKEN:
                netlink.add_route("lo", taken, table=TABLE)
        if not is_first:
            applier.apply(PLAN)
        before = look()
        for bad in bad_plans():
            with pytest.raises(SystemFailure):
                applier.apply(bad)
            assert look() == before, bad

    on_device(body)


class Meddler(Setter):
    """A resolver in whose time somebody sets an address that the rollback wants to set."""

    def apply(self, plan: DnsPlan) -> None:
        if plan.servers[0].startswith("192.0.2."):
            with Netlink() as netlink:
                netlink.add_address("gn-test", "100.64.0.1/16")
        super().apply(plan)


@IN_NAMESPACE
def test_a_rollback_that_is_hindered_goes_on() -> None:
    def child() -> None:
        enter_namespaces()
        open_tun("gn-test")
        setter = Meddler()
        applier = SettingsApplier("gn-test", TABLE, setter)
        applier.apply(PLAN)
        before = look(setter)
        bad = Plan(1280, ("100.64.0.2/16",), PLAN.routes, (), DnsPlan(("192.0.2.1",)))
        with pytest.raises(SystemFailure, match="dns_settings: refused"):
            applier.apply(bad)
        assert look(setter) == before

    in_child(child)


@IN_NAMESPACE
def test_mtu_0_follows_the_device_that_packets_leave_by() -> None:
    def body(applier: SettingsApplier, look: Callable[[], Plan]) -> None:
        assert applier.physical_mtu() == 1500
        with Netlink() as netlink:
            netlink.set_up("lo")
            netlink.set_mtu("lo", 1420)
            netlink.add_route("lo", "0.0.0.0/0")
        assert applier.physical_mtu() == 1420

    on_device(body)


@IN_NAMESPACE
def test_taking_back_after_the_device_is_gone_is_harmless() -> None:
    def child() -> None:
        enter_namespaces()
        device = open_tun("gn-test")
        setter = Setter()
        applier = SettingsApplier("gn-test", TABLE, setter)
        applier.apply(PLAN)
        os.close(device.fd)
        applier.take_back()
        with Netlink() as netlink:
            assert netlink.routes("lo", table=TABLE) == []
            assert netlink.excluded(table=TABLE) == []
        assert setter.plan is None

    in_child(child)
