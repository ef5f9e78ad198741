"""Anything that is sealed and authenticated as it should be is counted, never raised."""

import coincurve
from hypothesis import given, settings
from hypothesis import strategies as st

from ginnel.base import rlp
from ginnel.base.errors import RemoteProtocolError
from ginnel.mesh import derive, join
from ginnel.mesh.envelope import Kind, Opener, build_envelope
from ginnel.mesh.join_attempt import AnswerDrop
from ginnel.mesh.rendezvous import open_presence
from support.joins import SEALER, AdminSide, attempt, joiner_keys
from support.members import NOW, MemberKeys, NetworkFactory

NET = NetworkFactory()
PI, LAPTOP = MemberKeys("raspberry-pi-attic"), MemberKeys("laptop-of-alice")
PERIOD = derive.period_of(NOW)
EPOCH_ID = derive.epoch_hash(NET.epoch_secret)[:8]
MEMBERSHIP = NET.membership(PI, LAPTOP)
ADMIN = AdminSide(NET)
WORD = ADMIN.invite(is_auto=True)
INVITE = join.parse_invite(WORD, unix_now=NOW)

bits = st.binary(max_size=40)
values = st.recursive(bits | st.integers(0, 2**70), lambda inner: st.lists(inner, max_size=6))
keys = st.sampled_from([bytes(32), b"\x01" + bytes(31), b"\xff" * 32, bytes(33), b"k" * 32])


def seal_request(text: bytes) -> bytes:
    point = derive.invite_point(NET.network_id, INVITE.secret, PERIOD)
    return join.seal_join(
        text,
        network_id=NET.network_id,
        invite_id=INVITE.invite_id,
        secret=INVITE.secret,
        tag=point.tag,
        recipient=INVITE.admin_id,
        recipient_key=INVITE.sealing_key,
        sealer=SEALER,
    )


@given(st.binary(max_size=300) | values.map(rlp.encode))
def test_any_text_as_a_join_request(text: bytes) -> None:
    assert ADMIN.book.handle_envelope(seal_request(text[:900]), unix_now=NOW).replies == ()


@given(st.dictionaries(st.integers(0, 8), values | keys, min_size=1, max_size=4))
@settings(max_examples=60)
def test_a_signed_join_request_of_anything(changes: dict[int, rlp.Encodable]) -> None:
    own = joiner_keys("somebody")
    fields: list[rlp.Encodable] = [1, INVITE.invite_id, *own.public, "somebody", bytes(16), NOW]
    for index, value in changes.items():
        fields[index] = value
    body = rlp.encode(fields)
    digest = derive.sha256(derive.label_bytes("join") + NET.network_id + body)
    compact = coincurve.PrivateKey(own.discovery.reveal()).sign_recoverable(digest, hasher=None)
    text = rlp.encode([body, derive.sign(own.identity, NET.network_id, "join", body), compact[:64]])
    if len(text) <= 900:
        before = len(ADMIN.membership.certificates())
        ADMIN.book.handle_envelope(seal_request(text), unix_now=NOW)
        assert len(ADMIN.membership.certificates()) - before in (0, 1)


@given(
    st.binary(max_size=300) | values.map(rlp.encode) | st.lists(values, min_size=7).map(rlp.encode),
    st.booleans(),
)
def test_any_text_as_a_join_answer(text: bytes, is_signed: bool) -> None:
    joiner = attempt(WORD, "laptop-of-alice")
    invite = join.parse_invite(WORD, unix_now=NOW)
    body = text[:800]
    if is_signed:
        body = rlp.encode([body, derive.sign(NET.admin, NET.network_id, "join answer", body)])
    envelope = join.seal_join(
        body,
        network_id=NET.network_id,
        invite_id=invite.invite_id,
        secret=invite.secret,
        tag=bytes(16),
        recipient=LAPTOP.member_id,
        recipient_key=derive.x25519_public(LAPTOP.sealing),
        sealer=SEALER,
    )
    joiner.handle_envelope(envelope, unix_now=NOW)
    assert joiner.granted is None
    assert sum(joiner.drops.values()) == 1
    assert AnswerDrop.SEAL not in joiner.drops


@given(
    st.dictionaries(st.integers(0, 9), values, max_size=3),
    st.sampled_from([kind for kind in Kind if kind is not Kind.JOIN]),
)
def test_a_signed_message_of_anything(changes: dict[int, rlp.Encodable], kind: Kind) -> None:
    opener = Opener(MEMBERSHIP, PI.member_id, [PI.sealing], SEALER)
    fields: list[rlp.Encodable] = [1, kind, LAPTOP.member_id, PI.member_id, EPOCH_ID, bytes(16)]
    fields += [1, NOW, b"", b"payload"]
    for index, value in changes.items():
        fields[index] = value
    body = rlp.encode(fields)[:800]
    text = rlp.encode([body, derive.sign(LAPTOP.identity, NET.network_id, "message", body)])
    point = derive.member_point(NET.network_id, NET.epoch_secret, PI.member_id, PERIOD)
    envelope = build_envelope(
        text,
        kind=kind,
        epoch_id=EPOCH_ID,
        tag=point.tag,
        recipient=PI.member_id,
        recipient_key=derive.x25519_public(PI.sealing),
        mac_key=derive.envelope_mac_key(NET.network_id, NET.epoch_secret, PI.member_id),
        network_id=NET.network_id,
        sealer=SEALER,
    )
    opened = opener.open(envelope, source="a storer", now=0.0, unix_now=NOW)
    assert (opened is None) == (sum(opener.drops.values()) == 1)


@given(st.binary(max_size=300) | values.map(rlp.encode))
def test_any_text_as_a_presence(text: bytes) -> None:
    point = derive.member_point(NET.network_id, NET.epoch_secret, PI.member_id, PERIOD)
    sealed = derive.seal_presence(point, bytes(12), text[:400])
    try:
        presence = open_presence(point, sealed)
    except RemoteProtocolError:
        return
    assert presence.period == PERIOD
