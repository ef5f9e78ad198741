"""UDP sockets on the loopback: addresses told and chosen, losses counted, never raised."""

import errno
import os
import select
import socket
from collections.abc import Iterator

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.base.types import Address, Transmit
from ginnel.net.udp import SocketDrop, UdpSocket

WAIT = 5.0  # seconds until a missing datagram fails the test


@pytest.fixture
def pair() -> Iterator[tuple[UdpSocket, UdpSocket]]:
    left = UdpSocket.open(Address("127.0.0.1", 0))
    right = UdpSocket.open(Address("0.0.0.0", 0))
    yield left, right
    left.close()
    right.close()


def wait_readable(sock: UdpSocket) -> None:
    assert select.select([sock], [], [], WAIT)[0], "no datagram came"


def test_datagram_tells_source_and_local_ip(pair: tuple[UdpSocket, UdpSocket]) -> None:
    left, right = pair
    assert left.send([Transmit(b"one", Address("127.0.0.2", right.address.port))]) == 1
    wait_readable(right)
    (datagram,) = right.receive(8)
    assert datagram.data == b"one"
    assert datagram.source == left.address
    assert datagram.local_ip == "127.0.0.2"
    assert right.receive(8) == []


def test_source_ip_is_chosen(pair: tuple[UdpSocket, UdpSocket]) -> None:
    left, right = pair
    assert right.send([Transmit(b"one", left.address, source_ip="127.0.0.3")]) == 1
    wait_readable(left)
    assert left.receive(1)[0].source == Address("127.0.0.3", right.address.port)


def test_receive_keeps_to_its_limit(pair: tuple[UdpSocket, UdpSocket]) -> None:
    left, right = pair
    target = Address("127.0.0.1", right.address.port)
    assert left.send([Transmit(bytes([n]), target) for n in range(5)]) == 5
    wait_readable(right)
    assert [d.data[0] for d in right.receive(3)] == [0, 1, 2]
    assert [d.data[0] for d in right.receive(3)] == [3, 4]


def test_what_can_not_be_sent_is_counted(pair: tuple[UdpSocket, UdpSocket]) -> None:
    _, right = pair
    here = Address("127.0.0.1", right.address.port)
    sent = right.send(
        [
            Transmit(b"gone source", here, source_ip="203.0.113.77"),
            Transmit(b"other family", Address("::1", 9)),
            Transmit(bytes(70_000), here),
            Transmit(b"broadcast", Address("255.255.255.255", 9)),
            Transmit(b"good", here),
        ]
    )
    assert sent == 1
    assert right.drops == {
        SocketDrop.UNREACHABLE: 2,
        SocketDrop.TOO_LONG: 1,
        SocketDrop.FORBIDDEN: 1,
    }


def test_port_in_use_is_a_system_failure(pair: tuple[UdpSocket, UdpSocket]) -> None:
    with pytest.raises(SystemFailure, match=os.strerror(errno.EADDRINUSE)):
        UdpSocket.open(pair[0].address)


def test_from_fd_takes_over_a_bound_socket() -> None:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 0))
    port = bound.getsockname()[1]
    sock = UdpSocket.from_fd(bound.detach())
    assert sock.address == Address("127.0.0.1", port)
    sock.close()
    assert sock.fileno() == -1


def test_from_fd_refuses_what_is_no_udp_socket() -> None:
    reader, writer = os.pipe()
    with pytest.raises(SystemFailure, match="no socket"):
        UdpSocket.from_fd(reader)
    os.close(reader)
    os.close(writer)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
        with pytest.raises(SystemFailure, match="no UDP socket"):
            UdpSocket.from_fd(stream.fileno())
        assert stream.fileno() >= 0


def test_ipv6_tells_local_ip() -> None:
    sock = UdpSocket.open(Address("::1", 0))
    assert sock.send([Transmit(b"six", sock.address, source_ip="::1")]) == 1
    wait_readable(sock)
    (datagram,) = sock.receive(2)
    assert (datagram.source, datagram.local_ip) == (sock.address, "::1")
    sock.close()


def test_dual_stack_never_shows_mapped_addresses(pair: tuple[UdpSocket, UdpSocket]) -> None:
    left, _ = pair
    both = UdpSocket.open(Address("::", 0), v6_only=False)
    target = Address("127.0.0.1", both.address.port)
    left.send([Transmit(b"four", target)])
    wait_readable(both)
    (datagram,) = both.receive(2)
    assert (datagram.source, datagram.local_ip) == (left.address, "127.0.0.1")
    assert both.send([Transmit(b"back", left.address, source_ip="127.0.0.1")]) == 1
    wait_readable(left)
    assert left.receive(2)[0].source == target
    both.close()
