"""Which addresses this machine has, and when that changes; read from netlink by a raw socket.

No netlink library: it would more than double the tunnel's memory. Only dumps are asked for, which
need no capability. The filter of what is fit to be told to peers is `usable_addresses`, pure.

Source: rtnetlink(7), netlink(7); linux/rtnetlink.h, linux/if_addr.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ginnel.base.addresses import Scope, scope_of
from ginnel.base.errors import SystemFailure
from ginnel.base.types import Address

# Container bridges, virtual machines and other VPNs: peers can't reach us there (FACTS).
EXCLUDED_NAMES = (
    *("docker*", "br-*", "veth*", "cni*", "flannel*", "cali*", "podman*", "lxc*", "lxd*"),
    *("virbr*", "vnet*", "vmnet*", "vboxnet*", "ifb*"),
    *("wg*", "tun*", "utun*", "tailscale*", "zt*", "nebula*"),
)
_USABLE_SCOPES = (Scope.PUBLIC, Scope.PRIVATE, Scope.CGNAT)

MAX_DUMP_MESSAGES = 100_000  # of one dump; a router with a full table has more routes
_TIMEOUT_S = 5.0  # the kernel answers at once; a silent one must not hang us
_BUFFER_SIZE = 65_536  # bytes; the kernel's dump messages are at most 32 KiB

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_CHANGES = (_RTM_NEWLINK, _RTM_DELLINK, _RTM_NEWADDR, _RTM_DELADDR, _RTM_NEWROUTE, _RTM_DELROUTE)
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # links, IPv4 addresses, routes, IPv6 addresses, routes
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300

_IFLA_IFNAME = 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE = 1, 4, 5, 6, 9, 15
_IFF_UP, _IFF_LOOPBACK, _IFF_POINTOPOINT, _IFF_RUNNING = 0x1, 0x8, 0x10, 0x40
_IFA_F_TEMPORARY, _IFA_F_DADFAILED, _IFA_F_DEPRECATED, _IFA_F_TENTATIVE = 0x1, 0x8, 0x20, 0x40
_RT_TABLE_MAIN = 254
_RTN_UNICAST = 1

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change mask
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix, flags, scope, index
_ROUTE = struct.Struct(
    "=BBBBBBBBI"
)  # rtmsg: family, dst_len, src_len, tos, table, ..., type, flags
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_NEXTHOP = struct.Struct("=HBBi")  # rtnexthop: length, flags, hops, interface
_U32 = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """One address of one interface."""

    name: str
    ip: str
    prefix_len: int
    is_up: bool
    is_point_to_point: bool = False
    is_loopback: bool = False
    is_temporary: bool = False  # IPv6 privacy address
    is_usable: bool = True  # not tentative, deprecated or a duplicate


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """A default route of the main table."""

    name: str
    is_ipv6: bool
    metric: int
    gateway: str | None = None  # IP of the router; none on point-to-point lines


@dataclass(frozen=True, slots=True)
class _Link:
    name: str
    flags: int


def list_addresses() -> list[InterfaceAddress]:
    """Return all addresses of this network namespace, in the kernel's order.

    Raises:
        SystemFailure: the kernel refused netlink.
    """
    links = _links()
    found = []
    for kind, body in _dump(_RTM_GETADDR, _ADDRESS.size):
        if kind == _RTM_NEWADDR and (address := _parse_address(body, links)) is not None:
            found.append(address)
    return found


def default_routes() -> list[DefaultRoute]:
    """Return the main table's default routes, the preferred (lowest metric) first.

    Raises:
        SystemFailure: the kernel refused netlink.
    """
    links = _links()
    found: list[DefaultRoute] = []
    for kind, body in _dump(_RTM_GETROUTE, _ROUTE.size):
        if kind == _RTM_NEWROUTE and (route := _parse_route(body, links)) is not None:
            found.append(route)
    return sorted(found, key=lambda route: route.metric)


def host_addresses(exclude_names: Sequence[str] = ()) -> list[InterfaceAddress]:
    """Return the addresses that peers may be told of; those of default routes come first.

    Args:
        exclude_names: interfaces (patterns) beside `EXCLUDED_NAMES`: our own.
    """
    preferred = [route.name for route in default_routes()]
    return usable_addresses(list_addresses(), exclude_names=exclude_names, preferred=preferred)


def usable_addresses(
    addresses: Iterable[InterfaceAddress],
    *,
    exclude_names: Sequence[str] = (),
    preferred: Sequence[str] = (),
) -> list[InterfaceAddress]:
    """Keep what peers may reach: up, no container's or VPN's interface, no loopback or link-local.

    Args:
        addresses: what `list_addresses` gave.
        exclude_names: further names or patterns (`*`) to leave out.
        preferred: interfaces whose addresses come first, in this order.
    """
    patterns = (*EXCLUDED_NAMES, *exclude_names)
    kept: dict[str, InterfaceAddress] = {}
    for address in addresses:
        is_fit = address.is_up and address.is_usable and not address.is_loopback
        is_excluded = any(fnmatchcase(address.name, pattern) for pattern in patterns)
        if is_fit and not is_excluded and scope_of(address.ip) in _USABLE_SCOPES:
            kept.setdefault(address.ip, address)
    rank = {name: place for place, name in reversed(list(enumerate(preferred)))}
    return sorted(kept.values(), key=lambda address: rank.get(address.name, len(rank) + 1))


def addresses_at(bound: Iterable[Address], ips: Sequence[str]) -> list[Address]:
    """Return the addresses of sockets bound there; one that is bound to any IP has all of these."""
    found: list[Address] = []
    for place in bound:
        is_any = scope_of(place.ip) is Scope.UNSPECIFIED
        at = [ip for ip in ips if (":" in ip) == place.is_ipv6] if is_any else [place.ip]
        found += [Address(ip, place.port) for ip in at]
    return found


class AddressWatcher:
    """Tells that links, addresses or routes may have changed; compare the lists, and debounce.

    Register `fileno()` for reading and call `drain()` when it is readable.
    """

    def __init__(self) -> None:
        self._socket = _open_netlink(_GROUPS)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable on a change."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Read all that waits; return whether something may have changed.

        Raises:
            SystemFailure: the socket broke.
        """
        is_changed = False
        while True:
            try:
                data = self._socket.recv(_BUFFER_SIZE)
            except BlockingIOError:
                return is_changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise SystemFailure(f"netlink: {error}") from error
                is_changed = True  # the kernel had more to tell than fits
                continue
            is_changed |= any(kind in _CHANGES for kind, _ in _messages(data))

    def close(self) -> None:
        """Close it; harmless when closed."""
        self._socket.close()


