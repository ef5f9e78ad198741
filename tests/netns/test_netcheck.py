"""`ginnel netcheck` without a tunnel, behind each kind of NAT.

node1, node2, node3   public nodes
rock                  public
all others            homes named by their kind
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ginnel.lab import Home, Lab, LabTopology, NatKind, PublicMachine
from ginnel.lab.scenario import Json, Scenario

pytestmark = pytest.mark.netns(tun=False)

NODES = ("node1", "node2", "node3")
TOPOLOGY = LabTopology(
    homes=(
        Home("cone", NatKind.FULL_CONE),
        Home("addr", NatKind.ADDR_RESTRICTED),
        Home("port", NatKind.PORT_RESTRICTED),
        Home("sym", NatKind.SYMMETRIC),
        Home("hair", NatKind.HAIRPIN),
        Home("shut", NatKind.UDP_BLOCKED),
    ),
    public=tuple(PublicMachine(name) for name in (*NODES, "rock")),
)
# machine: mapping, filtering, hairpin
KINDS = {
    "rock": ("none", "independent", None),
    "cone": ("independent", "independent", False),
    "addr": ("independent", "address", False),
    "port": ("independent", "address_and_port", False),
    "sym": ("dependent", "address_and_port", False),
    "hair": ("independent", "address_and_port", True),
    "shut": ("unknown", "unknown", None),
}
WAIT_S = 60.0  # seconds for an answer that fits: on a busy machine strangers come too late


@pytest.fixture(scope="module")
def answers() -> Iterator[dict[str, Json]]:
    """Run netcheck on every machine, all at once."""
    with Lab.create(TOPOLOGY) as lab:
        scenario = Scenario(lab, lambda _who, _text: None)
        for name in NODES:
            scenario.start_node(name)
        found: dict[str, Json] = {}

        def check(name: str) -> bool:
            argv = ["ginnel", "netcheck", "--json", *scenario.hints()]
            found[name] = json.loads(lab.machine(name).run(argv, timeout=120).stdout)
            checks = found[name]["checks"]
            return (checks["mapping"], checks["filtering"], checks["hairpin"]) == KINDS[name]

        with ThreadPoolExecutor(len(KINDS)) as pool:
            list(pool.map(lambda name: scenario.wait_until(lambda: check(name), WAIT_S), KINDS))
        yield found
        scenario.stop_nodes()


@pytest.mark.parametrize("name", KINDS)
def test_what_is_found(answers: dict[str, Json], name: str) -> None:
    checks = answers[name]["checks"]
    assert (checks["mapping"], checks["filtering"], checks["hairpin"]) == KINDS[name]
    assert checks["ipv4"] is checks["udp"] is (name != "shut")
    assert checks["ipv6"] is False
    assert checks["mtu"] == 1500
    assert checks["port_mapping"] == []
    assert len(checks["observed"]) == (0 if name == "shut" else len(NODES))
    assert answers[name]["schema"] == 1
