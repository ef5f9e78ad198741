"""Runs any core on asyncio: the one loop of the product.

After each datagram batch, timer and command: drain transmits, drain events, arm one timer. The
loop's clock is read only here. Failures of sending are the source's to count; an error that a core
or the event callback raises is a bug: the driver stops, logs it as CRITICAL and `run` raises it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from ginnel.base.core import Core, DatagramSource
from ginnel.base.errors import UsageError
from ginnel.base.types import Deadline

_log = logging.getLogger(__name__)

RECEIVE_BATCH = 64  # datagrams for each wake-up; then other tasks have their turn
ANSWER_BATCH = 8  # datagrams until answers are sent: who asked goes on while we do
DRAIN_BATCH = 1024  # transmits and events for each pass; then other tasks have their turn

EventT = TypeVar("EventT")


class Driver(Generic[EventT]):
    """Joins a core, a datagram source and an event callback.

    After a command to the core call `wake()`. `on_event` runs inside the loop and may give the core
    further commands. `after_receive` runs after each batch of datagrams, before the drain: a source
    that has more to tell than datagrams (an engine) is asked there.
    """

    def __init__(
        self,
        core: Core[EventT],
        source: DatagramSource,
        on_event: Callable[[EventT], None],
        *,
        clock: Callable[[], float] | None = None,
        after_receive: Callable[[], None] | None = None,
    ) -> None:
        self._core = core
        self._source = source
        self._on_event = on_event
        self._clock = clock
        self._after_receive = after_receive
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._fd = -1
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._is_draining = False
        self._is_again_wanted = False

    @property
    def is_running(self) -> bool:
        """Say whether it was started and has not stopped."""
        return self._ended is not None and not self._ended.done()

    def now(self) -> float:
        """Return the core's clock: monotonic seconds."""
        if self._clock is not None:
            return self._clock()
        return (self._loop or asyncio.get_running_loop()).time()

    def start(self) -> None:
        """Begin, inside a running loop.

        Raises:
            UsageError: it was started before.
        """
        self._begin()

    def stop(self) -> None:
        """End; what the core still wanted to send is sent first. Harmless when stopped."""
        if self._is_draining:
            self._send_batch()
        self.wake()
        self._end(None)

    async def run(self) -> None:
        """Start if that was not done, and wait until `stop`; cancelling it stops too.

        Raises:
            Exception: what the core or the event callback raised.
        """
        ended = self._ended or self._begin()
        try:
            await asyncio.shield(ended)
        finally:
            self.stop()

    def wake(self) -> None:
        """Drain and re-arm, after a command; harmless at any time, also inside `on_event`."""
        if self.is_running and not self._is_draining:
            self._guard(None)

    def _begin(self) -> asyncio.Future[None]:
        if self._ended is not None:
            raise UsageError("a driver starts once")
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._fd = self._source.fileno()
        self._loop.add_reader(self._fd, self._on_readable)
        self.wake()
        return self._ended

    def _on_readable(self) -> None:
        if self.is_running:
            self._guard(self._receive)

    def _on_again(self) -> None:
        self._is_again_wanted = False
        self._on_readable()

    def _on_timer(self) -> None:
        at, self._timer, self._timer_at = self._timer_at or 0.0, None, None
        # asyncio may call up to one tick of its clock early; the core must find its timer due.
        now = max(self.now(), at)
        self._guard(lambda: self._core.handle_timeout(now=now))

    def _guard(self, change: Callable[[], None] | None) -> None:
        try:
            if change is not None:
                change()
            self._drain()
        except Exception as error:  # the top of this shell: a bug below ends the driver
            name = type(self._core).__name__
            _log.critical("%s stopped by a bug", name, exc_info=True)
            self._end(error)

    def _receive(self) -> None:
        """Take what waits, and what comes while it is answered: a turn of the loop costs more."""
        handle = self._core.handle_datagram
        left = RECEIVE_BATCH
        while left > 0 and (datagrams := self._source.receive(left)):
            now = self.now()
            for number, (data, source, local_ip) in enumerate(datagrams, 1):
                handle(data, source, now=now, local_ip=local_ip)
                if not number % ANSWER_BATCH:
                    self._send_batch()
            self._send_batch()
            left -= len(datagrams)
        if self._after_receive is not None:
            self._after_receive()
        if left <= 0:
            self._want_again()

    def _want_again(self) -> None:
        if not self._is_again_wanted and self._loop is not None:
            self._is_again_wanted = True
            self._loop.call_soon(self._on_again)

    def _drain(self) -> None:
        self._is_draining = True
        try:
            for _ in range(DRAIN_BATCH):
                if not self.is_running or not (self._send_batch() or self._tell_one()):
                    break
            else:
                self._want_again()
        finally:
            self._is_draining = False
        if self.is_running:
            self._arm(self._core.poll_deadline())

    def _send_batch(self) -> bool:
        transmit = self._core.poll_transmit()
        if transmit is None:
            return False
        batch = [transmit]
        while len(batch) < RECEIVE_BATCH and (transmit := self._core.poll_transmit()) is not None:
            batch.append(transmit)
        self._source.send(batch)
        return True

    def _tell_one(self) -> bool:
        event = self._core.poll_event()
        if event is None:
            return False
        self._on_event(event)
        return True

    def _arm(self, deadline: Deadline | None) -> None:
        at = None if deadline is None else deadline.at
        if at == self._timer_at and (self._timer is not None or at is None):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, at
        if at is not None and self._loop is not None:
            self._timer = self._loop.call_later(max(0.0, at - self.now()), self._on_timer)

    def _end(self, error: Exception | None) -> None:
        if self._ended is None or self._ended.done() or self._loop is None:
            return
        self._loop.remove_reader(self._fd)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
