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
    assert len(again.trust_objects()) == 2


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
