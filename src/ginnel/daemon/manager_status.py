"""What the manager says of its network without asking the tunnel: the values of `status`."""

from __future__ import annotations

from typing import Any, TypeAlias

from ginnel.codervpn import vpn_pb2 as pb
from ginnel.daemon.logs import escape_control
from ginnel.daemon.settings_check import Plan
from ginnel.net.dns import DnsPlan, DnsSetter

OLD_HANDSHAKE_S = 300.0  # seconds; WireGuard in use shakes hands every two minutes (seed 002)

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


def describe_agent(agent: pb.Agent) -> Json:
    """Return a peer as the tunnel told of it: nothing in it is trusted."""
    has_handshake = agent.HasField("last_handshake") and agent.last_handshake.seconds > 0
    ping = agent.last_ping
    return {
        "id": agent.id[:16].hex(),
        "name": escape_control(agent.name, 255),
        "fqdn": [escape_control(name, 255) for name in agent.fqdn[:8]],
        "addresses": [escape_control(text, 64) for text in agent.ip_addrs[:8]],
        "last_handshake_unix": agent.last_handshake.seconds if has_handshake else None,
        "latency_ms": ping.latency.ToNanoseconds() / 1e6 if agent.HasField("last_ping") else None,
        "direct": ping.did_p2p if agent.HasField("last_ping") else None,
    }
