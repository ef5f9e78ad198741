import os
import random
import resource
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from mnemonic import Mnemonic

from ginnel.base.config import Settings, parse_settings
from ginnel.base.errors import SystemFailure, UsageError
from ginnel.mesh import derive
from ginnel.storage.network_files import (
    ADMIN_FILE,
    OBJECT_FILES,
    SETTINGS_FILE,
    Created,
    NewNetwork,
    choose_ipv4_prefix,
    create_network,
    has_admin_key,
    load_authority,
    load_bundle,
    store_joined,
    verify_membership,
)
from ginnel.storage.trust import load_trust
from support.joins import AdminSide, ask, attempt, joiner_keys
from support.members import NOW, NetworkFactory

SETTINGS = Settings(41000, os.geteuid() or 64100, os.geteuid() or 64101, "100.80.0.0/16")
NEW = NewNetwork("meadowbrook", "raspberry-pi-attic", SETTINGS, NOW)


@dataclass(frozen=True)
class Folders:
    root: Path
    name: str = "meadowbrook"

    @property
    def etc(self) -> Path:
        return self.root / "etc" / self.name

    @property
    def state(self) -> Path:
        return self.root / "var" / self.name

    @property
    def signer_state(self) -> Path:
        return self.root / "var" / f"{self.name}-signer"


def all_bytes(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())


def owners(path: Path) -> tuple[int, ...]:
    return (0, os.geteuid(), path.stat().st_uid)


def test_a_new_network_verifies_and_its_root_key_is_nowhere(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    created = create_network(NEW, folders)
    words = created.words.reveal().decode()
    assert len(words.split()) == 24
    root = bytes(Mnemonic("english").to_entropy(words))
    on_disk = all_bytes(tmp_path)
    assert root not in on_disk
    assert root.hex().encode() not in on_disk
    bundle = load_bundle(folders)
    trust = load_trust(folders.state, owners=owners(folders.state))
    objects = (bundle.network, bundle.admin, bundle.certificate)
    membership = verify_membership(objects, trust, unix_now=NOW)
    assert membership.network_id == created.network_id
    cert = membership.certificate_of(bundle.keys.member_id)
    assert cert is not None
    assert (cert.name, cert.ipv4, cert.ipv6) == (NEW.member_name, created.ipv4, created.ipv6)
    assert created.ipv4 == bytes((100, 80, 0, 1))
    assert membership.epochs.newest is not None
    assert parse_settings((folders.etc / SETTINGS_FILE).read_text()) == SETTINGS


def test_the_admin_can_sign(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    created = create_network(NEW, folders)
    assert has_admin_key(folders)
    authority = load_authority(folders, unix_now=NOW)
    assert authority.network_id == created.network_id
    [admin] = authority.membership.admins()
    assert admin.public_key == derive.ed25519_public(authority.admin)
    assert admin.pool_len == 20


def test_everything_is_private(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    create_network(NEW, folders)
    for path in folders.etc.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    for folder in (folders.etc, folders.state, folders.signer_state):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_network_is_not_overwritten(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    create_network(NEW, folders)
    before = all_bytes(folders.etc)
    with pytest.raises(UsageError, match="exists"):
        create_network(NEW, folders)
    assert all_bytes(folders.etc) == before


@pytest.mark.parametrize("size", [50, 150, 250, 350, 400])
def test_a_full_disk_leaves_no_network(tmp_path: Path, size: int) -> None:
    folders = Folders(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(SystemFailure, match="no room"):
            create_network(NEW, folders)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not folders.etc.exists()
    create_network(NEW, folders)


@pytest.mark.parametrize("name", ["Upper", "", "under_score", "a" * 64, "../x"])
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        create_network(replace(NEW, member_name=name), Folders(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["node.key", ADMIN_FILE, OBJECT_FILES[0]])
def test_wrong_permissions_stop_the_start(tmp_path: Path, name: str) -> None:
    folders = Folders(tmp_path)
    create_network(NEW, folders)
    (folders.etc / name).chmod(0o644)
    with pytest.raises(SystemFailure, match="chmod 600"):
        load_bundle(folders) and load_authority(folders, unix_now=NOW)
    (folders.etc / name).chmod(0o600)
    folders.etc.chmod(0o755)
    with pytest.raises(SystemFailure, match="chmod 700"):
        load_bundle(folders)


def test_a_damaged_network_object_is_named(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    create_network(NEW, folders)
    path = folders.etc / OBJECT_FILES[0]
    data = path.read_bytes()
    for damaged in (b"junk", data[:-1] + bytes([data[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(SystemFailure, match=r"damaged|verify"):
            load_authority(folders, unix_now=NOW)


def test_what_was_granted_is_stored(tmp_path: Path) -> None:
    admin = AdminSide(NetworkFactory())
    joiner = attempt(admin.invite(is_auto=True), "laptop-of-alice")
    ask(joiner, admin)
    folders = Folders(tmp_path)
    granted = joiner.granted
    assert granted is not None
    keys = joiner_keys("laptop-of-alice")
    store_joined(folders, keys, granted, replace(SETTINGS, signer_uid=0), unix_now=NOW)
    bundle = load_bundle(folders)
    assert bundle.certificate == granted.certificate
    assert bundle.keys == keys
    assert not has_admin_key(folders)
    assert not folders.signer_state.exists()
    trust = load_trust(folders.state, owners=owners(folders.state))
    assert trust.secrets == (granted.epoch_secret,)
    with pytest.raises(UsageError):
        store_joined(folders, keys, granted, SETTINGS, unix_now=NOW)


def test_a_clock_that_is_ahead_while_joining_is_not_taken_for_confirmed(tmp_path: Path) -> None:
    admin = AdminSide(NetworkFactory())
    joiner = attempt(admin.invite(is_auto=True), "laptop-of-alice")
    ask(joiner, admin)
    keys, folders = joiner_keys("laptop-of-alice"), Folders(tmp_path)
    settings = replace(SETTINGS, signer_uid=0)
    ahead = NOW + 30 * 86_400
    assert joiner.granted is not None
    store_joined(folders, keys, joiner.granted, settings, unix_now=ahead)
    trust = load_trust(folders.state, owners=owners(folders.state))
    assert NOW - 3600 < trust.confirmed_at <= NOW


def test_the_prefix_avoids_local_routes() -> None:
    rng = random.Random(1)
    routes = ["0.0.0.0/0", "100.64.0.0/11", "100.96.0.0/12", "::/0", "10.0.0.0/8"]
    for _ in range(20):
        prefix = choose_ipv4_prefix(routes, rng)
        assert prefix.endswith(".0.0/16")
        assert 112 <= int(prefix.split(".")[1]) < 128
    with pytest.raises(UsageError, match="--ipv4-prefix"):
        choose_ipv4_prefix(["100.64.0.0/10"], rng)


def test_words_that_can_not_be_shown_belong_to_no_network(tmp_path: Path) -> None:
    folders = Folders(tmp_path)

    def show(created: Created) -> None:
        assert len(created.words.reveal().split()) == 24
        assert not folders.etc.exists()
        raise SystemFailure("nobody reads")

    with pytest.raises(SystemFailure, match="nobody reads"):
        create_network(NEW, folders, show=show)
    assert [path for root in ("etc", "var") for path in (tmp_path / root).iterdir()] == []
