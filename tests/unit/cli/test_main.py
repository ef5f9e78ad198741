"""The command line as a user meets it: help, exit codes, one line for each error."""

import os
import pty
import select
import sys
from pathlib import Path

import click
import pytest

from ginnel.cli.main import COMMANDS, HIDDEN, cli
from ginnel.lab.furnish import furnish
from support.confined import enter_namespaces
from support.console import ginnel, ginnel_as_user

RUN = [sys.executable, "-m", "ginnel.cli.main"]
NEEDS_ROOT = ("init", "up", "invite", "join", "approve", "down")
WAIT = 20.0  # seconds, at most


def commands() -> list[tuple[str, ...]]:
    names: list[tuple[str, ...]] = [(name,) for name in COMMANDS]
    return [*names, ("lab", "up"), ("lab", "exec"), ("lab", "down")]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_a_help_with_examples(words: tuple[str, ...]) -> None:
    printed = ginnel(*words, "--help")
    assert printed.code == 0
    assert printed.err == ""
    assert "Examples:" in printed.out
    assert f"ginnel {words[0]}" in printed.out.split("Examples:")[1]
    assert max(len(line) for line in printed.out.splitlines()) <= 100


def test_the_list_of_commands_is_a_users_order_without_what_the_manager_starts() -> None:
    printed = ginnel("--help")
    lines = printed.out.split("Commands:")[1].splitlines()
    shown = [line.split()[0] for line in lines if line[:2] == "  " and line[2:3].isalpha()]
    assert shown == list(COMMANDS)
    assert "A first mesh:" in printed.out
    context = click.Context(cli)
    assert all(cli.get_command(context, name) is not None for name in HIDDEN)


@pytest.mark.parametrize("name", sorted({*COMMANDS, *HIDDEN}))
def test_an_unknown_option_is_wrong_usage(name: str) -> None:
    printed = ginnel(name, "--nonsense")
    assert printed.code == 2
    assert "--nonsense" in printed.err
    assert "--help" in printed.err


@pytest.mark.parametrize("words", [[], ["nonsense"], ["nonsense", "--help"]])
def test_wrong_usage_says_where_help_is(words: list[str]) -> None:
    printed = ginnel(*words)
    assert printed.code == 2
    assert "--help" in printed.err


@pytest.mark.parametrize("name", NEEDS_ROOT)
def test_without_root_the_remedy_is_named(name: str) -> None:
    printed = ginnel_as_user(name, *(["home"] if name == "init" else []))
    assert printed.code == 1
    assert printed.err == f"ginnel: {name} needs root: try `sudo ginnel {name}`\n"


def test_versions() -> None:
    assert ginnel("--version").out.startswith("ginnel, version ")
    assert ginnel("-V").code == 0


def test_an_error_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    printed = ginnel("node", "--advertise", "192.0.2.1", "--state", str(tmp_path / "file" / "a"))
    assert printed.code == 1
    assert "is not a folder" in printed.err
    assert len(printed.err.splitlines()) == 1


def test_ctrl_c_at_a_prompt_ends_with_130() -> None:
    code, shown = type_at_prompt(b"\x03", "join")
    assert code == 130
    assert "interrupted" in shown
    assert "Traceback" not in shown


def test_a_closed_input_is_no_crash() -> None:
    code, shown = type_at_prompt(b"\x04", "join")
    assert code in (2, 130)
    assert "Traceback" not in shown


def type_at_prompt(keys: bytes, *arguments: str) -> tuple[int, str]:
    """Run a command as root of a namespace on a terminal; type when it has asked."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            enter_namespaces()
            furnish("attic", {})
            os.execv(RUN[0], [*RUN, *arguments])
        finally:
            os._exit(99)
    shown = b""
    is_typed = False
    with os.fdopen(terminal, "r+b", buffering=0) as stream:
        while select.select([stream], [], [], WAIT)[0]:
            try:
                shown += stream.read(4096)
            except OSError:  # the other end is closed
                break
            if not is_typed and b"Invite" in shown:
                is_typed = True
                stream.write(keys)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()
