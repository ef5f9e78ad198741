"""`ginnel ping`: what it shows of a tunnel's answer."""

import json
from typing import Any

import pytest

from ginnel.daemon.paths import RUN_ROOT
from support.answering import answer_http, serving
from support.console import Printed, ginnel, on_machine

GOOD = {"name": "pi", "address": "100.80.0.2", "latency_s": 0.0123, "path": None}


def asked(said: dict[str, Any], *options: str) -> Printed:
    """Ping once on a machine whose tunnel says this."""

    def run() -> Printed:
        (RUN_ROOT / "home").mkdir(parents=True)
        with serving(RUN_ROOT / "home" / "tunnel.sock", answer_http(said)):
            return ginnel("ping", "-c", "1", *options, "pi")

    return on_machine(run)


def test_an_answer_is_a_line() -> None:
    printed = asked(GOOD)
    assert (printed.code, printed.err) == (0, "")
    assert printed.out.splitlines() == [
        "answer from pi (100.80.0.2): 12.3 ms over -",
        "1 sent, 1 answered",
    ]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_terminal_obeys_no_tunnel(options: tuple[str, ...]) -> None:
    printed = asked(GOOD | {"name": "\x1b[2J", "path": {"\x9b": 1}} | GOOD_PATH, *options)
    assert printed.code == 0, printed.err
    assert printed.out.replace("\n", "").isprintable()
    if options:
        assert json.loads(printed.out)["answers"][0]["name"] == "\\x1b[2J"


GOOD_PATH = {
    "path": {
        "local": {"kind": "host", "address": "\x1b[1m"},
        "remote": {"kind": "host", "address": "10.0.0.3:7"},
    }
}


@pytest.mark.parametrize("said", [{"latency_s": "x"}, {"latency_s": 1}, GOOD | {"path": [1]}])
def test_an_answer_without_sense(said: dict[str, Any]) -> None:
    printed = asked(said)
    assert printed.code == 1
    assert printed.err == "ginnel: the tunnel's answer makes no sense\n"
