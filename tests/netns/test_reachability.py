"""Whether strangers reach a member, found out through public nodes that are no members.

node1, node2, node3   public: one is asked, the others are sent
pia                   the admin; port-restricted NAT
cone                  full-cone NAT
addr                  NAT that lets in IPs that were written to
sym                   symmetric NAT
rock                  public, tells nobody its address
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ginnel.lab import Home, LabTopology, NatKind, PublicMachine
from support.mesh_lab import NODES, MeshLab, mesh_lab

pytestmark = pytest.mark.netns

MEMBERS = ("pia", "cone", "addr", "sym", "rock")
TOPOLOGY = LabTopology(
    homes=(
        Home("pia", NatKind.PORT_RESTRICTED),
        Home("cone", NatKind.FULL_CONE),
        Home("addr", NatKind.ADDR_RESTRICTED),
        Home("sym", NatKind.SYMMETRIC),
    ),
    public=tuple(PublicMachine(name) for name in (*NODES, "node3", "rock")),
)
ANSWER_S = 60.0  # seconds until the answer stands; silence takes longest


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshLab]:
    with mesh_lab(TOPOLOGY, MEMBERS, nodes=(*NODES, "node3")) as made:
        yield made


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("cone", "yes (strangers get in at "),
        ("rock", "yes (strangers get in at "),
        ("pia", "no (behind a NAT that keeps strangers out)"),
        ("addr", "no (behind a NAT that keeps strangers out)"),
        ("sym", "no (behind a NAT that takes another port for each destination)"),
    ],
)
def test_strangers_tell_whether_they_get_in(mesh: MeshLab, name: str, answer: str) -> None:
    def reachable() -> str:
        return str(mesh.scenario.status(name)["reachable"])

    assert mesh.scenario.wait_until(lambda: reachable() != "unknown yet", ANSWER_S)
    assert reachable().startswith(answer)
    if answer.startswith("yes"):
        outer = mesh.lab.router("cone") if name == "cone" else mesh.machine(name)
        assert f" {outer.address}:" in reachable()


def test_people_are_told_by_status_and_with_an_invite(mesh: MeshLab) -> None:
    answer = "reachable from outside: no (behind a NAT that keeps strangers out)"
    told = f"reachable from outside: {mesh.scenario.status('pia')['reachable']}"
    assert mesh.scenario.wait_until(
        lambda: answer in mesh.machine("pia").run(["ginnel", "status"]).stdout, ANSWER_S
    ), told
    invited = mesh.machine("pia").run(["sh", "-c", "ginnel invite --expires 30m 2>&1 >/dev/null"])
    assert answer in invited.stdout


def test_netcheck_with_a_tunnel(mesh: MeshLab) -> None:
    argv = ["ginnel", "netcheck", "--json"]
    answer = json.loads(mesh.machine("pia").run(argv, timeout=120).stdout)
    checks, facts = answer["checks"], answer["facts"]
    assert (checks["mapping"], checks["filtering"]) == ("independent", "address_and_port")
    assert facts["mapping"] == "endpoint-independent"
    assert facts["filtering"] == "address- and port-dependent"
    assert facts["reachable from outside"] == checks["reachable"]
    assert "none held" in facts["port mapping"]
    for name in ("UDP", "IPv4", "IPv6", "hairpin", "MTU", "MTU in the tunnel", "observed"):
        assert facts[name], name
    assert facts["clock"].startswith("shows ")
    assert "pia.demo.internal" in facts["DNS"]
    outer = mesh.lab.router("pia").address
    assert all(view["seen"].startswith(f"{outer}:") for view in checks["observed"])
