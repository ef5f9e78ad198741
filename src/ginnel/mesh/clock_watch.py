"""Signs of a wrong clock: messages of another time, or nobody found though we are registered.

A member whose clock is far off looks for the others where they don't register, and they for it:
that members don't meet is the only sign.
"""

from __future__ import annotations

from datetime import UTC, datetime

LONELY_S = 30.0  # seconds without finding anybody until the clock is suspected
LOOK_S = 5.0  # seconds between two looks while nobody is found and we aren't registered yet


class ClockWatch:
    """Since when a member is alone, and what that says of its clock."""

    def __init__(self) -> None:
        self._lonely_since: float | None = None

    def look(
        self, *, is_lonely: bool, is_registered: bool, is_late: bool, now: float, unix_now: float
    ) -> str:
        """Take how things stand; return what to tell, or nothing.

        Args:
            is_lonely: there are other members, and none is found or connected.
            is_registered: somebody stores our presence.
            is_late: a message of another member was sent at another time than ours.
            now, unix_now: seconds.
        """
        if not is_lonely or not is_registered:
            self._lonely_since = None
        elif self._lonely_since is None:
            self._lonely_since = now
        if is_late:
            return "another member's clock differs from this machine's by more than 10 minutes"
        if self._lonely_since is not None and now - self._lonely_since >= LONELY_S:
            shown = datetime.fromtimestamp(unix_now, UTC).strftime("%Y-%m-%d")
            return f"no member is found: all are off, or this clock is wrong (it shows {shown})"
        return ""

    def next_look(self, now: float) -> float:
        """Return when a look is wanted again of who is lonely and was told nothing (seconds)."""
        if self._lonely_since is None:
            return now + LOOK_S
        return self._lonely_since + LONELY_S
