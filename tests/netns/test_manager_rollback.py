"""A failure at any call of the settings' transaction leaves the machine as it was before.

The calls reach the real kernel in a namespace of their own; only the chosen one fails instead.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.daemon.guard import Guard
from ginnel.daemon.settings_apply import SettingsApplier
from ginnel.daemon.settings_check import Allowance, Plan
from ginnel.lab.furnish import furnish
from ginnel.net.dns import DnsPlan
from ginnel.net.dns_file import ResolvConfFile
from ginnel.net.netlink import Netlink
from ginnel.net.tun import open_tun
from support.confined import can_enter_namespaces, enter_namespaces, in_child
from support.machine_state import look

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        not (can_enter_namespaces() and os.access("/dev/net/tun", os.R_OK | os.W_OK)),
        reason="no user namespaces or no TUN here",
    ),
]
DEVICE = "gn-test"
GUARD = Guard(DEVICE, 64_191, Allowance.of(["100.64.0.0/16", "fd12::/48"], ["100.64.0.1"]))
FIRST = Plan(
    1380,
    ("100.64.0.1/16", "fd12::1/48"),
    ("100.64.0.0/16", "fd12::/48"),
    ("100.64.9.0/24", "fd12::9:0/112"),
    DnsPlan(("100.64.0.1",), search=("home.internal",)),
)
SECOND = Plan(
    1280,
    ("100.64.0.2/16", "fd12::2/48"),
    ("100.64.0.0/17", "fd12::/49"),
    ("100.64.8.0/24", "fd12::8:0/112"),
    DnsPlan(("100.64.0.2",), match=("home.internal",)),
)
RESOLV_CONF = Path("/etc/resolv.conf")
ORIGINAL = "nameserver 192.0.2.53\nsearch example.org\n"
# What a Netlink has: it looks, or it changes something of a device, or rules (the guard's).
LOOKS = {
    "index_of",
    "mtu_of",
    "addresses",
    "routes",
    "excluded",
    "rules",
    "physical_mtu",
    "address_generation_of",
}
CHANGES = {
    "set_mtu",
    "set_up",
    "set_address_generation",
    "add_address",
    "remove_address",
    "add_route",
    "remove_route",
    "exclude",
    "include_again",
}
OF_RULES = {"add_rule", "remove_rule"}
OF_NAMES = {"apply", "take_back"}


class Fault:
    """Lets one call fail: `left` are still to pass before it."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.seen: list[str] = []

    def arm(self, left: int | None) -> None:
        self.left = left
        self.seen.clear()

    def wrap(self, name: str, call: Callable[..., None], *, half_done: bool = False) -> object:
        def wrapped(*arguments: object, **keys: object) -> None:
            self.seen.append(name)
            is_it, self.left = self.left == 0, None if not self.left else self.left - 1
            if half_done or not is_it:
                call(*arguments, **keys)
            if is_it:
                raise SystemFailure(f"injected at {name}")

        return wrapped


class FaultyNetlink(Netlink):
    """The kernel, but for the chosen call."""

    def __init__(self, fault: Fault, names: set[str]) -> None:
        super().__init__()
        for name in names:
            setattr(self, name, fault.wrap(name, getattr(self, name)))


