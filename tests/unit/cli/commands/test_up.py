"""`ginnel up`: what it shows until a peer is connected, and what it advises when none is."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from ginnel.base.errors import RemoteProtocolError, SystemFailure
from ginnel.cli.client import NotRunning
from ginnel.cli.commands.up import show_progress
from ginnel.daemon.paths import NetworkPaths
from ginnel.daemon.report import NO_NODES
from support.answering import answer_http, serving

AT_ONCE = 0.0  # seconds: one look


def tunnel_status(
    *peers: dict[str, Any], is_admin: bool = False, answers: bool = True
) -> dict[str, Any]:
    return {
        "self": {"name": "attic", "addresses": ["100.80.0.1"], "admin": is_admin},
        "reachable": "unknown yet",
        "discovery": {"nodes": 2, "answers": answers},
        "warnings": ["the clock is off"],
        "peers": list(peers),
    }


def peer(status: str = "connecting", stage: str = "searching") -> dict[str, Any]:
    return {"name": "pi", "status": status, "stage": stage, "reason": None, "path": None}


def tunnel_that_says(paths: NetworkPaths, *answers: dict[str, Any]) -> AbstractContextManager[None]:
    """Answer one question each."""
    paths.run.mkdir(parents=True)
    return serving(paths.tunnel_socket, *map(answer_http, answers))


@pytest.fixture
def paths(tmp_path: Path) -> NetworkPaths:
    return NetworkPaths("home", tmp_path, tmp_path, tmp_path / "run")


def lines(captured: pytest.CaptureFixture[str]) -> Sequence[str]:
    return captured.readouterr().out.splitlines()


def test_who_has_just_joined_waits_for_the_first_peer(
    paths: NetworkPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    with tunnel_that_says(
        paths, tunnel_status(), tunnel_status(peer()), tunnel_status(peer("connected"))
    ):
        show_progress(paths, 60, poll_s=0.0)
    assert lines(capsys) == [
        "warning: the clock is off",
        "reachable from outside: unknown yet",
        "members: No other member met yet: searching for the machine that let this one in.",
        "pi: searching",
        "pi: connected, -",
    ]


def test_who_has_made_the_network_is_told_to_invite(
    paths: NetworkPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    with tunnel_that_says(paths, tunnel_status(is_admin=True)):
        show_progress(paths, 60)
    assert "Let one in with `sudo ginnel invite`" in lines(capsys)[-1]


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (tunnel_status(peer(), answers=False), NO_NODES),
        (tunnel_status(), "Is the machine that let this one in up, and are both clocks right?"),
        (tunnel_status(peer(stage="found, offering")), "Stages: found, offering."),
    ],
)
def test_the_failing_stage_is_named(
    paths: NetworkPaths, status: dict[str, Any], advice: str
) -> None:
    with tunnel_that_says(paths, status), pytest.raises(SystemFailure) as caught:
        show_progress(paths, AT_ONCE)
    assert str(caught.value).endswith(advice)


def test_a_down_meanwhile_ends_it(paths: NetworkPaths) -> None:
    with pytest.raises(NotRunning, match="sudo ginnel up home"):
        show_progress(paths, 60)


@pytest.mark.parametrize("changes", [{"peers": 1}, {"peers": [{}]}, {"self": {}}, {"warnings": 1}])
def test_an_answer_without_sense(paths: NetworkPaths, changes: dict[str, Any]) -> None:
    with (
        tunnel_that_says(paths, tunnel_status() | changes),
        pytest.raises(RemoteProtocolError, match="the tunnel's answer makes no sense"),
    ):
        show_progress(paths, 60)
