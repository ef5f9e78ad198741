from dataclasses import replace

import coincurve
import pytest

from ginnel.base import rlp
from ginnel.base.errors import SystemFailure, UsageError
from ginnel.base.types import Secret
from ginnel.mesh import derive, join
from ginnel.mesh.invite_book import MAX_INVITES, MAX_REQUESTS, InviteBook, JoinDrop, free_ipv4
from ginnel.mesh.join_attempt import JoinState
from ginnel.mesh.objects import decode_object, parse_admin, parse_certificate
from support.joins import SEALER, AdminSide, ask, attempt, carry, joiner_keys
from support.members import NOW, MemberKeys, NetworkFactory

NET = NetworkFactory()
OTHER = NetworkFactory("other-network")
PI = MemberKeys("raspberry-pi-attic")
NAME = "laptop-of-alice"


def only_drop(book: InviteBook) -> JoinDrop:
    [reason] = book.drops
    return reason


def test_a_person_approves_and_the_joiner_is_a_member() -> None:
    admin = AdminSide(NET, PI)
    joiner = attempt(admin.invite(), NAME)
    assert ask(joiner, admin).new_objects == ()
    assert joiner.state is JoinState.PENDING
    [pending] = admin.book.pending()
    assert (pending.name, pending.code) == (NAME, joiner.code)
    handled = admin.book.approve(NAME, joiner.code.lower(), unix_now=NOW)
    carry(handled, joiner)
    assert joiner.state is JoinState.GRANTED
    cert = parse_certificate(decode_object(handled.new_objects[0]))
    assert admin.membership.certificate_of(cert.member_id) == cert
    assert cert.name == NAME
    assert cert.ipv4 == bytes((100, 80, 0, 2))  # 1 is PI's
    assert admin.book.pending() == ()


def test_auto_grants_at_once_and_the_disk_knows_before_the_answer() -> None:
    admin = AdminSide(NET)
    joiner = attempt(admin.invite(is_auto=True), NAME)
    admin.log.clear()
    handled = ask(joiner, admin)
    assert joiner.state is JoinState.GRANTED
    assert len(handled.new_objects) == 1
    assert admin.log == ["persist", "persist"]  # the request, the grant


def test_a_disk_that_fails_leaves_the_invite_unused() -> None:
    admin = AdminSide(NET)
    joiner = attempt(admin.invite(), NAME)
    ask(joiner, admin)

    def full(invite_id: bytes, state: bytes | None) -> None:
        raise SystemFailure("no space left")

    admin.persist, persist = full, admin.persist
    book = admin.restart()
    with pytest.raises(SystemFailure):
        book.approve(NAME, unix_now=NOW)
    assert len(book.pending()) == 1
    assert admin.membership.certificates() == ()
    admin.persist = persist
    admin.restart()
    carry(admin.book.approve(NAME, unix_now=NOW), joiner)
    assert joiner.state is JoinState.GRANTED


def test_the_same_request_gets_the_same_answer_also_after_a_restart() -> None:
    admin = AdminSide(NET)
    text = admin.invite(is_auto=True)
    first = attempt(text, NAME)
    ask(first, admin)
    admin.restart()
    again = attempt(text, NAME)
    assert ask(again, admin).new_objects == ()
    assert again.granted == first.granted


def test_after_a_restart_a_granted_name_and_address_stay_taken() -> None:
    admin = AdminSide(NET)
    ask(attempt(admin.invite(is_auto=True), NAME), admin)
    restarted = AdminSide(NET)  # the certificate itself was not written any more
    restarted.disk = admin.disk
    restarted.restart()
    second = attempt(restarted.invite(is_auto=True), NAME, keys=joiner_keys("second-machine"))
    ask(second, restarted)
    assert second.state is JoinState.REFUSED
    assert len(restarted.membership.certificates()) == 1


