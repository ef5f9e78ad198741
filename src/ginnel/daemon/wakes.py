"""Notices that the machine slept or changed networks, so that the tunnel is told (Wake).

Sleep shows as boot time running ahead of monotonic time, which stands still. Networks show
as addresses and default routes; those of our own devices don't count.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ginnel.base.errors import SystemFailure
from ginnel.net.interfaces import AddressWatcher, default_routes, host_addresses
from ginnel.net.tun import DEVICE_PREFIX

CLOCK_INTERVAL = 5.0  # seconds between two looks at the clocks
SLEPT = 2.0  # seconds of sleep that matter
SETTLE_TIME = 1.0  # seconds; changes come in bunches


class WakeWatcher:
    """Calls `on_wake(reason)`; make it inside a running loop and close it."""

    def __init__(
        self,
        on_wake: Callable[[str], None],
        *,
        asleep: Callable[[], float] = lambda: (
            time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
        ),
        look: Callable[[], object] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_wake = on_wake
        self._asleep = asleep
        self._look = look or _networks
        self._slept_before = asleep()
        self._seen = self._look()
        self._settling: asyncio.TimerHandle | None = None
        self._watcher = AddressWatcher()
        self._loop.add_reader(self._watcher.fileno(), self._on_change)
        self._timer = self._loop.call_later(CLOCK_INTERVAL, self._on_clock)

    def close(self) -> None:
        """Stop watching."""
        self._loop.remove_reader(self._watcher.fileno())
        self._watcher.close()
        self._timer.cancel()
        if self._settling is not None:
            self._settling.cancel()

    def check_clocks(self) -> None:
        """Look whether the machine slept since the last look."""
        before, self._slept_before = self._slept_before, self._asleep()
        if self._slept_before - before > SLEPT:
            self._on_wake(f"slept {self._slept_before - before:.0f} s")

    def check_networks(self) -> None:
        """Look whether addresses or default routes are other ones than at the last look."""
        self._settling = None
        before, self._seen = self._seen, self._look()
        if self._seen != before:
            self._on_wake("the network changed")

    def _on_clock(self) -> None:
        self._timer = self._loop.call_later(CLOCK_INTERVAL, self._on_clock)
        self.check_clocks()

    def _on_change(self) -> None:
        if self._watcher.drain() and self._settling is None:
            self._settling = self._loop.call_later(SETTLE_TIME, self.check_networks)


def _networks() -> object:
    try:
        return host_addresses((f"{DEVICE_PREFIX}*",)), [
            route for route in default_routes() if not route.name.startswith(DEVICE_PREFIX)
        ]
    except SystemFailure:
        return None
