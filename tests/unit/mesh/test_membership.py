import pytest

from ginnel.base import rlp
from ginnel.base.types import Secret
from ginnel.mesh import derive
from ginnel.mesh.alarms import AlarmKind
from ginnel.mesh.certcheck import Refusal
from ginnel.mesh.membership import (
    MAX_ADMINS,
    MAX_KEPT,
    MAX_PER_MEMBER,
    Membership,
    Status,
    Verdict,
)
from ginnel.mesh.objects import DAY_S, RevocationKind
from support.members import NOW, MemberKeys, NetworkFactory, seed

NET = NetworkFactory()
OTHER = NetworkFactory("other-network")
PI = MemberKeys("raspberry-pi-attic")
LAPTOP = MemberKeys("laptop-of-alice")
THIRD = MemberKeys("third-machine")


def add(membership: Membership, raw: bytes, now: float = NOW) -> Verdict:
    return membership.add_object(raw, unix_now=now)


def refusal(raw: bytes, now: float = NOW) -> Refusal | None:
    return add(NET.membership(), raw, now).refusal


def alarms(membership: Membership) -> list:
    return list(iter(membership.poll_alarm, None))


def test_a_member_is_current_and_found_by_hash() -> None:
    membership = NET.membership(PI, LAPTOP)
    assert [cert.name for cert in membership.certificates()] == [
        keys.name for keys in sorted((PI, LAPTOP), key=lambda keys: keys.member_id)
    ]
    raw = NET.cert(PI)
    assert membership.object_by_hash(derive.sha256(raw)) == raw
    assert add(membership, raw).status is Status.KNOWN
    assert alarms(membership) == []


def test_objects_wait_for_their_signers() -> None:
    membership = Membership(NET.network_id)
    assert add(membership, NET.cert(PI)).refusal is Refusal.NO_NETWORK
    add(membership, NET.network())
    assert add(membership, NET.cert(PI)).refusal is Refusal.UNKNOWN_SIGNER
    add(membership, NET.admin_object())
    assert add(membership, NET.cert(PI)).status is Status.NEW


def test_objects_of_another_network_are_refused() -> None:
    assert refusal(OTHER.network()) is Refusal.FOREIGN_NETWORK
    assert refusal(OTHER.admin_object()) is Refusal.FOREIGN_NETWORK
    assert refusal(OTHER.cert(PI)) is Refusal.UNKNOWN_SIGNER
    assert refusal(OTHER.epoch()) is Refusal.UNKNOWN_SIGNER
    assert refusal(OTHER.revoke(0, PI.member_id)) is Refusal.UNKNOWN_SIGNER


def test_the_same_admin_key_in_another_network_does_not_carry_over() -> None:
    raw = OTHER.cert(PI, by=NET.admin)
    assert refusal(raw) is Refusal.SIGNATURE


def test_an_admin_object_that_an_admin_signed_is_refused() -> None:
    assert refusal(NET.admin_object(by=NET.admin)) is Refusal.FOREIGN_NETWORK


def test_an_expired_certificate_is_refused_and_a_current_one_ends() -> None:
    old = NET.cert(PI, not_before=NOW - 9000, not_after=NOW - 8000, since=NOW - 9000)
    assert refusal(old) is Refusal.EXPIRED
    membership = NET.membership(PI)
    membership.refresh(unix_now=NOW + 366 * DAY_S)
    assert membership.certificates() == ()


def test_an_expired_admin_ends_its_members() -> None:
    membership = NET.membership()
    add(membership, NET.admin_object(not_after=NOW + 100))
    membership.refresh(unix_now=NOW + 6 * 365 * DAY_S)
    assert add(membership, NET.cert(PI), NOW + 6 * 365 * DAY_S).refusal is Refusal.SIGNER_EXPIRED


def test_a_small_order_identity_is_refused() -> None:
    assert refusal(NET.cert(PI, identity=(1).to_bytes(32, "little"))) is Refusal.KEY


