"""Which pairs of NATs connect directly, over which candidates; one network of seven members.

node1, node2     public, no members
rock             public
flat1, flat2     two hosts of one home behind a port-restricted NAT
pia              port-restricted
cleo             full-cone
adam             addr-restricted
dora             symmetric
late             full-cone; joins last, may relay
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ginnel.base.servers import DEFAULT_PORTS
from ginnel.lab import Home, LabTopology, NatKind, PublicMachine
from ginnel.lab.demo import ping
from ginnel.lab.scenario import Json
from ginnel.lab.transfer import transfer
from support.mesh_lab import NODES, MeshLab, mesh_lab

pytestmark = pytest.mark.netns

MEMBERS = ("flat1", "flat2", "pia", "cleo", "adam", "dora", "rock")
TOPOLOGY = LabTopology(
    homes=(
        Home("flat", NatKind.PORT_RESTRICTED, ("flat1", "flat2")),
        Home("pia", NatKind.PORT_RESTRICTED),
        Home("cleo", NatKind.FULL_CONE),
        Home("adam", NatKind.ADDR_RESTRICTED),
        Home("dora", NatKind.SYMMETRIC),
        Home("late", NatKind.FULL_CONE),
    ),
    public=tuple(PublicMachine(name) for name in (*NODES, "rock")),
)
REASON_S = 15.0  # seconds from both being up until a pair says why it can't be direct
OUTSIDE = {"srflx", "prflx"}  # kinds of an address that a NAT gives


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshLab]:
    with mesh_lab(TOPOLOGY, MEMBERS) as made:
        yield made


def kinds(path: Json) -> tuple[str, str]:
    return path["local"]["kind"], path["remote"]["kind"]


def assert_direct(mesh: MeshLab, one: str, other: str) -> tuple[str, str]:
    path = mesh.wait_for_path(one, other)
    assert path["direct"]
    assert mesh.ping(one, other) is not None
    assert mesh.ping(other, one) is not None
    return kinds(path)


def test_two_hosts_of_one_lan_talk_inside_it(mesh: MeshLab) -> None:
    assert assert_direct(mesh, "flat1", "flat2") == ("host", "host")
    path = mesh.path("flat1", "flat2")
    assert path is not None
    inside = [mesh.machine(name).address for name in ("flat1", "flat2")]
    assert [path[side]["address"].rpartition(":")[0] for side in ("local", "remote")] == inside


def test_a_public_machine_is_met_at_its_own_address(mesh: MeshLab) -> None:
    local, remote = assert_direct(mesh, "rock", "flat1")
    assert local == "host"
    assert remote in OUTSIDE


def test_port_restricted_twice(mesh: MeshLab) -> None:
    assert set(assert_direct(mesh, "flat1", "pia")) <= {"host", *OUTSIDE}
    path = mesh.path("flat1", "pia")
    assert path is not None
    outer = mesh.lab.router("pia").address
    assert path["remote"]["address"].startswith(f"{outer}:")


@pytest.mark.parametrize("home", ["cleo", "adam"])
def test_a_symmetric_nat_meets_one_that_takes_any_port(mesh: MeshLab, home: str) -> None:
    _, remote = assert_direct(mesh, home, "dora")
    assert remote == "prflx"  # the port is known only once its packet has come


@pytest.mark.parametrize(("one", "other"), [("pia", "dora"), ("dora", "pia")])
def test_a_pair_that_cannot_be_direct_says_why(mesh: MeshLab, one: str, other: str) -> None:
    def reason() -> str:
        peer = mesh.scenario.peer(one, other) or {}
        return str(peer.get("reason") or "")

    assert mesh.scenario.wait_until(lambda: bool(reason()), REASON_S)
    assert reason().startswith("needs a relay: ")
    assert "(symmetric, port-restricted)" in reason()
    both_up_at = max(mesh.up_at[one], mesh.up_at[other])
    told = [
        event["at"]
        for event in mesh.events(one)
        if event["kind"] == "peer" and f"{other}: " in event["text"] and reason() in event["text"]
    ]
    assert told
    seconds = told[0] - both_up_at
    print(f"{one} - {other}: after {seconds:.1f} s: {reason()}")
    assert seconds <= REASON_S


def test_a_pair_that_cannot_be_direct_is_relayed_once_a_member_may(mesh: MeshLab) -> None:
    """A relay is let in late, by `approve --relay`; it is behind a NAT itself."""
    mesh.scenario.join("flat1", "late", relay=True)
    path = mesh.wait_for_path("pia", "dora")
    assert not path["direct"]
    assert kinds(path) == ("relay", "relay")
    assert "(symmetric, port-restricted)" in path["why_relayed"]
    status = mesh.scenario.status("dora")
    address = next(peer["addresses"][0] for peer in status["peers"] if peer["name"] == "pia")
    assert ping(mesh.machine("dora"), address) is not None
    assert transfer(mesh.machine("dora"), mesh.machine("pia"), address, 2_000_000) > 1
    sockets = mesh.machine("late").run(["ss", "-Hlun"]).stdout.split()
    for side in ("local", "remote"):  # each allocation holds a port of its own at the relay
        port = int(path[side]["address"].rpartition(":")[2])
        assert DEFAULT_PORTS.first <= port <= DEFAULT_PORTS.last
        assert f"0.0.0.0:{port}" in sockets
    detail = mesh.machine("pia").run(["ginnel", "status", "-d"]).stdout
    assert "dora: relayed: both sides are behind NATs" in detail
    assert "relay " in detail
    assert "no answer" in detail
