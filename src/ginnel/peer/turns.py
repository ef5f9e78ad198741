"""Whose turn it is to connect: so many peers at once, and the others wait in a fair order.

Who starts in a network of hundreds would else negotiate with all of them at once: all their checks
share 200 a second (`ice.limiter`), and each would wait for the others. One `Turns` serves all
connections of a process. A connection takes a place before it offers or answers and gives it back
when it is connected, has failed or has had no answer; back-off holds no place.

Invariants:
- A peer holds at most one place and waits in at most one queue.
- Own offers, answers and slow negotiations have places of their own: no kind can keep out another.
- Who waits gets the next free place of its kind in the order of urgency, then of asking; those who
  try again get half of the offers' places at most, so that first tries are never shut out.

Source: DESIGN, "Peer connection"; RFC 8445 section 14.2 (the pace of checks over all agents).
"""

from __future__ import annotations

from enum import Enum, IntEnum

MAX_CONNECTING = 16  # own offers at once; of 200 checks a second each begins one in 80 ms, near Ta
PER_PLACE = 2  # answers, and slow ones, for each place of an own offer
ANSWER_WAIT = 2.0  # s that an offer holds a place unanswered: an answer takes less than 1 s
SILENT_WAIT = 1.0  # s for one that is sent again, to who did not answer the first
SLOW_AFTER = 2.0  # s of checks until a negotiation takes a slow place: most find a path in 1 s
SLOW_AGAIN = 1.0  # s until it asks again if there is none


class Urgency(IntEnum):
    """Who goes first."""

    BROKEN = 0  # a path in use does not answer
    FIRST = 1  # never tried, or tried when all was different
    AGAIN = 2  # after a vain try; or for a better path than one that works


class Place(Enum):
    """What a place is held for."""

    OFFER = "offer"
    ANSWER = "answer"
    SLOW = "slow"


class Turns:
    """Places and queues, by the remote peer's key; see the module."""

    def __init__(self, offers: int = MAX_CONNECTING) -> None:
        self.limits = {
            Place.OFFER: offers,
            Place.ANSWER: PER_PLACE * offers,
            Place.SLOW: PER_PLACE * offers,
        }
        self._held: dict[bytes, Place] = {}
        self._counts = dict.fromkeys(Place, 0)
        self._again: dict[bytes, None] = {}  # who holds an offer's place to try again
        self._queues: dict[Urgency, dict[bytes, None]] = {urgency: {} for urgency in Urgency}
        self._answering: dict[bytes, None] = {}  # who waits to answer
        self._called: dict[bytes, None] = {}  # who waited, has a place now and does not know it
        self._untold: dict[bytes, None] = {}  # of these, whom `poll_called` has not named

    def take(self, key: bytes, urgency: Urgency) -> bool:
        """Take a place for an offer; if there is none, queue up (and return False)."""
        if key in self._held:
            return True
        if key in self._answering:
            return False
        former = next((u for u in Urgency if key in self._queues[u]), None)
        if former is None or urgency < former:
            if former is not None:
                del self._queues[former][key]
            self._queues[urgency][key] = None
        self._call_next()
        return self._is_held_now(key)

    def answer(self, key: bytes) -> bool:
        """Take a place for an answer; if there is none, queue up (and return False)."""
        if key in self._held:
            return True
        for queue in self._queues.values():
            queue.pop(key, None)
        self._answering[key] = None
        self._call_next()
        return self._is_held_now(key)

    def join(self, key: bytes) -> None:
        """Go on although the place was given back: a late answer came; beyond the limit if needed.

        Whoever answers late had an offer that held a place, so few can do so at once.
        """
        if key not in self._held:
            self._leave_queues(key)
            self._hold(key, Place.ANSWER)

    def slow(self, key: bytes) -> bool:
        """Move to a slow place; False if there is none."""
        if self._held.get(key) in (None, Place.SLOW):
            return True
        if not self._has_room(Place.SLOW):
            return False
        self._drop(key)
        self._hold(key, Place.SLOW)
        self._call_next()
        return True

    def release(self, key: bytes) -> None:
        """Give the place back, or leave the queue; harmless without either."""
        self._leave_queues(key)
        if key in self._held:
            self._drop(key)
            self._call_next()

    def is_called(self, key: bytes) -> bool:
        """Say whether the peer waited and has a place now."""
        return key in self._called

    def take_call(self, key: bytes) -> bool:
        """As `is_called`; the call is over then."""
        self._untold.pop(key, None)
        return self._called.pop(key, key) is None

    def poll_called(self) -> bytes | None:
        """Return the next peer that got its place, or None: its connection has something to do."""
        key = next(iter(self._untold), None)
        if key is not None:
            del self._untold[key]
        return key

    def count(self, place: Place) -> int:
        """Return how many hold such a place."""
        return self._counts[place]

    @property
    def waiting(self) -> int:
        """Return how many wait."""
        return len(self._answering) + sum(map(len, self._queues.values()))

    def _is_held_now(self, key: bytes) -> bool:
        """Say whether who asks just now got its place: then it needn't be called."""
        self.take_call(key)
        return key in self._held

    def _call_next(self) -> None:
        while self._answering and self._has_room(Place.ANSWER):
            self._call(next(iter(self._answering)), Place.ANSWER)
        while self._has_room(Place.OFFER):
            key = next((k for u in Urgency for k in self._queues[u] if self._may_go(u)), None)
            if key is None:
                return
            is_again = key in self._queues[Urgency.AGAIN]
            self._call(key, Place.OFFER)
            if is_again:
                self._again[key] = None

    def _may_go(self, urgency: Urgency) -> bool:
        share = (self.limits[Place.OFFER] + 1) // 2
        return urgency is not Urgency.AGAIN or len(self._again) < share

    def _has_room(self, place: Place) -> bool:
        return self._counts[place] < self.limits[place]

    def _call(self, key: bytes, place: Place) -> None:
        self._leave_queues(key)
        self._hold(key, place)
        self._called[key] = self._untold[key] = None

    def _hold(self, key: bytes, place: Place) -> None:
        self._held[key] = place
        self._counts[place] += 1

    def _drop(self, key: bytes) -> None:
        self._counts[self._held.pop(key)] -= 1
        self._again.pop(key, None)
        self.take_call(key)

    def _leave_queues(self, key: bytes) -> None:
        self._answering.pop(key, None)
        for queue in self._queues.values():
            queue.pop(key, None)
