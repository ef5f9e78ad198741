"""A joined network in a lab, made by a user's own commands; what its machines say and look like."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from ginnel.lab import Lab, LabTopology, Machine
from ginnel.lab.demo import ping
from ginnel.lab.scenario import Json, Scenario

NODES = ("node1", "node2")  # the public nodes; two observers show that a NAT is symmetric
CONNECT_S = 40.0  # seconds for pairs that are all up to become direct
NetworkState: TypeAlias = dict[str, list[str]]

_ASK = """
import json, sys
from pathlib import Path
from ginnel.cli.client import ask_tunnel
print(json.dumps(ask_tunnel(Path(sys.argv[1]), sys.argv[2], sys.argv[3])))
"""
_STATUS = """
import json, sys
from pathlib import Path
from ginnel.cli.client import ask_manager
print(json.dumps(ask_manager(Path(sys.argv[1]), "status")))
"""
_FORGET = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as connection:
    for table in ("nodes", "endpoints", "events"):
        connection.execute(f"DELETE FROM {table}")
connection.close()
"""
_LOOKS = (
    ("links", "ip -o link show | sed 's/^[0-9]*: //'"),
    ("addresses", "ip -o addr show | sed 's/^[0-9]*: //; s/valid_lft.*//'"),
    ("rules", "ip rule show; ip -6 rule show"),
    ("routes", "ip route show table all; ip -6 route show table all"),
    ("nftables", "nft list ruleset"),
)


@dataclass
class MeshLab:
    """A lab with a network in it.

    Args:
        pristine: each member's network before Ginnel came.
        invites: with which each member but the first joined.
        addresses: of each member inside the tunnel.
        up_at: when `ginnel up` ended on each member (unix).
    """

    lab: Lab
    scenario: Scenario
    pristine: dict[str, NetworkState] = field(default_factory=dict)
    invites: dict[str, str] = field(default_factory=dict)
    addresses: dict[str, list[str]] = field(default_factory=dict)
    up_at: dict[str, float] = field(default_factory=dict)

    def machine(self, name: str) -> Machine:
        """Return a machine of the lab."""
        return self.lab.machine(name)

    def path(self, one: str, other: str) -> Json | None:
        """Return the path from one to the other if they are connected."""
        peer = self.scenario.peer(one, other)
        return peer["path"] if peer is not None and peer.get("status") == "connected" else None

    def wait_for_path(self, one: str, other: str, limit_s: float = CONNECT_S) -> Json:
        """Wait until both ends are connected; return the path as the first one sees it."""
        ends = ((one, other), (other, one))
        met = self.scenario.wait_until(
            lambda: all(self.path(*end) is not None for end in ends), limit_s
        )
        assert met, f"no path in {limit_s} s: {[self.scenario.peer(*end) for end in ends]}"
        path = self.path(one, other)
        assert path is not None
        return path

    def ping(self, one: str, other: str) -> float | None:
        """Return the round trip in ms of the system's ping through the TUN, None if lost."""
        return ping(self.machine(one), self.addresses[other][0])

    def events(self, name: str) -> list[Json]:
        """Return the journal of a machine's tunnel, oldest first."""
        socket_path = f"/run/ginnel/{self.scenario.network}/tunnel.sock"
        argv = [sys.executable, "-c", _ASK, socket_path, "GET", "/v1/events"]
        found: list[Json] = json.loads(self.machine(name).run(argv).stdout)["events"]
        return found[::-1]

    def manager(self, name: str) -> Json:
        """Return what the manager of a machine says of itself and its children."""
        socket_path = f"/run/ginnel/{self.scenario.network}/manager.sock"
        argv = [sys.executable, "-c", _STATUS, socket_path]
        said: Json = json.loads(self.machine(name).run(argv).stdout)
        return said

    def pids(self, name: str) -> dict[str, int | None]:
        """Return the process ids, inside the lab, of manager, tunnel and signer."""
        said = self.manager(name)
        roles = ("manager", "tunnel", "signer")
        return {role: said[role]["pid"] for role in roles if said[role] is not None}

    def empty_caches(self, name: str) -> None:
        """Let a machine that is down forget nodes, endpoints and journal; it stays a member."""
        database = f"/var/lib/ginnel/{self.scenario.network}/state.db"
        self.machine(name).run([sys.executable, "-c", _FORGET, database])


@contextmanager
def mesh_lab(
    topology: LabTopology,
    members: Sequence[str],
    *,
    node_options: Sequence[str] = (),
    nodes: Sequence[str] = NODES,
    prepare: Callable[[Lab], None] = lambda _lab: None,
) -> Iterator[MeshLab]:
    """Build a lab, start the public nodes, let the members join, all at once.

    The first member makes the network; `prepare` is called before.
    """
    with Lab.create(topology) as lab:
        mesh = MeshLab(lab, Scenario(lab, lambda _who, _text: None))
        mesh.scenario.say = _UpTimes(mesh.up_at)
        try:
            prepare(lab)
            mesh.pristine = {name: network_state(lab.machine(name)) for name in members}
            for name in nodes:
                mesh.scenario.start_node(name, *node_options)
            mesh.scenario.init(members[0])
            mesh.invites = mesh.scenario.join_all(members[0], members[1:])
            mesh.addresses = {
                name: mesh.scenario.status(name)["self"]["addresses"] for name in members
            }
            yield mesh
        finally:
            mesh.scenario.stop_nodes()


def network_state(machine: Machine) -> NetworkState:
    """Return all that Ginnel could have changed in a machine's network, comparable, by kind."""
    script = "; ".join(f"echo '== {kind}'; {command} 2>&1" for kind, command in _LOOKS)
    state: NetworkState = {}
    for line in machine.run(["sh", "-c", script]).stdout.splitlines():
        if line.startswith("== "):
            state[line[3:]] = current = []
        elif line.strip():
            current.append(" ".join(line.split()))
    return {kind: sorted(lines) for kind, lines in state.items()}


class _UpTimes:
    """Notes when each machine's `up` was done."""

    def __init__(self, times: dict[str, float]) -> None:
        self._times = times

    def __call__(self, who: str, text: str) -> None:
        if text.startswith("ginnel up:"):
            self._times[who] = time.time()
