"""Pair priorities and what a pair says of itself."""

from ginnel.base.types import Address
from ginnel.ice.candidate import CandidateKind, make_host, make_remote
from ginnel.ice.pair import CandidatePair, PairState, pair_priority


def test_the_formula_of_the_pair_priority() -> None:
    assert pair_priority(3, 5) == 3 * 2**32 + 10
    assert pair_priority(5, 3) == 3 * 2**32 + 11
    assert pair_priority(4, 4) == 4 * 2**32 + 8


def test_a_pair_is_valid_once_it_succeeded() -> None:
    remote = make_remote(CandidateKind.HOST, Address("10.0.0.2", 1), 5, "f")
    pair = CandidatePair(make_host(Address("10.0.0.1", 1)), remote)
    assert not pair.is_valid
    pair.state = PairState.SUCCEEDED
    assert pair.is_valid
    assert str(pair) == "host 10.0.0.1:1 - host 10.0.0.2:1 (succeeded)"
