"""The key of a public node; a running one is in tests/unit/cli/commands/test_node.py."""

import os
from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.daemon.public_node import KEY_FILE, load_or_make_key


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    first = load_or_make_key(folder, None)
    assert load_or_make_key(folder, None).reveal() == first.reveal()
    assert (folder / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"00" * 32, b"ff" * 32, b"ab" * 31, b"\xff\xfe"]
)
def test_a_damaged_key_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / KEY_FILE
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SystemFailure, match="damaged: remove it"):
        load_or_make_key(tmp_path, None)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    load_or_make_key(tmp_path, None)
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(SystemFailure, match="chmod 600"):
        load_or_make_key(tmp_path, None)


def test_a_key_of_somebody_else_is_refused(tmp_path: Path) -> None:
    load_or_make_key(tmp_path, None)
    other = os.geteuid() + 1
    if os.geteuid() == 0:
        os.chown(tmp_path / KEY_FILE, other, other)
        with pytest.raises(SystemFailure, match=f"belongs to uid {other}"):
            load_or_make_key(tmp_path, None)
