"""Sleep and changes of networks are noticed."""

from __future__ import annotations

import asyncio

from ginnel.daemon.wakes import WakeWatcher


def test_sleep_and_changes_are_told_once() -> None:
    asleep = 100.0
    networks = ["192.0.2.1"]
    reasons: list[str] = []

    async def main() -> None:
        nonlocal asleep
        watcher = WakeWatcher(reasons.append, asleep=lambda: asleep, look=lambda: list(networks))
        watcher.check_clocks()
        watcher.check_networks()
        asleep += 1.5
        watcher.check_clocks()
        assert reasons == []
        asleep += 3600
        networks.append("198.51.100.1")
        for _ in range(2):
            watcher.check_clocks()
            watcher.check_networks()
        watcher.close()

    asyncio.run(main())
    assert reasons == ["slept 3600 s", "the network changed"]
