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
import struct
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import lru_cache

from ginnel.base.addresses import Scope, scope_of
from ginnel.base.errors import SystemFailure
from ginnel.base.types import Address, Datagram, Transmit, make_address

_log = logging.getLogger(__name__)

RECEIVE_BUFFER = 1 << 20  # bytes asked of the kernel; it may give less (net.core.rmem_max)
MAX_DATAGRAM = 65_535  # bytes; UDP's own limit
CONTROL_SIZE = 256  # bytes for ancillary data: one in6_pktinfo and to spare
_IP_PKTINFO = 8  # linux/in.h; Python 3.11 does not name it
_PKTINFO4 = struct.Struct("=I4s4s")  # interface, local address, destination in the header
_PKTINFO6 = struct.Struct("=16sI")  # local address, interface
_V4_MAPPED = "::ffff:"


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
    errno.EINVAL: SocketDrop.UNREACHABLE,  # what Linux says of a source address that is gone
    errno.ECONNREFUSED: SocketDrop.REFUSED,
    errno.EPERM: SocketDrop.FORBIDDEN,
    errno.EACCES: SocketDrop.FORBIDDEN,
    errno.EMSGSIZE: SocketDrop.TOO_LONG,
}


class UdpSocket:
    """One bound UDP socket; fulfils `DatagramSource`.

    An IPv6 socket that is not `v6_only` also serves IPv4; addresses are never v4-mapped outside.
    """

    def __init__(self, sock: socket.socket, *, max_datagram: int = MAX_DATAGRAM) -> None:
        self.drops: dict[SocketDrop, int] = {}
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
            return cls(sock, max_datagram=max_datagram)
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

    def fileno(self) -> int:
        """Return the descriptor; -1 when closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close it; harmless when closed."""
        self._socket.close()

    def receive(self, limit: int) -> list[Datagram]:
        """Return up to `limit` waiting datagrams without blocking; fewer than limit: drained."""
        received: list[Datagram] = []
        for _ in range(limit):
            try:
                datagram = self._receive_one()
            except BlockingIOError:
                break
            except OSError as error:
                self._count(error, None)
                continue
            if datagram is not None:
                received.append(datagram)
        return received

    def send(self, transmits: Sequence[Transmit]) -> int:
        """Send without blocking; return how many the system took."""
        taken = 0
        sendto, only_ip, is_ipv6 = self._socket.sendto, self._only_ip, self._is_ipv6
        for transmit in transmits:
            destination = transmit.destination
            try:
                if transmit.source_ip == only_ip and not is_ipv6 and ":" not in destination[0]:
                    sendto(transmit.data, destination)  # the quickest way
                else:
                    self._send_one(transmit)
                taken += 1
            except OSError as error:
                self._count(error, transmit.destination)
        return taken

    def _receive_one(self) -> Datagram | None:
        limit = self._max_datagram + 1  # one more: to see that it was longer
        if self._only_ip is not None and not self._is_ipv6:  # the quickest way
            data, (ip, port) = self._socket.recvfrom(limit)
            source = Address(ip, port)
            local_ip: str | None = self._only_ip
        else:
            data, control, _, (ip, port, *_) = self._socket.recvmsg(limit, CONTROL_SIZE)
            source = _canonical(ip, port) if self._is_ipv6 else Address(ip, port)
            local_ip = self._only_ip or _local_ip(control)
        if len(data) >= limit:
            self._add(SocketDrop.TRUNCATED)
            return None
        return Datagram(data, source, local_ip)

    def _send_one(self, transmit: Transmit) -> None:
        ip, port = transmit.destination
        source_ip = transmit.source_ip
        if self._is_ipv6:
            ip = ip if ":" in ip else _V4_MAPPED + ip
        elif ":" in ip:
            raise OSError(errno.ENETUNREACH, "IPv6 over an IPv4 socket")
        if source_ip is None or source_ip == self._only_ip:
            self._socket.sendto(transmit.data, (ip, port))
            return
        control = _control_for(source_ip, is_ipv6=self._is_ipv6)
        self._socket.sendmsg([transmit.data], [control], 0, (ip, port))

    def _count(self, error: OSError, destination: Address | None) -> None:
        reason = _REASONS.get(error.errno or 0, SocketDrop.FAILED)
        self._add(reason)
        _log.debug("UDP to %s: %s", destination, error)

    def _add(self, reason: SocketDrop) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1


@lru_cache(maxsize=1024)
def _canonical(ip: str, port: int) -> Address:
    return make_address(ip, port)


@lru_cache(maxsize=64)
def _control_for(source_ip: str, *, is_ipv6: bool) -> tuple[int, int, bytes]:
    if is_ipv6:
        text = source_ip if ":" in source_ip else _V4_MAPPED + source_ip
        packed = socket.inet_pton(socket.AF_INET6, text)
        return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO6.pack(packed, 0)
    packed = socket.inet_pton(socket.AF_INET, source_ip)
    return socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO4.pack(0, packed, bytes(4))


def _bound_ip(sock: socket.socket) -> str | None:
    """Return the one IP that the socket is bound to, None where it takes datagrams to several."""
    ip = make_address(*sock.getsockname()[:2]).ip
    return None if scope_of(ip) is Scope.UNSPECIFIED else ip


def _local_ip(control: Iterable[tuple[int, int, bytes]]) -> str | None:
    for level, kind, data in control:
        ip = _ip_of(level, kind, data)
        if ip is not None:
            return ip
    return None


@lru_cache(maxsize=64)
def _ip_of(level: int, kind: int, data: bytes) -> str | None:
    if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= _PKTINFO4.size:
        return socket.inet_ntop(socket.AF_INET, _PKTINFO4.unpack_from(data)[1])
    is_v6 = level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO
    if is_v6 and len(data) >= _PKTINFO6.size:
        text = socket.inet_ntop(socket.AF_INET6, _PKTINFO6.unpack_from(data)[0])
        return text.removeprefix(_V4_MAPPED) if "." in text else text
    return None
