from collections.abc import Callable
from dataclasses import replace

import pytest

from ginnel.base import rlp
from ginnel.base.errors import UsageError
from ginnel.mesh import derive
from ginnel.mesh.envelope import (
    BURST_PER_SOURCE,
    FETCHES_BURST,
    MAX_ENVELOPE,
    MAX_OPEN_OFFERS,
    MAX_PAYLOAD,
    MAX_SESSIONS,
    REPLAY_KEPT_S,
    EnvelopeDrop,
    Kind,
    Message,
    Opened,
    Opener,
    ReplayWindow,
    build_envelope,
    seal_envelope,
)
from ginnel.mesh.epochs import EpochKey
from ginnel.mesh.membership import Membership
from ginnel.mesh.objects import DAY_S
from ginnel.mesh.sealer import HpkeSealer
from support.members import NOW, MemberKeys, NetworkFactory, seed

NET = NetworkFactory()
PI = MemberKeys("raspberry-pi-attic")
LAPTOP = MemberKeys("laptop-of-alice")
SEALER = HpkeSealer()
PERIOD = derive.period_of(NOW)


def newest(membership: Membership) -> EpochKey:
    epoch = membership.epochs.newest
    assert epoch is not None
    return epoch


def message(**changes: object) -> Message:
    values = {
        "kind": Kind.OFFER,
        "sender": LAPTOP.member_id,
        "recipient": PI.member_id,
        "epoch_id": derive.epoch_hash(NET.epoch_secret)[:8],
        "session": b"s" * 16,
        "counter": 1,
        "sent_at": NOW,
        "payload": b"hello",
    }
    return Message(**(values | changes))


def sealed(
    content: Message | None = None, *, by: MemberKeys = LAPTOP, period: int = PERIOD
) -> bytes:
    return seal_envelope(
        content or message(),
        network_id=NET.network_id,
        epoch=newest(NET.membership()),
        identity=by.identity,
        recipient_key=derive.x25519_public(PI.sealing),
        period=period,
        sealer=SEALER,
    ).data


class Receiver:
    """PI's side."""

    def __init__(self, membership: Membership | None = None) -> None:
        self.membership = membership or NET.membership(PI, LAPTOP)
        self.opener = Opener(self.membership, PI.member_id, [PI.sealing], SEALER)

    def open(self, data: bytes, now: float = 0.0, unix_now: float = NOW) -> Opened | None:
        return self.opener.open(data, source="a storer", now=now, unix_now=unix_now)

    def drop(self, data: bytes, **times: float) -> EnvelopeDrop:
        before = dict(self.opener.drops)
        assert self.open(data, **times) is None
        [reason] = [r for r, n in self.opener.drops.items() if n != before.get(r, 0)]
        return reason


def test_a_message_arrives_once() -> None:
    receiver = Receiver()
    data = sealed()
    opened = receiver.open(data)
    assert opened is not None
    assert opened.message == message()
    assert opened.body_hash == derive.sha256(message().encode())
    assert receiver.drop(data) is EnvelopeDrop.REPLAY


def test_the_largest_payload_fits() -> None:
    data = sealed(message(payload=b"x" * MAX_PAYLOAD, ref=b"r" * 32, counter=2**63))
    assert len(data) <= MAX_ENVELOPE
    assert Receiver().open(data) is not None
    with pytest.raises(UsageError):
        sealed(message(payload=b"x" * (MAX_PAYLOAD + 64), ref=b"r" * 32))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: b"", EnvelopeDrop.FORM),
        (lambda d: d[:100], EnvelopeDrop.FORM),
        (lambda d: d + bytes(1088), EnvelopeDrop.FORM),
        (lambda d: b"\x02" + d[1:], EnvelopeDrop.FORM),
        (lambda d: b"\x01\x00" + d[2:], EnvelopeDrop.FORM),
        (lambda d: b"\x01\x09" + d[2:], EnvelopeDrop.FORM),
        (lambda d: d[:2] + bytes(8) + d[10:], EnvelopeDrop.EPOCH),
        (lambda d: d[:10] + bytes(16) + d[26:], EnvelopeDrop.TAG),
        (lambda d: d[:26] + bytes(16) + d[42:], EnvelopeDrop.MAC),
        (lambda d: b"\x01\x02" + d[2:], EnvelopeDrop.MAC),
        (lambda d: d[:-1] + bytes([d[-1] ^ 1]), EnvelopeDrop.MAC),
    ],
)
def test_the_outside_is_checked_first(
    change: Callable[[bytes], bytes], reason: EnvelopeDrop
) -> None:
    assert Receiver().drop(change(sealed())) is reason


