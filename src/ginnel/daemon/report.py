"""What the tunnel tells people: the values of `status` and `netcheck`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from ginnel.base.addresses import is_public
from ginnel.base.dataplane import PeerStats
from ginnel.daemon.node_core import NodeCore
from ginnel.discv5.events import ReflexiveChanged
from ginnel.mesh.events import PeerChanged
from ginnel.peer.status import ConnStatus

Json: TypeAlias = dict[str, Any]

NO_NODES = (
    "No node answers. Is UDP blocked here? Otherwise no machine of this network can be reached "
    "from outside: one with a public address, a forwarded port or `ginnel node` on any server is "
    "enough; add its record to `nodes` in /etc/ginnel/NETWORK/settings.toml, then `ginnel down` "
    "and `ginnel up`."
)
NOT_OPEN = (
    "This machine can't be reached from outside, which is fine as long as one other machine can."
)
SYMMETRIC = (
    "The NAT here gives each destination another port. Direct paths work only to machines that "
    "take packets from any port: public ones, behind full-cone NATs, or with a forwarded port."
)


def has_answers(core: NodeCore) -> bool:
    """Say whether any node has told how it sees us: nodes known from a cache may all be silent."""
    return any(event.address is not None for event in core.own.reflexive.values())


def describe_peer(
    peer: PeerChanged,
    stats: PeerStats | None,
    *,
    now: float,
    pairs: Sequence[str] = (),
    mtu: int | None = None,
) -> Json:
    """Return one peer for `status`; pairs: its candidate pairs with their last results.

    mtu: bytes of the largest inner packet that its path takes, once that is known.
    """
    state = peer.state
    facts: Json = {
        "name": peer.name,
        "fqdn": peer.full_name,
        "member_id": peer.member_id.hex(),
        "addresses": list(peer.addresses),
        "status": state.status.value,
        "stage": peer.stage,
        "reason": state.reason,
        "pairs": list(pairs),
        "path": None,
        "latency_s": state.latency_s,
        "since_s": max(0.0, now - state.changed_at),
        "rx_bytes": 0 if stats is None else stats.rx_bytes,
        "tx_bytes": 0 if stats is None else stats.tx_bytes,
        "handshake_age_s": None if stats is None else stats.handshake_age_s,
        "post_quantum": "pending",
    }
    if state.status is ConnStatus.CONNECTED and state.local_address and state.remote_address:
        facts["path"] = {
            "direct": state.direct and not state.relayed,
            "why_relayed": state.why_relayed,
            "mtu": mtu,
            "local": {"kind": state.local_kind, "address": str(state.local_address)},
            "remote": {"kind": state.remote_kind, "address": str(state.remote_address)},
        }
    return facts


def describe_nat(reflexive: dict[bool, ReflexiveChanged], host_ips: tuple[str, ...]) -> str:
    """Return the kind of NAT as far as others' views tell."""
    event = reflexive.get(False) or reflexive.get(True)
    if event is None or event.address is None:
        return "unknown yet: nobody has told how they see this machine"
    if event.symmetric:
        return "symmetric: every destination sees another port"
    if event.address.ip in host_ips:
        return f"none: seen as {event.address}, an address of this machine"
    if event.observers < 2:
        return f"seen as {event.address} by one observer; two are needed to tell the kind"
    return f"the same port for every destination: seen as {event.address}"


def path_mtus(core: NodeCore) -> list[tuple[str, int | None]]:
    """Return the connected peers' names, and the largest inner packet to each, if known."""
    mesh = core.mesh
    if mesh is None:
        return []
    up = [peer for peer in mesh.peers() if peer.state.status is ConnStatus.CONNECTED]
    return [(peer.name, mesh.path_mtus.mtu_of(peer.state.remote_key)) for peer in up]


def describe_mtus(mtus: Sequence[tuple[str, int | None]]) -> str:
    """Return the largest inner packets of the connected peers' paths in words."""
    if not mtus:
        return "not known: no peer is connected"
    found = [f"{mtu or 'not known yet'} ({name})" for name, mtu in sorted(mtus)]
    sizes = {mtu for _, mtu in mtus}
    if len(sizes) == 1 and None not in sizes:
        return f"{mtus[0][1]} bytes to each peer"
    return ", ".join(found)


def describe_network(
    core: NodeCore, host_ips: tuple[str, ...], reachable: str, warnings: list[str]
) -> Json:
    """Return `netcheck`: facts, and what to do about them."""
    nodes = core.discovery.nodes()
    views = [event for event in core.own.reflexive.values() if event.address is not None]
    facts = {
        "addresses": ", ".join(host_ips) or "none",
        "public addresses": ", ".join(ip for ip in host_ips if is_public(ip)) or "none",
        "UDP": "gets out and back" if views else "no answer yet",
        "NAT": describe_nat(core.own.reflexive, host_ips),
        "reachable from outside": reachable,
        "nodes known": str(len(nodes)),
        "MTU in the tunnel": describe_mtus(path_mtus(core)),
    }
    advice = list(warnings)
    # Who is reachable and knows nobody waits for others: nothing is wrong there.
    if not views and (nodes or not reachable.startswith("yes")):
        advice.append(NO_NODES)
    if any(event.symmetric for event in views):
        advice.append(SYMMETRIC)
    elif reachable.startswith("no"):
        advice.append(NOT_OPEN)
    return {"facts": facts, "advice": advice}
