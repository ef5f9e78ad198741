"""Switching off, threads and gateways; mapping at real routers is tested in the lab."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ginnel.base.config import PORT_MAPPINGS
from ginnel.base.errors import SystemFailure
from ginnel.daemon.port_mapping import CHOICES, PortMapping, in_thread, local_ip_towards


def test_every_choice_of_the_settings_is_known() -> None:
    assert tuple(CHOICES) == PORT_MAPPINGS


def test_switched_off_it_ends_at_once_and_says_so() -> None:
    async def play() -> None:
        mapping = PortMapping(4000, "off", lambda _protocol, _address: None)
        await mapping.run()
        assert mapping.reason == "switched off (setting port_mapping)"

    asyncio.run(play())


def test_it_can_be_cancelled_at_any_time() -> None:
    async def play() -> None:
        told: list[object] = []
        mapping = PortMapping(4000, "pcp", lambda *change: told.append(change))
        task = asyncio.ensure_future(mapping.run())
        for _ in range(5):
            await asyncio.sleep(0)
        mapping.on_network_changed()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert told == []

    asyncio.run(play())


def test_work_in_a_thread() -> None:
    async def play() -> None:
        assert await in_thread(threading.get_ident) != threading.get_ident()

        def fail() -> None:
            raise SystemFailure("no")

        with pytest.raises(SystemFailure, match="no"):
            await in_thread(fail)

    asyncio.run(play())


def test_our_address_towards_another() -> None:
    assert local_ip_towards("127.0.0.1") == "127.0.0.1"
