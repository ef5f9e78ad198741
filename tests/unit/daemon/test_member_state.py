"""What a tunnel knows of its network over restarts; a certificate that is not ours or not valid."""

from dataclasses import replace
from pathlib import Path

import pytest

from ginnel.base.errors import GinnelError, SystemFailure
from ginnel.base.types import make_address
from ginnel.daemon.member_state import MemberState
from ginnel.mesh.derive import ed25519_public
from ginnel.mesh.objects import CERTIFICATE_LIFE_S, DAY_S
from ginnel.storage.identity import NodeBundle
from ginnel.storage.state import KnownNode
from ginnel.storage.trust import Trust, load_trust, save_trust
from support.full_disk import full_disk
from support.joins import joiner_keys
from support.members import NOW, MemberKeys, NetworkFactory, seed

NET = NetworkFactory()
ALICE, BOB = MemberKeys("laptop-of-alice"), MemberKeys("workshop-of-bob")


def bundle(certificate: bytes | None = None, net: NetworkFactory = NET) -> NodeBundle:
    return NodeBundle(
        joiner_keys(ALICE.name),
        net.network(),
        net.admin_object(),
        certificate or net.cert(ALICE, 1),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_trust(tmp_path, Trust((NET.epoch(),), (NET.epoch_secret,), NOW))
    return tmp_path


def names(state: MemberState) -> list[str]:
    return sorted(member.name for member in state.membership.members())


def test_what_peers_told_is_there_after_a_restart(folder: Path) -> None:
    state = MemberState(folder, bundle(), unix_now=NOW)
    state.membership.add_object(NET.cert(BOB, 2), unix_now=NOW)
    state.membership.add_object(NET.revoke(1, b"\2" * 32), unix_now=NOW)
    state.note("peer", "bob: connected", unix_now=NOW)
    state.save()
    state.database.close()
    again = MemberState(folder, bundle(), unix_now=NOW)
    assert names(again) == [ALICE.name, BOB.name]
    assert again.membership.revocation_digest() == state.membership.revocation_digest()
    assert again.database.events(10)[0].text == "bob: connected"
    assert again.certificate.member_id == ALICE.member_id
    again.database.close()


def test_a_damaged_database_costs_what_peers_tell_again(folder: Path) -> None:
    state = MemberState(folder, bundle(), unix_now=NOW)
    state.membership.add_object(NET.cert(BOB, 2), unix_now=NOW)
    state.save()
    state.database.close()
    for path in folder.glob("*.db*"):
        path.write_bytes(b"no database at all" * 100)
    again = MemberState(folder, bundle(), unix_now=NOW)
    assert again.database.set_aside is not None
    assert names(again) == [ALICE.name]
    again.database.close()


OTHER = NetworkFactory("the-other-network")
SMALL_ORDER = bytes(32)
BAD_CERTIFICATES = {
    "of another network": OTHER.cert(ALICE),
    "expired": NET.cert(ALICE, not_before=NOW - CERTIFICATE_LIFE_S - DAY_S, not_after=NOW - DAY_S),
    "of the future": NET.cert(ALICE, not_before=NOW + DAY_S, not_after=NOW + 2 * DAY_S),
    "with somebody else's key": NET.cert(BOB),
    "with a small-order key": NET.cert(ALICE, wireguard=SMALL_ORDER),
    "signed by itself": NET.cert(ALICE, by=ALICE.identity),
    "damaged": NET.cert(ALICE)[:-9] + bytes(9),
}


@pytest.mark.parametrize("kind", BAD_CERTIFICATES)
def test_a_certificate_that_is_not_ours_stops_the_start(folder: Path, kind: str) -> None:
    with pytest.raises(SystemFailure, match=r"certificate is not accepted.*clock.*join again"):
        MemberState(folder, bundle(BAD_CERTIFICATES[kind]), unix_now=NOW)


def test_a_clock_that_went_back_is_not_believed(folder: Path) -> None:
    state = MemberState(folder, bundle(), unix_now=NOW - 30 * DAY_S)
    assert state.unix_now == NOW
    state.database.close()


def test_what_others_have_signed_confirms_a_time(folder: Path) -> None:
    later = NOW + 10 * DAY_S
    state = MemberState(folder, bundle(), unix_now=later)
    state.save()
    assert load_trust(folder).confirmed_at == NOW  # nobody has signed anything since
    state.membership.add_object(NET.cert(BOB, 2, not_before=later - 600), unix_now=later)
    state.save()
    assert later - 3600 < load_trust(folder).confirmed_at <= later
    state.membership.add_object(
        NET.cert(MemberKeys("a-clock-ahead"), 3, not_before=later + 600), unix_now=later
    )
    state.save()
    assert load_trust(folder).confirmed_at <= later
    state.database.close()


def test_a_confirmed_time_can_be_forgotten(folder: Path) -> None:
    save_trust(folder, Trust((NET.epoch(),), (NET.epoch_secret,), NOW + 3 * CERTIFICATE_LIFE_S))
    with pytest.raises(SystemFailure, match="Is the clock right"):
        MemberState(folder, bundle(), unix_now=NOW)
    state = MemberState(folder, bundle(), unix_now=NOW, resets_clock=True)
    assert load_trust(folder).confirmed_at == 0
    assert state.unix_now == NOW
    state.database.close()


def test_without_an_epoch_there_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(SystemFailure, match=r"no epoch.*join again"):
        MemberState(tmp_path, bundle(), unix_now=NOW)


@pytest.mark.parametrize("name", ["network", "admin"])
def test_damaged_objects_of_root_are_said_so(folder: Path, name: str) -> None:
    with pytest.raises(GinnelError):
        MemberState(folder, replace(bundle(), **{name: b"nonsense"}), unix_now=NOW)


def test_a_damaged_trust_file_is_never_rebuilt(folder: Path) -> None:
    path = folder / "trust"
    path.write_bytes(path.read_bytes().replace(b"time 1", b"time 2"))
    with pytest.raises(SystemFailure, match="restore it"):
        MemberState(folder, bundle(), unix_now=NOW)


def test_a_full_disk_is_told_once_and_tried_again(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = MemberState(folder, bundle(), unix_now=NOW)
    state.save()
    state.membership.add_object(NET.cert(BOB, 2), unix_now=NOW)
    state.membership.add_object(NET.revoke(1, b"\2" * 32), unix_now=NOW)
    with full_disk():
        for _ in range(3):
            state.note("peer", "bob: connected", unix_now=NOW)
            state.see_node(KnownNode(b"n", b"enr", NOW))
            state.endpoint_worked(BOB.member_id, make_address("192.0.2.1", 7), unix_now=NOW)
            state.save()
    assert "disk" in state.trouble
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    state.save()
    assert state.trouble == ""
    state.note("peer", "bob: connected", unix_now=NOW)
    state.database.close()
    again = MemberState(folder, bundle(), unix_now=NOW)
    assert names(again) == [ALICE.name, BOB.name]
    assert again.membership.revocation_digest() == state.membership.revocation_digest()
    again.database.close()


def test_a_clock_that_jumps_ahead_for_a_moment_costs_nothing(folder: Path) -> None:
    state = MemberState(folder, bundle(), unix_now=NOW)
    state.membership.add_object(NET.cert(BOB, 2), unix_now=NOW)
    state.membership.add_object(NET.revoke(0, BOB.member_id), unix_now=NOW)
    digest = state.membership.revocation_digest()
    state.membership.refresh(unix_now=NOW + 400 * DAY_S)
    assert state.certificate.object.raw == NET.cert(ALICE, 1)  # known, though not in force
    state.save()
    state.membership.refresh(unix_now=NOW)
    assert names(state) == [ALICE.name]
    state.save()
    state.database.close()
    again = MemberState(folder, bundle(), unix_now=NOW)
    assert names(again) == [ALICE.name]
    assert again.membership.revocation_digest() == digest
    again.database.close()


def test_what_others_revoked_outlasts_a_lost_database(folder: Path) -> None:
    second = seed("second admin")
    admin = NET.admin_object(admin_id=b"the-second-admin", public=ed25519_public(second))
    state = MemberState(folder, bundle(), unix_now=NOW)
    for raw in (admin, NET.revoke(0, BOB.member_id, by=second)):
        state.membership.add_object(raw, unix_now=NOW)
    state.save()
    state.database.close()
    for path in folder.glob("*.db*"):
        path.unlink()
    again = MemberState(folder, bundle(), unix_now=NOW)
    assert again.membership.revocation_digest() == state.membership.revocation_digest()
    again.database.close()
