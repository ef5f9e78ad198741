"""Wall time for cores that are given monotonic time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WallClock:
    """Wall time as a function of monotonic time; replace it when the system's clock is set."""

    offset: float

    @classmethod
    def at(cls, unix_now: float, now: float) -> WallClock:
        """Return the clock that shows `unix_now` at `now`."""
        return cls(unix_now - now)

    def unix(self, now: float) -> float:
        """Return the wall time at `now`."""
        return now + self.offset
