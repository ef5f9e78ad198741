"""`ginnel status`: what it shows of a tunnel's answer, and what it does without one."""

from pathlib import Path
from typing import Any

import pytest

from ginnel.base.errors import RemoteProtocolError
from ginnel.cli.client import NotRunning
from ginnel.cli.commands.status import (
    format_pairs,
    format_path,
    format_status,
    read_status,
    workspace_lines,
)
from ginnel.daemon.paths import RUN_ROOT, NetworkPaths
from support.answering import answer, answer_http, answer_line, serving
from support.console import Printed, ginnel, on_machine

PATH = {
    "direct": True,
    "local": {"kind": "host", "address": "10.0.0.2:7"},
    "remote": {"kind": "srflx", "address": "192.0.2.1:7"},
}


def peer(**changes: object) -> dict[str, Any]:
    return {
        "name": "pi",
        "addresses": ["100.80.0.2", "fd00::2"],
        "status": "connected",
        "stage": "connected",
        "reason": None,
        "path": PATH,
        "latency_s": 0.0123,
        "handshake_age_s": 30.0,
        "rx_bytes": 2048,
        "tx_bytes": 0,
    } | changes


def tunnel_status(*peers: dict[str, Any], warnings: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "network": "home",
        "self": {"name": "attic", "addresses": ["100.80.0.1"], "admin": True},
        "reachable": "unknown yet",
        "port": 41000,
        "discovery": {"nodes": 2},
        "separation": "uid 64100",
        "offloads": {"tun_tcp": True, "tun_udp": False},
        "warnings": list(warnings),
        "peers": list(peers),
    }


MANAGER_STATUS = {
    "network": "home",
    "tunnel": {
        "state": "restarting",
        "restarts": 1,
        "last_error": "no certificate",
        "problem": None,
    },
    "peers": [
        {
            "name": name,
            "addresses": ["100.80.0.2"],
            "latency_ms": ms,
            "idle": idle,
            "problem": problem,
        }
        for name, ms, idle, problem in (
            ("pi", 12.3, False, None),
            ("nas", 1.0, True, None),
            ("old", None, False, "last handshake 9 min ago"),
        )
    ],
}
FAILING = "the tunnel died 3 times within a minute: no certificate"


@pytest.fixture
def paths(tmp_path: Path) -> NetworkPaths:
    found = NetworkPaths("home", tmp_path, tmp_path, tmp_path / "run")
    found.run.mkdir(parents=True)
    return found


def test_peers_are_a_table() -> None:
    lines = format_status(tunnel_status(peer(), warnings=("the clock is off",))).splitlines()
    assert lines[0] == "attic.home.internal  100.80.0.1"
    assert "warning: the clock is off" in lines
    assert lines[-2].split() == (
        ["PEER", "ADDRESS", "STATE", "PATH", "LATENCY", "HANDSHAKE", "IN", "OUT"]
    )
    for text in ("pi", "100.80.0.2", "connected", "12.3 ms", "30 s ago", "2.0 KiB"):
        assert text in lines[-1]


def test_why_there_is_no_path_stands_in_place_of_the_state() -> None:
    waiting = peer(status="connecting", stage="searching", path=None, handshake_age_s=None)
    assert "searching" in format_status(tunnel_status(waiting))
    relay = waiting | {"reason": "needs a relay: both NATs change ports", "addresses": []}
    text = format_status(tunnel_status(relay))
    assert "needs a relay: both NATs change ports" in text
    assert "never" in text


def test_alone_the_next_command_is_named() -> None:
    assert "sudo ginnel invite" in format_status(tunnel_status())
    joined = tunnel_status()
    joined["self"]["admin"] = False
    assert "searching for the machine that let this one in" in format_status(joined)


def test_a_path_names_kinds_and_addresses() -> None:
    assert format_path(PATH) == "host 10.0.0.2:7 <-> srflx 192.0.2.1:7"
    assert format_path(None) == "-"


def test_the_tunnel_is_asked_first(paths: NetworkPaths) -> None:
    with serving(paths.tunnel_socket, answer_http(tunnel_status())):
        shown = read_status(paths)
    assert shown["schema"] == 1
    assert shown["self"]["name"] == "attic"


