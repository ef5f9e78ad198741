from dataclasses import replace

import pytest

from ginnel.base.types import Secret
from ginnel.mesh import derive, join
from ginnel.mesh.join import AnswerStatus, JoinAnswer
from ginnel.mesh.join_attempt import (
    MAX_EARLY_PARTS,
    AnswerDrop,
    JoinAttempt,
    JoinState,
)
from support.joins import SEALER, AdminSide, ask, attempt, joiner_keys
from support.members import NOW, MemberKeys, NetworkFactory, seed

NET = NetworkFactory()
NAME = "laptop-of-alice"
LAPTOP = MemberKeys(NAME)
DAY_S = 86_400


class Asked:
    """A joiner who has asked, and answers made by hand."""

    def __init__(self) -> None:
        self.admin = AdminSide(NET)
        text = self.admin.invite()
        self.invite = join.parse_invite(text, unix_now=NOW)
        self.joiner = attempt(text, NAME)
        data = self.joiner.envelope(self.joiner.admin_points(unix_now=NOW)[0])
        self.admin.book.handle_envelope(data, unix_now=NOW)
        self.request_hash = self.admin.book.pending()[0].request_hash

    def answer(
        self,
        part: int,
        objects: tuple[bytes, ...],
        secret: Secret | None = None,
        *,
        by: Secret | None = None,
        request_hash: bytes | None = None,
        network_id: bytes = NET.network_id,
        status: AnswerStatus = AnswerStatus.GRANTED,
    ) -> bytes:
        answer = JoinAnswer(request_hash or self.request_hash, status, part, objects, secret)
        text = join.encode_answer(answer, admin=by or NET.admin, network_id=network_id)
        return self.seal(text)

    def seal(self, text: bytes, key: bytes | None = None) -> bytes:
        return join.seal_join(
            text,
            network_id=NET.network_id,
            invite_id=self.invite.invite_id,
            secret=self.invite.secret,
            tag=self.joiner.reply_points(unix_now=NOW)[0].tag,
            recipient=joiner_keys(NAME).member_id,
            recipient_key=key or derive.x25519_public(LAPTOP.sealing),
            sealer=SEALER,
        )

    def take(self, *datas: bytes, unix_now: float = NOW) -> JoinAttempt:
        for data in datas:
            self.joiner.handle_envelope(data, unix_now=unix_now)
        return self.joiner

    def first(self) -> bytes:
        return self.answer(0, (NET.network(), NET.admin_object()))

    def second(self, cert: bytes | None = None, epoch: bytes | None = None) -> bytes:
        cert = cert or NET.cert(LAPTOP)
        return self.answer(1, (cert, epoch or NET.epoch()), NET.epoch_secret)


def test_both_parts_in_either_order_grant() -> None:
    for swap in (False, True):
        asked = Asked()
        parts = [asked.first(), asked.second()]
        joiner = asked.take(*(reversed(parts) if swap else parts))
        assert joiner.state is JoinState.GRANTED
        granted = joiner.granted
        assert granted is not None
        assert granted.certificate == NET.cert(LAPTOP)
        assert granted.epoch_secret == NET.epoch_secret
        assert (granted.network_name, granted.member_name) == (NET.name, NAME)


def test_nothing_is_granted_by_half_an_answer() -> None:
    for part in ("first", "second"):
        asked = Asked()
        joiner = asked.take(getattr(asked, part)())
        assert joiner.granted is None


def test_a_certificate_without_a_grant_is_not_taken() -> None:
    asked = Asked()
    objects = (NET.cert(LAPTOP), NET.epoch())
    second = asked.answer(1, objects, NET.epoch_secret, status=AnswerStatus.PENDING)
    joiner = asked.take(asked.first(), second)
    assert joiner.granted is None
    assert joiner.state is JoinState.FAILED


def test_an_answer_from_an_impostor_root_is_dropped() -> None:
    asked = Asked()
    fake = NetworkFactory("impostor")
    raws = (fake.network(), fake.admin_object())
    joiner = asked.take(asked.answer(0, raws, by=fake.admin))
    assert joiner.drops == {AnswerDrop.NETWORK: 1}


def test_an_admin_other_than_the_invites_is_dropped() -> None:
    asked = Asked()
    other = (NET.network(), NET.admin_object(admin_id=b"another-admin-id"))
    assert asked.take(asked.answer(0, other)).drops == {AnswerDrop.NETWORK: 1}


