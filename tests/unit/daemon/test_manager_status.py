"""What the manager tells of peers and of its tunnel."""

from __future__ import annotations

import json
import time

import pytest

from ginnel.cli.client import MAX_ANSWER
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.bounds import MAX_NAME, agent_fault
from ginnel.codervpn.manager_role import MAX_KNOWN_PEERS
from ginnel.codervpn.messages import make_agent
from ginnel.daemon.manager_status import (
    MAX_PEERS_TEXT,
    MAX_WORKSPACES,
    OLD_PING_S,
    describe_agent,
    describe_agents,
    describe_settings,
    describe_tunnel,
    describe_workspaces,
)
from ginnel.daemon.settings_check import Plan
from ginnel.daemon.supervise import Backoff
from ginnel.daemon.tunnel_events import TELL_INTERVAL_S
from ginnel.net.dns import DnsPlan

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("age", "latency", "told", "problem", "idle"),
    [
        (60, 0.01, 0, None, False),
        (60, None, 0, None, False),
        (None, None, 0, "no handshake yet", False),
        (600, None, 0, "last handshake 10 min ago", False),
        (600, 0.01, OLD_PING_S, None, True),  # its path answers: idle on purpose
        (600, 0.01, OLD_PING_S + 1, "last handshake 10 min ago", False),  # it answered once
        (60, 0.01, OLD_PING_S + 1, None, False),
    ],
)
def test_an_old_handshake_is_a_problem_unless_the_path_answers(
    age: float | None, latency: float | None, told: float, problem: str | None, idle: bool
) -> None:
    at = None if age is None else NOW - age
    agent = make_agent(b"i" * 16, "pi\x1b", last_handshake_unix=at, latency_s=latency, direct=True)
    found = describe_agent(agent, told, unix_now=NOW)
    assert (found["problem"], found["idle"]) == (problem, idle)
    assert found["name"] == "pi\\x1b"
    is_fresh = latency is not None and told <= OLD_PING_S
    assert found["direct"] == (True if is_fresh else None)
    assert found["latency_ms"] == (10 if is_fresh else None)
    assert found["through"] is None


def test_our_tunnel_tells_thrice_before_what_it_told_is_old() -> None:
    assert OLD_PING_S == 3 * TELL_INTERVAL_S


def test_who_relays_is_told() -> None:
    agent = make_agent(b"i" * 16, "pi", latency_s=0.01, through="attic\x1b")
    found = describe_agent(agent, 0.0, unix_now=NOW)
    assert (found["direct"], found["through"]) == (False, "attic\\x1b")


def test_what_a_hostile_tunnel_tells_leaves_the_answer_readable() -> None:
    name = "\x01" * MAX_NAME  # five bytes of JSON for each
    longest = make_agent(b"i" * 16, name)
    longest.fqdn.extend([name] * 8)
    assert agent_fault(longest) is None
    found, left_out = describe_agents([(longest, 0.0)] * MAX_KNOWN_PEERS, unix_now=NOW)
    assert len(found) + left_out == MAX_KNOWN_PEERS
    assert left_out > 0
    assert MAX_PEERS_TEXT * 0.9 < len(json.dumps(found)) < MAX_ANSWER / 1.9
    usual = make_agent(b"i" * 16, "workstation", latency_s=0.01, direct=True)
    usual.fqdn.append("workstation.some-network.internal")
    usual.ip_addrs.extend(["100.64.100.100", "fd12:3456:789a:bcde:1234:5678:9abc:def0"])
    found, left_out = describe_agents([(usual, 0.0)] * MAX_KNOWN_PEERS, unix_now=NOW)
    assert (len(found), left_out) == (MAX_KNOWN_PEERS, 0)


def test_three_deaths_within_a_minute_are_told_with_the_last_error() -> None:
    backoff = Backoff()
    now = time.monotonic()
    for count in range(3):
        assert describe_tunnel("starting", 7, backoff, "no key")["problem"] is None
        backoff.on_death(started_at=now, now=now)
        assert backoff.count == count + 1
    found = describe_tunnel("running", 7, backoff, "no key")
    assert found["problem"] == "the tunnel died 3 times within a minute: no key"


def test_workspaces_are_told_by_name_and_status_and_bounded() -> None:
    status = pb.Workspace.Status
    told = [
        pb.Workspace(id=b"1", name="lab\x1b", status=status.STARTING),
        pb.Workspace(id=b"2", name="home"),
    ]
    assert describe_workspaces(told) == (
        [{"name": "lab\\x1b", "status": "starting"}, {"name": "home", "status": "unknown"}],
        0,
    )
    found, left_out = describe_workspaces([pb.Workspace(id=b"1")] * (MAX_WORKSPACES + 7))
    assert (len(found), left_out) == (MAX_WORKSPACES, 7)


def test_settings_in_force() -> None:
    assert describe_settings(None, None) is None
    found = describe_settings(Plan(1280, ("100.64.0.1/32",), dns=DnsPlan(("100.64.0.1",))), None)
    assert found is not None
    assert found["addresses"] == ["100.64.0.1/32"]
    assert found["dns"]["by"] == "nobody (--no-dns)"
