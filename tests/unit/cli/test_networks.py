import click
import pytest

from ginnel.base.errors import GinnelError, UsageError
from ginnel.cli.networks import (
    find_network,
    json_option,
    known_networks,
    network_argument,
    network_option,
    require_root,
)
from ginnel.daemon.paths import ETC_ROOT, RUN_ROOT
from support.confined import in_child
from support.console import NOBODY, on_machine


def test_options_of_commands() -> None:
    @click.command()
    @network_argument
    @network_option
    @json_option
    def command(network: str | None, as_json: bool) -> None:
        """Do nothing."""

    assert [parameter.opts for parameter in command.params] == [
        ["network"],
        ["-n", "--network"],
        ["--json"],
    ]


@pytest.mark.parametrize("name", ["no-such-network", "../etc", "", "A", "a/b", ".", "x" * 80])
def test_a_name_that_is_no_network_is_wrong_usage(name: str) -> None:
    with pytest.raises(UsageError, match="no network"):
        find_network(name)


def test_without_a_network_the_text_says_how_to_get_one() -> None:
    text = on_machine(refusal)
    assert "ginnel init NAME" in text
    assert "ginnel join" in text


def refusal(name: str | None = None) -> str:
    try:
        return find_network(name).name
    except GinnelError as error:
        return f"{type(error).__name__}: {error}"


def test_one_network_needs_no_name_and_several_do() -> None:
    def look() -> list[str]:
        answers = []
        for name in ("home", "work", ".work.17.new"):
            (ETC_ROOT / name).mkdir()
            answers.append(refusal())
        (ETC_ROOT / "file").touch()
        return [*answers, *known_networks(), refusal("work"), refusal("lab")]

    assert on_machine(look) == [
        "home",
        "UsageError: which network? home, work",
        "UsageError: which network? home, work",
        "home",
        "work",
        "work",
        "UsageError: no network 'lab' on this machine (here are: home, work)",
    ]


def test_a_network_whose_keys_are_hidden_is_found_by_its_sockets() -> None:
    def look() -> list[str]:
        (RUN_ROOT / "home").mkdir(parents=True)
        answers = [refusal()]
        for name in ("manager.sock", "tunnel.sock"):
            (RUN_ROOT / "home" / name).touch()
            answers.append(refusal())
            (RUN_ROOT / "home" / name).unlink()
        return answers

    none, *found = on_machine(look)
    assert none.startswith("SystemFailure: no network on this machine")
    assert found == ["home", "home"]


def test_folders_that_were_left_are_no_networks() -> None:
    def look() -> str:
        for name in ("home", "home.bak", "Home", "x" * 64, ".joining-1-2"):
            (ETC_ROOT / name).mkdir()
        for name in ("old", "home.1"):
            (RUN_ROOT / name).mkdir(parents=True)
        (RUN_ROOT / "home.1" / "tunnel.sock").touch()
        return refusal()

    assert on_machine(look) == "home"


def test_root_is_needed() -> None:
    def child() -> str:
        import os

        if os.geteuid() == 0:
            os.setresuid(NOBODY, NOBODY, NOBODY)
        try:
            require_root("up")
        except GinnelError as error:
            return str(error)
        return ""

    assert in_child(child) == "up needs root: try `sudo ginnel up`"