class FaultyFile(ResolvConfFile):
    """The file; the chosen call fails after it wrote."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(DEVICE, RESOLV_CONF)
        for name in OF_NAMES:
            setattr(self, name, fault.wrap(name, getattr(self, name), half_done=True))


def in_room(body: Callable[[SettingsApplier, Fault], None]) -> None:
    def child() -> None:
        enter_namespaces()
        furnish("room", {})  # an /etc that its user may write to
        RESOLV_CONF.write_text(ORIGINAL)
        device = open_tun(DEVICE)
        fault = Fault()
        applier = SettingsApplier(
            DEVICE, GUARD.table, FaultyFile(fault), lambda: FaultyNetlink(fault, CHANGES)
        )
        body(applier, fault)
        os.close(device.fd)

    in_child(child)


def fail_each(applier: SettingsApplier, fault: Fault, plan: Plan) -> list[str]:
    """Apply a plan with each of its calls failing once, then whole; return the calls."""
    before = look()
    for number in range(100):
        fault.arm(number)
        if (error := error_of(applier, plan)) is None:
            assert len(fault.seen) == number  # each of them has failed once
            return list(fault.seen)
        assert error == f"injected at {fault.seen[number]}"
        difference = set(look().splitlines()) ^ set(before.splitlines())
        assert difference == set(), (number, error)
    raise AssertionError("endless")


def error_of(applier: SettingsApplier, plan: Plan) -> str | None:
    try:
        applier.apply(plan)
    except SystemFailure as error:
        return str(error)
    return None


def test_no_way_to_change_the_machine_is_left_out() -> None:
    public = {name for name, _ in inspect.getmembers(Netlink, callable) if not name.startswith("_")}
    assert public == LOOKS | CHANGES | OF_RULES


def test_a_failure_at_each_call_is_rolled_back() -> None:
    def body(applier: SettingsApplier, fault: Fault) -> None:
        GUARD.install()
        first = fail_each(applier, fault, FIRST)
        assert DEVICE in look()
        assert sorted(first) == sorted(
            ["set_mtu", "set_address_generation", "set_up", "apply"]
            + ["add_address", "add_route", "exclude"] * 2
        )
        second = fail_each(applier, fault, SECOND)
        assert {*first, *second} == CHANGES | {"apply"}
        assert applier.current == SECOND
        third = fail_each(applier, fault, Plan(1280))
        assert set(third) == {"take_back", "remove_address", "remove_route", "include_again"}

    in_room(body)


def test_a_failure_while_taking_back_stops_nothing_else() -> None:
    def lines() -> set[str]:
        return set(look().splitlines())

    def body(applier: SettingsApplier, fault: Fault) -> None:
        before = lines()
        GUARD.install()
        fault.arm(None)
        applier.apply(FIRST)
        fault.arm(None)
        applier.take_back()
        calls = list(fault.seen)
        assert {*calls} == (CHANGES | {"take_back"}) - {"add_address", "add_route", "exclude"}
        GUARD.clear_stale()
        switches = {line for line in lines() - before if "/conf/" in line}
        assert lines() - before == switches  # of the guard, on the device, until that goes
        for number, name in enumerate(calls):
            other = SettingsApplier(DEVICE, applier.table, applier.dns, applier.open_netlink)
            GUARD.install()
            fault.arm(None)
            other.apply(FIRST)
            fault.arm(number)
            with pytest.raises(SystemFailure, match=f"^injected at {name}$"):
                other.take_back()
            assert fault.seen == calls
            GUARD.clear_stale()
            left = lines() - before - switches
            assert all(DEVICE in line or "/conf/" in line for line in left), (name, left)
            with Netlink() as netlink:  # what the device's end would do
                for address in netlink.addresses(DEVICE):
                    netlink.remove_address(DEVICE, address)
                netlink.set_up(DEVICE, is_up=False)
                netlink.set_mtu(DEVICE, 1500)
                netlink.set_address_generation(DEVICE, 0)
            assert lines() - before == switches, name

    in_room(body)


@pytest.mark.parametrize("default_route", [False, True])
def test_the_guards_rules_are_all_or_none_and_go_as_far_as_they_can(default_route: bool) -> None:
    def body(applier: SettingsApplier, fault: Fault) -> None:
        allowance = replace(GUARD.allowance, default_route=default_route)
        guard = replace(
            GUARD, allowance=allowance, open_netlink=lambda: FaultyNetlink(fault, OF_RULES)
        )
        fault.arm(None)
        guard.install()
        rules, possible = len(guard.rules()), len(guard.possible_rules())
        assert fault.seen == ["remove_rule"] * possible + ["add_rule"] * rules
        installed = look()
        guard.clear_stale()
        before = look()
        for number in range(possible, possible + rules):
            fault.arm(number)
            with pytest.raises(SystemFailure, match=r"^injected at add_rule$"):
                guard.install()
            assert look() == before
        for number in range(possible):
            fault.arm(None)
            guard.install()
            assert look() == installed
            fault.arm(number)
            with pytest.raises(SystemFailure, match=r"^injected at remove_rule$"):
                guard.clear_stale()
            left = set(look().splitlines()) - set(before.splitlines())
            assert len(left) <= 2  # that one, for both families
        fault.arm(None)
        guard.clear_stale()
        assert look() == before

    in_room(body)


def test_nothing_is_applied_after_the_end() -> None:
    def body(applier: SettingsApplier, fault: Fault) -> None:
        before = look()
        applier.take_back()
        with pytest.raises(SystemFailure, match="the network is down"):
            applier.apply(FIRST)
        assert look() == before

    in_room(body)