def wrapped(text: bytes, *, kind: Kind = Kind.OFFER, key: bytes | None = None) -> bytes:
    """Seal any text as LAPTOP could."""
    point = derive.member_point(NET.network_id, NET.epoch_secret, PI.member_id, PERIOD)
    return build_envelope(
        text,
        kind=kind,
        epoch_id=message().epoch_id,
        tag=point.tag,
        recipient=PI.member_id,
        recipient_key=key or derive.x25519_public(PI.sealing),
        mac_key=derive.envelope_mac_key(NET.network_id, NET.epoch_secret, PI.member_id),
        network_id=NET.network_id,
        sealer=SEALER,
    )


def signed(content: Message, by: MemberKeys = LAPTOP) -> bytes:
    body = content.encode()
    return rlp.encode([body, derive.sign(by.identity, NET.network_id, "message", body)])


def test_sealed_to_another_key() -> None:
    other = derive.x25519_public(seed("other"))
    assert Receiver().drop(wrapped(signed(message()), key=other)) is EnvelopeDrop.SEAL


@pytest.mark.parametrize(
    "text",
    [b"", b"junk", b"\xc0", rlp.encode([b"", bytes(64)]), rlp.encode([b"\xc1\x01", bytes(64)])],
)
def test_malformed_inside(text: bytes) -> None:
    assert Receiver().drop(wrapped(text)) is EnvelopeDrop.MALFORMED


def test_inside_and_outside_must_agree() -> None:
    for content in (
        message(kind=Kind.BYE),
        message(recipient=LAPTOP.member_id),
        message(epoch_id=bytes(8)),
    ):
        assert Receiver().drop(wrapped(signed(content))) is EnvelopeDrop.MISMATCH


def test_a_stranger_is_dropped_and_fetched_once_a_minute() -> None:
    receiver = Receiver(NET.membership(PI))
    for counter in range(3):
        drop = receiver.drop(sealed(message(counter=counter)))
        assert drop is EnvelopeDrop.UNKNOWN_SENDER
    assert receiver.opener.wanted() == LAPTOP.member_id
    assert receiver.opener.wanted() is None
    receiver.drop(sealed(), now=61.0)
    assert receiver.opener.wanted() == LAPTOP.member_id


def test_a_revoked_sender_is_dropped() -> None:
    receiver = Receiver()
    receiver.membership.add_object(NET.revoke(0, LAPTOP.member_id), unix_now=NOW)
    assert receiver.drop(sealed()) is EnvelopeDrop.UNKNOWN_SENDER
    assert receiver.opener.wanted() is None


def test_invented_senders_are_not_all_asked_for() -> None:
    receiver = Receiver()
    for number in range(200):
        stranger = MemberKeys(f"stranger-{number}")
        receiver.open(sealed(message(sender=stranger.member_id), by=stranger), now=number / 10)
    wishes = 0
    while receiver.opener.wanted() is not None:
        wishes += 1
    assert wishes == FETCHES_BURST


def test_what_a_message_carries_does_not_show() -> None:
    assert "hello" not in repr(message())


def test_signed_by_another_member() -> None:
    assert Receiver().drop(sealed(by=PI)) is EnvelopeDrop.SIGNATURE


@pytest.mark.parametrize("offset", [-DAY_S, -601, 601, DAY_S])
def test_a_clock_that_is_off(offset: int) -> None:
    assert Receiver().drop(sealed(message(sent_at=NOW + offset))) is EnvelopeDrop.CLOCK


def test_the_tag_of_another_hour_is_not_ours() -> None:
    assert Receiver().drop(sealed(period=PERIOD + 2)) is EnvelopeDrop.TAG


