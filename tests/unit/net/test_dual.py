"""Two sockets as one source: each version leaves by its own, both arrive."""

import select

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.base.types import Address, Transmit
from ginnel.net.dual import DualSocket, open_same_port
from ginnel.net.udp import UdpSocket


def test_both_versions_go_through_one_descriptor() -> None:
    far4, far6 = UdpSocket.open(Address("127.0.0.1", 0)), UdpSocket.open(Address("::1", 0))
    near4, near6 = UdpSocket.open(Address("127.0.0.1", 0)), UdpSocket.open(Address("::1", 0))
    dual = DualSocket(near4, near6)
    try:
        sent = dual.send([Transmit(b"four", far4.address), Transmit(b"six", far6.address)])
        assert sent == 2
        assert [item.data for item in far4.receive(9)] == [b"four"]
        assert [item.source for item in far6.receive(9)] == [near6.address]
        assert select.select([dual], [], [], 0)[0] == []
        far4.send([Transmit(b"back4", near4.address)])
        far6.send([Transmit(b"back6", near6.address)])
        assert select.select([dual], [], [], 5)[0] == [dual]
        assert sorted(item.data for item in dual.receive(9)) == [b"back4", b"back6"]
        assert select.select([dual], [], [], 0)[0] == []
    finally:
        dual.close()
        far4.close()
        far6.close()


def test_a_version_without_socket_is_not_sent() -> None:
    near = UdpSocket.open(Address("127.0.0.1", 0))
    dual = DualSocket(near, None)
    assert dual.send([Transmit(b"x", Address("::1", 9))]) == 0
    assert dual.receive(4) == []
    dual.close()


def test_a_full_batch_is_shared_between_the_sockets() -> None:
    near4, near6 = UdpSocket.open(Address("127.0.0.1", 0)), UdpSocket.open(Address("::1", 0))
    dual = DualSocket(near4, near6)
    for address in (near4.address, near6.address):
        far = UdpSocket.open(Address("::1" if address.is_ipv6 else "127.0.0.1", 0))
        far.send([Transmit(b"x", address)] * 3)
        far.close()
    first, second = dual.receive(3), dual.receive(3)
    dual.close()
    versions = [{item.source.is_ipv6 for item in batch} for batch in (first, second)]
    assert versions[0] != versions[1]


def test_both_versions_get_one_free_port() -> None:
    pair, addresses = open_same_port(["127.0.0.1", "::1"])
    assert [address.ip for address in addresses] == ["127.0.0.1", "::1"]
    pair.close()
    alone, (address,) = open_same_port(["127.0.0.1"])
    assert address.port
    alone.close()
    with pytest.raises(SystemFailure):
        open_same_port(["192.0.2.254"])
