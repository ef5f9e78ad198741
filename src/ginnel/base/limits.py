"""Bounds: a token bucket per source and a least-recently-used mapping.

Every queue, cache and table of a core is built from these or names its own limit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class BoundedLru(Generic[KeyT, ValueT]):
    """A mapping of at most `limit` entries; the least recently used goes first.

    A pinned key is never pushed out; where all are pinned a new key is refused.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._items: OrderedDict[KeyT, ValueT] = OrderedDict()
        self._pinned: dict[KeyT, None] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: KeyT) -> bool:
        return key in self._items

    def __iter__(self) -> Iterator[KeyT]:
        return iter(list(self._items))

    def get(self, key: KeyT) -> ValueT | None:
        """Return the value and mark it used, or None."""
        value = self._items.get(key)
        if value is not None:
            self._items.move_to_end(key)
        return value

    def peek(self, key: KeyT) -> ValueT | None:
        """Return the value without marking it used, or None."""
        return self._items.get(key)

    def oldest(self) -> ValueT | None:
        """Return the value that was not used for longest, without marking it used, or None."""
        return next(iter(self._items.values()), None)

    def put(self, key: KeyT, value: ValueT) -> bool:
        """Store the value; return False (and store nothing) if only pinned entries are left."""
        if key not in self._items and len(self._items) >= self.limit and not self._evict():
            return False
        self._items[key] = value
        self._items.move_to_end(key)
        return True

    def pop(self, key: KeyT) -> ValueT | None:
        """Remove the entry and return its value, or None."""
        self._pinned.pop(key, None)
        return self._items.pop(key, None)

    def pin(self, key: KeyT) -> None:
        """Keep the key, present or not yet, until `unpin` or `pop`."""
        self._pinned[key] = None

    def unpin(self, key: KeyT) -> None:
        """Let the key be pushed out again."""
        self._pinned.pop(key, None)

    def _evict(self) -> bool:
        for key in self._items:
            if key not in self._pinned:
                del self._items[key]
                return True
        return False


class TokenBucket:
    """A rate with a burst: `rate` tokens a second, at most `burst` saved up."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, *, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = now

    def take(self, *, now: float, amount: float = 1.0) -> bool:
        """Take `amount` tokens if they are there; return whether they were."""
        self._tokens = min(self.burst, self._tokens + max(0.0, now - self._at) * self.rate)
        self._at = now
        if self._tokens < amount:
            return False
        self._tokens -= amount
        return True


class RateLimiter(Generic[KeyT]):
    """One token bucket for each of the last `limit` keys (a source address, a /24, a member)."""

    def __init__(self, rate: float, burst: float, *, limit: int) -> None:
        self.rate = rate
        self.burst = burst
        self._buckets: BoundedLru[KeyT, TokenBucket] = BoundedLru(limit)

    def take(self, key: KeyT, *, now: float, amount: float = 1.0) -> bool:
        """Take `amount` tokens of the key's bucket if they are there; return whether they were."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = TokenBucket(self.rate, self.burst, now=now)
            self._buckets.put(key, bucket)
        return bucket.take(now=now, amount=amount)
