"""Bounds that hold: the LRU mapping with pins, the token bucket, one bucket for each key."""

from ginnel.base.limits import BoundedLru, RateLimiter, TokenBucket


def test_least_recently_used_goes_first() -> None:
    lru: BoundedLru[str, int] = BoundedLru(2)
    lru.put("a", 1)
    lru.put("b", 2)
    assert lru.get("a") == 1
    assert lru.put("c", 3)
    assert list(lru) == ["a", "c"]
    assert (lru.get("b"), len(lru), "b" in lru) == (None, 2, False)


def test_peek_does_not_count_as_use_and_put_does() -> None:
    lru: BoundedLru[str, int] = BoundedLru(2)
    lru.put("a", 1)
    lru.put("b", 2)
    assert lru.peek("a") == 1
    lru.put("a", 4)
    lru.peek("b")
    lru.put("c", 3)
    assert list(lru) == ["a", "c"]
    assert lru.peek("a") == 4


def test_pinned_entries_stay_and_new_ones_are_refused() -> None:
    lru: BoundedLru[str, int] = BoundedLru(2)
    lru.pin("a")
    lru.put("a", 1)
    lru.put("b", 2)
    lru.pin("b")
    assert not lru.put("c", 3)
    assert lru.put("a", 9)
    lru.unpin("b")
    assert lru.put("c", 3)
    assert list(lru) == ["a", "c"]


def test_pop_removes_the_pin_too() -> None:
    lru: BoundedLru[str, int] = BoundedLru(1)
    lru.put("a", 1)
    lru.pin("a")
    assert lru.pop("a") == 1
    assert lru.pop("a") is None
    lru.put("a", 2)
    assert lru.put("b", 3)


def test_iteration_allows_changes() -> None:
    lru: BoundedLru[int, int] = BoundedLru(5)
    for key in range(5):
        lru.put(key, key)
    for key in lru:
        lru.pop(key)
    assert len(lru) == 0


def test_bucket_has_a_burst_and_a_rate() -> None:
    bucket = TokenBucket(2.0, 3.0, now=10.0)
    assert [bucket.take(now=10.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.take(now=10.5)
    assert not bucket.take(now=10.5)
    assert [bucket.take(now=1000.0) for _ in range(4)] == [True, True, True, False]


def test_bucket_takes_amounts_and_survives_a_clock_that_steps_back() -> None:
    bucket = TokenBucket(1.0, 10.0, now=10.0)
    assert bucket.take(now=10.0, amount=10.0)
    assert not bucket.take(now=5.0)
    assert bucket.take(now=6.0)


def test_limiter_is_for_each_key_and_bounded() -> None:
    limiter: RateLimiter[str] = RateLimiter(1.0, 1.0, limit=2)
    assert limiter.take("a", now=0.0)
    assert not limiter.take("a", now=0.0)
    assert limiter.take("b", now=0.0)
    assert limiter.take("c", now=0.0)  # pushes "a" out
    assert limiter.take("a", now=0.0)


def test_the_oldest_is_the_one_not_used_for_longest() -> None:
    lru: BoundedLru[str, int] = BoundedLru(2)
    assert lru.oldest() is None
    for key, value in (("a", 1), ("b", 2), ("c", 3)):
        lru.put(key, value)
    assert lru.oldest() == lru.oldest() == 2
    lru.get("b")
    assert lru.oldest() == 3
