"""The five verbs of a core, its table of timers, and what a driver needs of a socket.

A core computes, a shell acts. After any `handle_*` or command the shell drains `poll_transmit` and
`poll_event` until None and then arms one timer with `poll_deadline`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from ginnel.base.types import Address, Datagram, Deadline, Transmit

EventT_co = TypeVar("EventT_co", covariant=True)
KeyT = TypeVar("KeyT", bound=Hashable)


class Core(Protocol[EventT_co]):
    """A sans-IO protocol core; `now` is monotonic seconds of one clock."""

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Take one datagram; never raises for its bytes. `local_ip`: where it arrived, if known."""
        ...

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due; a late or repeated call is harmless."""
        ...

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send; call until None."""
        ...

    def poll_event(self) -> EventT_co | None:
        """Return the next event (a frozen dataclass); call until None."""
        ...

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted next, or None."""
        ...


class DatagramSource(Protocol):
    """What the driver reads from and writes to: a UDP socket, or a data plane."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when datagrams wait."""
        ...

    def receive(self, limit: int) -> Sequence[Datagram]:
        """Return up to `limit` waiting datagrams without blocking; fewer than limit: drained."""
        ...

    def send(self, transmits: Sequence[Transmit]) -> int:
        """Send without blocking; return how many the system took (losses are counted inside)."""
        ...


class TimerTable(Generic[KeyT]):
    """All timers of one core: at most one instant for each key.

    Small tables are scanned: a core has few kinds of timers. Keys with many instances (requests,
    pairs) keep their own order and put their earliest instant here.
    """

    __slots__ = ("_at", "_earliest")

    def __init__(self) -> None:
        self._at: dict[KeyT, float] = {}
        self._earliest: Deadline | None = None  # None: nothing is armed, or look again

    def set(self, key: KeyT, at: float) -> None:
        """Arm or move the timer `key` to `at`."""
        self._at[key] = at
        self._earliest = None

    def set_earlier(self, key: KeyT, at: float) -> None:
        """Arm the timer `key`, or move it only if `at` is earlier."""
        if at < self._at.get(key, float("inf")):
            self.set(key, at)

    def stop(self, key: KeyT) -> None:
        """Disarm the timer `key`; harmless if it is not armed."""
        self._at.pop(key, None)
        self._earliest = None

    def get(self, key: KeyT) -> float | None:
        """Return when `key` is due, or None."""
        return self._at.get(key)

    def expire(self, now: float) -> Iterator[KeyT]:
        """Disarm and yield each key due at `now`, earliest first; a handler may arm it again."""
        first = self.deadline()
        if first is None or first.at > now:
            return
        due = sorted((at, index) for index, at in enumerate(self._at.values()) if at <= now)
        keys = list(self._at)
        for at, index in due:
            if self._at.get(keys[index]) == at:  # an earlier handler may have moved or stopped it
                self.stop(keys[index])
                yield keys[index]

    def deadline(self) -> Deadline | None:
        """Return the earliest instant and its key's name, or None."""
        if self._earliest is None and self._at:
            key = min(self._at, key=self._at.__getitem__)
            self._earliest = Deadline(self._at[key], getattr(key, "name", str(key)))
        return self._earliest


def earliest(*deadlines: Deadline | None) -> Deadline | None:
    """Return the earliest of several deadlines, or None."""
    first: Deadline | None = None
    for deadline in deadlines:
        if deadline is not None and (first is None or deadline < first):
            first = deadline
    return first
