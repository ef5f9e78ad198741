"""Votes on our address and the record that follows them."""

from __future__ import annotations

import pytest

from ginnel.base.types import Address
from ginnel.discv5.events import AddressChanged, AddressDiffers, ReflexiveChanged
from support.discv5_net import Host, Net

OUTSIDE = Address("198.51.100.1", 4000)


def behind_nat(net: Net, host: Host, *, port_of: object = None) -> None:
    """Let others see the host at OUTSIDE, each at a port of its own if `port_of`."""
    if port_of is None:
        net.translate[host.address] = lambda to: OUTSIDE
    else:
        net.translate[host.address] = lambda to: Address(
            OUTSIDE.ip, 4000 + int(to.ip.split(".")[2])
        )


def network(net: Net, observers: int) -> list[Host]:
    boot = net.add(0)
    others = [net.add(index, bootstrap=[boot.core.record]) for index in range(1, observers)]
    net.run(10)
    return [boot, *others]


def test_the_record_follows_the_majority() -> None:
    net = Net(1)
    hosts = network(net, 5)
    host = net.add(
        90, bootstrap=[hosts[0].core.record], advertise=None, config={"auto_update": True}
    )
    behind_nat(net, host)
    assert host.core.record.address() is None
    net.run(60)
    assert host.core.record.address() == OUTSIDE
    assert host.of(AddressChanged) == [AddressChanged(OUTSIDE, None)]
    assert host.core.metrics.enr_auto_update == 1
    moved = Address("198.51.100.2", 5000)
    net.translate[host.address] = lambda to: moved
    net.run(1200)
    assert host.core.record.address() == moved
    assert host.of(AddressChanged)[1:] == [AddressChanged(moved, OUTSIDE)]


def test_the_majority_is_counted_every_five_minutes() -> None:
    net = Net(9)
    hosts = network(net, 5)
    config = {"auto_update": True}
    host = net.add(90, bootstrap=[hosts[0].core.record], advertise=None, config=config)
    behind_nat(net, host)
    net.run_until(lambda: bool(host.of(AddressChanged)))
    first_at = net.now
    moved = Address("198.51.100.2", 5000)
    net.translate[host.address] = lambda to: moved
    net.run(295)
    assert host.core.record.address() == OUTSIDE
    assert host.of(ReflexiveChanged)[-1].address == moved  # though it is seen long since
    net.run_until(lambda: len(host.of(AddressChanged)) == 2)
    assert 299 <= net.now - first_at <= 301
    assert host.core.record.address() == moved


def test_off_by_default_it_warns(caplog: pytest.LogCaptureFixture) -> None:
    net = Net(2)
    hosts = network(net, 5)
    caplog.clear()
    host = net.add(90, bootstrap=[hosts[0].core.record], advertise=None)
    assert "no external address" in caplog.text
    behind_nat(net, host)
    net.run(60)
    assert host.core.record.address() is None
    assert host.of(AddressDiffers) == [AddressDiffers(OUTSIDE, None)]
    assert "another address" in caplog.text
    net.run(700)
    assert len(host.of(AddressDiffers)) == 1


def test_a_configured_address_is_never_overwritten() -> None:
    net = Net(3)
    hosts = network(net, 5)
    host = net.add(90, bootstrap=[hosts[0].core.record], config={"auto_update": True})
    behind_nat(net, host)
    net.run(60)
    assert host.core.record.address() == host.address
    assert host.of(AddressDiffers) == [AddressDiffers(OUTSIDE, host.address)]


def test_a_record_without_room_for_the_address_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    net = Net(7)
    hosts = network(net, 5)
    boot = [hosts[0].core.record]
    host = net.add(90, bootstrap=boot, advertise=None, config={"auto_update": True})
    behind_nat(net, host)
    host.core.update_record({"k": bytes(170)}, now=net.now)
    net.run(60)
    assert host.core.record.address() is None
    assert host.of(AddressDiffers) == [AddressDiffers(OUTSIDE, None)]
    assert "no room" in caplog.text


def test_each_ip_version_has_its_own_votes() -> None:
    net = Net(8)
    config = {"auto_update": True, "ip_versions": (4, 6)}
    fours = [net.add(index) for index in range(4)]
    sixes = [net.add(index, address=Address(f"2001:db8:{index}::7", 9)) for index in range(4)]
    host = net.add(90, advertise=None, config=config)
    seen = {False: OUTSIDE, True: Address("2001:db8:99::1", 4000)}
    net.translate[host.address] = lambda to: seen[to.is_ipv6]
    for other in (*fours, *sixes):
        host.core.ping(other.contact, now=net.now)
    net.drain(host)
    net.run(10)
    assert host.core.record.addresses == (seen[False], seen[True])
    last = {event.ipv6: event for event in host.of(ReflexiveChanged)}
    assert (last[False].address, last[True].address) == (seen[False], seen[True])


def test_ports_that_differ_are_a_symmetric_nat_and_not_published() -> None:
    net = Net(4)
    hosts = network(net, 6)
    host = net.add(
        90, bootstrap=[hosts[0].core.record], advertise=None, config={"auto_update": True}
    )
    behind_nat(net, host, port_of=True)
    net.run(60)
    last = host.of(ReflexiveChanged)[-1]
    assert last.symmetric
    assert host.core.record.address() is None


def test_two_observers_are_too_few() -> None:
    net = Net(5)
    hosts = network(net, 2)
    host = net.add(
        90, bootstrap=[hosts[0].core.record], advertise=None, config={"auto_update": True}
    )
    behind_nat(net, host)
    net.run(60)
    assert host.of(ReflexiveChanged)[-1].address == OUTSIDE
    assert host.core.record.address() is None


def test_votes_age_out() -> None:
    net = Net(6)
    hosts = network(net, 4)
    host = net.add(90, bootstrap=[hosts[0].core.record], public=False)
    net.run(60)
    assert host.of(ReflexiveChanged)[-1].address == host.address
    assert not host.of(AddressDiffers)  # a client publishes none on purpose
    for other in hosts:
        other.is_up = False
    net.run(700)
    assert host.of(ReflexiveChanged)[-1] == ReflexiveChanged(None, False, 0, False)
