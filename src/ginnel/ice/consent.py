"""Consent on the selected pair: when the next check goes out, and when the path counts as dead.

Only answers to our own checks count. An unanswered check is repeated quickly, so that single
losses don't look like a dead path.

Source: RFC 7675 section 5.1 (jitter of 20 %); seed 000 (4 s, 6 s, 6 s).
"""

from __future__ import annotations

from dataclasses import dataclass

from ginnel.base.chance import Rng

JITTER = 0.2  # part of the interval (RFC 7675 section 5.1)
MIN_RETRY = 0.25  # s between unanswered checks, at least two round trips
SLOW_RETRY = 1.0  # s between checks once the path is disconnected


@dataclass(slots=True)
class Consent:
    """The state of consent on one selected pair; times in seconds."""

    keepalive: float
    disconnected_timeout: float
    failed_timeout: float
    answered_at: float
    next_at: float
    latency: float = 0.0

    def on_answer(self, now: float, latency: float, rng: Rng) -> None:
        """A check was answered after `latency` seconds."""
        self.answered_at = now
        self.latency = latency
        self.next_at = now + self.keepalive * rng.uniform(1 - JITTER, 1 + JITTER)

    def on_sent(self, now: float) -> None:
        """A check went out: ask again soon unless it is answered."""
        quick = max(MIN_RETRY, 2 * self.latency)
        self.next_at = now + (SLOW_RETRY if self.is_disconnected(now) else quick)

    def is_disconnected(self, now: float) -> bool:
        """Say whether no answer came for the disconnected timeout."""
        return now >= self.answered_at + self.disconnected_timeout

    def is_failed(self, now: float) -> bool:
        """Say whether the failed timeout has passed too."""
        return now >= self.answered_at + self.disconnected_timeout + self.failed_timeout

    def deadline(self, now: float) -> float:
        """Return when something is due next."""
        dead_at = self.answered_at + self.disconnected_timeout
        if self.is_disconnected(now):
            dead_at += self.failed_timeout
        return min(self.next_at, dead_at)
