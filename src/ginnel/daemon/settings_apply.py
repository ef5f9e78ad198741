"""Network settings as one transaction: checked as a whole, applied, rolled back, taken back.

The tunnel that asks is not trusted: only what `Allowance` names is applied, the rest is refused by
the field's name. A second request changes only the difference. pyroute2 blocks for a moment, so the
asyncio side calls `apply` and `take_back` in a thread.

Source: seed 002 (NetworkSettingsRequest); DESIGN, "Processes".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)
from typing import TypeAlias

from ginnel.base.addresses import OVERLAY_IPV4
from ginnel.base.errors import SystemFailure, UsageError
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.net.netlink import Netlink

MIN_MTU = 1280  # bytes; IPv6 needs it (RFC 8200, section 5)
MAX_MTU = 9000  # bytes; jumbo frames
DEFAULT_MTU = 1280  # bytes, where the tunnel names none: passes every path
MAX_ADDRESSES = 8  # of one node, both families
MAX_ROUTES = 64  # of one network, both families
OVERLAY_IPV6 = IPv6Network("fd00::/8")  # RFC 4193, locally assigned

Interface: TypeAlias = IPv4Interface | IPv6Interface
Network: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a tunnel may ask for: addresses and routes inside these prefixes."""

    prefixes: tuple[Network, ...] = (OVERLAY_IPV4, OVERLAY_IPV6)
    addresses: tuple[str, ...] = ()  # exactly these IPs if any are named

    @classmethod
    def of(cls, prefixes: Sequence[str], addresses: Sequence[str] = ()) -> Allowance:
        """Make one from texts (`100.64.0.0/16`, `100.64.0.1`).

        Raises:
            UsageError: a text is no prefix.
        """
        try:
            return cls(tuple(ip_network(text) for text in prefixes), tuple(addresses))
        except ValueError as error:
            raise UsageError(str(error)) from None


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings that passed every check, as texts that netlink takes."""

    mtu: int
    addresses: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()


def check_settings(request: pb.NetworkSettingsRequest, allowance: Allowance) -> Plan:
    """Return what the request asks for.

    Raises:
        UsageError: something in it is wrong or not allowed; nothing may be applied.
    """
    _refuse_unsupported(request)
    mtu = request.mtu or DEFAULT_MTU
    if not MIN_MTU <= mtu <= MAX_MTU:
        raise UsageError(f"mtu: {mtu} is not in {MIN_MTU}..{MAX_MTU}")
    addresses = _addresses(request)
    routes = _routes(request)
    if len(addresses) > MAX_ADDRESSES or len(routes) > MAX_ROUTES:
        raise UsageError(f"more than {MAX_ADDRESSES} addresses or {MAX_ROUTES} routes")
    for field_name, address in addresses:
        _check_inside(field_name, ip_network(address.ip), allowance)
        if allowance.addresses and str(address.ip) not in allowance.addresses:
            raise UsageError(f"{field_name}: {address.ip} is not this node's address")
    for field_name, route in routes:
        _check_inside(field_name, route, allowance)
    return Plan(
        mtu,
        tuple(dict.fromkeys(str(address) for _, address in addresses)),
        tuple(dict.fromkeys(str(route) for _, route in routes)),
    )


def _refuse_unsupported(request: pb.NetworkSettingsRequest) -> None:
    v4, v6 = request.ipv4_settings, request.ipv6_settings
    unsupported = {
        "dns_settings": request.HasField("dns_settings"),
        "tunnel_remote_address": bool(request.tunnel_remote_address),
        "ipv4_settings.router": bool(v4.router),
        "ipv4_settings.excluded_routes": bool(v4.excluded_routes),
        "ipv6_settings.excluded_routes": bool(v6.excluded_routes),
        "ipv4_settings.included_routes.router": any(route.router for route in v4.included_routes),
        "ipv6_settings.included_routes.router": any(route.router for route in v6.included_routes),
    }
    for name, is_set in unsupported.items():
        if is_set:
            raise UsageError(f"{name}: not supported by this manager")


def _addresses(request: pb.NetworkSettingsRequest) -> list[tuple[str, Interface]]:
    v4, v6 = request.ipv4_settings, request.ipv6_settings
    if len(v4.addrs) != len(v4.subnet_masks):
        raise UsageError("ipv4_settings.subnet_masks: not as many as addrs")
    if len(v6.addrs) != len(v6.prefix_lengths):
        raise UsageError("ipv6_settings.prefix_lengths: not as many as addrs")
    found: list[tuple[str, Interface]] = []
    for text, mask in zip(v4.addrs, v4.subnet_masks, strict=True):
        prefix = _prefix_of("ipv4_settings.subnet_masks", mask)
        found.append(("ipv4_settings.addrs", _interface("ipv4_settings.addrs", text, prefix, 4)))
    for text, length in zip(v6.addrs, v6.prefix_lengths, strict=True):
        found.append(("ipv6_settings.addrs", _interface("ipv6_settings.addrs", text, length, 6)))
    return found


def _routes(request: pb.NetworkSettingsRequest) -> list[tuple[str, Network]]:
    found: list[tuple[str, Network]] = []
    name = "ipv4_settings.included_routes"
    for v4 in request.ipv4_settings.included_routes:
        interface = _interface(name, v4.destination, _prefix_of(f"{name}.mask", v4.mask), 4)
        found.append((name, _exact(name, interface)))
    name = "ipv6_settings.included_routes"
    for v6 in request.ipv6_settings.included_routes:
        interface = _interface(name, v6.destination, v6.prefix_length, 6)
        found.append((name, _exact(name, interface)))
    return found


def _interface(name: str, text: str, prefix: int, version: int) -> Interface:
    try:
        if "/" in text or "%" in text:
            raise ValueError(f"{text[:60]!r} is not a bare address")
        interface = ip_interface(f"{text}/{prefix}")
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    if interface.version != version:
        raise UsageError(f"{name}: {text} is of IP version {interface.version}")
    return interface


def _exact(name: str, interface: Interface) -> Network:
    if interface.ip != interface.network.network_address:
        raise UsageError(f"{name}: {interface} has bits beyond its mask")
    return interface.network


def _prefix_of(name: str, mask: str) -> int:
    try:
        network = IPv4Network(f"0.0.0.0/{mask}")
    except ValueError:
        raise UsageError(f"{name}: {mask[:60]!r} is no mask") from None
    if str(network.netmask) != mask:  # a host mask or a plain number, which the library takes too
        raise UsageError(f"{name}: {mask[:60]!r} is no mask")
    return network.prefixlen


def _check_inside(name: str, network: Network, allowance: Allowance) -> None:
    if not any(_is_inside(network, prefix) for prefix in allowance.prefixes):
        allowed = ", ".join(map(str, allowance.prefixes))
        raise UsageError(f"{name}: {network} is not inside what root allows ({allowed})")


def _is_inside(network: Network, prefix: Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(prefix, IPv4Network) and network.subnet_of(prefix)
    return isinstance(prefix, IPv6Network) and network.subnet_of(prefix)


@dataclass(slots=True)
class SettingsApplier:
    """Holds what is applied to one device; both methods may be called from any thread.

    Invariant: after `apply` returned or raised, the device has exactly `current`.
    """

    device: str
    current: Plan | None = field(default=None)
    _original_mtu: int | None = field(default=None)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def apply(self, plan: Plan) -> None:
        """Bring the device from `current` to `plan`.

        Raises:
            SystemFailure: a step failed (its text names the item); all steps before are undone.
        """
        with self._lock, Netlink() as netlink:
            if self._original_mtu is None:
                self._original_mtu = netlink.mtu_of(self.device)
            self._run(self._steps(netlink, plan))
            self.current = plan

    def take_back(self) -> None:
        """Remove all that is applied; harmless if the device is gone."""
        with self._lock:
            current, self.current = self.current, None
        if current is None:
            return
        with self._lock, Netlink() as netlink:
            try:
                netlink.index_of(self.device)
            except SystemFailure:
                return  # the device took everything along
            for route in current.routes:
                netlink.remove_route(self.device, route)
            for address in current.addresses:
                netlink.remove_address(self.device, address)
            netlink.set_up(self.device, is_up=False)
            if self._original_mtu is not None:
                netlink.set_mtu(self.device, self._original_mtu)

    def _steps(self, netlink: Netlink, plan: Plan) -> list[_Step]:
        device = self.device
        before = self.current or Plan(self._original_mtu or plan.mtu)
        steps = []
        if plan.mtu != before.mtu:
            steps.append(
                _Step(
                    lambda: netlink.set_mtu(device, plan.mtu),
                    lambda: netlink.set_mtu(device, before.mtu),
                )
            )
        if self.current is None:
            steps.append(
                _Step(
                    lambda: netlink.set_up(device),
                    lambda: netlink.set_up(device, is_up=False),
                )
            )
        add, remove = netlink.add_address, netlink.remove_address
        route, unroute = netlink.add_route, netlink.remove_route
        keep = _unchanged(before, plan)
        for do, undo, items in (
            (unroute, route, [item for item in before.routes if item not in keep]),
            (remove, add, [item for item in before.addresses if item not in keep]),
            (add, remove, [item for item in plan.addresses if item not in keep]),
            (route, unroute, [item for item in plan.routes if item not in keep]),
        ):
            steps += [_Step.pair(do, undo, device, item) for item in items]
        return steps

    @staticmethod
    def _run(steps: list[_Step]) -> None:
        done: list[_Step] = []
        try:
            for step in steps:
                step.do()
                done.append(step)
        except SystemFailure:
            for step in reversed(done):
                step.undo()
            raise


@dataclass(frozen=True, slots=True)
class _Step:
    do: Callable[[], None]
    undo: Callable[[], None]

    @classmethod
    def pair(
        cls,
        do: Callable[[str, str], None],
        undo: Callable[[str, str], None],
        device: str,
        item: str,
    ) -> _Step:
        return cls(lambda: do(device, item), lambda: undo(device, item))


def _unchanged(before: Plan, plan: Plan) -> list[str]:
    """Return the items to leave alone.

    A family whose addresses change is set anew: with an IPv4 address the kernel drops others of its
    prefix, and with the last one the routes.
    """
    keep: list[str] = []
    for is_ipv6 in (False, True):
        old = [item for item in before.addresses if (":" in item) == is_ipv6]
        new = [item for item in plan.addresses if (":" in item) == is_ipv6]
        if old == new:
            routes = [item for item in plan.routes if (":" in item) == is_ipv6]
            keep += [*new, *(item for item in routes if item in before.routes)]
    return keep