def test_a_used_invite_says_so() -> None:
    admin = AdminSide(NET)
    text = admin.invite(is_auto=True)
    ask(attempt(text, NAME), admin)
    late = attempt(text, "second-machine")
    ask(late, admin)
    assert late.state is JoinState.USED
    assert len(admin.membership.certificates()) == 1


def test_an_invite_takes_three_different_requests(caplog: pytest.LogCaptureFixture) -> None:
    admin = AdminSide(NET)
    text = admin.invite()
    for number in range(MAX_REQUESTS):
        ask(attempt(text, f"machine-{number}"), admin)
    ask(attempt(text, "machine-0"), admin)
    assert caplog.messages == []
    fourth = attempt(text, "machine-9")
    ask(fourth, admin)
    assert fourth.state is JoinState.REFUSED
    assert fourth.reason == "three machines have asked under this invite: make a new one"
    assert caplog.messages == ["a fourth machine asked under one invite and was refused"]
    assert admin.book.drops == {}
    assert len(admin.book.pending()) == MAX_REQUESTS
    first = attempt(text, "machine-0")
    carry(admin.book.approve("machine-0", unix_now=NOW), first)
    assert first.state is JoinState.GRANTED


def test_an_expired_invite_is_gone() -> None:
    admin = AdminSide(NET)
    joiner = attempt(admin.invite(), NAME)
    ask(joiner, admin, unix_now=NOW + 3601)
    assert only_drop(admin.book) is JoinDrop.EXPIRED
    assert admin.book.points(unix_now=NOW + 3601) == ()
    assert admin.disk == {}


def test_an_invite_of_another_network_is_unknown() -> None:
    foreign = AdminSide(OTHER)
    joiner = attempt(foreign.invite(), NAME)
    admin = AdminSide(NET)
    ask(joiner, admin)
    assert only_drop(admin.book) is JoinDrop.UNKNOWN_INVITE


def test_an_invite_with_a_guessed_secret_fails_at_the_mac() -> None:
    admin = AdminSide(NET)
    parsed = join.parse_invite(admin.invite(), unix_now=NOW)
    forged = attempt(join.format_invite(replace(parsed, secret=Secret(bytes(16)))), NAME)
    ask(forged, admin)
    assert only_drop(admin.book) is JoinDrop.MAC


def test_junk_is_dropped() -> None:
    admin = AdminSide(NET)
    for data in (b"", bytes(200), b"\x01\x01" + bytes(200)):
        assert admin.book.handle_envelope(data, unix_now=NOW).replies == ()
    assert admin.book.drops == {JoinDrop.FORM: 3}


def test_a_taken_name_is_refused_and_the_invite_stays_open() -> None:
    admin = AdminSide(NET, PI)
    text = admin.invite(is_auto=True)
    taken = attempt(text, PI.name, keys=joiner_keys(NAME))
    ask(taken, admin)
    assert taken.state is JoinState.REFUSED
    assert "name is taken" in taken.reason
    ask(better := attempt(text, NAME), admin)
    assert better.state is JoinState.GRANTED


@pytest.mark.parametrize("key", ["identity", "wireguard", "sealing", "discovery"])
def test_a_members_key_is_refused(key: str) -> None:
    admin = AdminSide(NET, PI)
    stolen = replace(joiner_keys(NAME), **{key: getattr(PI, key)})
    joiner = attempt(admin.invite(is_auto=True), NAME, keys=stolen)
    ask(joiner, admin)
    assert joiner.state is JoinState.REFUSED
    assert "key" in joiner.reason


def test_a_refused_request_takes_no_place_of_the_three() -> None:
    admin = AdminSide(NET, PI)
    text = admin.invite()
    for number in range(MAX_REQUESTS + 1):
        joiner = attempt(text, PI.name, keys=joiner_keys(f"machine-{number}"))
        ask(joiner, admin)
        assert joiner.state is JoinState.REFUSED
    ask(better := attempt(text, NAME), admin)
    assert better.state is JoinState.PENDING


