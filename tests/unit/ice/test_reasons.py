"""The words for pairs that can't be direct."""

import pytest

from ginnel.base.types import Address
from ginnel.ice.candidate import (
    TCP_PREFERENCE,
    CandidateKind,
    make_host,
    make_relayed,
    make_remote,
    make_server_reflexive,
)
from ginnel.ice.reasons import NatKind, explain_failure, guess_nat, is_hopeless

BASE = Address("192.168.1.2", 4)
LOCAL = [make_host(BASE), make_server_reflexive(Address("203.0.113.1", 4), BASE)]
REMOTE = [make_remote(CandidateKind.SRFLX, Address("203.0.113.2", 4), 5, "f")]
CONE, SYMMETRIC, UNKNOWN = NatKind.CONE, NatKind.SYMMETRIC, NatKind.UNKNOWN


@pytest.mark.parametrize(
    ("nats", "words"),
    [
        ((SYMMETRIC, SYMMETRIC), "change ports (symmetric, symmetric)"),
        ((SYMMETRIC, CONE), "(symmetric, port-restricted): this side's changes ports"),
        ((CONE, SYMMETRIC), "(symmetric, port-restricted): the other side's changes ports"),
        ((CONE, CONE), "no check was answered (UDP blocked"),
        ((UNKNOWN, CONE), "this side knows no address seen from outside"),
        ((CONE, UNKNOWN), "the other side knows no address seen from outside"),
        ((SYMMETRIC, UNKNOWN), "the other side knows no address seen from outside"),
        ((UNKNOWN, UNKNOWN), "neither side knows an address seen from outside"),
        ((UNKNOWN, CONE), "a TURN server over TCP or TLS"),
        ((NatKind.BLOCKED, CONE), "no UDP gets out on this side"),
        ((CONE, NatKind.BLOCKED), "no UDP gets out on the other side"),
        ((NatKind.BLOCKED, NatKind.BLOCKED), "no UDP gets out on both sides"),
    ],
)
def test_the_kinds_of_nat_explain(nats: tuple[NatKind, NatKind], words: str) -> None:
    text = explain_failure(LOCAL, REMOTE, nats, pairs=2, limited=0)
    assert text.startswith("needs a relay: ")
    assert words in text


def test_missing_addresses_explain() -> None:
    nats = (CONE, CONE)
    assert "this machine" in explain_failure([], REMOTE, nats, pairs=0, limited=0)
    assert "other side" in explain_failure(LOCAL, [], nats, pairs=0, limited=0)
    assert "address family" in explain_failure(LOCAL, REMOTE, nats, pairs=0, limited=0)
    assert "held back" in explain_failure(LOCAL, REMOTE, nats, pairs=2, limited=3)


def test_candidates_show_the_kind_of_nat() -> None:
    assert guess_nat(LOCAL) is CONE
    assert guess_nat(LOCAL, symmetric=True) is SYMMETRIC
    assert guess_nat(LOCAL, restricted=True) is NatKind.RESTRICTED
    assert guess_nat(LOCAL[:1]) is UNKNOWN
    assert guess_nat([make_host(Address("198.51.100.1", 4))]) is NatKind.OPEN
    for preference, kind in ((65535, UNKNOWN), (TCP_PREFERENCE, NatKind.BLOCKED)):
        relayed = make_relayed(Address("203.0.113.9", 7), None, preference)
        assert guess_nat([LOCAL[0], relayed]) is kind
        assert guess_nat([*LOCAL, relayed]) is CONE


@pytest.mark.parametrize(
    ("nats", "hopeless"),
    [
        ((SYMMETRIC, SYMMETRIC), True),
        ((SYMMETRIC, NatKind.RESTRICTED), True),
        ((SYMMETRIC, CONE), False),
        ((SYMMETRIC, UNKNOWN), False),
        ((NatKind.RESTRICTED, NatKind.RESTRICTED), False),
        ((NatKind.BLOCKED, CONE), True),
        ((NatKind.BLOCKED, UNKNOWN), True),
    ],
)
def test_which_nats_keep_each_other_out(nats: tuple[NatKind, NatKind], hopeless: bool) -> None:
    assert is_hopeless(nats) is hopeless
    assert is_hopeless(nats[::-1]) is hopeless
