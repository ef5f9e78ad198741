"""Runs a NodeCore: the driver, the wall clock, this machine's addresses, hints to start from.

The one shell of the tunnel, of a tunnel that joins, and of `ginnel node`. Commands to the core are
followed by `changed()`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from ginnel.base.core import DatagramSource
from ginnel.base.errors import UsageError
from ginnel.base.types import Address, make_address
from ginnel.daemon.hints import parse_hint
from ginnel.daemon.node_core import SERVICES, NodeCore, NodeEvent
from ginnel.daemon.wall_clock import WallClock
from ginnel.discv5.enr import Enr
from ginnel.discv5.requests import Contact
from ginnel.mesh.lan import GROUP4, GROUP6, PORT, Link
from ginnel.net.driver import Driver
from ginnel.net.interfaces import AddressWatcher, host_addresses
from ginnel.net.multicast import MulticastSource

ADDRESS_DEBOUNCE_S = 0.25  # seconds; an interface that comes up tells several times
CLOCK_CHECK_S = 10.0  # seconds between two looks at the wall clock
CLOCK_SLIP_S = 1.0  # seconds that the wall clock may slip before the core is told

logger = logging.getLogger(__name__)


class NodeShell:
    """One node at work; make it inside a running loop.

    Args:
        own_devices: names (or patterns) of network devices never offered as paths.
        only_devices: if any, only these are offered.
        ipv6: offer addresses of IPv6.
        multicast: where `core.lan` listens and speaks; part of `source`, owned here.
        not_before: the wall clock is taken to be at least this (unix seconds).
    """

    def __init__(
        self,
        core: NodeCore,
        source: DatagramSource,
        on_event: Callable[[NodeEvent], None],
        *,
        port: int,
        own_devices: Sequence[str] = (),
        only_devices: Sequence[str] = (),
        ipv6: bool = True,
        multicast: MulticastSource | None = None,
        not_before: float = 0.0,
        after_receive: Callable[[], None] | None = None,
    ) -> None:
        self.core = core
        self.port = port
        self.host_ips: tuple[str, ...] = ()
        self.on_network: Callable[[], None] | None = None  # addresses or routes may have changed
        self._own_devices = tuple(own_devices)
        self._only_devices = tuple(only_devices)
        self._ipv6 = ipv6
        self._multicast = multicast
        self._not_before = not_before
        self._driver: Driver[NodeEvent] = Driver(
            core, multicast or source, on_event, after_receive=after_receive
        )
        self._watcher = AddressWatcher()
        self._addresses_due: asyncio.TimerHandle | None = None
        self._is_stopped = False

    @property
    def now(self) -> float:
        """Return the core's clock: monotonic seconds."""
        return self._driver.now()

    @property
    def unix_now(self) -> float:
        """Return the wall time as the core has it."""
        return self.core.unix_at(self.now)

    def start(self, hints: Sequence[Enr | Contact] = ()) -> None:
        """Begin: addresses, hints, the core."""
        self._driver.start()
        self._take_addresses()
        self._watch()
        now = self.now
        self.core.start(now=now)
        for hint in hints:
            if isinstance(hint, Enr):
                self.core.discovery.add_node(hint, now)
            else:  # only key and address are known: ask it for its record
                self.core.discovery.find_node(hint, [0], now=now)
        self.changed()

    async def run(self) -> None:
        """Run until `stop` or cancelled; keeps the wall clock right.

        Raises:
            Exception: a bug in the core or in the event callback.
        """
        async with asyncio.TaskGroup() as tasks:
            clock = tasks.create_task(self._keep_clock())
            await self._driver.run()
            clock.cancel()

    def stop(self) -> None:
        """Say good-bye and end; harmless when repeated."""
        if self._is_stopped:
            return
        self._is_stopped = True
        asyncio.get_running_loop().remove_reader(self._watcher.fileno())
        self._watcher.close()
        if self._addresses_due is not None:
            self._addresses_due.cancel()
        if self._driver.is_running:
            self.core.close(now=self.now)
        self._driver.stop()
        if self._multicast is not None:
            self._multicast.close()

    def on_wake(self) -> None:
        """The machine slept or changed networks: look at addresses, register anew."""
        self._take_addresses()
        if self.core.mesh is not None:
            self.core.mesh.on_network_changed(now=self.now, unix_now=self.unix_now)
        self.changed()

    def changed(self) -> None:
        """Carry on after a command was given to the core."""
        if self._driver.is_running:
            self.core.settle(now=self.now)
            self._driver.wake()

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._watcher.fileno(), self._on_addresses)

    def _on_addresses(self) -> None:
        if self._watcher.drain() and self._addresses_due is None:
            loop = asyncio.get_running_loop()
            self._addresses_due = loop.call_later(ADDRESS_DEBOUNCE_S, self._take_addresses)

    def _take_addresses(self) -> None:
        self._addresses_due = None
        found = host_addresses(self._own_devices)
        wanted = self._only_devices or ("*",)
        offered = [
            item
            for item in found
            if (self._ipv6 or ":" not in item.ip)
            and any(fnmatchcase(item.name, pattern) for pattern in wanted)
        ]
        self.host_ips = tuple(item.ip for item in offered)
        self.core.set_host_addresses(self.host_ips, self.port, now=self.now)
        if self._multicast is not None:
            joined = self._multicast.set_addresses(offered)
            links = [Link(item.name, item.ip, item.prefix_len) for item in joined]
            self.core.set_links(links, now=self.now)
        self._driver.wake()
        if self.on_network is not None:
            self.on_network()

    async def _keep_clock(self) -> None:
        while True:
            await asyncio.sleep(CLOCK_CHECK_S)
            unix_now = max(time.time(), self._not_before)
            if abs(unix_now - self.unix_now) > CLOCK_SLIP_S:
                logger.warning("the wall clock was set by %.0f s", unix_now - self.unix_now)
                self.core.set_clock(WallClock.at(unix_now, self.now))
                self.changed()


