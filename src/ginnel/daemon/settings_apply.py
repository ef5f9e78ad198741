"""Network settings as one transaction: applied, rolled back, taken back.

What arrives here passed `settings_check`. A second plan changes only the difference. Overlay routes
stand in a table of their own (with `throw` for the excluded ones, which sends them back to the main
table). pyroute2 and resolvers block for a moment, so the asyncio side calls this in a thread.

Source: seed 002 (NetworkSettingsRequest); DESIGN, "Peer connection".
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from ginnel.base.errors import SystemFailure
from ginnel.daemon.settings_check import Plan
from ginnel.net.dns import DnsPlan, DnsSetter
from ginnel.net.netlink import MAIN_TABLE, NO_ADDRESS_GENERATION, Netlink
from ginnel.net.routes import strict_devices

IPV4_DEFAULT = "0.0.0.0/0"

log = logging.getLogger(__name__)


@dataclass(slots=True)
class SettingsApplier:
    """Holds what is applied to one device; its methods may be called from any thread.

    Invariant: after `apply` returned or raised, the device has exactly `current`, unless somebody
    else changed it meanwhile.
    """

    device: str
    table: int = MAIN_TABLE  # of the routes
    dns: DnsSetter | None = None  # None: the resolver is left alone
    open_netlink: Callable[[], Netlink] = Netlink
    current: Plan | None = field(default=None)
    _original: _Original | None = field(default=None)
    _is_over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def apply(self, plan: Plan) -> None:
        """Bring the device from `current` to `plan`.

        Raises:
            SystemFailure: a step failed (its text names the item); all steps before are undone.
        """
        with self._lock, self.open_netlink() as netlink:
            if self._is_over:  # asked before the end, and come to its turn after it
                raise SystemFailure("network_settings: the network is down")
            if self._original is None:
                self._original = _Original.of(netlink, self.device)
            _run(self._steps(netlink, plan, self._original))
            self.current = plan

    def physical_mtu(self) -> int:
        """Return the MTU of the device that packets leave by."""
        with self.open_netlink() as netlink:
            return netlink.physical_mtu(besides=self.device)

    def repair_dns(self) -> None:
        """Set the resolver again if somebody took our entries out. Raises SystemFailure."""
        with self._lock:
            setter, plan = self.dns, self.current.dns if self.current is not None else None
            if setter is None or plan is None or plan.is_empty or setter.is_in_place():
                return
            log.info("dns_settings: %s was written anew: ours are put in again", setter.name)
            setter.apply(plan)

    def take_back(self) -> None:
        """Remove all that is applied, for good; harmless if the device is gone.

        Raises:
            SystemFailure: some of it can't be removed (its text names the items); the rest was.
        """
        with self._lock, self.open_netlink() as netlink:
            self._is_over = True
            current, self.current = self.current, None
            if current is None or self._original is None:
                return
            errors = []
            for step in self._last_steps(netlink, current, self._original):
                try:
                    step.do()
                except SystemFailure as error:
                    errors.append(str(error))
            if errors:
                raise SystemFailure("; ".join(errors))

    def _steps(self, netlink: Netlink, plan: Plan, original: _Original) -> Iterator[_Step]:
        device, table = self.device, self.table
        before = self.current or Plan(original.mtu)
        if plan.mtu != before.mtu:
            yield _Step(
                lambda: netlink.set_mtu(device, plan.mtu),
                lambda: netlink.set_mtu(device, before.mtu),
            )
        if self.current is None:
            yield from _up_steps(netlink, device, original)
        keep = _unchanged(before, plan)
        address = (_with(netlink.add_address, device), _with(netlink.remove_address, device))
        route = (
            _with(netlink.add_route, device, table=table),
            _with(netlink.remove_route, device, table=table),
        )
        throw = (_with(netlink.exclude, table=table), _with(netlink.include_again, table=table))
        for (do, undo), items in (
            (throw[::-1], [item for item in before.excluded if item not in plan.excluded]),
            (throw, [item for item in plan.excluded if item not in before.excluded]),
            (route[::-1], [item for item in before.routes if item not in keep]),
            (address[::-1], [item for item in before.addresses if item not in keep]),
            (address, [item for item in plan.addresses if item not in keep]),
            (route, [item for item in plan.routes if item not in keep]),
        ):
            for item in items:
                if do is route[0] and item == IPV4_DEFAULT:
                    yield _Step(partial(_refuse_strict_devices, device))
                yield _Step(partial(do, item), partial(undo, item))
        if self.dns is not None and plan.dns != before.dns:
            yield _Step(
                partial(_set_dns, self.dns, plan.dns),
                partial(_set_dns, self.dns, before.dns),
                is_whole=False,
            )

    def _last_steps(self, netlink: Netlink, current: Plan, original: _Original) -> Iterator[_Step]:
        device, table = self.device, self.table
        if self.dns is not None and current.dns is not None:
            yield _Step(self.dns.take_back)
        for item in current.excluded:
            yield _Step(partial(netlink.include_again, item, table=table))
        try:
            netlink.index_of(device)
        except SystemFailure:
            return  # the device took everything else along
        for item in current.routes:
            yield _Step(partial(netlink.remove_route, device, item, table=table))
        for item in current.addresses:
            yield _Step(partial(netlink.remove_address, device, item))
        for step in reversed(list(_up_steps(netlink, device, original))):
            yield _Step(step.undo)
        yield _Step(partial(netlink.set_mtu, device, original.mtu))


@dataclass(frozen=True, slots=True)
class _Original:
    """What the device had before the first plan."""

    mtu: int
    address_generation: int | None  # None: a kernel without IPv6

    @classmethod
    def of(cls, netlink: Netlink, device: str) -> _Original:
        return cls(netlink.mtu_of(device), netlink.address_generation_of(device))


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class _Step:
    do: Callable[[], None]
    undo: Callable[[], None] = _nothing
    is_whole: bool = True  # False: what failed may be half done, and is undone too


def _run(steps: Iterable[_Step]) -> None:
    """Do all steps, or, whatever goes wrong, none."""
    begun: list[_Step] = []
    is_done = False
    try:
        for step in steps:
            if not step.is_whole:
                begun.append(step)
            step.do()
            if step.is_whole:
                begun.append(step)
        is_done = True
    finally:
        while begun and not is_done:
            try:
                begun.pop().undo()
            except SystemFailure as error:  # somebody else changed it: go on with the rest
                log.warning("settings: not rolled back: %s", error)


def _up_steps(netlink: Netlink, device: str, original: _Original) -> Iterator[_Step]:
    """Bring the device up; it gets no link-local address of the kernel's."""
    mode = original.address_generation
    if mode is not None:
        yield _Step(
            partial(netlink.set_address_generation, device, NO_ADDRESS_GENERATION),
            partial(netlink.set_address_generation, device, mode),
        )
    yield _Step(partial(netlink.set_up, device), partial(netlink.set_up, device, is_up=False))


def _with(verb: Callable[..., None], *first: str, **keys: int) -> Callable[[str], None]:
    return partial(verb, *first, **keys)


def _refuse_strict_devices(device: str) -> None:
    """Keep the way from peers open: a strict device looks up the way back without the mark."""
    if strict := strict_devices(besides=device):
        name = strict[0]
        raise SystemFailure(
            f"route {IPV4_DEFAULT} to {device}: {name} would drop what peers send, as its "
            f"rp_filter is strict: `sysctl net.ipv4.conf.{name}.rp_filter=2`"
        )


def _set_dns(setter: DnsSetter, plan: DnsPlan | None) -> None:
    if plan is None or plan.is_empty:
        setter.take_back()
    else:
        setter.apply(plan)


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
