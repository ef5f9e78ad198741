"""A non-blocking UDP socket that tells and chooses local addresses.

Each datagram comes with the local IP it was sent to, and each Transmit may name the one to send
from. Failures of single datagrams are counted in `drops`, never raised: UDP may lose.

Source: ip(7) IP_PKTINFO, ipv6(7) IPV6_PKTINFO.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from collections.abc import Sequence
from enum import Enum

from ginnel._native import UdpBatches
from ginnel.base.addresses import Scope, scope_of
from ginnel.base.errors import SystemFailure
from ginnel.base.types import Address, Datagram, Transmit, make_address
from ginnel.net.failures import SendFailures

_log = logging.getLogger(__name__)

RECEIVE_BUFFER = 1 << 20  # bytes asked of the kernel; it may give less (net.core.rmem_max)
MAX_DATAGRAM = 65_535  # bytes; UDP's own limit
_IP_PKTINFO = 8  # linux/in.h; Python 3.11 does not name it


class SocketDrop(Enum):
    """Why a datagram was not sent or not taken."""

    WOULD_BLOCK = "would-block"  # the send buffer is full
    UNREACHABLE = "unreachable"  # no route, or the source address is gone
    REFUSED = "refused"  # an ICMP error came back
    FORBIDDEN = "forbidden"  # a local firewall
    TOO_LONG = "too-long"
    TRUNCATED = "truncated"  # longer than our buffer
    FAILED = "failed"


_REASONS = {
    errno.EAGAIN: SocketDrop.WOULD_BLOCK,
    errno.ENOBUFS: SocketDrop.WOULD_BLOCK,
    errno.ENETUNREACH: SocketDrop.UNREACHABLE,
    errno.EHOSTUNREACH: SocketDrop.UNREACHABLE,
    errno.ENETDOWN: SocketDrop.UNREACHABLE,
    errno.EADDRNOTAVAIL: SocketDrop.UNREACHABLE,
    errno.EAFNOSUPPORT: SocketDrop.UNREACHABLE,  # IPv6 over an IPv4 socket
    errno.EINVAL: SocketDrop.UNREACHABLE,  # what Linux says of a source address that is gone
    errno.ECONNREFUSED: SocketDrop.REFUSED,
    errno.EPERM: SocketDrop.FORBIDDEN,
    errno.EACCES: SocketDrop.FORBIDDEN,
    errno.EMSGSIZE: SocketDrop.TOO_LONG,
}


class UdpSocket:
    """One bound UDP socket; fulfils `DatagramSource`.

    An IPv6 socket that is not `v6_only` also serves IPv4; addresses are never v4-mapped outside.
    One that `warns` tells the log of datagrams that could not be sent (`failures.py`).
    """

    def __init__(
        self, sock: socket.socket, *, max_datagram: int = MAX_DATAGRAM, warns: bool = False
    ) -> None:
        self.drops: dict[SocketDrop, int] = {}
        self._failures = SendFailures(warns=warns)
        self._socket = sock
        self._is_ipv6 = sock.family == socket.AF_INET6
        self._max_datagram = max_datagram
        self._only_ip = _bound_ip(sock)
        sock.setblocking(False)
        if self._only_ip is not None:
            return  # the kernel sends from there, and nothing arrives elsewhere
        if self._is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)

    @classmethod
    def open(
        cls,
        address: Address,
        *,
        v6_only: bool = True,
        receive_buffer: int = RECEIVE_BUFFER,
        max_datagram: int = MAX_DATAGRAM,
        warns: bool = False,
    ) -> UdpSocket:
        """Bind a new socket; port 0 lets the kernel choose. Longer datagrams are dropped.

        Raises:
            SystemFailure: the port is in use, or the address is not ours.
        """
        sock = socket.socket(
            socket.AF_INET6 if address.is_ipv6 else socket.AF_INET,
            socket.SOCK_DGRAM | socket.SOCK_CLOEXEC,
        )
        try:
            if address.is_ipv6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6_only))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.bind(tuple(address))
            return cls(sock, max_datagram=max_datagram, warns=warns)
        except OSError as error:
            sock.close()
            raise SystemFailure(f"can't open UDP {address}: {os.strerror(error.errno or 0)}") from (
                error
            )

    @classmethod
    def from_fd(cls, fd: int) -> UdpSocket:
        """Take over a bound UDP socket that was handed to this process.

        Raises:
            SystemFailure: the descriptor is no UDP socket.
        """
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            raise SystemFailure(
                f"descriptor {fd} is no socket: {os.strerror(error.errno or 0)}"
            ) from error
        is_udp = sock.type == socket.SOCK_DGRAM and sock.family in (socket.AF_INET, socket.AF_INET6)
        if not is_udp:
            sock.detach()
            raise SystemFailure(f"descriptor {fd} is no UDP socket")
        return cls(sock)

    @property
    def address(self) -> Address:
        """Return the address it is bound to."""
        ip, port = self._socket.getsockname()[:2]
        return make_address(ip, port)

    @property
    def failed(self) -> int:
        """Return how many datagrams could not be sent."""
        return self._failures.count

    def fileno(self) -> int:
        """Return the descriptor; -1 when closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close it; harmless when closed."""
        self._socket.close()

    def receive(self, limit: int) -> list[Datagram]:
        """Return up to `limit` waiting datagrams without blocking; fewer than limit: drained."""
        received, errors, truncated = _here.batches.receive(
            self._socket.fileno(), limit, self._max_datagram, self._only_ip
        )
        for error in errors:
            self._count(error, None)
        if truncated:
            self._add(SocketDrop.TRUNCATED, truncated)
        return received

    def send(self, transmits: Sequence[Transmit]) -> int:
        """Send without blocking; return how many the system took."""
        refused = UdpBatches.send(self._socket.fileno(), self._is_ipv6, transmits, self._only_ip)
        for number, error in refused:
            self._failures.add(os.strerror(error))
            self._count(error, transmits[number].destination)
        return len(transmits) - len(refused)

    def _count(self, error: int, destination: Address | None) -> None:
        self._add(_REASONS.get(error, SocketDrop.FAILED))
        _log.debug("UDP to %s: %s", destination, os.strerror(error))

    def _add(self, reason: SocketDrop, count: int = 1) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + count


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.batches = UdpBatches(Address, Datagram, MAX_DATAGRAM)


_here = _PerThread()


def _bound_ip(sock: socket.socket) -> str | None:
    """Return the one IP that the socket is bound to, None where it takes datagrams to several."""
    ip = make_address(*sock.getsockname()[:2]).ip
    return None if scope_of(ip) is Scope.UNSPECIFIED else ip
