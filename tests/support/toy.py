"""A small core for tests of what runs cores: it sends, echoes, ticks and reports."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from ginnel.base.core import TimerTable
from ginnel.base.types import Address, Deadline, Transmit


@dataclass(frozen=True, slots=True)
class Heard:
    """A datagram arrived."""

    data: bytes
    source: Address
    local_ip: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Ticked:
    """The timer went off."""

    at: float


class ToyTimer(Enum):
    """The timers of `ToyCore`."""

    TICK = 1


class ToyCore:
    """Answers each datagram that starts with `?` by the same with `!`; `crash` raises."""

    def __init__(self, *, interval: float | None = None, now: float = 0.0) -> None:
        self.interval = interval
        self._timers: TimerTable[ToyTimer] = TimerTable()
        self._out: deque[Transmit] = deque()
        self._events: deque[Heard | Ticked] = deque()
        if interval is not None:
            self._timers.set(ToyTimer.TICK, now + interval)

    def say(self, data: bytes, to: Address, source_ip: str | None = None) -> None:
        """Send a datagram."""
        self._out.append(Transmit(data, to, source_ip))

    def tick_at(self, at: float) -> None:
        """Arm the timer."""
        self._timers.set(ToyTimer.TICK, at)

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Report and, if asked, answer."""
        if data == b"crash":
            raise RuntimeError("a bug in the core")
        self._events.append(Heard(data, source, local_ip, now))
        if data.startswith(b"?"):
            self.say(b"!" + data[1:], source, local_ip)

    def handle_timeout(self, *, now: float) -> None:
        """Report the tick and arm the next."""
        for key in self._timers.expire(now):
            self._events.append(Ticked(now))
            if self.interval is not None:
                self._timers.set(key, now + self.interval)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> Heard | Ticked | None:
        """Return the next event."""
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return the timer."""
        return self._timers.deadline()
