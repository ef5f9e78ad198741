"""Bounds on the checks of all sessions of a process: unanswered ones for each address, and in all.

So nobody can make us flood a third party by signalling its address. An answer gives the check
back. All sessions together begin at most one new check each 5 ms.

Source: DESIGN, "Peer connection"; RFC 8445 section 14.2 (5 ms over all agents).
"""

from __future__ import annotations

from ginnel.base.limits import RateLimiter

UNANSWERED_PER_MINUTE = 50  # checks for each IP and minute, over all sessions
MIN_GAP = 0.005  # s between two new checks, whichever agents send them
MAX_ADDRESSES = 4096  # IPs remembered; 200 peers with 20 candidates each


class CheckLimiter:
    """Counts checks for each IP; one object serves all agents of a process."""

    def __init__(self) -> None:
        self._next_at = float("-inf")
        rate = UNANSWERED_PER_MINUTE / 60
        self._limiter: RateLimiter[str] = RateLimiter(
            rate, UNANSWERED_PER_MINUTE, limit=MAX_ADDRESSES
        )

    def next_start(self, now: float) -> float:
        """Return when a new check may go out; call `on_start` when it does."""
        return max(now, self._next_at)

    def on_start(self, now: float) -> None:
        """A new check goes out now."""
        self._next_at = now + MIN_GAP

    def take(self, ip: str, *, now: float) -> bool:
        """Say whether one more check may go to the IP, and count it."""
        return self._limiter.take(ip, now=now)

    def give_back(self, ip: str, *, now: float) -> None:
        """Take back one check that was answered."""
        self._limiter.take(ip, now=now, amount=-1.0)
