"""The driver with a toy core: real loop and loopback sockets, no sleeping."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.base.types import Address, Datagram, Transmit
from ginnel.net.driver import RECEIVE_BATCH, Driver
from ginnel.net.udp import UdpSocket
from support.toy import Heard, Ticked, ToyCore

Event = Heard | Ticked
LOOPBACK = Address("127.0.0.1", 0)
WAIT = 5.0  # seconds until a missing event fails the test


class Running:
    """A toy core on a socket; its events come as a queue."""

    def __init__(self, core: ToyCore | None = None) -> None:
        self.core = core or ToyCore()
        self.socket = UdpSocket.open(LOOPBACK)
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.driver: Driver[Event] = Driver(self.core, self.socket, self.events.put_nowait)

    async def __aenter__(self) -> "Running":
        self.driver.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.driver.stop()
        self.socket.close()

    async def next_event(self) -> Event:
        return await asyncio.wait_for(self.events.get(), WAIT)


class ScriptedSource:
    """A source with datagrams ready; its descriptor is a socket that stays silent."""

    def __init__(self, waiting: Sequence[Datagram] = ()) -> None:
        self.socket = UdpSocket.open(LOOPBACK)
        self.waiting = list(waiting)
        self.limits: list[int] = []
        self.sent: list[Transmit] = []

    def fileno(self) -> int:
        """Return the silent socket's."""
        return self.socket.fileno()

    def receive(self, limit: int) -> Sequence[Datagram]:
        """Return what the script holds, and one wake-up's datagrams at a time."""
        self.limits.append(limit)
        batch, self.waiting = self.waiting[:limit], self.waiting[limit:]
        if not self.waiting:
            self.socket.receive(RECEIVE_BATCH)
        return batch

    def send(self, transmits: Sequence[Transmit]) -> int:
        """Keep them."""
        self.sent.extend(transmits)
        return len(transmits)


async def turn() -> None:
    """Let the loop go round once."""
    turned = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turned.set_result, None)
    await turned


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), WAIT))


def test_datagrams_are_answered_and_told() -> None:
    async def scenario() -> None:
        async with Running() as left, Running() as right:
            left.core.say(b"?ping", right.socket.address)
            left.driver.wake()
            asked = await right.next_event()
            answered = await left.next_event()
            assert isinstance(asked, Heard)
            assert isinstance(answered, Heard)
            assert asked.local_ip == "127.0.0.1"
            assert (answered.data, answered.source) == (b"!ping", right.socket.address)

    run(scenario)


def test_timer_fires_when_due_and_never_early() -> None:
    async def scenario() -> None:
        async with Running() as running:
            at = running.driver.now() + 0.003
            running.core.tick_at(at)
            running.driver.wake()
            event = await running.next_event()
        assert isinstance(event, Ticked)
        assert event.at >= at

    run(scenario)


def test_timer_moves_with_the_deadline() -> None:
    async def scenario() -> None:
        async with Running() as running:
            running.core.tick_at(running.driver.now() + 3600.0)
            running.driver.wake()
            running.core.tick_at(running.driver.now())
            running.driver.wake()
            assert isinstance(await running.next_event(), Ticked)

    run(scenario)


def test_a_full_batch_is_followed_by_another_without_a_new_wake_up() -> None:
    async def scenario() -> None:
        peer = Address("127.0.0.1", 9)
        source = ScriptedSource([Datagram(b"?", peer)] * (2 * RECEIVE_BATCH + 1))
        told: list[Event] = []
        done = asyncio.Event()

        def on_event(event: Event) -> None:
            told.append(event)
            if len(told) == 2 * RECEIVE_BATCH + 1:
                done.set()

        driver: Driver[Event] = Driver(ToyCore(), source, on_event)
        driver.start()
        source.socket.send([Transmit(b"knock", source.socket.address)])
        await asyncio.wait_for(done.wait(), WAIT)
        driver.stop()
        source.socket.close()
        full = [RECEIVE_BATCH] * 3
        assert source.limits[:4] == [*full, RECEIVE_BATCH - 1]  # the last looks for more
        assert len(source.sent) == 2 * RECEIVE_BATCH + 1

    run(scenario)