def test_another_holder_of_the_invite_can_not_answer() -> None:
    asked = Asked()
    raws = (NET.network(), NET.admin_object())
    joiner = asked.take(asked.answer(0, raws, by=seed("another holder")))
    assert joiner.drops == {AnswerDrop.SIGNATURE: 1}
    forged = asked.answer(1, (NET.cert(LAPTOP), NET.epoch()), by=seed("another holder"))
    joiner = asked.take(asked.first(), forged)
    assert joiner.drops == {AnswerDrop.SIGNATURE: 2}
    assert joiner.state is JoinState.ASKING


def test_a_forged_second_part_in_front_does_not_spoil_the_join() -> None:
    asked = Asked()
    forged = asked.answer(1, (NET.cert(LAPTOP), NET.epoch()), by=seed("another holder"))
    joiner = asked.take(forged, asked.second(), asked.first())
    assert joiner.state is JoinState.GRANTED


def test_second_parts_that_wait_are_bounded() -> None:
    asked = Asked()
    forged = [
        asked.answer(1, (NET.cert(LAPTOP), NET.epoch()), by=seed(f"holder {number}"))
        for number in range(MAX_EARLY_PARTS)
    ]
    joiner = asked.take(*forged, asked.second(), asked.first())
    assert joiner.granted is None  # the good one found no room; asking again brings it again
    assert asked.take(asked.second()).state is JoinState.GRANTED


def test_outer_checks() -> None:
    asked = Asked()
    data = asked.first()
    joiner = asked.take(
        b"",
        data[:2] + bytes(8) + data[10:],
        data[:26] + bytes(16) + data[42:],
        asked.seal(b"x", derive.x25519_public(seed("other"))),
        asked.seal(b"x"),
        asked.answer(0, (b"", b""), request_hash=bytes(32)),
    )
    assert joiner.drops == {
        AnswerDrop.FORM: 2,
        AnswerDrop.MAC: 1,
        AnswerDrop.SEAL: 1,
        AnswerDrop.MALFORMED: 1,
        AnswerDrop.OTHER_REQUEST: 1,
    }


@pytest.mark.parametrize(
    ("cert", "why"),
    [
        (NET.cert(MemberKeys("stranger")), "other keys"),
        (NET.cert(LAPTOP, wireguard=derive.x25519_public(seed("x"))), "other keys"),
        (NET.cert(LAPTOP, by=seed("no admin")), "no admin"),
        (NetworkFactory("foreign").cert(LAPTOP, by=NET.admin), "signature"),
        (NET.cert(LAPTOP, identity=(1).to_bytes(32, "little")), "small order"),
        (NET.cert(LAPTOP, not_before=NOW - 9, not_after=NOW - 8, ipv4=b"\x08\x08\x08\x08"), "pool"),
        (NET.cert(LAPTOP, not_before=NOW + DAY_S, not_after=NOW + 2 * DAY_S), "clock"),
        (NET.epoch(seed("e2")), "no certificate"),
    ],
)
def test_a_certificate_that_does_not_verify_fails_the_join(cert: bytes, why: str) -> None:
    asked = Asked()
    joiner = asked.take(asked.first(), asked.second(cert))
    assert joiner.state is JoinState.FAILED
    assert why in joiner.reason
    assert joiner.granted is None


def test_an_epoch_secret_that_does_not_fit_fails_the_join() -> None:
    asked = Asked()
    second = asked.answer(1, (NET.cert(LAPTOP), NET.epoch()), seed("another secret"))
    joiner = asked.take(asked.first(), second)
    assert joiner.state is JoinState.FAILED
    assert "secret" in joiner.reason


def test_a_clock_a_day_behind_fails_with_a_word_about_the_clock() -> None:
    asked = Asked()
    joiner = asked.take(asked.first(), asked.second(), unix_now=NOW - 1500)
    assert joiner.state is JoinState.FAILED
    assert "clock" in joiner.reason


def test_after_the_end_nothing_changes_the_outcome() -> None:
    asked = Asked()
    asked.take(asked.first(), asked.second())
    before = asked.joiner.granted
    asked.take(asked.second(NET.cert(MemberKeys("stranger"))))
    assert asked.joiner.granted == before
    assert asked.joiner.state is JoinState.GRANTED


def test_names_of_63_characters_fit_into_the_answer() -> None:
    net = replace(NET, name="n" * 63)
    admin = AdminSide(net)
    joiner = attempt(admin.invite(is_auto=True), "m" * 63)
    ask(joiner, admin)
    assert joiner.state is JoinState.GRANTED
