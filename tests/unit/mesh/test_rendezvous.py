"""The wire format of ginnel-rdv: what is accepted, what is refused, what fits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ginnel.base import rlp
from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.base.types import Address, MemberId, NodeId, Secret
from ginnel.discv5.enr import address_fields, sign_enr
from ginnel.mesh import derive
from ginnel.mesh.rendezvous import (
    MAX_ENVELOPE,
    MAX_REQUEST,
    NEIGHBOURS,
    STORERS,
    Answer,
    DeliverRequest,
    LookupRequest,
    Presence,
    PushRequest,
    Refusers,
    RegisterRequest,
    RequestType,
    Status,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
    make_deliver,
    make_register,
    open_presence,
    peek_type,
    seal_presence,
    spread,
)
from support import rdv

STORER, REGISTRANT = NodeId(b"s" * 32), NodeId(b"r" * 32)
DKEY = Secret(b"d" * 16)
SEED = Secret(b"n" * 32)


def presence(point: derive.Point, **changes: object) -> Presence:
    plain = Presence(MemberId(b"m" * 32), point.period, int(rdv.UNIX), DKEY, (), b"x" * 32)
    return replace(plain, **changes)  # type: ignore[arg-type]  # the tests name real fields


def sign(body: bytes) -> bytes:
    return derive.sign(SEED, rdv.NETWORK_ID, "presence", body)


def test_register_is_bound_to_both_nodes() -> None:
    raw = make_register(
        rdv.point(), storer=STORER, registrant=REGISTRANT, dkey=DKEY, presence=b"p" * 300
    )
    request = decode_request(raw)
    assert isinstance(request, RegisterRequest)
    assert request.location == rdv.point().location
    assert request.is_signed(STORER, REGISTRANT)
    assert not request.is_signed(REGISTRANT, REGISTRANT)
    assert not request.is_signed(STORER, STORER)
    for changed in (
        replace(request, dkey=Secret(b"e" * 16)),
        replace(request, lifetime=599),
        replace(request, presence=b"q" * 300),
        replace(request, loc_pub=rdv.point(2).loc_pub),
        replace(request, loc_pub=bytes(32)),
    ):
        assert not changed.is_signed(STORER, REGISTRANT)


def test_only_the_owner_of_a_point_registers_it() -> None:
    with pytest.raises(UsageError, match="seed"):
        make_register(
            replace(rdv.point(), loc_seed=None),
            storer=STORER,
            registrant=REGISTRANT,
            dkey=DKEY,
            presence=b"",
        )


@pytest.mark.parametrize(
    "request_",
    [
        LookupRequest(STORER),
        DeliverRequest(STORER, b"m" * 16, b"e" * MAX_ENVELOPE),
        PushRequest(STORER, b"e" * MAX_ENVELOPE),
    ],
)
def test_requests_survive_a_round_trip_and_fit(request_: LookupRequest | PushRequest) -> None:
    raw = encode_request(request_)
    assert len(raw) <= MAX_REQUEST
    assert decode_request(raw) == request_


def test_a_deliver_of_the_largest_envelope_has_1146_bytes() -> None:
    assert len(make_deliver(STORER, DKEY, bytes(MAX_ENVELOPE))) == 1146


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc0",
        b"garbage",
        rlp.encode([1]),
        rlp.encode([1, 2]),
        rlp.encode([1, 2, b"short"]),
        rlp.encode([1, 2, [b"a list"]]),
        rlp.encode([1, 3, bytes(32), bytes(15), b""]),
        rlp.encode([1, 3, bytes(32), bytes(16), bytes(MAX_ENVELOPE + 1)]),
        rlp.encode([1, 1, bytes(32), bytes(16), 601, b"", bytes(64)]),
        rlp.encode([1, 1, bytes(32), bytes(16), 600, bytes(513), bytes(64)]),
        rlp.encode([1, 1, bytes(32), bytes(16), 600, b"", bytes(63)]),
        rlp.encode([1, 6, bytes(32)]),
        rlp.encode([b"\x00\x01", 2, bytes(32)]),
        rlp.encode([1, 2, bytes(32)]) + b"x",
        bytes(MAX_REQUEST + 1),
    ],
)
def test_malformed_requests_are_refused(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_request(raw)


def test_other_versions_and_types_are_not_served_and_more_items_are_ignored() -> None:
    assert decode_request(rlp.encode([2, 2, bytes(32)])) is None
    assert decode_request(rlp.encode([1, 4])) is None
    assert decode_request(rlp.encode([1, 2, STORER, b"later"])) == LookupRequest(STORER)


def test_the_type_can_be_peeked_at() -> None:
    for request, kind in (
        (LookupRequest(STORER), RequestType.LOOKUP),
        (DeliverRequest(STORER, bytes(16), bytes(1000)), RequestType.DELIVER),
        (PushRequest(STORER, b""), RequestType.PUSH),
        (PushRequest(STORER, bytes(500)), RequestType.PUSH),
    ):
        assert peek_type(encode_request(request)) is kind
    for raw in (b"", b"\xc0", b"\xff", b"\xc2\x01\x09", b"\xc2\x02\x06"):
        assert peek_type(raw) is None


def test_answers() -> None:
    for answer in (Answer(Status.DONE), Answer(Status.DONE, b"p"), Answer(Status.SLOW_DOWN)):
        assert decode_answer(encode_answer(answer)) == answer
    bad = [b"", rlp.encode([1]), rlp.encode([1, 9]), rlp.encode([2, 0]), bytes(2000)]
    for raw in [*bad, rlp.encode([1, 0, bytes(513)])]:
        with pytest.raises(RemoteProtocolError):
            decode_answer(raw)


def test_presence_opens_only_for_its_point() -> None:
    point = rdv.point()
    addresses = (Address("203.0.113.9", 7), Address("2001:db8::1", 8))
    sealed = seal_presence(
        point, presence(point, addresses=addresses), signer=sign, random_bytes=rdv.chance()
    )
    opened = open_presence(point, sealed)
    assert opened.addresses == addresses
    assert opened.dkey == DKEY
    public = derive.ed25519_public(SEED)
    assert derive.verify(public, rdv.NETWORK_ID, "presence", opened.raw_body, opened.signature)
    for wrong in (rdv.point(2), replace(point, location=NodeId(bytes(32)))):
        with pytest.raises(RemoteProtocolError):
            open_presence(wrong, sealed)
    with pytest.raises(RemoteProtocolError):
        open_presence(point, sealed[:-1] + bytes([sealed[-1] ^ 1]))
    with pytest.raises(RemoteProtocolError, match="period"):
        open_presence(replace(point, period=point.period + 1), sealed)


def test_an_invites_presence_is_unsigned() -> None:
    point = derive.invite_point(rdv.NETWORK_ID, Secret(b"i" * 16), 5)
    plain = presence(point, member_id=MemberId(b""), revocation_digest=b"")
    opened = open_presence(
        point, seal_presence(point, plain, signer=None, random_bytes=rdv.chance())
    )
    assert opened.member_id == b""
    assert opened.signature == b""


@pytest.mark.parametrize(
    "body",
    [
        [1, b"m" * 31, 0, 1, bytes(16), [], b""],
        [2, b"m" * 32, 0, 1, bytes(16), [], b""],
        [1, b"m" * 32, 0, 1, bytes(15), [], b""],
        [1, b"m" * 32, 0, 1, bytes(16), [[b"abc", 1]], b""],
        [1, b"m" * 32, 0, 1, bytes(16), [[b"abcd", 65536]], b""],
        [1, b"m" * 32, 0, 1, bytes(16), b"", b""],
        [1, b"m" * 32, 0],
    ],
)
def test_malformed_presences_are_refused(body: list[rlp.Encodable]) -> None:
    point = derive.member_point(rdv.NETWORK_ID, rdv.EPOCH, b"m" * 32, 0)
    sealed = derive.seal_presence(point, bytes(12), rlp.encode([body, bytes(64)]))
    with pytest.raises(RemoteProtocolError):
        open_presence(point, sealed)


def test_spread_takes_two_of_a_subnet_but_what_a_small_network_has() -> None:
    crowd = [rdv.contact(f"203.0.113.{i}") for i in range(1, 9)]
    others = [rdv.contact(f"198.51.{i}.1") for i in range(1, 9)]
    chosen = spread(crowd + others)
    assert chosen == crowd[:2] + others[:6]
    assert spread(crowd) == crowd[:3]
    assert spread(crowd[:1]) == crowd[:1]
    assert spread([]) == []


def test_neighbours_are_asked_besides_the_nodes_of_the_dht() -> None:
    records = [rdv.record(f"198.51.{n}.1") for n in range(STORERS + 1)]
    near = [rdv.contact(f"192.168.1.{n}") for n in range(1, NEIGHBOURS + 2)]
    refusers = Refusers()
    chosen = refusers.choose([*records, *near], now=0.0)
    assert [c.node_id for c in chosen[:STORERS]] == [r.node_id for r in records[:STORERS]]
    assert chosen[STORERS:] == near[:NEIGHBOURS]
    refusers.add(near[0].node_id, now=0.0)
    assert near[0] not in refusers.choose([*records, *near], now=1.0)
    assert refusers.choose(near[:1], now=1.0) == near[:1]  # nobody else is left


def test_with_ipv6_alone_the_same_nodes_are_chosen_and_asked_over_ipv6() -> None:
    both = address_fields(Address("203.0.113.1", 1)) | address_fields(Address("2001:db8::1", 2))
    records = [sign_enr(bytes([n]) * 32, 1, both) for n in (1, 2)] + [rdv.record("192.0.2.1")]
    refusers = Refusers()
    chosen = refusers.choose(records, now=0.0)
    refusers.is_ipv6_only = True
    over6 = refusers.choose(records, now=0.0)
    assert [c.node_id for c in over6] == [c.node_id for c in chosen]
    assert [c.address.is_ipv6 for c in over6] == [True, True, False]  # what has none stays
