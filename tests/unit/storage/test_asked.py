import os
from dataclasses import replace
from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.base.types import Secret
from ginnel.mesh.join import Invite, parse_invite
from ginnel.storage.asked import (
    asked_folder,
    draw_asked,
    forget_asked,
    forget_expired,
    load_asked,
    save_asked,
)
from support.joins import AdminSide
from support.members import NOW, NetworkFactory
from support.umask import umask

TEXT = AdminSide(NetworkFactory()).invite()


def invite() -> Invite:
    return parse_invite(TEXT, unix_now=NOW)


def test_what_was_asked_comes_back(tmp_path: Path) -> None:
    folder = asked_folder(tmp_path / "etc", invite(), "pi")
    assert load_asked(folder) is None
    asked = draw_asked(NOW + 0.5, os.urandom)
    with umask(0):
        save_asked(folder, asked)
    save_asked(folder, draw_asked(NOW, os.urandom))  # what is there stays
    found = load_asked(folder)
    assert found is not None
    assert (found.nonce, found.sent_at) == (asked.nonce, NOW)
    assert found.keys.public == asked.keys.public
    assert os.listdir(folder.parent) == [folder.name]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    forget_asked(folder)
    assert load_asked(folder) is None


def test_another_invite_or_name_is_another_request(tmp_path: Path) -> None:
    mine = invite()
    others = [
        replace(mine, network_id=bytes(32)),
        replace(mine, invite_id=bytes(8)),
        replace(mine, secret=Secret(bytes(16))),
        replace(mine, admin_id=bytes(16)),
        replace(mine, sealing_key=bytes(32)),
    ]
    folders = [asked_folder(tmp_path, one, "pi") for one in (mine, *others)]
    folders.append(asked_folder(tmp_path, mine, "nas"))
    assert len(set(folders)) == len(folders)
    assert asked_folder(tmp_path, replace(mine, records=()), "pi") == folders[0]
    secret = mine.secret.reveal().hex()
    assert not any(secret in folder.name for folder in folders)


def test_only_what_can_still_be_answered_stays(tmp_path: Path) -> None:
    mine = invite()
    folder = asked_folder(tmp_path, mine, "pi")
    save_asked(folder, draw_asked(NOW, os.urandom))
    half = folder.with_name(f"{folder.name}.17.new")  # of a join that was killed while writing
    half.mkdir()
    (tmp_path / ".joining-x-y").mkdir()
    (tmp_path / "home").mkdir()
    forget_expired(tmp_path, unix_now=mine.expires)
    assert load_asked(folder) is not None
    forget_expired(tmp_path, unix_now=mine.expires + 1)
    assert sorted(os.listdir(tmp_path)) == [".joining-x-y", "home"]


def test_a_disk_that_refuses_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "etc").touch()
    with pytest.raises(SystemFailure):
        save_asked(asked_folder(tmp_path / "etc", invite(), "pi"), draw_asked(NOW, os.urandom))
    assert os.listdir(tmp_path) == ["etc"]


def test_what_others_may_read_or_is_damaged_is_refused(tmp_path: Path) -> None:
    folder = asked_folder(tmp_path, invite(), "pi")
    save_asked(folder, draw_asked(NOW, os.urandom))
    folder.chmod(0o755)
    with pytest.raises(SystemFailure, match="chmod 700"):
        load_asked(folder)
    folder.chmod(0o700)
    (folder / "request").write_text("nonce 00\n")
    with pytest.raises(SystemFailure, match="damaged"):
        load_asked(folder)