def test_a_bug_in_the_core_ends_the_driver_loudly(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        running = Running()
        task = asyncio.ensure_future(running.driver.run())
        running.socket.send([Transmit(b"crash", running.socket.address)])
        with pytest.raises(RuntimeError, match="a bug in the core"):
            await task
        assert not running.driver.is_running
        running.driver.wake()
        running.socket.close()

    run(scenario)
    assert [r.levelno for r in caplog.records if "ToyCore" in r.getMessage()] == [logging.CRITICAL]


def test_a_bug_in_the_callback_ends_the_driver_too() -> None:
    async def scenario() -> None:
        def on_event(event: Event) -> None:
            raise ValueError("a bug in the shell")

        sock = UdpSocket.open(LOOPBACK)
        driver: Driver[Event] = Driver(ToyCore(), sock, on_event)
        sock.send([Transmit(b"hello", sock.address)])
        with pytest.raises(ValueError, match="a bug in the shell"):
            await driver.run()
        sock.close()

    run(scenario)


def test_a_source_that_fails_ends_the_driver() -> None:
    """As a data plane of which a thread panicked."""

    class Broken(ScriptedSource):
        def receive(self, limit: int) -> Sequence[Datagram]:
            raise SystemFailure("a thread of the data plane panicked")

    async def scenario() -> None:
        source = Broken()
        driver: Driver[Event] = Driver(ToyCore(), source, lambda event: None)
        source.socket.send([Transmit(b"wake", source.socket.address)])
        with pytest.raises(SystemFailure, match="panicked"):
            await driver.run()
        source.socket.close()

    run(scenario)


def test_stop_sends_the_last_words_and_ends_run() -> None:
    async def scenario() -> None:
        source = ScriptedSource()
        core = ToyCore()
        driver: Driver[Event] = Driver(core, source, lambda event: None)
        task = asyncio.ensure_future(driver.run())
        await turn()
        core.say(b"bye", Address("127.0.0.1", 9))
        driver.stop()
        driver.stop()
        await task
        source.socket.close()
        assert [t.data for t in source.sent] == [b"bye"]
        with pytest.raises(UsageError):
            driver.start()

    run(scenario)


def test_cancelling_run_stops() -> None:
    async def scenario() -> None:
        running = Running()
        task = asyncio.ensure_future(running.driver.run())
        running.core.say(b"here", running.socket.address)
        running.driver.wake()
        await running.next_event()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not running.driver.is_running
        running.socket.close()

    run(scenario)


def test_events_may_give_commands_and_stop() -> None:
    async def scenario() -> None:
        sock = UdpSocket.open(LOOPBACK)
        core = ToyCore()
        heard: list[bytes] = []

        def on_event(event: Event) -> None:
            assert isinstance(event, Heard)
            heard.append(event.data)
            if len(heard) == 3:
                driver.stop()
            core.say(b"again", sock.address)
            driver.wake()

        driver: Driver[Event] = Driver(core, sock, on_event)
        core.say(b"first", sock.address)
        await driver.run()
        sock.close()
        assert heard == [b"first", b"again", b"again"]

    run(scenario)


def test_own_clock_and_after_receive() -> None:
    async def scenario() -> None:
        sock = UdpSocket.open(LOOPBACK)
        told: list[Event] = []
        driver: Driver[Event] = Driver(
            ToyCore(), sock, told.append, clock=lambda: 77.0, after_receive=lambda: calls.append(1)
        )
        calls: list[int] = []
        sock.send([Transmit(b"x", sock.address)])
        task = asyncio.ensure_future(driver.run())
        while not told:
            await turn()
        driver.stop()
        await task
        sock.close()
        assert isinstance(told[0], Heard)
        assert told[0].at == 77.0
        assert calls == [1]

    run(scenario)
