"""Members meet through the DHT alone, and not at all where its nodes store nothing for them.

    node1, node2   public, no members
    anna, ben      each behind a port-restricted NAT of its own

There is no multicast; caches are empty, and the invite names the public nodes only.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ginnel.discv5.enr import Enr, decode_enr
from ginnel.lab import Home, LabTopology, PublicMachine
from ginnel.lab.scenario import stage_of
from support.formats_decoder import read_invite
from support.mesh_lab import NODES, MeshLab, mesh_lab

pytestmark = pytest.mark.netns

TOPOLOGY = LabTopology(
    homes=(Home("anna"), Home("ben")), public=tuple(PublicMachine(name) for name in NODES)
)
PAIR = (("anna", "ben"), ("ben", "anna"))
APART_S = 8  # seconds without a path; with rendezvous it takes two


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshLab]:
    with mesh_lab(TOPOLOGY, ("anna", "ben")) as made:
        yield made


def texts(mesh: MeshLab, name: str) -> list[str]:
    return [event["text"] for event in mesh.events(name)]


def assert_found_by_lookup(mesh: MeshLab, one: str, other: str) -> None:
    told = texts(mesh, one)
    assert f"{other} found by LOOKUP" in told
    assert f"{other}: connected" in told


def restart_with_empty_caches(mesh: MeshLab) -> None:
    def stop(name: str) -> None:
        mesh.scenario.ginnel(name, "down", mesh.scenario.network)
        mesh.empty_caches(name)

    with ThreadPoolExecutor() as pool:
        list(pool.map(stop, ("anna", "ben")))  # both, before either one starts
        list(pool.map(mesh.scenario.up, ("anna", "ben")))


def test_an_invite_and_the_dht_suffice(mesh: MeshLab) -> None:
    *_, records, _name = read_invite(mesh.invites["ben"])
    public = [Enr.from_text(record).node_id for record in mesh.scenario.records]
    assert sorted(decode_enr(raw).node_id for raw in records) == sorted(public)
    path = mesh.wait_for_path("anna", "ben")
    assert path["direct"]
    # Whoever gets the other's offer first need not search any more.
    assert any(f"{other} found by LOOKUP" in texts(mesh, one) for one, other in PAIR)


def test_members_with_empty_caches_find_each_other_by_lookup(mesh: MeshLab) -> None:
    restart_with_empty_caches(mesh)
    mesh.wait_for_path("anna", "ben")
    assert mesh.ping("anna", "ben") is not None
    assert any(f"{other} found by LOOKUP" in texts(mesh, one) for one, other in PAIR)


def test_nodes_that_refuse_rendezvous_keep_members_apart(mesh: MeshLab) -> None:
    mesh.scenario.stop_nodes()
    for name in NODES:
        mesh.scenario.start_node(name, "--no-rendezvous")
    restart_with_empty_caches(mesh)
    up = mesh.machine("anna").run(["ginnel", "up", "demo", "--timeout", str(APART_S)], check=False)
    assert up.returncode == 1
    said = up.stdout + up.stderr
    assert f"no peer connected in {APART_S} s" in said
    assert "ginnel netcheck" in said
    assert "Stages: searching (" in said
    for one, other in PAIR:
        peer = mesh.scenario.peer(one, other)
        assert peer is not None
        assert peer["status"] != "connected"
        assert stage_of(peer).startswith("searching")
        assert stage_of(peer) in mesh.machine(one).run(["ginnel", "status"]).stdout
        assert not any("found by" in text for text in texts(mesh, one))


def test_they_meet_where_the_same_nodes_store(mesh: MeshLab) -> None:
    """They were apart for want of rendezvous and nothing else."""
    mesh.scenario.stop_nodes()
    for name in NODES:
        mesh.scenario.start_node(name)
    restart_with_empty_caches(mesh)
    mesh.wait_for_path("anna", "ben")
