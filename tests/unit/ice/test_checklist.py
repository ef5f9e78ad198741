"""Forming, ordering and pruning of pairs; triggered checks."""

from ginnel.base.types import Address
from ginnel.ice.candidate import Candidate, CandidateKind, make_host, make_relayed, make_remote
from ginnel.ice.checklist import MAX_PAIRS, Checklist
from ginnel.ice.pair import PairState

LOCAL = make_host(Address("10.0.0.1", 1))


def remote(number: int, priority: int = 100, foundation: str = "") -> Candidate:
    address = Address("10.0.1.1", number)
    return make_remote(CandidateKind.HOST, address, priority, foundation or str(number))


def test_pairs_are_ordered_by_priority() -> None:
    checklist = Checklist(controlling=True)
    for number in (1, 3, 2):
        checklist.add(LOCAL, remote(number, number * 1000))
    assert [pair.remote.address.port for pair in checklist] == [3, 2, 1]
    first = checklist.next_check()
    assert first is not None
    assert first.remote.address.port == 3


def test_a_pair_is_added_once_and_families_are_kept_apart() -> None:
    checklist = Checklist(controlling=True)
    assert checklist.add(LOCAL, remote(1)) is checklist.add(LOCAL, remote(1, 7))
    six = make_remote(CandidateKind.HOST, Address("2001:db8::1", 1), 1, "f")
    assert checklist.add(LOCAL, six) is None
    assert len(checklist) == 1


def test_equal_foundations_are_frozen_but_never_delayed() -> None:
    checklist = Checklist(controlling=True)
    first = checklist.add(LOCAL, remote(1, 9, "same"))
    second = checklist.add(LOCAL, remote(2, 8, "same"))
    assert first is not None
    assert second is not None
    assert (first.state, second.state) == (PairState.WAITING, PairState.FROZEN)
    first.state = PairState.IN_PROGRESS
    assert checklist.next_check() is second
    checklist.thaw(second.foundation)
    assert second.state is PairState.WAITING
    assert checklist.count_running() == 2


def test_triggered_checks_come_first() -> None:
    checklist = Checklist(controlling=False)
    checklist.add(LOCAL, remote(1, 9))
    low = checklist.add(LOCAL, remote(2, 1))
    assert low is not None
    low.state = PairState.FAILED
    checklist.trigger(low)
    checklist.trigger(low)
    assert checklist.next_check() is low
    low.state = PairState.IN_PROGRESS
    following = checklist.next_check()
    assert following is not None
    assert following is not low


def test_there_are_at_most_100_pairs() -> None:
    checklist = Checklist(controlling=True)
    for number in range(1, MAX_PAIRS + 11):
        checklist.add(LOCAL, remote(number, number))
    assert len(checklist) == MAX_PAIRS
    assert min(pair.remote.priority for pair in checklist) == 11
    assert checklist.add(LOCAL, remote(60_000, 1)) is None


def test_a_signalled_candidate_takes_the_place_of_a_peer_reflexive_one() -> None:
    checklist = Checklist(controlling=True)
    old, new = remote(1, 1), remote(1, 1000)
    pair = checklist.add(LOCAL, old)
    checklist.replace_remote(old, new)
    assert pair is not None
    assert pair.remote is new


def test_only_valid_pairs_stay_after_the_selection() -> None:
    checklist = Checklist(controlling=True)
    chosen = checklist.add(LOCAL, remote(1))
    checklist.add(LOCAL, remote(2))
    assert chosen is not None
    chosen.state = PairState.SUCCEEDED
    checklist.stop_all_but(chosen)
    assert list(checklist) == [chosen]
    assert checklist.next_check() is None
    assert not checklist.has_checks()


def test_the_role_changes_the_order() -> None:
    checklist = Checklist(controlling=True)
    checklist.add(LOCAL, remote(1))
    before = next(iter(checklist)).priority
    checklist.set_controlling(False)
    assert next(iter(checklist)).priority == before - 1


def test_a_public_relay_is_not_sent_to_private_addresses() -> None:
    checklist = Checklist(controlling=True)
    relay = make_relayed(Address("192.0.2.9", 50000))
    home, phone = Address("192.168.1.2", 4000), Address("100.64.0.7", 4000)
    for address in (home, phone, Address("127.0.0.1", 4000)):
        assert checklist.add(relay, make_remote(CandidateKind.HOST, address, 9, "f")) is None
    seen = make_remote(CandidateKind.PRFLX, home, 9, "g")  # it came through the relay
    assert checklist.add(relay, seen) is not None
    own_relay = make_relayed(Address("192.168.1.9", 50000))
    assert checklist.add(own_relay, make_remote(CandidateKind.HOST, phone, 9, "f")) is not None