def _parse_address(body: bytes, links: dict[int, _Link]) -> InterfaceAddress | None:
    family, prefix_len, flags, _, index = _ADDRESS.unpack_from(body)
    attributes = dict(_attributes(body, _ADDRESS.size))
    # On a point-to-point interface ADDRESS is the other end; LOCAL is ours.
    ip = _ip_text(family, attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS, b"")))
    if ip is None:
        return None
    if len(wide := attributes.get(_IFA_FLAGS, b"")) == _U32.size:
        flags = _U32.unpack(wide)[0]
    link = links.get(index, _Link(f"if{index}", 0))
    is_ipv6 = family == socket.AF_INET6
    unusable = _IFA_F_DADFAILED | _IFA_F_DEPRECATED | _IFA_F_TENTATIVE
    return InterfaceAddress(
        name=link.name,
        ip=ip,
        prefix_len=prefix_len,
        is_up=bool(link.flags & _IFF_UP) and bool(link.flags & _IFF_RUNNING),
        is_point_to_point=bool(link.flags & _IFF_POINTOPOINT),
        is_loopback=bool(link.flags & _IFF_LOOPBACK),
        is_temporary=is_ipv6 and bool(flags & _IFA_F_TEMPORARY),  # in IPv4 the bit says secondary
        is_usable=not flags & unusable,
    )


def _parse_route(body: bytes, links: dict[int, _Link]) -> DefaultRoute | None:
    family, prefix_len, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
    attributes = dict(_attributes(body, _ROUTE.size))
    table = _number(attributes.get(_RTA_TABLE), table)
    is_default = prefix_len == 0 and _RTA_DST not in attributes
    if not is_default or table != _RT_TABLE_MAIN or kind != _RTN_UNICAST:
        return None
    index = _number(attributes.get(_RTA_OIF), -1)
    hops = attributes.get(_RTA_MULTIPATH, b"")
    if index < 0 and len(hops) >= _NEXTHOP.size:
        index = _NEXTHOP.unpack_from(hops)[3]
    if index not in links:
        return None
    metric = _number(attributes.get(_RTA_PRIORITY), 0)
    gateway = _ip_text(family, attributes.get(_RTA_GATEWAY, b""))
    return DefaultRoute(links[index].name, family == socket.AF_INET6, metric, gateway)


def _links() -> dict[int, _Link]:
    links: dict[int, _Link] = {}
    for kind, body in _dump(_RTM_GETLINK, _LINK.size):
        if kind != _RTM_NEWLINK:
            continue
        _, _, index, flags, _ = _LINK.unpack_from(body)
        name = dict(_attributes(body, _LINK.size)).get(_IFLA_IFNAME, b"")
        links[index] = _Link(name.rstrip(b"\0").decode(errors="replace"), flags)
    return links


def _dump(request: int, body_size: int) -> Iterator[tuple[int, bytes]]:
    """Yield the messages of one dump that are at least `body_size` long."""
    with _open_netlink(0) as sock:
        sock.settimeout(_TIMEOUT_S)
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        # The fixed part is zeros: any family. Strict kernels refuse a shorter one.
        sock.send(_HEADER.pack(_HEADER.size + body_size, request, flags, 1, 0) + bytes(body_size))
        seen = 0
        while seen < MAX_DUMP_MESSAGES:
            try:
                data = sock.recv(_BUFFER_SIZE)
            except OSError as error:
                raise SystemFailure(f"netlink: {error}") from error
            for kind, body in _messages(data):
                seen += 1
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    raise SystemFailure(f"netlink refused request {request}")
                if len(body) >= body_size:
                    yield kind, body


def _open_netlink(groups: int) -> socket.socket:
    try:
        sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
    except OSError as error:
        raise SystemFailure(f"can't open netlink: {error}") from error
    try:
        sock.bind((0, groups))
    except OSError as error:
        sock.close()
        raise SystemFailure(f"can't open netlink: {error}") from error
    return sock


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += _aligned(length)


def _attributes(body: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    at = _aligned(start)
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size or at + length > len(body):
            return
        yield kind & 0x3FFF, body[at + _ATTRIBUTE.size : at + length]  # without the nested flags
        at += _aligned(length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _number(data: bytes | None, default: int) -> int:
    return int(_U32.unpack(data)[0]) if data is not None and len(data) == _U32.size else default


def _ip_text(family: int, packed: bytes) -> str | None:
    if (family, len(packed)) in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
        return socket.inet_ntop(family, packed)
    return None
