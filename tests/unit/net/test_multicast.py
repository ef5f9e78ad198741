"""Groups on the loopback interface: who hears what, from where, and that sockets share the port."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.base.types import Address, Datagram, Transmit
from ginnel.net.interfaces import InterfaceAddress
from ginnel.net.multicast import MulticastSource, open_listener
from ginnel.net.udp import UdpSocket

GROUPS = {False: "239.255.71.73", True: "ff02::4749"}
LOOPBACK = {
    False: InterfaceAddress("lo", "127.0.0.1", 8, is_up=True),
    True: InterfaceAddress("lo", "::1", 128, is_up=True),
}
WAIT_S = 5.0


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def node(port: int, *, is_ipv6: bool) -> Iterator[tuple[MulticastSource, UdpSocket]]:
    with ExitStack() as stack:
        own = UdpSocket.open(Address("::" if is_ipv6 else "0.0.0.0", 0))
        stack.callback(own.close)
        source = MulticastSource(
            own,
            udp4=None if is_ipv6 else own.fileno(),
            udp6=own.fileno() if is_ipv6 else None,
            groups=GROUPS,
            port=port,
        )
        stack.callback(source.close)
        assert source.set_addresses([LOOPBACK[is_ipv6]]) == [LOOPBACK[is_ipv6]]
        yield source, own


def receive(source: MulticastSource) -> list[Datagram]:
    if not select.select([source.fileno()], [], [], WAIT_S)[0]:
        return []
    return list(source.receive(64))


def test_nodes_of_one_machine_share_the_port_and_hear_each_other() -> None:
    # loopback has no route to a group of IPv6: that is tested in the lab
    port = free_port()
    with node(port, is_ipv6=False) as (one, own), node(port, is_ipv6=False) as (other, _):
        assert one.send([Transmit(b"hello", Address(GROUPS[False], port), "127.0.0.1")]) == 1
        expected = Datagram(b"hello", Address("127.0.0.1", own.address.port), GROUPS[False])
        assert receive(other) == [expected]
        assert receive(one) == [expected]  # our own too: the core knows it


@pytest.mark.parametrize("is_ipv6", [False, True])
def test_other_datagrams_pass_through(is_ipv6: bool) -> None:
    port = free_port()
    with node(port, is_ipv6=is_ipv6) as (one, own), node(port, is_ipv6=is_ipv6) as (other, theirs):
        to = Address(LOOPBACK[is_ipv6].ip, theirs.address.port)
        assert one.send([Transmit(b"plain", to)]) == 1
        (found,) = receive(other)
        assert (found.data, found.source.port) == (b"plain", own.address.port)
        assert found.local_ip == LOOPBACK[is_ipv6].ip


def test_what_is_sent_to_the_port_but_not_to_the_group_is_not_heard() -> None:
    port = free_port()
    with node(port, is_ipv6=True) as (one, own), node(port, is_ipv6=True) as (_, theirs):
        theirs.send([Transmit(b"direct", Address("::1", port))])
        theirs.send([Transmit(b"last", Address("::1", own.address.port))])
        assert [item.data for item in receive(one)] == [b"last"]
        assert one.receive(64) == []


def test_a_group_that_was_left_is_neither_heard_nor_spoken_to() -> None:
    port = free_port()
    with node(port, is_ipv6=False) as (one, _), node(port, is_ipv6=False) as (other, theirs):
        assert one.set_addresses([]) == []
        to_group = Transmit(b"x", Address(GROUPS[False], port), "127.0.0.1")
        assert one.send([to_group]) == 0
        assert other.send([to_group]) == 1
        other.send([Transmit(b"last", Address("127.0.0.1", theirs.address.port))])
        assert [item.data for item in receive(other)] == [b"last", b"x"]
        assert one.receive(64) == []


def test_a_port_that_somebody_has_for_itself_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((GROUPS[False], 0))
        with pytest.raises(SystemFailure, match="Address already in use"):
            open_listener(GROUPS[False], taken.getsockname()[1])