def test_somebody_elses_key_is_refused_with_an_alarm() -> None:
    membership = NET.membership(PI)
    stolen = NET.cert(LAPTOP, 2, wireguard=derive.x25519_public(PI.wireguard), since=NOW - 400)
    assert add(membership, stolen).refusal is Refusal.CONFLICT
    assert membership.certificate_of(LAPTOP.member_id) is None
    assert membership.certificate_of(PI.member_id) is not None
    [alarm] = alarms(membership)
    assert alarm.kind is AlarmKind.KEY_CONFLICT
    assert alarm.member_id == LAPTOP.member_id


def test_the_elder_keeps_an_address_also_when_it_comes_later() -> None:
    membership = NET.membership(PI)
    elder = NET.cert(LAPTOP, 1, since=NOW - 900)
    assert add(membership, elder).refusal is None
    assert membership.certificate_of(PI.member_id) is None
    assert [alarm.kind for alarm in alarms(membership)] == [AlarmKind.ADDRESS_CONFLICT]


def test_the_loser_of_a_name_gets_another() -> None:
    membership = NET.membership(PI)
    add(membership, NET.cert(LAPTOP, 2, name=PI.name, since=NOW - 400))
    assert membership.name_of(PI.member_id) == PI.name
    assert membership.name_of(LAPTOP.member_id) == f"{PI.name}-{LAPTOP.member_id.hex()[:4]}"
    assert [alarm.kind for alarm in alarms(membership)] == [AlarmKind.NAME_CONFLICT]
    membership.refresh(unix_now=NOW + 1)
    assert alarms(membership) == []


def test_the_greater_not_before_is_current() -> None:
    membership = NET.membership(PI)
    renewed = NET.cert(PI, 7, not_before=NOW - 100, sealing=derive.x25519_public(seed("new S")))
    add(membership, renewed)
    current = membership.certificate_of(PI.member_id)
    assert current is not None
    assert current.object.raw == renewed


def test_certificates_of_one_member_are_bounded() -> None:
    membership = NET.membership()
    for number in range(1, MAX_PER_MEMBER + 3):
        add(membership, NET.cert(PI, number, not_before=NOW - 500 + number))
    assert len(membership.objects_to_store()) == 3 + MAX_PER_MEMBER
    assert (
        add(membership, NET.cert(PI, 99, not_before=NOW - 501, not_after=NOW + 9)).refusal
        is Refusal.OLDER
    )


def test_admins_are_bounded() -> None:
    membership = NET.membership()
    for number in range(1, MAX_ADMINS):
        raw = NET.admin_object(admin_id=number.to_bytes(16, "big"))
        assert membership.add_object(raw, unix_now=NOW).status is Status.NEW
    extra = membership.add_object(NET.admin_object(admin_id=b"x" * 16), unix_now=NOW)
    assert extra.refusal is Refusal.FULL
    assert len(membership.admins()) == MAX_ADMINS


def test_a_revoked_member_is_out_and_stays_out() -> None:
    membership = NET.membership(PI, LAPTOP)
    before = membership.revocation_digest()
    assert add(membership, NET.revoke(0, PI.member_id)).status is Status.NEW
    assert membership.certificate_of(PI.member_id) is None
    assert membership.revocation_digest() != before
    assert add(membership, NET.cert(PI, 9)).refusal is Refusal.REVOKED
    assert membership.is_revoked(RevocationKind.MEMBER, PI.member_id)


def test_a_revoked_serial_leaves_the_member() -> None:
    membership = NET.membership(PI)
    cert = membership.certificate_of(PI.member_id)
    assert cert is not None
    add(membership, NET.revoke(1, cert.serial))
    assert membership.certificate_of(PI.member_id) is None
    assert add(membership, NET.cert(PI, 9)).refusal is None


def test_a_revoked_admin_voids_what_he_signed() -> None:
    membership = NET.membership(PI, LAPTOP)
    add(membership, NET.revoke(0, PI.member_id))
    assert add(membership, NET.revoke(2, NET.admin_id)).refusal is Refusal.UNKNOWN_SIGNER
    assert add(membership, NET.revoke(2, NET.admin_id, by=NET.root)).status is Status.NEW
    assert membership.certificates() == ()
    assert not membership.is_revoked(RevocationKind.MEMBER, PI.member_id)
    assert add(membership, NET.cert(THIRD, 3)).refusal is Refusal.SIGNER_REVOKED


