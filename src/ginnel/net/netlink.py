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
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import Any, Self

from ginnel.base.errors import SystemFailure

MAIN_TABLE = 254
MAIN_RULE = 32_766  # the rule that looks the main table up
DEFAULT_MTU = 1500  # bytes, where no device says otherwise
_KERNEL_PROTOCOL = 2  # routes that the kernel made itself (RTPROT_KERNEL)
_STATIC_PROTOCOL = 4  # ours (RTPROT_STATIC)
NO_ADDRESS_GENERATION = 1  # no link-local address of the kernel's (IN6_ADDR_GEN_MODE_NONE)


@dataclass(frozen=True, slots=True)
class Rule:
    """A routing rule of both families: who matches goes to `table`, or past all others to main.

    Without mark and uid everybody matches; `table` 0 means on to the rule of the main table. A rule
    that skips the default route finds only longer prefixes in its table.
    """

    priority: int
    table: int = 0
    skips_default: bool = False
    mark: int | None = None
    uid: int | None = None

    def describe(self) -> str:
        """Say it as `ip rule` does."""
        who = f"fwmark {self.mark:#x} " if self.mark is not None else ""
        who += f"uid {self.uid} " if self.uid is not None else ""
        return f"rule {self.priority}: {who}{f'table {self.table}' if self.table else 'main'}"


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
        """Bring the device up or down."""
        index = self.index_of(name)
        with _explained(f"{name} {'up' if is_up else 'down'}"):
            self._ip.link("set", index=index, state="up" if is_up else "down")

    def address_generation_of(self, name: str) -> int | None:
        """Return how the kernel makes the device's link-local address; None without IPv6."""
        link = self._ip.get_links(self.index_of(name))[0]
        mode = link.get_nested("IFLA_AF_SPEC", "AF_INET6", "IFLA_INET6_ADDR_GEN_MODE")
        return None if mode is None else int(mode)

    def set_address_generation(self, name: str, mode: int) -> None:
        """Set how the kernel makes the device's link-local address when it comes up."""
        values = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", mode)]}
        with _explained(f"address generation {mode} of {name}"):
            self._ip.link(
                "set",
                index=self.index_of(name),
                IFLA_AF_SPEC={"attrs": [("AF_INET6", values)]},
            )

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

    def excluded(self, *, table: int) -> list[str]:
        """Return the destinations that a table sends back to the next rule, sorted."""
        found = []
        for family, default in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            for route in self._ip.get_routes(family=family, table=table):
                if route["type"] == _THROW and route.get_attr("RTA_TABLE") == table:
                    destination = route.get_attr("RTA_DST") or default
                    found.append(f"{destination}/{route['dst_len']}")
        return sorted(found)

    def exclude(self, destination: str, *, table: int) -> None:
        """Let a table have nothing for `NETWORK/LEN`: the next rule decides.

        Raises:
            SystemFailure: the kernel refused.
        """
        with _explained(f"excluded route {destination}"):
            self._ip.route("add", **self._throw(destination, table))

    def include_again(self, destination: str, *, table: int) -> None:
        """Undo `exclude`; harmless if it is gone."""
        with _explained(f"excluded route {destination}", gone_is_fine=True):
            self._ip.route("del", **self._throw(destination, table))

    def rules(self) -> list[tuple[int, int]]:
        """Return (priority, IP version) of all rules, sorted."""
        return sorted(
            (int(rule.get_attr("FRA_PRIORITY") or 0), version)
            for version, family in _FAMILIES
            for rule in self._ip.get_rules(family=family)
        )

    def add_rule(self, rule: Rule) -> None:
        """Add a rule for both families, or for neither.

        Raises:
            SystemFailure: the kernel refused.
        """
        done: list[int] = []
        try:
            for version, family in _FAMILIES:
                with _explained(f"{rule.describe()} (IPv{version})", no_family_is_fine=True):
                    keys = _rule(rule)
                    if rule.skips_default:  # not what a rule is known by when it goes
                        keys["FRA_SUPPRESS_PREFIXLEN"] = 0
                    self._ip.rule("add", family=family, **keys)
                    done.append(family)
        except SystemFailure:
            for made in done:
                self._ip.rule("del", family=made, **_rule(rule))
            raise

    def remove_rule(self, rule: Rule) -> None:
        """Remove a rule of both families; harmless if it is gone."""
        for _, family in _FAMILIES:
            with _explained(rule.describe(), gone_is_fine=True, no_family_is_fine=True):
                self._ip.rule("del", family=family, **_rule(rule))

    def physical_mtu(self, *, besides: str) -> int:
        """Return the smallest MTU of the devices that default routes use, `besides` left out."""
        ours = self.index_of(besides)
        indexes = {
            route.get_attr("RTA_OIF")
            for _, family in _FAMILIES
            for route in self._ip.get_routes(family=family, table=MAIN_TABLE)
            if route["dst_len"] == 0 and route.get_attr("RTA_OIF") not in (None, ours)
        }
        links = [self._ip.get_links(index)[0] for index in sorted(indexes)]
        return min((int(link.get_attr("IFLA_MTU")) for link in links), default=DEFAULT_MTU)

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

    @staticmethod
    def _throw(destination: str, table: int) -> dict[str, Any]:
        network = ipaddress.ip_network(destination)
        return {
            "dst": destination,
            "type": "throw",
            "table": table,
            "family": socket.AF_INET6 if network.version == 6 else socket.AF_INET,
            "proto": _STATIC_PROTOCOL,
        }


_NO_PREFIX_ROUTE = 0x200  # IFA_F_NOPREFIXROUTE: routes are ours to make
_NO_DAD = 0x02  # IFA_F_NODAD: nobody else can be on a TUN


_THROW = 9  # RTN_THROW
_GO_TO = 2  # FR_ACT_GOTO
_LOOK_UP = 1  # FR_ACT_TO_TBL
_FAMILIES = ((4, socket.AF_INET), (6, socket.AF_INET6))


def _rule(rule: Rule) -> dict[str, Any]:
    values: dict[str, Any] = {"priority": rule.priority, "FRA_PROTOCOL": _STATIC_PROTOCOL}
    if rule.table:
        values |= {"table": rule.table, "action": _LOOK_UP}
    else:
        values |= {"FRA_GOTO": MAIN_RULE, "action": _GO_TO}
    if rule.mark is not None:
        values["FRA_FWMARK"] = rule.mark
    if rule.uid is not None:
        values["FRA_UID_RANGE"] = f"{rule.uid}:{rule.uid}"
    return values


def _netlink_error() -> type[Any]:
    from pyroute2.netlink.exceptions import NetlinkError

    return NetlinkError


@contextmanager
def _explained(
    item: str, *, gone_is_fine: bool = False, no_family_is_fine: bool = False
) -> Iterator[None]:
    gone = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL)
    try:
        yield
    except _netlink_error() as error:
        is_fine = (gone_is_fine and error.code in gone) or (
            no_family_is_fine and error.code in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
        )
        if not is_fine:
            raise SystemFailure(f"{item}: {error.args[-1]}") from None
