"""Small text files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.net.files import read_text, replace_text


def test_text_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert read_text(path) is None
    replace_text(path, "one\n")
    replace_text(path, "two\n")
    assert read_text(path) == "two\n"
    assert [item.name for item in tmp_path.iterdir()] == ["a"]


def test_what_the_system_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemFailure):
        replace_text(tmp_path / "none" / "a", "x")
    with pytest.raises(SystemFailure):
        read_text(tmp_path)


def test_what_could_not_be_written_whole_leaves_the_old(tmp_path: Path) -> None:
    path = tmp_path / "a"
    replace_text(path, "one\n")
    (tmp_path / "a.new").mkdir()
    with pytest.raises(SystemFailure):
        replace_text(path, "two\n")
    assert read_text(path) == "one\n"