def test_without_a_tunnel_the_manager_says_why(paths: NetworkPaths) -> None:
    with serving(paths.manager_socket, answer_line(MANAGER_STATUS)):
        shown = read_status(paths)
    assert shown["schema"] == 1
    text = format_status(shown)
    assert "only the manager answers" in text
    assert "restarting, started again 1 times" in text
    assert "last error: no certificate" in text
    rows = [line.split(None, 2) for line in text.splitlines()[-3:]]
    assert rows[0] == ["pi", "100.80.0.2", rows[0][2]]
    assert [row[2].rsplit("  ", 1)[0].strip() for row in rows] == (
        ["connected", "idle", "last handshake 9 min ago"]
    )
    failing = shown | {"tunnel": shown["tunnel"] | {"problem": FAILING}}
    assert FAILING in format_status(failing)
    relayed = shown["peers"][0] | {"through": "attic"}
    assert "connected through attic" in format_status(shown | {"peers": [relayed]})
    assert "and 3 more" in format_status(shown | {"peers_left_out": 3})


def test_workspaces_are_told_unless_the_network_runs_and_that_is_all() -> None:
    own = {"name": "home", "status": "running"}
    assert workspace_lines({"network": "home", "workspaces": [own]}) == []
    starting = {"name": "lab", "status": "starting"}
    told = {"network": "home", "workspaces": [own, starting], "workspaces_left_out": 2}
    lines = ["workspace home: running", "workspace lab: starting", "and 2 more workspaces"]
    assert workspace_lines(told) == lines
    assert "\n".join(lines) in format_status(MANAGER_STATUS | told)


def test_a_tunnel_that_dies_often_is_told_beside_its_answer(paths: NetworkPaths) -> None:
    answering = tunnel_status(warnings=("the clock is off",))
    failing = MANAGER_STATUS | {"tunnel": {"problem": FAILING}}
    with (
        serving(paths.tunnel_socket, answer_http(answering)),
        serving(paths.manager_socket, answer_line(failing)),
    ):
        assert read_status(paths)["warnings"] == ["the clock is off", FAILING]


def test_a_user_who_may_not_ask_the_manager_is_told_to(paths: NetworkPaths) -> None:
    with serving(paths.manager_socket, answer(b"")), pytest.raises(NotRunning, match="sudo"):
        read_status(paths)


def test_nobody_answers(paths: NetworkPaths) -> None:
    with pytest.raises(NotRunning, match="sudo ginnel up home"):
        read_status(paths)


def test_reachability_is_shown() -> None:
    assert "reachable from outside: unknown yet" in format_status(tunnel_status())


def test_each_pair_of_addresses_is_shown_with_its_last_result_and_why_the_path_is_what_it_is() -> (
    None
):
    relayed = peer(path=PATH | {"relayed": True, "why_relayed": "both NATs change ports"})
    failed = peer(name="nas", stage="needs a relay: no check was answered", path=None)
    relayed["pairs"] = ["host 10.0.0.2:7 - srflx 192.0.2.1:7: no answer"]
    text = format_pairs([relayed, failed, peer(name="new", pairs=[])])
    assert "both NATs change ports" in text
    assert "  host 10.0.0.2:7 - srflx 192.0.2.1:7: no answer" in text
    assert "needs a relay: no check was answered" in text
    assert "no pair of addresses yet" in text


def asked(said: dict[str, Any], *options: str) -> Printed:
    """Ask for the status on a machine whose tunnel says this."""

    def run() -> Printed:
        (RUN_ROOT / "home").mkdir(parents=True)
        with serving(RUN_ROOT / "home" / "tunnel.sock", answer_http(said)):
            return ginnel("status", *options)

    return on_machine(run)


EVIL = peer(name="\x1b[2J", stage="\x07", pairs=["\x9b"], status="\x1b]0;x\x07", reason="a:\x1b")


@pytest.mark.parametrize("option", ["-d", "--json"])
def test_a_terminal_obeys_no_tunnel(option: str) -> None:
    said = tunnel_status(EVIL, warnings=("\x1b[2J",)) | {"reachable": "\x1b[31m"}
    printed = asked(said, option)
    assert printed.code == 0, printed.err
    assert printed.out.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "changes",
    [
        {"self": 1},
        {"self": {}},
        {"peers": 7},
        {"peers": [{}]},
        {"peers": [peer(name=1)]},
        {"peers": [peer(latency_s="x")]},
        {"peers": [peer(rx_bytes=10**400)]},
        {"offloads": []},
        {"discovery": None},
    ],
)
def test_an_answer_without_sense(changes: dict[str, Any]) -> None:
    printed = asked(tunnel_status() | changes)
    assert printed.code == 1
    assert printed.err == "ginnel: the tunnel's answer makes no sense\n"


def test_warnings_without_sense(paths: NetworkPaths) -> None:
    with (
        serving(paths.tunnel_socket, answer_http(tunnel_status() | {"warnings": 1})),
        pytest.raises(RemoteProtocolError, match="makes no sense"),
    ):
        read_status(paths)
