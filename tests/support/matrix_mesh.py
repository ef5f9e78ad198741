"""The whole product in meshes with a member behind each kind of NAT: each pair's path and ping.

    python tests/support/matrix_mesh.py                # a part of `make matrix`
    python tests/support/matrix_mesh.py ipv6           # one of the meshes

In `ipv4` the member behind the full-cone NAT may relay, and those who can't send UDP join with a
TURN server over TCP or TLS in their settings. In `ipv6` a public member may relay, and nodes are
known by an address of each IP version: by these a member with IPv6 alone and one with IPv4 alone
find each other.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from ginnel.lab import Home, Lab, LabTopology, NatKind, PublicMachine
from ginnel.lab.demo import ping
from ginnel.lab.scenario import Json, Scenario, peer_of
from support.connect_run import PASSWORD, PORT, TLS_PORT, USER, Servers, servers
from support.matrix import (
    DROP_IPV6,
    SHARED,
    V6_KINDS,
    Expected,
    expectation,
    machine_name,
)

NODES = ("node1", "node2")
PUBLIC = NatKind.NONE.value
SETTLE_S = 240.0  # seconds until all pairs are connected as they can be


@dataclass(frozen=True)
class Mesh:
    """One mesh: its members' kinds by name, who may relay, and who needs which TURN server."""

    name: str
    members: Mapping[str, str]
    relay: str
    turns: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_ipv6(self) -> bool:
        """Say whether its machines have IPv6."""
        return self.name == "ipv6"

    def pairs(self) -> list[tuple[str, str]]:
        """Return who has to meet whom."""
        return list(itertools.combinations(self.members, 2))

    def expected_of(self, one: str, other: str) -> Expected:
        """Return what has to come of two members; the shared home's router is port-restricted."""
        kinds = (self.members[one], self.members[other])
        if set(kinds) == {"ipv6-only", "ipv6-broken"}:
            return Expected.RELAYED
        if kinds == (SHARED, SHARED) or not V6_KINDS_SET.isdisjoint(kinds):
            return Expected.DIRECT
        first, second = (NatKind.PORT_RESTRICTED if kind == SHARED else kind for kind in kinds)
        turns = (self.turns.get(one, ""), self.turns.get(other, ""))
        return expectation((first, second), turns)


V6_KINDS_SET = frozenset(V6_KINDS)
IPV4 = Mesh(
    "ipv4",
    {machine_name(kind.value, 1): kind.value for kind in (NatKind.NONE, *NatKind)}
    | {machine_name(SHARED, number): SHARED for number in (1, 2)},
    relay=machine_name(NatKind.FULL_CONE.value, 1),
    turns={
        machine_name(NatKind.UDP_BLOCKED.value, 1): "tcp",
        machine_name(NatKind.TCP443.value, 1): "tls",
    },
)
IPV6 = Mesh(
    "ipv6",
    {"rock": PUBLIC}
    | {machine_name(kind, number): kind for kind in V6_KINDS for number in (1, 2)}
    | {machine_name(SHARED, number): SHARED for number in (1, 2)},
    relay="rock",
)


def make_lab(mesh: Mesh) -> Lab:
    """Build two public nodes, servers, and a home of each kind."""
    homes, public = [], [PublicMachine(name) for name in (*NODES, "server1", "server2")]
    for name, kind in mesh.members.items():
        if kind == PUBLIC:
            public.append(PublicMachine(name))
        elif kind in V6_KINDS:
            homes.append(Home(name, NatKind.PORT_RESTRICTED))
        elif kind != SHARED:
            homes.append(Home(name, NatKind(kind)))
    shared = tuple(name for name, kind in mesh.members.items() if kind == SHARED)
    homes += [Home("flat", NatKind.PORT_RESTRICTED, shared)] if shared else []
    lab = Lab.create(LabTopology(tuple(homes), tuple(public), ipv6=mesh.is_ipv6))
    for name, kind in mesh.members.items():
        if kind == "ipv6-only":
            lab.machine(name).run(["ip", "-4", "address", "flush", "dev", "eth0"])
        elif kind == "ipv6-broken":
            lab.router(name).run(["nft", "-f", "-"], text=DROP_IPV6)
    return lab


