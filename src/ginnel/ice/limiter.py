"""The bound on unanswered checks for each address, shared by all sessions of a process.

So nobody can make us flood a third party by signalling its address. An answer gives the check
back.

Source: DESIGN, "Peer connection".
"""

from __future__ import annotations

from ginnel.base.limits import RateLimiter

UNANSWERED_PER_MINUTE = 50  # checks for each IP and minute, over all sessions
MAX_ADDRESSES = 4096  # IPs remembered; 200 peers with 20 candidates each


class CheckLimiter:
    """Counts checks for each IP; one object serves all agents of a process."""

    def __init__(self) -> None:
        rate = UNANSWERED_PER_MINUTE / 60
        self._limiter: RateLimiter[str] = RateLimiter(
            rate, UNANSWERED_PER_MINUTE, limit=MAX_ADDRESSES
        )

    def take(self, ip: str, *, now: float) -> bool:
        """Say whether one more check may go to the IP, and count it."""
        return self._limiter.take(ip, now=now)

    def give_back(self, ip: str, *, now: float) -> None:
        """Take back one check that was answered."""
        self._limiter.take(ip, now=now, amount=-1.0)
