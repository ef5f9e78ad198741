"""Network settings as one transaction: applied, rolled back, taken back.

What arrives here passed `settings_check`. A second plan changes only the difference. Overlay routes
stand in a table of their own (with `throw` for the excluded ones, which sends them back to the main
table). pyroute2 and resolvers block for a moment, so the asyncio side calls this in a thread.

Source: seed 002 (NetworkSettingsRequest); DESIGN, "Peer connection".
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from ginnel.base.errors import SystemFailure
from ginnel.daemon.settings_check import Plan
from ginnel.net.dns import DnsPlan, DnsSetter
from ginnel.net.netlink import MAIN_TABLE, Netlink

log = logging.getLogger(__name__)


@dataclass(slots=True)
class SettingsApplier:
    """Holds what is applied to one device; both methods may be called from any thread.

    Invariant: after `apply` returned or raised, the device has exactly `current`, unless somebody
    else changed it meanwhile.
    """

    device: str
    table: int = MAIN_TABLE  # of the routes
    dns: DnsSetter | None = None  # None: the resolver is left alone
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

    def physical_mtu(self) -> int:
        """Return the MTU of the device that packets leave by."""
        with Netlink() as netlink:
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
        """Remove all that is applied; harmless if the device is gone."""
        with self._lock:
            current, self.current = self.current, None
        if current is None:
            return
        with self._lock, Netlink() as netlink:
            if self.dns is not None and current.dns is not None:
                self.dns.take_back()
            for route in current.excluded:
                netlink.include_again(route, table=self.table)
            try:
                netlink.index_of(self.device)
            except SystemFailure:
                return  # the device took everything else along
            for route in current.routes:
                netlink.remove_route(self.device, route, table=self.table)
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
        keep = _unchanged(before, plan)

        def route(device: str, item: str) -> None:
            netlink.add_route(device, item, table=self.table)

        def unroute(device: str, item: str) -> None:
            netlink.remove_route(device, item, table=self.table)

        def exclude(_: str, item: str) -> None:
            netlink.exclude(item, table=self.table)

        def include(_: str, item: str) -> None:
            netlink.include_again(item, table=self.table)

        for do, undo, items in (
            (include, exclude, [item for item in before.excluded if item not in plan.excluded]),
            (exclude, include, [item for item in plan.excluded if item not in before.excluded]),
            (unroute, route, [item for item in before.routes if item not in keep]),
            (remove, add, [item for item in before.addresses if item not in keep]),
            (add, remove, [item for item in plan.addresses if item not in keep]),
            (route, unroute, [item for item in plan.routes if item not in keep]),
        ):
            steps += [_Step.pair(do, undo, device, item) for item in items]
        if self.dns is not None and plan.dns != before.dns:
            steps.append(
                _Step(
                    lambda: self._set_dns(plan.dns),
                    lambda: self._set_dns(before.dns),
                )
            )
        return steps

    def _set_dns(self, plan: DnsPlan | None) -> None:
        assert self.dns is not None
        if plan is None or plan.is_empty:
            self.dns.take_back()
        else:
            self.dns.apply(plan)

    @staticmethod
    def _run(steps: list[_Step]) -> None:
        done: list[_Step] = []
        try:
            for step in steps:
                step.do()
                done.append(step)
        except SystemFailure:
            for step in reversed(done):
                try:
                    step.undo()
                except SystemFailure as error:  # somebody else changed it: go on with the rest
                    log.warning("settings: not rolled back: %s", error)
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
