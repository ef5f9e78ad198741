"""`ginnel netcheck`: what it shows of a tunnel's answer."""

from typing import Any

import pytest

from ginnel.daemon.paths import RUN_ROOT
from support.answering import answer_http, serving
from support.console import Printed, ginnel, on_machine

OWN = {"self": {"fqdn": "attic.home.internal", "addresses": ["100.80.0.1"]}}
GOOD: dict[str, Any] = {"facts": {"UDP": "gets out"}, "advice": ["Open a port."], "checks": {}}


def asked(said: dict[str, Any], own: dict[str, Any]) -> Printed:
    """Check on a machine whose tunnel says this."""

    def run() -> Printed:
        (RUN_ROOT / "home").mkdir(parents=True)
        talks = (answer_http(said), answer_http(own))
        with serving(RUN_ROOT / "home" / "tunnel.sock", *talks):
            return ginnel("netcheck")

    return on_machine(run)


def test_facts_and_advice() -> None:
    printed = asked(GOOD, OWN)
    assert (printed.code, printed.err) == (0, "")
    lines = printed.out.splitlines()
    assert lines[0] == "UDP:                      gets out"
    assert lines[-1] == "Open a port."


def test_a_terminal_obeys_no_tunnel() -> None:
    said = GOOD | {"facts": {"\x1b[2J": "\x1b[2J"}, "advice": ["\x07"]}
    printed = asked(said, OWN)
    assert printed.code == 0, printed.err
    assert printed.out.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("said", "own"),
    [
        ({}, OWN),
        (GOOD | {"facts": 1}, OWN),
        (GOOD | {"advice": 1}, OWN),
        (GOOD, {}),
        (GOOD, {"self": {"fqdn": "x" * 300, "addresses": 1}}),
    ],
)
def test_an_answer_without_sense(said: dict[str, Any], own: dict[str, Any]) -> None:
    printed = asked(said, own)
    assert printed.code == 1
    assert printed.err == "ginnel: the tunnel's answer makes no sense\n"
