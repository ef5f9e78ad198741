"""At most 50 unanswered checks for each address and minute."""

from ginnel.ice.limiter import UNANSWERED_PER_MINUTE, CheckLimiter


def test_unanswered_checks_are_bounded_for_each_address() -> None:
    limiter = CheckLimiter()
    taken = sum(limiter.take("198.51.100.1", now=0.0) for _ in range(100))
    assert taken == UNANSWERED_PER_MINUTE
    assert limiter.take("198.51.100.2", now=0.0)
    assert not limiter.take("198.51.100.1", now=0.5)
    assert limiter.take("198.51.100.1", now=60.0)


def test_answered_checks_are_given_back() -> None:
    limiter = CheckLimiter()
    for _ in range(1000):
        assert limiter.take("198.51.100.1", now=0.0)
        limiter.give_back("198.51.100.1", now=0.0)
