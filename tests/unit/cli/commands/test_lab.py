"""`ginnel lab`: its choices and its state file (a running one: tests/netns/test_lab_life.py)."""

from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.cli.commands.lab import NAMES, STATE_FILE, choose_sites, running_lab, state_folder
from ginnel.lab import Link, NatKind
from support.console import ginnel

LINK = Link()


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "ginnel-lab"


def test_without_choice_there_are_four_homes() -> None:
    assert [site.name for site in choose_sites([], [], LINK)] == list(NAMES[:4])


def test_named_homes_keep_their_names() -> None:
    sites = choose_sites(["symmetric"], ["anna:cgnat"], LINK)
    assert [(site.name, site.kind) for site in sites] == [
        ("anna", NatKind.CGNAT),
        ("ben", NatKind.SYMMETRIC),
    ]


def test_too_many_homes_say_how_to_name_more() -> None:
    with pytest.raises(UsageError, match="--home"):
        choose_sites(["symmetric"] * (len(NAMES) + 1), [], LINK)


@pytest.mark.parametrize(
    "words", [["--kind", "no-such-nat"], ["--home", "a:nat:x"], ["--loss", "101"]]
)
def test_a_wrong_choice_is_wrong_usage(words: list[str]) -> None:
    assert ginnel("lab", "up", *words).code == 2


def test_no_lab_is_up() -> None:
    assert ginnel("lab", "exec", "anna", "--", "true").code == 1
    assert "ginnel lab up" in ginnel("lab", "exec", "anna", "--", "true").err
    assert ginnel("lab", "down").out == "no lab is up\n"
    assert ginnel("lab", "exec", "anna").code == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}'])
def test_a_damaged_state_file_is_no_lab(runtime: Path, text: str) -> None:
    file = state_folder() / STATE_FILE
    file.write_text(text)
    assert running_lab() is None
    assert not file.exists()


def test_a_folder_that_is_none_is_refused(runtime: Path) -> None:
    runtime.touch()
    with pytest.raises(SystemFailure, match="exists"):
        state_folder()
