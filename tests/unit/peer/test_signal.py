"""The codec of offers, answers and candidates; limits; and bytes written by hand."""

from dataclasses import replace

import pytest

from ginnel.base import rlp
from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.base.types import Address
from ginnel.ice.candidate import CandidateKind, make_host, make_remote
from ginnel.ice.reasons import NatKind
from ginnel.peer.signal import (
    MAX_CANDIDATES,
    MAX_PAYLOAD,
    Feature,
    OfferAnswer,
    decode_candidates,
    decode_offer,
    encode_candidates,
    encode_offer,
    fit_candidates,
    parse_features,
)

SESSION = bytes(range(16))
UFRAG, PWD = "abcd", "p" * 24


def candidates(count: int, *, ipv6: bool = False) -> list:
    prefix = "2001:db8:1234:5678:9abc:def0:1234:" if ipv6 else "198.51.100."
    return [
        make_remote(CandidateKind.HOST, Address(f"{prefix}{n}", 40_000 + n), 2**30 + n, "abcdef")
        for n in range(1, count + 1)
    ]


def test_an_offer_comes_back_as_it_was() -> None:
    offer = OfferAnswer(
        SESSION,
        UFRAG,
        PWD,
        tuple(candidates(3) + candidates(2, ipv6=True)),
        b"12345678",
        "0.1.0",
        NatKind.SYMMETRIC,
        complete=False,
        wg_listen_port=51821,
        rosenpass_pub_key=b"r" * 32,
        rosenpass_addr="198.51.100.1:9999",
        pacing_ms=20,
    )
    assert decode_offer(encode_offer(offer)) == offer


def test_candidates_come_back_as_they_were() -> None:
    found = tuple(candidates(5))
    payload = encode_candidates(SESSION, found, NatKind.RESTRICTED)
    assert decode_candidates(payload) == (SESSION, found, NatKind.RESTRICTED)


def test_candidates_of_older_versions_tell_no_nat() -> None:
    assert decode_candidates(rlp.encode([SESSION, []])) == (SESSION, (), NatKind.UNKNOWN)


def test_the_layout() -> None:
    (candidate,) = candidates(1)
    items = rlp.decode(encode_offer(OfferAnswer(SESSION, UFRAG, PWD, (candidate,))))
    assert items == [
        SESSION,
        b"abcd",
        PWD.encode(),
        [[b"\x01", bytes([198, 51, 100, 1]) + b"\x9c\x41", (2**30 + 1).to_bytes(4), b"abcdef"]],
        bytes(8),
        b"",
        b"",
        b"\x01",
        b"",
        b"",
        b"",
        b"\x32",
    ]


@pytest.mark.parametrize("ipv6", [False, True])
def test_what_does_not_fit_is_left_for_later(ipv6: bool) -> None:
    many = candidates(30, ipv6=ipv6)
    fitting, rest = fit_candidates(many)
    assert len(fitting) <= MAX_CANDIDATES
    assert len(fitting) + len(rest) == 30
    assert min(c.priority for c in fitting) > max(c.priority for c in rest)
    payload = encode_offer(OfferAnswer(SESSION, "u" * 32, "p" * 64, fitting, version="v" * 32))
    assert len(payload) <= MAX_PAYLOAD


def test_too_large_a_payload_is_refused_on_both_ends() -> None:
    with pytest.raises(UsageError):
        encode_candidates(SESSION, candidates(60))
    with pytest.raises(RemoteProtocolError):
        decode_offer(bytes(MAX_PAYLOAD + 1))


def offer_items() -> list:
    return [SESSION, UFRAG, PWD, [], bytes(8), "", 0, 1, 51820, b"r" * 32, "192.0.2.1:9"]


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, b"short"),
        (1, "abc"),
        (1, "a" * 33),
        (1, "ab:d"),
        (2, "p" * 21),
        (2, "p" * 65),
        (3, b""),
        (3, [[1, b"12345", 1, "f"]]),
        (3, [[3, b"123456", 1, "f"]]),
        (3, [[9, b"123456", 1, "f"]]),
        (3, [[1, b"123456", 2**31, "f"]]),
        (3, [[1, b"123456", 1, "f" * 9]]),
        (3, [[1, b"123456", 1]]),
        (3, [[1, b"123456", 1, "f"]] * 21),
        (4, bytes(7)),
        (5, "v" * 33),
        (6, 256),
        (7, 2),
        (8, 65536),
        (9, b"r" * 33),
        (10, "a" * 48),
    ],
)
def test_malformed_offers_are_refused(index: int, value: object) -> None:
    items = offer_items()
    items[index] = value
    with pytest.raises(RemoteProtocolError):
        decode_offer(rlp.encode(items))


def test_later_versions_may_add_items_and_kinds_of_nat() -> None:
    items = [*offer_items(), 10, b"more"]
    items[6] = 200
    offer = decode_offer(rlp.encode(items))
    assert offer.nat is NatKind.UNKNOWN
    assert offer.pacing_ms == 10


def test_who_proposes_no_pacing_gets_that_of_the_rfc() -> None:
    assert decode_offer(rlp.encode(offer_items())).pacing_ms == 50


def test_an_offer_of_the_first_version_has_no_port_and_no_rosenpass() -> None:
    offer = decode_offer(rlp.encode(offer_items()[:8]))
    assert (offer.wg_listen_port, offer.rosenpass_pub_key, offer.rosenpass_addr) == (0, b"", "")


def test_the_largest_offer_with_rosenpass_fits_and_a_whole_key_is_refused() -> None:
    fitting, _ = fit_candidates(candidates(30))
    offer = OfferAnswer(
        SESSION,
        "u" * 8,
        "p" * 24,
        fitting,
        version="v" * 32,
        wg_listen_port=65535,
        rosenpass_pub_key=b"r" * 32,
        rosenpass_addr="a" * 47,
    )
    assert len(encode_offer(offer)) <= MAX_PAYLOAD
    with pytest.raises(UsageError, match="hash"):
        encode_offer(replace(offer, rosenpass_pub_key=bytes(524_160)))


def test_features_that_are_unknown_are_ignored() -> None:
    assert parse_features([7, 1, 1]) == (Feature.DIRECT_CHECK,)
    assert parse_features([]) == ()


def test_a_password_is_never_printed() -> None:
    assert PWD not in repr(OfferAnswer(SESSION, UFRAG, PWD))


def test_only_the_address_of_a_local_candidate_is_told() -> None:
    host = make_host(Address("192.168.1.2", 7))
    _, (told,), _ = decode_candidates(encode_candidates(SESSION, [host]))
    assert (told.address, told.kind, told.priority) == (host.address, host.kind, host.priority)
