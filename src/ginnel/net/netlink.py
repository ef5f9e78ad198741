"""Addresses, MTU, routes and the state of a device, by netlink. Only the manager uses it.

pyroute2 is imported when a `Netlink` is made, since it costs 250 ms and 32 MiB. Its calls block for
a moment and own an event loop: from asyncio use it in a thread.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import TracebackType
from typing import Any, Self

from ginnel.base.errors import SystemFailure

MAIN_TABLE = 254
_KERNEL_PROTOCOL = 2  # routes that the kernel made itself (RTPROT_KERNEL)
_STATIC_PROTOCOL = 4  # ours (RTPROT_STATIC)
_NO_ADDRESS_GENERATION = 1  # IN6_ADDR_GEN_MODE_NONE


class Netlink:
    """A netlink socket of the current network namespace; use it as a context manager."""

    def __init__(self) -> None:
        pyroute2: Any = import_module("pyroute2")
        self._ip = pyroute2.IPRoute()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ip.close()

    def index_of(self, name: str) -> int:
        """Return the device's index.

        Raises:
            SystemFailure: there is no such device.
        """
        found = self._ip.link_lookup(ifname=name)
        if not found:
            raise SystemFailure(f"no device {name}")
        return int(found[0])

    def mtu_of(self, name: str) -> int:
        """Return the device's MTU in bytes."""
        link = self._ip.get_links(self.index_of(name))[0]
        return int(link.get_attr("IFLA_MTU"))

    def set_mtu(self, name: str, mtu: int) -> None:
        """Set the device's MTU in bytes."""
        with _explained(f"mtu {mtu} on {name}"):
            self._ip.link("set", index=self.index_of(name), mtu=mtu)

    def set_up(self, name: str, *, is_up: bool = True) -> None:
        """Bring the device up or down; it gets no link-local address of the kernel's."""
        index = self.index_of(name)
        with _explained(f"{name} {'up' if is_up else 'down'}"):
            if is_up:
                self._stop_address_generation(index)
            self._ip.link("set", index=index, state="up" if is_up else "down")

    def addresses(self, name: str) -> list[str]:
        """Return the device's addresses as `ADDRESS/LEN`, sorted."""
        messages = self._ip.get_addr(index=self.index_of(name))
        return sorted(
            f"{message.get_attr('IFA_LOCAL') or message.get_attr('IFA_ADDRESS')}"
            f"/{message['prefixlen']}"
            for message in messages
        )

    def add_address(self, name: str, address: str) -> None:
        """Add `ADDRESS/LEN` without a route of the kernel's for its prefix.

        Raises:
            SystemFailure: the kernel refused; EEXIST counts as that too.
        """
        interface = ipaddress.ip_interface(address)
        with _explained(f"address {address} on {name}"):
            self._ip.addr(
                "add",
                index=self.index_of(name),
                address=str(interface.ip),
                prefixlen=interface.network.prefixlen,
                family=socket.AF_INET6 if interface.version == 6 else socket.AF_INET,
                flags=_NO_PREFIX_ROUTE | (_NO_DAD if interface.version == 6 else 0),
            )

    def remove_address(self, name: str, address: str) -> None:
        """Remove `ADDRESS/LEN`; harmless if it is gone."""
        interface = ipaddress.ip_interface(address)
        with _explained(f"address {address} on {name}", gone_is_fine=True):
            self._ip.addr(
                "del",
                index=self.index_of(name),
                address=str(interface.ip),
                prefixlen=interface.network.prefixlen,
                family=socket.AF_INET6 if interface.version == 6 else socket.AF_INET,
            )

    def routes(self, name: str, *, table: int = MAIN_TABLE) -> list[str]:
        """Return the destinations that we routed to the device, as `NETWORK/LEN`, sorted."""
        index = self.index_of(name)
        found = []
        for family, default in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            for route in self._ip.get_routes(family=family, oif=index, table=table):
                if route["proto"] != _KERNEL_PROTOCOL and route.get_attr("RTA_OIF") == index:
                    destination = route.get_attr("RTA_DST") or default
                    found.append(f"{destination}/{route['dst_len']}")
        return sorted(found)

    def add_route(self, name: str, destination: str, *, table: int = MAIN_TABLE) -> None:
        """Route `NETWORK/LEN` to the device.

        Raises:
            SystemFailure: the kernel refused, for instance as there is such a route already.
        """
        with _explained(f"route {destination} to {name}"):
            self._ip.route("add", **self._route(name, destination, table))

    def remove_route(self, name: str, destination: str, *, table: int = MAIN_TABLE) -> None:
        """Remove the route; harmless if it is gone."""
        with _explained(f"route {destination} to {name}", gone_is_fine=True):
            self._ip.route("del", **self._route(name, destination, table))

    def _route(self, name: str, destination: str, table: int) -> dict[str, Any]:
        network = ipaddress.ip_network(destination)
        return {
            "dst": destination,
            "oif": self.index_of(name),
            "table": table,
            "family": socket.AF_INET6 if network.version == 6 else socket.AF_INET,
            "proto": _STATIC_PROTOCOL,
        }

    def _stop_address_generation(self, index: int) -> None:
        generation = {
            "attrs": [
                (
                    "AF_INET6",
                    {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _NO_ADDRESS_GENERATION)]},
                )
            ]
        }
        try:
            self._ip.link("set", index=index, IFLA_AF_SPEC=generation)
        except _netlink_error() as error:
            if error.code not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL):
                raise  # without IPv6 in the kernel there is nothing to stop


_NO_PREFIX_ROUTE = 0x200  # IFA_F_NOPREFIXROUTE: routes are ours to make
_NO_DAD = 0x02  # IFA_F_NODAD: nobody else can be on a TUN


def _netlink_error() -> type[Any]:
    from pyroute2.netlink.exceptions import NetlinkError

    return NetlinkError


@contextmanager
def _explained(item: str, *, gone_is_fine: bool = False) -> Iterator[None]:
    gone = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL)
    try:
        yield
    except _netlink_error() as error:
        if not (gone_is_fine and error.code in gone):
            raise SystemFailure(f"{item}: {error.args[-1]}") from None