def look_at(scenario: Scenario, mesh: Mesh, status: Json, pair: tuple[str, str]) -> tuple[str, str]:
    """Return what came of a pair by the status of its first machine, and what is wrong with it."""
    peer = peer_of(status, pair[1]) or {}
    expected = mesh.expected_of(*pair)
    if peer.get("status") != "connected":
        return str(peer.get("reason") or peer.get("stage")), "not connected"
    path = peer["path"]
    kind = "direct" if path["direct"] else "relayed"
    why = path.get("why_relayed") or ""
    took = ping(scenario.machine(pair[0]), peer["addresses"][0])
    text = f"{kind} {path['local']['kind']}-{path['remote']['kind']}"
    text += f", ping {took:.1f} ms" if took is not None else ""
    if took is None:
        return text, "no answer to ping"
    if expected is not Expected.EITHER and expected.value != kind:
        return f"{text} {why}", f"expected: {expected.value}"
    if kind == "relayed" and not why:
        return text, "not told why"
    return text, ""


def start(scenario: Scenario, mesh: Mesh, turn: Servers, folder: Path) -> None:
    """Start the nodes, make the network and let everybody join."""
    for name in NODES:
        address6 = scenario.machine(name).address6
        scenario.start_node(name, *(["--advertise", address6] if address6 is not None else []))
    names = list(mesh.members)
    scenario.init(names[0], *(["--relay"] if names[0] == mesh.relay else []))
    served = [name for name in names[1:] if name in mesh.turns]
    others = [name for name in names[1:] if name not in mesh.turns]
    for first in range(0, len(others), 4):  # four at once
        scenario.join_all(names[0], others[first : first + 4], relays=[mesh.relay])
    address = turn.addresses[0]
    uris = {"tcp": f"turn:{address}:{PORT}?transport=tcp", "tls": f"turns:{address}:{TLS_PORT}"}
    for name in served:
        file = folder / f"{name}.toml"
        entry = f"{uris[mesh.turns[name]]} {USER} {PASSWORD}"
        file.write_text(f'turn = ["{entry}"]\nturn_ca = "{turn.authority}"\n')
        scenario.join(names[0], name, options=("--settings", str(file)))


def report(scenario: Scenario, mesh: Mesh, began: float) -> int:
    """Wait until the pairs have settled and print what came of each; return how many failed."""
    pairs = mesh.pairs()

    def is_settled() -> bool:
        statuses = {name: scenario.status(name) for name in mesh.members}
        ends = [(one, other) for pair in pairs for one, other in (pair, pair[::-1])]
        peers = [peer_of(statuses[one], other) for one, other in ends]
        return all(peer is not None and peer["status"] == "connected" for peer in peers)

    scenario.wait_until(is_settled, SETTLE_S)
    statuses = {name: scenario.status(name) for name in mesh.members}
    failed = 0
    for pair in pairs:
        text, failure = look_at(scenario, mesh, statuses[pair[0]], pair)
        failed += bool(failure)
        kinds = " - ".join(mesh.members[name] for name in pair)
        print(f"{kinds:36} {text}{f'  FAILED: {failure}' if failure else ''}", flush=True)
    seconds = time.monotonic() - began
    print(f"{len(pairs)} pairs of the whole product, {failed} failed, {seconds:.0f} s")
    return failed


def run(mesh: Mesh) -> int:
    """Run one mesh; return how many pairs aren't as they should be."""
    began = time.monotonic()
    with ExitStack() as stack:
        lab = stack.enter_context(make_lab(mesh))
        folder = Path(stack.enter_context(TemporaryDirectory()))
        turn = stack.enter_context(servers(lab))
        scenario = Scenario(lab, lambda who, text: print(f"{who}: {text}", flush=True))
        stack.callback(scenario.stop_nodes)
        start(scenario, mesh, turn, folder)
        return report(scenario, mesh, began)


def main() -> int:
    """Run all meshes, or those named; return 1 if a pair isn't as it should be."""
    wanted = sys.argv[1:]
    failed = [run(mesh) for mesh in (IPV4, IPV6) if not wanted or mesh.name in wanted]
    return 1 if sum(failed) else 0


if __name__ == "__main__":
    sys.exit(main())
