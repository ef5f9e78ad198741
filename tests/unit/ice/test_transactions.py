"""Retransmission: when, how often, and when a request is given up."""

from ginnel.base.types import Address, Transmit
from ginnel.ice.candidate import CandidateKind, make_host, make_remote
from ginnel.ice.pair import CandidatePair
from ginnel.ice.transactions import (
    MAX_SENDS,
    MAX_TRANSACTIONS,
    MIN_RTO,
    Purpose,
    Transaction,
    Transactions,
)

REMOTE = Address("10.0.0.2", 1)


def make_pair() -> CandidatePair:
    remote = make_remote(CandidateKind.HOST, REMOTE, 5, "f")
    return CandidatePair(make_host(Address("10.0.0.1", 1)), remote)


def make(number: int, pair: CandidatePair) -> Transaction:
    transmit = Transmit(b"", REMOTE)
    key = number.to_bytes(12, "big")
    return Transaction(key, pair, Purpose.CHECK, True, transmit, MIN_RTO, 0.0, MIN_RTO)


def test_the_times_of_a_request_without_answer() -> None:
    transactions = Transactions()
    transaction = make(1, make_pair())
    transactions.add(transaction)
    sent = []
    over_at = None
    while over_at is None:
        at = transactions.next_at()
        assert at is not None
        again, over = transactions.due(at)
        sent += [at for _ in again]
        over_at = at if over else None
    assert sent == [0.5, 1.5, 3.5, 7.5]
    assert len(sent) == MAX_SENDS - 1
    assert over_at == 10.0
    assert transactions.next_at() is None


def test_a_stopped_request_is_still_answered() -> None:
    transactions = Transactions()
    pair = make_pair()
    transaction = make(1, pair)
    transactions.add(transaction)
    assert transactions.has(pair, Purpose.CHECK)
    transactions.stop_retransmits(pair)
    assert not transactions.has(pair, Purpose.CHECK)
    assert transaction.id in transactions
    assert transactions.due(0.4) == ([], [])
    assert transactions.get(transaction.id) is transaction
    assert transactions.pop(transaction.id) is transaction


def test_the_number_of_open_requests_is_bounded() -> None:
    transactions = Transactions()
    pair = make_pair()
    for number in range(MAX_TRANSACTIONS + 5):
        transactions.add(make(number, pair))
    assert len(transactions) == MAX_TRANSACTIONS
    assert (4).to_bytes(12, "big") not in transactions
    transactions.drop_all_but(make_pair())
    assert len(transactions) == 0
    transactions.add(make(1, pair))
    transactions.clear()
    assert len(transactions) == 0
