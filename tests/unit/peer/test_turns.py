"""Places to connect and the queues before them, by hand and against the invariants."""

import random

import pytest

from ginnel.peer.turns import MAX_CONNECTING, PER_PLACE, Place, Turns, Urgency

FIRST, AGAIN, BROKEN = Urgency.FIRST, Urgency.AGAIN, Urgency.BROKEN


def key(number: int) -> bytes:
    return bytes([number]) * 32


def called(turns: Turns) -> list[int]:
    found = []
    while (one := turns.poll_called()) is not None:
        assert turns.take_call(one)
        assert not turns.is_called(one)
        found.append(one[0])
    return found


def full(limit: int = 4) -> Turns:
    turns = Turns(limit)
    assert all(turns.take(key(100 + number), FIRST) for number in range(limit))
    return turns


def test_a_small_network_never_waits() -> None:
    turns = Turns()
    assert all(turns.take(key(number), FIRST) for number in range(MAX_CONNECTING))
    assert turns.take(key(3), FIRST)
    assert turns.count(Place.OFFER) == MAX_CONNECTING
    assert turns.waiting == 0
    assert not turns.take(key(99), FIRST)


def test_who_waits_is_called_in_the_order_of_asking() -> None:
    turns = full()
    for number in (5, 3, 9):
        assert not turns.take(key(number), FIRST)
        assert not turns.take(key(number), FIRST)  # asking again changes nothing
    turns.release(key(100))
    turns.release(key(101))
    assert called(turns) == [5, 3]
    assert turns.take(key(5), FIRST)  # it has its place now
    turns.release(key(5))
    assert called(turns) == [9]
    assert turns.waiting == 0


def test_a_broken_path_goes_first_and_a_vain_try_last() -> None:
    turns = full()
    assert not turns.take(key(1), AGAIN)
    assert not turns.take(key(2), FIRST)
    assert not turns.take(key(3), BROKEN)
    assert not turns.take(key(1), BROKEN)  # its urgency rises, behind the one before
    for number in range(100, 103):
        turns.release(key(number))
    assert called(turns) == [3, 1, 2]


def test_who_tries_again_gets_half_of_the_places_at_most() -> None:
    turns = Turns(4)
    assert [turns.take(key(number), AGAIN) for number in range(1, 4)] == [True, True, False]
    assert turns.take(key(4), FIRST)
    assert turns.take(key(5), FIRST)
    assert not turns.take(key(6), FIRST)
    turns.release(key(1))
    assert called(turns) == [6]
    turns.release(key(4))
    assert called(turns) == [3]


def test_one_place_is_enough_for_all() -> None:
    turns = Turns(1)
    assert turns.take(key(1), AGAIN)
    assert not turns.take(key(2), AGAIN)
    turns.release(key(1))
    assert called(turns) == [2]


def test_answers_and_slow_ones_have_places_of_their_own() -> None:
    turns = full(2)
    answering = [key(number) for number in range(1, 2 * PER_PLACE + 1)]
    assert all(turns.answer(one) for one in answering)
    assert not turns.answer(key(50))
    assert not turns.take(key(50), FIRST)  # it waits in one queue only
    assert turns.slow(answering[0])
    assert turns.slow(answering[0])
    assert called(turns) == [50]
    assert [turns.slow(one) for one in answering[1:]] == [True, True, True]
    assert not turns.slow(key(100))
    assert turns.count(Place.SLOW) == 2 * PER_PLACE


def test_who_waits_to_offer_may_answer_instead() -> None:
    turns = full()
    assert not turns.take(key(1), FIRST)
    assert turns.answer(key(1))
    assert turns.waiting == 0
    assert called(turns) == []


def test_a_late_answer_is_taken_beyond_the_limit() -> None:
    turns = full(1)
    for number in range(1, 5):
        turns.join(key(number))
    assert turns.count(Place.ANSWER) == 4
    turns.join(key(1))
    assert turns.count(Place.ANSWER) == 4


def test_who_leaves_the_queue_or_its_call_gives_the_place_on() -> None:
    turns = full(1)
    for number in (1, 2, 3):
        turns.take(key(number), FIRST)
    turns.release(key(1))
    turns.release(key(100))
    assert turns.is_called(key(2))
    turns.release(key(2))
    assert called(turns) == [3]


@pytest.mark.parametrize("seed", range(5))
def test_the_limits_hold_and_nobody_is_forgotten(seed: int) -> None:
    rng = random.Random(seed)
    turns = Turns(3)
    holding: set[int] = set()
    wanting: set[int] = set()
    for step in range(4000):
        number = rng.randrange(40)
        action = rng.randrange(5)
        if number in holding and action < 3:
            turns.release(key(number))
            holding.discard(number)
        elif number in holding:
            turns.slow(key(number))
        elif action == 0:
            wanting.add(number)
            if turns.answer(key(number)):
                holding.add(number)
        elif turns.take(key(number), rng.choice(list(Urgency))):
            holding.add(number)
        else:
            wanting.add(number)
        holding |= set(called(turns))
        wanting -= holding
        for place in Place:
            assert turns.count(place) <= turns.limits[place], step
        assert sum(turns.count(place) for place in Place) == len(holding)
        assert turns.waiting == len(wanting)
    while holding:
        turns.release(key(holding.pop()))
        holding |= set(called(turns))
        wanting -= holding
    assert not wanting
    assert turns.waiting == 0
