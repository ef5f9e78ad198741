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
QUICK_GAP = 0.125  # s between checks that the user asked for at once; 8 of them bear 5 % loss well
QUICK_PATIENCE = 1.0  # s until such checks call the path dead, or four round trips if that is more
MAX_QUICK_PATIENCE = 2.0  # s


@dataclass(slots=True)
class Consent:
    """The state of consent on one selected pair; times in seconds."""

    keepalive: float
    disconnected_timeout: float
    failed_timeout: float
    answered_at: float
    next_at: float
    latency: float = 0.0
    quick_until: float | None = None  # a quick check is under way
    is_lent: bool = False  # somebody else asks and answers

    def check_now(self, now: float) -> None:
        """Ask at once and quickly again; nothing changes while that is under way."""
        if self.is_lent:  # the last answer is not known, but nobody has missed one
            self.take_back(now, now - self.keepalive)
        if self.quick_until is None:
            self.quick_until = now + max(QUICK_PATIENCE, min(4 * self.latency, MAX_QUICK_PATIENCE))
            self.next_at = now

    def take_back(self, now: float, answered_at: float) -> None:
        """Ask again ourselves, at once."""
        self.is_lent = False
        self.answered_at = max(self.answered_at, answered_at)
        self.next_at = now

    def take_quick_failure(self, now: float) -> bool:
        """Say once whether a quick check was in vain; the path is then disconnected at once."""
        if self.quick_until is None or now < self.quick_until:
            return False
        self.quick_until = None
        self.answered_at = min(self.answered_at, now - self.disconnected_timeout)
        return True

    def on_answer(self, now: float, latency: float, rng: Rng) -> None:
        """A check was answered after `latency` seconds."""
        self.answered_at = now
        self.latency = latency
        self.quick_until = None
        self.next_at = now + self.keepalive * rng.uniform(1 - JITTER, 1 + JITTER)

    def on_sent(self, now: float) -> None:
        """A check went out: ask again soon unless it is answered."""
        if self.quick_until is not None:
            self.next_at = now + QUICK_GAP
            return
        soon = max(MIN_RETRY, 2 * self.latency)
        self.next_at = now + (SLOW_RETRY if self.is_disconnected(now) else soon)

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
        due = min(self.next_at, dead_at)
        return due if self.quick_until is None else min(due, self.quick_until)
