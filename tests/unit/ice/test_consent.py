"""When consent is asked for, and when a path counts as dead."""

import random

from ginnel.ice.consent import Consent


def make() -> Consent:
    return Consent(4.0, 6.0, 6.0, answered_at=0.0, next_at=0.0)


def test_an_answer_moves_the_next_check_by_four_seconds_and_jitter() -> None:
    consent = make()
    rng = random.Random(1)
    for _ in range(50):
        consent.on_answer(100.0, 0.1, rng)
        assert 103.2 <= consent.next_at <= 104.8


def test_unanswered_checks_follow_quickly_then_slowly() -> None:
    consent = make()
    consent.on_sent(4.0)
    assert consent.next_at == 4.25
    consent.latency = 0.3
    consent.on_sent(4.25)
    assert consent.next_at == 4.85
    consent.on_sent(7.0)
    assert consent.next_at == 8.0


def test_six_seconds_to_disconnected_and_six_more_to_failed() -> None:
    consent = make()
    consent.next_at = 100.0
    assert not consent.is_disconnected(5.9)
    assert consent.deadline(5.0) == 6.0
    assert consent.is_disconnected(6.0)
    assert not consent.is_failed(11.9)
    assert consent.deadline(7.0) == 12.0
    assert consent.is_failed(12.0)


def test_what_was_lent_is_asked_for_again_at_once() -> None:
    consent = make()
    consent.on_answer(100.0, 0.1, random.Random(1))
    consent.is_lent = True
    consent.take_back(150.0, 145.0)
    assert not consent.is_lent
    assert consent.next_at == 150.0
    assert not consent.is_disconnected(150.9)
    assert consent.is_disconnected(151.0)


def test_a_quick_check_takes_back_what_was_lent() -> None:
    consent = make()
    consent.on_answer(100.0, 0.1, random.Random(1))
    consent.is_lent = True
    consent.check_now(150.0)
    assert not consent.is_lent
    assert consent.next_at == 150.0
    assert not consent.is_disconnected(150.9)
    assert consent.take_quick_failure(151.0)
    assert consent.is_disconnected(151.0)
