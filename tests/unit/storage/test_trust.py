from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.base.types import Secret
from ginnel.storage.trust import TRUST_FILE, Trust, load_trust, save_trust

TRUST = Trust((b"object", b"\x00" * 300), (Secret(b"s" * 32),), 1_800_000_000)


def test_trust_comes_back(tmp_path: Path) -> None:
    assert load_trust(tmp_path) == Trust()
    save_trust(tmp_path, TRUST)
    assert load_trust(tmp_path) == TRUST


def test_damage_is_reported_and_not_repaired(tmp_path: Path) -> None:
    save_trust(tmp_path, TRUST)
    path = tmp_path / TRUST_FILE
    whole = path.read_bytes()
    for damaged in (b"", whole[:-3], whole[40:], whole.replace(b"object", b"objecT", 1)):
        path.write_bytes(damaged)
        with pytest.raises(SystemFailure, match="backup"):
            load_trust(tmp_path)
        assert path.read_bytes() == damaged


def test_others_may_not_read_it(tmp_path: Path) -> None:
    save_trust(tmp_path, TRUST)
    (tmp_path / TRUST_FILE).chmod(0o644)
    with pytest.raises(SystemFailure, match="chmod"):
        load_trust(tmp_path)


def test_a_folder_that_can_not_be_entered_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> bool:  # what the system says to others than root
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(SystemFailure, match=r"Permission denied.*must belong to"):
        load_trust(tmp_path)
