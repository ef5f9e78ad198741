"""What the manager says of its network without asking the tunnel: the values of `status`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from ginnel.codervpn import vpn_pb2 as pb
from ginnel.daemon.logs import escape_control
from ginnel.daemon.settings_check import Plan
from ginnel.daemon.supervise import MANY_DEATHS, Backoff
from ginnel.net.dns import DnsPlan, DnsSetter

MAX_PEERS_TEXT = 8 * 1024 * 1024  # bytes of JSON; half of what a client takes, 2000 for each peer
MAX_WORKSPACES = 64  # in an answer; our own tunnel has one, the network
OLD_HANDSHAKE_S = 300.0  # seconds; WireGuard in use shakes hands every two minutes (seed 002)
OLD_PING_S = 90.0  # seconds since a tunnel told it; ours tells every 30

Json: TypeAlias = dict[str, Any]


def describe_settings(plan: Plan | None, setter: DnsSetter | None) -> Json | None:
    """Return the network settings in force, or None."""
    if plan is None:
        return None
    return {
        "mtu": plan.mtu,
        "addresses": list(plan.addresses),
        "routes": list(plan.routes),
        "excluded": list(plan.excluded),
        "dns": None if plan.dns is None else _describe_dns(plan.dns, setter),
    }


def _describe_dns(plan: DnsPlan, setter: DnsSetter | None) -> Json:
    return {
        "by": setter.name if setter is not None else "nobody (--no-dns)",
        "servers": list(plan.servers),
        "search": list(plan.search),
        "match": list(plan.match),
    }


def describe_agents(
    agents: Iterable[tuple[pb.Agent, float]], *, unix_now: float
) -> tuple[list[Json], int]:
    """Return the peers as the tunnel told of them, and how many had no room in an answer.

    Args:
        agents: each with the seconds since the tunnel last told of it.
        unix_now: wall time.
    """
    found: list[Json] = []
    left_out = size = 0
    for agent, told_age in agents:
        told = describe_agent(agent, told_age, unix_now=unix_now)
        size += len(json.dumps(told))
        if size > MAX_PEERS_TEXT:
            left_out += 1
        else:
            found.append(told)
    return found, left_out


def describe_agent(agent: pb.Agent, told_age: float, *, unix_now: float) -> Json:
    """Return a peer as the tunnel told of it: nothing in it is trusted.

    No handshake or an old one is a problem, except where the path answers: nobody has had anything
    to say there, and WireGuard is silent on purpose. A ping has no time of its own: one that was
    told long ago says nothing, because the tunnel may be stuck.
    """
    has_handshake = agent.HasField("last_handshake") and agent.last_handshake.seconds > 0
    age = max(0.0, unix_now - agent.last_handshake.seconds) if has_handshake else None
    ping = agent.last_ping
    answers = agent.HasField("last_ping") and told_age <= OLD_PING_S
    problem = None
    if not answers and age is None:
        problem = "no handshake yet"
    elif not answers and age is not None and age > OLD_HANDSHAKE_S:
        problem = f"last handshake {age / 60:.0f} min ago"
    return {
        "id": agent.id[:16].hex(),
        "name": escape_control(agent.name, 255),
        "fqdn": [escape_control(name, 255) for name in agent.fqdn[:8]],
        "addresses": [escape_control(text, 64) for text in agent.ip_addrs[:8]],
        "last_handshake_unix": agent.last_handshake.seconds if has_handshake else None,
        "latency_ms": ping.latency.ToNanoseconds() / 1e6 if answers else None,
        "direct": ping.did_p2p if answers else None,
        "through": (escape_control(ping.preferred_derp, 255) or None) if answers else None,
        "idle": answers and (age is None or age > OLD_HANDSHAKE_S),
        "problem": problem,
    }


def describe_workspaces(told: Sequence[pb.Workspace]) -> tuple[list[Json], int]:
    """Return the workspaces as the tunnel told of them, and how many had no room in an answer."""
    found = [
        {
            "name": escape_control(workspace.name, 255),
            "status": pb.Workspace.Status.Name(workspace.status).lower(),
        }
        for workspace in told[:MAX_WORKSPACES]
    ]
    return found, len(told) - len(found)


def describe_tunnel(state: str, pid: int | None, backoff: Backoff, last_error: str | None) -> Json:
    """Return the tunnel's process: how often it died, and whether too often."""
    deaths = backoff.recent_deaths(now=time.monotonic())
    problem = None
    if deaths >= MANY_DEATHS:
        problem = f"the tunnel died {deaths} times within a minute: {last_error}"
    return {
        "state": state,
        "pid": pid,
        "restarts": backoff.count,
        "last_error": last_error,
        "problem": problem,
    }