def test_an_answer_needs_an_open_offer_to_its_sender() -> None:
    receiver = Receiver()
    answer = message(kind=Kind.ANSWER, ref=b"r" * 32)
    assert receiver.drop(sealed(answer)) is EnvelopeDrop.NOT_ASKED
    receiver.opener.expect_answer(b"r" * 32, PI.member_id)
    assert receiver.drop(sealed(replace(answer, counter=2))) is EnvelopeDrop.NOT_ASKED
    receiver.opener.expect_answer(b"r" * 32, LAPTOP.member_id)
    assert receiver.open(sealed(replace(answer, counter=3))) is not None


def test_an_offer_is_answered_once_and_the_copies_before_it_are_closed() -> None:
    receiver = Receiver()
    first, second, third = (bytes([number]) * 32 for number in range(3))
    for ref in (first, second, third):
        receiver.opener.expect_answer(ref, LAPTOP.member_id)
    answers = [
        sealed(message(kind=Kind.ANSWER, ref=ref, counter=counter))
        for counter, ref in enumerate((second, second, first, third), 1)
    ]
    assert [receiver.open(data) is not None for data in answers] == [True, False, False, True]
    assert receiver.opener.drops == {EnvelopeDrop.NOT_ASKED: 2}


def test_offers_that_nobody_answers_are_bounded() -> None:
    receiver = Receiver()
    refs = [bytes([number]) * 32 for number in range(MAX_OPEN_OFFERS + 1)]
    for ref in refs:
        receiver.opener.expect_answer(ref, LAPTOP.member_id)
    oldest = sealed(message(kind=Kind.ANSWER, ref=refs[0]))
    assert receiver.drop(oldest) is EnvelopeDrop.NOT_ASKED
    assert receiver.open(sealed(message(kind=Kind.ANSWER, ref=refs[1], counter=2))) is not None


def test_on_an_old_epoch_only_the_way_back_is_served() -> None:
    receiver = Receiver()
    receiver.membership.add_object(NET.epoch(seed("new"), 2, at=NOW - 400), unix_now=NOW)
    receiver.membership.add_epoch_secret(seed("new"))
    assert receiver.open(sealed()) is not None
    later = NOW + DAY_S
    period = derive.period_of(later)
    offer = message(sent_at=later, counter=2)
    drop = receiver.drop(sealed(offer, period=period), unix_now=later)
    assert drop is EnvelopeDrop.OLD_EPOCH
    fetch = message(kind=Kind.FETCH, sent_at=later, counter=3)
    assert receiver.open(sealed(fetch, period=period), unix_now=later) is not None


def test_one_source_has_a_rate() -> None:
    receiver = Receiver()
    junk = [wrapped(b"junk") for _ in range(int(BURST_PER_SOURCE) + 1)]
    reasons = [receiver.drop(data) for data in junk]
    assert reasons[-1] is EnvelopeDrop.RATE
    assert receiver.drop(junk[0], now=1.0) is EnvelopeDrop.MALFORMED


def test_sessions_of_one_sender_are_bounded() -> None:
    receiver = Receiver()
    for number in range(MAX_SESSIONS):
        data = sealed(message(session=number.to_bytes(16, "big")))
        assert receiver.open(data, now=number) is not None
    extra = sealed(message(session=b"x" * 16))
    assert receiver.drop(extra, now=300.0) is EnvelopeDrop.TOO_MANY_SESSIONS
    assert receiver.open(extra, now=300.0 + REPLAY_KEPT_S) is not None


def test_the_former_sealing_key_still_opens() -> None:
    receiver = Receiver()
    receiver.opener.sealing_keys = (seed("new S"), PI.sealing)
    assert receiver.open(sealed()) is not None


def test_the_window_takes_each_counter_once() -> None:
    window = ReplayWindow()
    assert [window.accept(counter) for counter in (5, 4, 5, 4, 70, 7, 6, 5)] == [
        *(True, True, False, False, True, True, False, False)
    ]
    assert window.accept(1000)
    assert not window.accept(70)
    assert window.accept(0) is False


def test_the_message_must_name_the_epoch_it_is_sealed_under() -> None:
    with pytest.raises(UsageError):
        sealed(message(epoch_id=bytes(8)))