def test_revocations_outlive_the_certificates_and_then_go() -> None:
    membership = NET.membership()
    add(membership, NET.revoke(0, PI.member_id))
    membership.refresh(unix_now=NOW + 394 * DAY_S)
    assert membership.is_revoked(RevocationKind.MEMBER, PI.member_id)
    membership.refresh(unix_now=NOW + 396 * DAY_S)
    assert not membership.is_revoked(RevocationKind.MEMBER, PI.member_id)


def test_the_revocation_of_an_admin_never_ends() -> None:
    """His object may be ten years old: a key that was stolen must not come back into force."""
    membership = NET.membership()
    add(membership, second_admin(not_after=NOW + 10 * 365 * DAY_S))
    add(membership, NET.revoke(2, b"the-second-admin", by=NET.root))
    digest, late = membership.revocation_digest(), NOW + 9 * 365 * DAY_S
    confirmed = Membership(NET.network_id, confirmed_at=late)
    for later in (membership, confirmed):
        later.load_objects(membership.objects_to_store(), unix_now=late)
        assert later.revocation_digest() == digest
        assert later.is_revoked(RevocationKind.ADMIN, b"the-second-admin")
        assert add(later, NET.cert(PI, by=SECOND), late).refusal is Refusal.SIGNER_REVOKED


def test_members_are_bounded_and_who_is_out_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ginnel.mesh.membership.MAX_MEMBERS", 3)
    own = [NET.network(), NET.admin_object(), NET.cert(PI, 1, not_after=NOW + 5)]
    membership = Membership(NET.network_id, own=own)
    membership.add_objects(own, unix_now=NOW)
    for number, keys in ((2, LAPTOP), (3, THIRD)):
        add(membership, NET.cert(keys, number, not_after=NOW + number * DAY_S))
    fourth, fifth = MemberKeys("fourth-machine"), MemberKeys("fifth-machine")
    assert add(membership, NET.cert(fourth, 4)).refusal is Refusal.FULL
    add(membership, NET.revoke(0, THIRD.member_id))
    assert add(membership, NET.cert(fourth, 4)).status is Status.NEW
    assert membership.latest_certificate_of(THIRD.member_id) is None
    assert add(membership, NET.cert(fifth, 5)).refusal is Refusal.FULL
    assert add(membership, NET.cert(fourth, 4, not_before=NOW - 9)).status is Status.NEW  # renewed
    add(membership, NET.revoke(0, LAPTOP.member_id))
    assert add(membership, NET.cert(fourth, 4, not_before=NOW - 8)).status is Status.NEW
    assert membership.latest_certificate_of(LAPTOP.member_id) is not None  # nobody wants its room
    later = NOW + 4 * DAY_S  # ours has ended too, and stays
    assert add(membership, NET.cert(fifth, 5), later).status is Status.NEW
    assert membership.latest_certificate_of(LAPTOP.member_id) is None
    assert own[2] in membership.objects_to_store()
    assert len(membership.certificates()) == 2


def test_the_highest_network_object_wins_and_a_fork_is_an_alarm() -> None:
    membership = NET.membership()
    add(membership, NET.network(3, "renamed"))
    assert add(membership, NET.network(2, "stale")).refusal is Refusal.OLDER
    forks = sorted((NET.network(4, "one"), NET.network(4, "two")), key=derive.sha256)
    for raw in reversed(forks):
        add(membership, raw)
    assert membership.network is not None
    assert membership.network.object.raw == forks[0]
    assert [alarm.kind for alarm in alarms(membership)] == [AlarmKind.NETWORK_FORK]


def higher_version(kind: str, by: Secret, number: int = 0) -> bytes:
    body = rlp.encode([2, "something new", number])
    signature = derive.sign(by, NET.network_id, kind, body)
    return rlp.encode([kind, body, derive.ed25519_public(by), signature])


def test_objects_of_a_higher_version_are_kept_if_they_verify() -> None:
    membership = NET.membership()
    raw = higher_version("cert", NET.admin)
    assert add(membership, raw).status is Status.KEPT
    assert raw in membership.objects_to_store()
    assert add(membership, higher_version("cert", seed("x"))).refusal is Refusal.UNKNOWN_SIGNER
    for number in range(1, MAX_KEPT):
        add(membership, higher_version("cert", NET.admin, number))
    assert add(membership, higher_version("cert", NET.admin, 999)).refusal is Refusal.FULL


