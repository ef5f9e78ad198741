"""IPv4 and IPv6 on two sockets as one `DatagramSource`: dual stack for one driver.

An epoll descriptor is readable when either socket is, so the driver watches one descriptor.
"""

from __future__ import annotations

import select
from collections.abc import Sequence

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.base.types import Address, Datagram, Transmit
from ginnel.net.udp import UdpSocket

SAME_PORT_TRIES = 8  # ports tried until IPv4 and IPv6 have the same one


class DualSocket:
    """Both sockets of one port; either may be missing, not both. Owns and closes them."""

    def __init__(self, ipv4: UdpSocket | None, ipv6: UdpSocket | None) -> None:
        self._sockets = tuple(sock for sock in (ipv4, ipv6) if sock is not None)
        self._by_version = {False: ipv4, True: ipv6}
        self._turn = 0
        self._epoll = select.epoll()
        for sock in self._sockets:
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    @property
    def failed(self) -> int:
        """Return how many datagrams could not be sent."""
        return sum(sock.failed for sock in self._sockets)

    def fileno(self) -> int:
        """Return the descriptor that is readable while either socket is."""
        return self._epoll.fileno()

    def receive(self, limit: int) -> Sequence[Datagram]:
        """Return up to `limit` datagrams; the sockets take turns in being first."""
        self._turn += 1
        order = self._sockets if self._turn % 2 else self._sockets[::-1]
        datagrams: list[Datagram] = []
        for sock in order:
            if len(datagrams) < limit:
                datagrams += sock.receive(limit - len(datagrams))
        return datagrams

    def send(self, transmits: Sequence[Transmit]) -> int:
        """Send each from the socket of its IP version; return how many the system took."""
        sent = 0
        for is_ipv6, sock in self._by_version.items():
            batch = [item for item in transmits if item.destination.is_ipv6 == is_ipv6]
            if sock is not None and batch:
                sent += sock.send(batch)
        return sent

    def close(self) -> None:
        """Close both sockets."""
        self._epoll.close()
        for sock in self._sockets:
            sock.close()


def open_pair(
    first: Address, second: Address | None, *, max_datagram: int
) -> tuple[UdpSocket | DualSocket, tuple[Address, ...]]:
    """Open one socket, or two as one source; return it and where it is bound. It warns.

    Args:
        first: of either IP version.
        second: of the other one, or None.

    Raises:
        SystemFailure: an address is taken or not ours.
        UsageError: both are of one IP version.
    """
    if second is not None and first.is_ipv6 == second.is_ipv6:
        raise UsageError("two sockets of a node are of IPv4 and of IPv6")
    one = UdpSocket.open(first, max_datagram=max_datagram, warns=True)
    if second is None:
        return one, (one.address,)
    try:
        other = UdpSocket.open(second, max_datagram=max_datagram, warns=True)
    except SystemFailure:
        one.close()
        raise
    ipv4, ipv6 = (other, one) if first.is_ipv6 else (one, other)
    return DualSocket(ipv4, ipv6), (one.address, other.address)


def open_same_port(ips: Sequence[str]) -> tuple[DualSocket, tuple[Address, ...]]:
    """Open a socket at each IP, one of each version at most, on one free port if that can be had.

    Raises:
        SystemFailure: an IP is not ours.
    """
    for tries_left in reversed(range(SAME_PORT_TRIES)):
        opened: dict[bool, UdpSocket] = {}
        try:
            for ip in ips:
                port = next((sock.address.port for sock in opened.values()), 0)
                sock = UdpSocket.open(Address(ip, port if tries_left else 0))
                opened[sock.address.is_ipv6] = sock
        except SystemFailure:
            for sock in opened.values():
                sock.close()
            if not tries_left:
                raise
            continue
        pair = DualSocket(opened.get(False), opened.get(True))
        return pair, tuple(sock.address for sock in opened.values())
    raise AssertionError("the last try returns or raises")
