"""A datagram source that also speaks to multicast groups on the local networks.

What is sent to a group leaves from the node's own UDP sockets, so that a listener sees the port on
which the node is reached, and from the interface that has the transmit's source address. What comes
from a group is read from sockets of its own, which all networks of one machine share (SO_REUSEADDR:
each gets every datagram); its `local_ip` is the group. No right is needed for any of it.

Source: ip(7) IP_ADD_MEMBERSHIP, ipv6(7) IPV6_ADD_MEMBERSHIP, RFC 3493.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import struct
from collections.abc import Mapping, Sequence

from ginnel.base.addresses import Scope, scope_of
from ginnel.base.core import DatagramSource
from ginnel.base.errors import SystemFailure
from ginnel.base.types import Datagram, Transmit, make_address
from ginnel.net.interfaces import InterfaceAddress

MAX_DATAGRAM = 1500  # bytes read of one
MAX_RECEIVED = 32  # datagrams of the groups for each wake-up
RECEIVE_BUFFER = 64 * 1024  # bytes; a hundred announcements
_IP_PKTINFO = 8  # linux/in.h; Python 3.11 does not name it
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29
_MEMBERSHIP4 = struct.Struct("=4s4si")  # ip_mreqn: group, address, interface
_MEMBERSHIP6 = struct.Struct("=16si")  # ipv6_mreq: group, interface
_PKTINFO4 = struct.Struct("=I4s4s")  # interface, source, unused
_PKTINFO6 = struct.Struct("=16sI")  # source, interface

log = logging.getLogger(__name__)


class MulticastSource:
    """A `DatagramSource` around another one, which it does not own.

    Args:
        inner: what carries all else.
        udp4, udp6: descriptors of the node's own sockets (copied), or None.
        groups: the group of each IP version, by "is IPv6".
        port: of the groups.
    """

    def __init__(
        self,
        inner: DatagramSource,
        *,
        udp4: int | None,
        udp6: int | None,
        groups: Mapping[bool, str],
        port: int,
    ) -> None:
        self._inner = inner
        self._groups = dict(groups)
        self._indices: dict[str, int] = {}  # interface by address
        self._joined: dict[tuple[bool, int], None] = {}
        self._senders = {
            is_ipv6: socket.socket(fileno=os.dup(descriptor))
            for is_ipv6, descriptor in ((False, udp4), (True, udp6))
            if descriptor is not None
        }
        self._listeners: dict[bool, socket.socket] = {}
        self._epoll = select.epoll()
        self._epoll.register(inner.fileno(), select.EPOLLIN)
        for is_ipv6 in self._senders:
            try:
                listener = open_listener(groups[is_ipv6], port)
            except SystemFailure as error:
                log.warning("LAN discovery: %s", error)
                continue
            self._listeners[is_ipv6] = listener
            self._epoll.register(listener.fileno(), select.EPOLLIN)

    def set_addresses(self, addresses: Sequence[InterfaceAddress]) -> list[InterfaceAddress]:
        """Join the groups on the interfaces of these addresses, leave all others.

        Return the addresses on whose interface that is so.
        """
        indices: dict[str, int] = {}
        wanted: dict[tuple[bool, int], None] = {}
        kept = []
        for address in addresses:
            is_ipv6 = ":" in address.ip
            if is_ipv6 not in self._listeners or address.is_point_to_point:
                continue
            try:
                index = socket.if_nametoindex(address.name)
            except OSError:
                continue  # it has just gone
            if self._join(is_ipv6, index):
                wanted[is_ipv6, index] = None
                indices[address.ip] = index
                kept.append(address)
        for is_ipv6, index in [key for key in self._joined if key not in wanted]:
            self._leave(is_ipv6, index)
        self._indices = indices
        return kept

    def fileno(self) -> int:
        """Return the descriptor that is readable while something waits."""
        return self._epoll.fileno()

    def receive(self, limit: int) -> Sequence[Datagram]:
        """Return up to `limit` datagrams; those of the groups are a bounded part."""
        found = list(self._inner.receive(limit))
        for is_ipv6, listener in self._listeners.items():
            for _ in range(min(MAX_RECEIVED, limit - len(found))):
                try:
                    datagram = self._read(listener, is_ipv6=is_ipv6)
                except OSError:  # nothing waits, or an error of the interface
                    break
                if datagram is not None:
                    found.append(datagram)
        return found

    def send(self, transmits: Sequence[Transmit]) -> int:
        """Send each; return how many the system took."""
        plain = [item for item in transmits if item.destination.ip not in self._groups.values()]
        sent = self._inner.send(plain) if plain else 0
        if len(plain) == len(transmits):
            return sent
        for item in transmits:
            if item.destination.ip in self._groups.values():
                sent += self._send_to_group(item)
        return sent

    def close(self) -> None:
        """Close what is its own; harmless when closed."""
        self._epoll.close()
        for opened in (*self._senders.values(), *self._listeners.values()):
            opened.close()

    def _send_to_group(self, item: Transmit) -> bool:
        is_ipv6 = item.destination.is_ipv6
        sender = self._senders.get(is_ipv6)
        index = self._indices.get(item.source_ip or "")
        if sender is None or index is None or item.source_ip is None:
            return False
        source = make_address(item.source_ip, 0).packed_ip
        ip, port = item.destination
        try:
            if is_ipv6:
                info = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO6.pack(source, index))
                sender.sendmsg([item.data], [info], 0, (ip, port, 0, index))
            else:
                info = (socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO4.pack(index, source, bytes(4)))
                sender.sendmsg([item.data], [info], 0, (ip, port))
        except OSError as error:  # no carrier, a firewall, a full buffer: it is told again
            log.debug("to %s from %s: %s", ip, item.source_ip, error)
            return False
        return True

    def _read(self, listener: socket.socket, *, is_ipv6: bool) -> Datagram | None:
        data, control, _, source = listener.recvmsg(MAX_DATAGRAM, 128)
        group = self._groups[is_ipv6]
        if is_ipv6 and _destination(control) != group:
            return None  # sent to this machine alone
        return Datagram(data, make_address(source[0], source[1]), group)

    def _join(self, is_ipv6: bool, index: int) -> bool:
        if (is_ipv6, index) in self._joined:
            return True
        try:
            self._change(is_ipv6, index, joins=True)
        except OSError as error:  # an interface without multicast
            log.debug("interface %d: %s", index, error)
            return False
        self._joined[is_ipv6, index] = None
        return True

    def _leave(self, is_ipv6: bool, index: int) -> None:
        del self._joined[is_ipv6, index]
        with contextlib.suppress(OSError):  # the interface is gone, and the membership with it
            self._change(is_ipv6, index, joins=False)

    def _change(self, is_ipv6: bool, index: int, *, joins: bool) -> None:
        listener, group = self._listeners[is_ipv6], make_address(self._groups[is_ipv6], 0).packed_ip
        if is_ipv6:
            name = socket.IPV6_JOIN_GROUP if joins else socket.IPV6_LEAVE_GROUP
            listener.setsockopt(socket.IPPROTO_IPV6, name, _MEMBERSHIP6.pack(group, index))
        else:
            name = socket.IP_ADD_MEMBERSHIP if joins else socket.IP_DROP_MEMBERSHIP
            packed = _MEMBERSHIP4.pack(group, bytes(4), index)
            listener.setsockopt(socket.IPPROTO_IP, name, packed)


def open_listener(group: str, port: int) -> socket.socket:
    """Return a non-blocking socket that takes what is sent to a group, once it has joined it.

    Raises:
        SystemFailure: another program has the port for itself, or the IP version is not there.
    """
    is_ipv6 = ":" in group
    if scope_of(group) is not Scope.MULTICAST:
        raise SystemFailure(f"{group} is no multicast group")
    family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
    try:
        opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise SystemFailure(f"no socket for {group}: {error.strerror}") from error
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if is_ipv6:  # bound to all addresses: a link-local group has one socket for each interface
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            with contextlib.suppress(OSError):  # Linux before 4.20
                opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
            opened.bind(("::", port))
        else:
            opened.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
            opened.bind((group, port))
    except OSError as error:
        opened.close()
        raise SystemFailure(f"port {port} for {group}: {error.strerror}") from error
    return opened


def _destination(control: Sequence[tuple[int, int, bytes]]) -> str | None:
    for level, kind, data in control:
        is_info = level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO
        if is_info and len(data) >= _PKTINFO6.size:
            return socket.inet_ntop(socket.AF_INET6, _PKTINFO6.unpack_from(data)[0])
    return None