def test_a_revoked_key_is_never_certified_again() -> None:
    admin = AdminSide(NET, PI)
    admin.membership.add_object(NET.revoke(0, joiner_keys(NAME).member_id), unix_now=NOW)
    joiner = attempt(admin.invite(is_auto=True), NAME)
    ask(joiner, admin)
    assert joiner.state is JoinState.REFUSED
    assert "revoked" in joiner.reason


def test_two_of_one_name_are_told_apart_by_code() -> None:
    admin = AdminSide(NET)
    text = admin.invite()
    one = attempt(text, NAME)
    two = attempt(text, NAME, keys=joiner_keys("another"))
    ask(one, admin)
    ask(two, admin)
    with pytest.raises(UsageError, match="code"):
        admin.book.approve(NAME, unix_now=NOW)
    with pytest.raises(UsageError, match="nobody"):
        admin.book.approve("somebody-else", unix_now=NOW)
    carry(admin.book.approve(NAME, two.code, unix_now=NOW), two)
    assert two.state is JoinState.GRANTED


def test_invites_are_bounded_in_life_and_number() -> None:
    admin = AdminSide(NET)
    for life_s in (59, 31 * 86_400):
        with pytest.raises(UsageError):
            admin.invite(life_s=life_s)
    for _ in range(MAX_INVITES):
        admin.invite()
    with pytest.raises(UsageError, match="open"):
        admin.invite()
    admin.invite(unix_now=NOW + 4000)


def test_points_cover_this_period_and_the_next() -> None:
    admin = AdminSide(NET)
    admin.invite()
    periods = [point.period - derive.period_of(NOW) for point in admin.book.points(unix_now=NOW)]
    assert periods == [-1, 0, 1]  # NOW is on a border


def test_an_admin_whose_time_is_over_answers_nothing() -> None:
    admin = AdminSide(NET)
    text = admin.invite(life_s=86_400)
    joiner = attempt(text, NAME)
    admin.membership.add_object(NET.revoke(2, NET.admin_id, by=NET.root), unix_now=NOW)
    ask(joiner, admin)
    assert only_drop(admin.book) is JoinDrop.CANNOT_SIGN


def test_addresses_run_out() -> None:
    small = parse_admin(decode_object(NET.admin_object(pool_len=30)))
    membership = NET.membership()
    assert free_ipv4(small, membership) == bytes((100, 80, 0, 1))
    membership = NET.membership(PI, MemberKeys("second"))
    assert free_ipv4(small, membership) == b""


@pytest.mark.parametrize("low_order", [bytes(32), b"\x01" + bytes(31)])
def test_a_sealing_key_to_which_nothing_can_be_sealed_gets_no_answer(low_order: bytes) -> None:
    admin = AdminSide(NET)
    text = admin.invite(is_auto=True)
    invite = join.parse_invite(text, unix_now=NOW)
    keys = joiner_keys(NAME)
    identity, wireguard, _, discovery = keys.public
    body = rlp.encode(
        [1, invite.invite_id, identity, wireguard, low_order, discovery, NAME, bytes(16), NOW]
    )
    digest = derive.sha256(derive.label_bytes("join") + invite.network_id + body)
    compact = coincurve.PrivateKey(keys.discovery.reveal()).sign_recoverable(digest, hasher=None)
    request = [body, derive.sign(keys.identity, invite.network_id, "join", body), compact[:64]]
    point = derive.invite_point(invite.network_id, invite.secret, derive.period_of(NOW))
    envelope = join.seal_join(
        rlp.encode(request),
        network_id=invite.network_id,
        invite_id=invite.invite_id,
        secret=invite.secret,
        tag=point.tag,
        recipient=invite.admin_id,
        recipient_key=invite.sealing_key,
        sealer=SEALER,
    )
    assert admin.book.handle_envelope(envelope, unix_now=NOW).replies == ()
    assert only_drop(admin.book) is JoinDrop.KEY
    assert ask(attempt(text, NAME), admin).new_objects  # the invite is still good
