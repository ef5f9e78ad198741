"""The whole product in one mesh with a member behind each kind of NAT: each pair's path and ping.

    python tests/support/matrix_mesh.py                # a part of `make matrix`

The member behind the full-cone NAT may relay. Who can't send UDP can't join without a TURN server
over TCP and is no member here: see `matrix.py`.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ginnel.lab import Home, Lab, LabTopology, NatKind, PublicMachine
from ginnel.lab.demo import ping
from ginnel.lab.scenario import Json, Scenario, peer_of
from support.matrix import BLOCKED, SHARED, Expected, expectation, machine_name

NODES = ("node1", "node2")
RELAY = machine_name(NatKind.FULL_CONE.value, 1)
SETTLE_S = 240.0  # seconds until all pairs are connected as they can be
MEMBERS = {
    machine_name(kind.value, 1): kind.value
    for kind in (NatKind.NONE, *NatKind)
    if kind not in BLOCKED
} | {machine_name(SHARED, number): SHARED for number in (1, 2)}


def expected_of(one: str, other: str) -> Expected:
    """Return what has to come of two members; the shared home's router is port-restricted."""
    kinds = (MEMBERS[one], MEMBERS[other])
    if kinds == (SHARED, SHARED):
        return Expected.DIRECT
    first, second = (NatKind.PORT_RESTRICTED.value if kind == SHARED else kind for kind in kinds)
    return expectation((first, second))


def make_lab() -> Lab:
    """Build two public nodes, a public member and a home of each kind."""
    homes = [
        Home(name, NatKind(kind))
        for name, kind in MEMBERS.items()
        if kind not in (SHARED, NatKind.NONE)
    ]
    shared = tuple(name for name, kind in MEMBERS.items() if kind == SHARED)
    homes.append(Home("flat", NatKind.PORT_RESTRICTED, shared))
    public = (*NODES, machine_name(NatKind.NONE.value, 1))
    return Lab.create(LabTopology(tuple(homes), tuple(PublicMachine(name) for name in public)))


def look_at(scenario: Scenario, status: Json, one: str, other: str) -> tuple[str, str]:
    """Return what came of a pair by the status of its first machine, and what is wrong with it."""
    peer = peer_of(status, other) or {}
    expected = expected_of(one, other)
    if peer.get("status") != "connected":
        return str(peer.get("reason") or peer.get("stage")), "not connected"
    path = peer["path"]
    kind = "direct" if path["direct"] else "relayed"
    why = path.get("why_relayed") or ""
    took = ping(scenario.machine(one), peer["addresses"][0])
    text = f"{kind} {path['local']['kind']}-{path['remote']['kind']}"
    text += f", ping {took:.1f} ms" if took is not None else ""
    if took is None:
        return text, "no answer to ping"
    if expected is not Expected.EITHER and expected.value != kind:
        return f"{text} {why}", f"expected: {expected.value}"
    if kind == "relayed" and not why:
        return text, "not told why"
    return text, ""


def main() -> int:
    """Run it; return 1 if a pair isn't as it should be."""
    began = time.monotonic()
    names = list(MEMBERS)
    with make_lab() as lab:
        scenario = Scenario(lab, lambda who, text: print(f"{who}: {text}", flush=True))
        try:
            for name in NODES:
                scenario.start_node(name)
            scenario.init(names[0])
            for first in range(1, len(names), 4):  # four at once
                scenario.join_all(names[0], names[first : first + 4], relays=[RELAY])
            return report(scenario, names, began)
        finally:
            scenario.stop_nodes()


def report(scenario: Scenario, names: list[str], began: float) -> int:
    """Wait until the pairs have settled and print what came of each."""
    pairs = list(itertools.combinations(names, 2))

    def is_settled() -> bool:
        for name in names:
            status = scenario.status(name)
            for other in names:
                peer = peer_of(status, other)
                if other != name and (peer is None or peer["status"] != "connected"):
                    return False
        return True

    scenario.wait_until(is_settled, SETTLE_S)
    statuses = {name: scenario.status(name) for name in names}
    found = [(one, other, *look_at(scenario, statuses[one], one, other)) for one, other in pairs]
    failed = [item for item in found if item[3]]
    for one, other, text, failure in found:
        kinds = f"{MEMBERS[one]} - {MEMBERS[other]}"
        print(f"{kinds:36} {text}{f'  FAILED: {failure}' if failure else ''}", flush=True)
    seconds = time.monotonic() - began
    print(f"{len(pairs)} pairs of the whole product, {len(failed)} failed, {seconds:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