def ip_versions() -> tuple[int, ...]:
    """Return the IP versions to reach nodes over, the preferred one first."""
    ips = [item.ip for item in host_addresses()]
    return (6, 4) if ips and all(":" in ip for ip in ips) else (4, 6)


def open_multicast(source: DatagramSource, udp4: int | None, udp6: int | None) -> MulticastSource:
    """Return the source with the groups of LAN discovery besides; descriptors are copied."""
    groups = {False: GROUP4, True: GROUP6}
    return MulticastSource(source, udp4=udp4, udp6=udp6, groups=groups, port=PORT)


def read_hints(texts: Sequence[str]) -> list[Enr | Contact]:
    """Return the hints that can be used now; the others are logged (a name may resolve later)."""
    hints: list[Enr | Contact] = []
    for text in texts:
        try:
            hints.append(parse_hint(text))
        except UsageError as error:
            logger.warning("%s", error)
    return hints


def parse_advertised(text: str, port: int) -> Address | None:
    """Return the address of `IP` or `IP:PORT` (`[IPv6]:PORT`), or None for an empty text.

    Raises:
        UsageError: neither form.
    """
    if not text:
        return None
    host, _, tail = text.rpartition(":")
    has_port = text.count(":") == 1 or (text.startswith("[") and not text.endswith("]"))
    try:
        if has_port:
            return make_address(host.strip("[]"), _port(tail))
        return make_address(text.strip("[]"), port)
    except UsageError as error:
        raise UsageError(f"--advertise {text!r}: {error}; write IP, IP:PORT, [IPv6]:PORT") from None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{text!r} is no port")
    return int(text)


def record_fields(*, serves: bool) -> dict[str, list[int]]:
    """Return the record's key `ginnel`: what this node offers to everybody, nothing of networks."""
    return {"ginnel": SERVICES} if serves else {}
