"""`ginnel join` before it asks anybody: the invite's ways in, and what is refused."""

import io
from pathlib import Path

import pytest

from support.console import Printed, ginnel, on_machine


def as_root(*arguments: str) -> Printed:
    """Run a command as root of a namespace without any network."""
    return on_machine(lambda: ginnel(*arguments))


@pytest.mark.parametrize("text", ["ginnel:ab", "GINNEL:AB", "anything", "--", "home"])
def test_an_invite_as_argument_is_refused_with_the_right_way(text: str) -> None:
    printed = ginnel("join", "--", text) if text == "--" else ginnel("join", text)
    assert printed.code == 2
    for way in ("sudo ginnel join", "--invite-file", "Make a new invite"):
        assert way in printed.err
    assert text == "--" or text not in printed.err.replace("ginnel:", "", 1)


def test_two_arguments_are_wrong_usage() -> None:
    assert ginnel("join", "one", "two").code == 2


def test_a_damaged_invite(tmp_path: Path) -> None:
    file = tmp_path / "invite"
    file.write_text("ginnel:aaaa\n")
    printed = as_root("join", "--invite-file", str(file), "--name", "pi")
    assert printed.code == 2
    assert "invite" in printed.err
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_is_no_invite(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "invite"
    if content is not None:
        file.write_bytes(content)
    printed = as_root("join", "--invite-file", str(file), "--name", "pi")
    assert printed.code in (1, 2)
    assert str(file) in printed.err


@pytest.mark.parametrize("source", ["-", None])
def test_an_input_that_is_no_text(monkeypatch: pytest.MonkeyPatch, source: str | None) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), "utf-8"))
    printed = as_root("join", "--name", "pi", *filter(None, [source]))
    assert printed.code == 2
    assert printed.err == "ginnel: standard input is no text, so no invite\n"


def test_an_empty_input() -> None:
    printed = as_root("join", "--invite-file", "/dev/null", "--name", "pi")
    assert printed.code == 2
    assert "invite" in printed.err


def test_a_name_that_can_not_be(tmp_path: Path) -> None:
    printed = as_root("join", "--invite-file", "/dev/null", "--name", "no_name")
    assert printed.code == 2
    assert "--name" in printed.err


def test_a_port_that_can_not_be() -> None:
    printed = ginnel("join", "--port", "70000")
    assert printed.code == 2
    assert "70000" in printed.err
