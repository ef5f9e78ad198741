"""Votes on our own address."""

from __future__ import annotations

import pytest

from ginnel.base.types import Address, parse_address
from ginnel.discv5.endpoint import MAX_VOTERS, SAME_TIME, EndpointVotes, View

SEEN = Address("198.51.100.1", 4000)
OTHER = Address("198.51.100.1", 4001)


def observer(n: int, host: int = 1) -> Address:
    return Address(f"203.0.{n}.{host}", 9)


def test_one_vote_suffices() -> None:
    votes = EndpointVotes(600)
    assert votes.vote(observer(1), SEEN, 0.0)
    assert votes.view == View(SEEN, False, 1)
    assert not votes.vote(observer(1), SEEN, 1.0)


def test_two_ports_are_a_symmetric_nat() -> None:
    votes = EndpointVotes(600)
    votes.vote(observer(1), SEEN, 0.0)
    assert votes.vote(observer(2), OTHER, 1.0)
    assert votes.view.symmetric


def test_a_subnet_has_one_vote() -> None:
    votes = EndpointVotes(600)
    for host in range(1, 6):
        votes.vote(observer(1, host), OTHER, 0.0)
    votes.vote(observer(2), SEEN, 1.0)
    votes.vote(observer(3), SEEN, 2.0)
    assert votes.view == View(SEEN, True, 3)


def test_an_older_mapping_is_forgotten() -> None:
    votes = EndpointVotes(600)
    votes.vote(observer(1), SEEN, 0.0)
    votes.vote(observer(2), OTHER, SAME_TIME + 1)
    assert votes.view == View(OTHER, False, 1)


def test_votes_age_out() -> None:
    votes = EndpointVotes(600)
    votes.vote(observer(1), SEEN, 0.0)
    assert votes.next_at() == 600
    assert votes.has_voted(observer(1), 10.0)
    assert votes.expire(600.0)
    assert votes.view == View(None, False, 0)
    assert votes.next_at() is None
    assert not votes.has_voted(observer(1), 600.0)


@pytest.mark.parametrize(
    ("who", "seen", "counts"),
    [
        ("10.0.0.1:9", "198.51.100.1:4000", False),
        ("100.64.0.1:9", "198.51.100.1:4000", False),
        ("10.0.0.1:9", "10.0.0.7:4000", True),
        ("203.0.113.1:9", "10.0.0.7:4000", False),
        ("127.0.0.1:9", "127.0.0.1:4000", True),
        ("10.0.0.1:9", "127.0.0.1:4000", False),
        ("203.0.113.1:9", "198.51.100.1:0", False),
        ("203.0.113.1:9", "224.0.0.1:7", False),
        ("[2001:db8::1]:9", "[2001:db8::2]:7", True),
        ("203.0.113.1:9", "[2001:db8::2]:7", False),
    ],
)
def test_who_may_vote_on_what(who: str, seen: str, counts: bool) -> None:
    votes = EndpointVotes(600)
    assert votes.vote(parse_address(who), parse_address(seen), 0.0) is counts


def test_public_observers_overrule_private_ones() -> None:
    votes = EndpointVotes(600)
    for n in range(1, 5):
        votes.vote(Address(f"10.0.0.{n}", 9), Address("10.0.0.9", 4000), 0.0)
    assert votes.view == View(Address("10.0.0.9", 4000), False, 4)
    votes.vote(observer(1), SEEN, 0.0)
    assert votes.view.address == SEEN


def test_a_vote_ends_exactly_when_it_is_said_to() -> None:
    for number in range(200):
        votes = EndpointVotes(600.0)
        votes.vote(observer(1), SEEN, 1000.0 + number / 7)
        at = votes.next_at()
        assert at is not None
        assert votes.expire(at)
        assert votes.next_at() is None


def test_after_a_doubt_the_first_view_of_a_new_address_decides() -> None:
    votes = EndpointVotes(600)
    for n in range(5):
        votes.vote(observer(n), SEEN, float(n))
    votes.doubt(10.0)
    assert votes.view == View(SEEN, False, 5)
    moved = Address("198.51.100.2", 4000)
    assert votes.vote(observer(1), moved, 10.5)
    assert votes.view == View(moved, False, 1)


def test_after_a_doubt_one_observer_can_not_tell_that_a_nat_is_not_symmetric_any_more() -> None:
    votes = EndpointVotes(600)
    votes.vote(observer(1), SEEN, 0.0)
    votes.vote(observer(2), OTHER, 1.0)
    votes.doubt(10.0)
    moved = Address("198.51.100.2", 4000)
    votes.vote(observer(1), moved, 10.5)
    assert votes.view == View(moved, True, 1)
    votes.vote(observer(2), moved, 10.6)
    assert votes.view == View(moved, False, 2)


def test_a_doubt_that_proves_wrong_changes_nothing() -> None:
    votes = EndpointVotes(600)
    votes.vote(observer(1), SEEN, 0.0)
    votes.vote(observer(2), OTHER, 1.0)
    before = votes.view
    assert before.symmetric
    votes.doubt(10.0)
    votes.vote(observer(2), OTHER, 10.5)
    votes.vote(observer(1), SEEN, 10.6)
    assert votes.view.symmetric
    assert votes.view.observers == 2


def test_voters_are_bounded() -> None:
    votes = EndpointVotes(600)
    for number in range(MAX_VOTERS * 2):
        votes.vote(Address(f"203.{number}.1.1", 9), SEEN, number / 10)
    assert votes.view == View(SEEN, False, MAX_VOTERS)