def test_garbage_is_malformed() -> None:
    for raw in (b"", b"\xc0", bytes(700), NET.cert(PI)[:-1], b"\xff" * 40):
        assert refusal(raw) is Refusal.MALFORMED


def test_a_flipped_bit_never_passes() -> None:
    raw = NET.cert(PI)
    for index in range(0, len(raw), 7):
        broken = raw[:index] + bytes([raw[index] ^ 1]) + raw[index + 1 :]
        assert add(NET.membership(), broken).status is Status.REFUSED


def test_what_is_stored_comes_back_in_any_order() -> None:
    membership = NET.membership(PI, LAPTOP, THIRD)
    add(membership, NET.revoke(0, THIRD.member_id))
    again = Membership(NET.network_id)
    again.add_objects(list(reversed(membership.objects_to_store())), unix_now=NOW)
    assert again.add_epoch_secret(NET.epoch_secret)
    assert again.roster_digest() == membership.roster_digest()
    assert again.revocation_digest() == membership.revocation_digest()
    assert len(again.trust_objects()) == 3  # the admin who signed them, too


def test_an_epoch_of_the_future_is_refused() -> None:
    raw = NET.epoch(seed("later"), 2, at=NOW + 700)
    assert refusal(raw) is Refusal.NOT_YET_VALID


def test_many_members_are_taken_one_by_one() -> None:
    membership = NET.membership()
    for number in range(200):
        keys = MemberKeys(f"machine-{number}")
        add(membership, NET.cert(keys, ipv4=bytes((100, 80, 1, number))))
        assert membership.certificate_of(keys.member_id) is not None
    assert len(membership.members()) == 200


AHEAD = NOW + 400 * DAY_S
SECOND = seed("second admin")


def second_admin(**changes: object) -> bytes:
    fields = {"admin_id": b"the-second-admin", "public": derive.ed25519_public(SECOND)}
    return NET.admin_object(**(fields | changes))


def test_a_clock_that_jumps_ahead_hides_and_deletes_nothing() -> None:
    membership = NET.membership(PI, LAPTOP, THIRD)
    add(membership, NET.revoke(0, THIRD.member_id))
    stored, digest = membership.objects_to_store(), membership.revocation_digest()
    membership.refresh(unix_now=AHEAD)
    assert membership.certificates() == ()
    assert not membership.is_revoked(RevocationKind.MEMBER, THIRD.member_id)
    assert membership.objects_to_store() == stored
    membership.refresh(unix_now=NOW)
    assert len(membership.certificates()) == 2
    assert membership.revocation_digest() == digest


def test_what_a_confirmed_time_has_passed_goes_but_not_our_own() -> None:
    own = [NET.network(), NET.admin_object(), NET.cert(PI)]
    membership = Membership(NET.network_id, own=own)
    others = [NET.cert(LAPTOP, 2), NET.revoke(0, THIRD.member_id)]
    membership.add_objects([*own, *others], unix_now=NOW)
    later = NET.epoch(seed("later"), 2, at=AHEAD)
    assert add(membership, later, AHEAD).status is Status.NEW
    membership.refresh(unix_now=AHEAD + 1)
    assert membership.confirmed_at == AHEAD - derive.CLOCK_TOLERANCE_S
    assert set(membership.objects_to_store()) == {*own, later}
    again = Membership(NET.network_id, own=own, confirmed_at=AHEAD)
    again.load_objects([*own, *others], unix_now=AHEAD)
    again.refresh(unix_now=AHEAD)
    assert set(again.objects_to_store()) == set(own)


def test_only_a_current_certificate_or_a_known_epoch_confirms_a_time() -> None:
    membership = NET.membership(PI)
    before = membership.confirmed_at
    assert before == NOW - 500 - derive.CLOCK_TOLERANCE_S
    add(membership, NET.cert(LAPTOP, 1, not_before=NOW - 100, since=NOW - 100))  # PI's address
    assert membership.confirmed_at == before
    add(membership, NET.cert(LAPTOP, 2, not_before=NOW - 100))
    assert membership.confirmed_at == NOW - 100 - derive.CLOCK_TOLERANCE_S


def reloaded(membership: Membership, now: float, *, with_database: bool = True) -> Membership:
    """Return what a restart makes of it, perhaps with the database lost."""
    again = Membership(NET.network_id)
    raws = membership.objects_to_store() if with_database else membership.trust_objects()
    again.load_objects([NET.network(), NET.admin_object(), *raws], unix_now=now)
    for secret in membership.epochs.secrets():
        again.add_epoch_secret(secret)
    return again


@pytest.mark.parametrize("with_database", [True, False])
def test_after_a_restart_the_epochs_of_a_revoked_admin_rank_last_too(with_database: bool) -> None:
    membership = NET.membership(PI)
    add(membership, NET.revoke(2, NET.admin_id, by=NET.root))
    assert membership.epochs.newest is not None
    again = reloaded(membership, NOW, with_database=with_database)
    assert again.epochs.newest is not None
    assert again.epochs.newest.epoch_id == membership.epochs.newest.epoch_id
    better = NET.epoch(seed("better"), 1, by=SECOND)
    for either in (membership, again):
        either.add_objects([second_admin(), better], unix_now=NOW)
        assert either.add_epoch_secret(seed("better"))
        assert either.epochs.newest is not None
        assert either.epochs.newest.epoch.object.raw == better


@pytest.mark.parametrize("with_database", [True, False])
def test_after_a_restart_the_revocations_of_an_expired_admin_stand(with_database: bool) -> None:
    membership = NET.membership(PI, LAPTOP)
    add(membership, second_admin(not_after=NOW + 100))
    add(membership, NET.revoke(0, LAPTOP.member_id, by=SECOND))
    later = NOW + 10 * DAY_S
    membership.refresh(unix_now=later)
    again = reloaded(membership, later, with_database=with_database)
    assert again.is_revoked(RevocationKind.MEMBER, LAPTOP.member_id)
    assert again.revocation_digest() == membership.revocation_digest()
    assert again.trust_objects() == membership.trust_objects()


def test_a_restart_forgets_no_certificate_that_may_count_again() -> None:
    membership = NET.membership(PI, LAPTOP)
    add(membership, second_admin())
    add(membership, NET.revoke(0, LAPTOP.member_id, by=SECOND))
    again = reloaded(membership, NOW)
    assert again.certificate_of(LAPTOP.member_id) is None
    add(again, NET.revoke(2, b"the-second-admin", by=NET.root))  # voids what he revoked
    assert again.certificate_of(LAPTOP.member_id) is not None


def test_what_is_stored_is_verified_again() -> None:
    bad = [NET.cert(PI, by=seed("x")), NET.cert(LAPTOP)[:-9] + bytes(9), OTHER.admin_object()]
    bad += [NET.cert(PI, identity=(1).to_bytes(32, "little")), NET.revoke(2, b"x" * 16)]
    verdicts = NET.membership().load_objects(bad, unix_now=NOW)
    assert {verdict.status for verdict in verdicts} == {Status.REFUSED}


def test_why_a_member_is_out() -> None:
    membership = NET.membership(PI, LAPTOP)
    add(membership, NET.cert(THIRD, 1, since=NOW - 400))  # PI's address
    add(membership, NET.revoke(0, LAPTOP.member_id))
    ids = {keys.name: keys.member_id for keys in (PI, LAPTOP, THIRD)}
    found = {name: membership.refusal_of(member_id) for name, member_id in ids.items()}
    assert found == {PI.name: None, LAPTOP.name: Refusal.REVOKED, THIRD.name: Refusal.CONFLICT}
    assert membership.refusal_of(b"nobody") is Refusal.UNKNOWN
    for now, why in ((AHEAD, Refusal.EXPIRED), (NOW - 9 * DAY_S, Refusal.NOT_YET_VALID)):
        membership.refresh(unix_now=now)
        assert membership.refusal_of(PI.member_id) is why
        assert membership.latest_certificate_of(PI.member_id) is not None
