"""Homes that let no UDP out join and connect through coturn over TCP and TLS, or say why not.

node1, node2   public, no members
turn           public: coturn, TCP on 3478 and TLS on 443
pia            no UDP; makes the network, has turn: over TCP
dora           symmetric; knows nothing of the server
tess           no UDP, and TCP to 443 only; joins with turns: in its settings
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ginnel.lab import Home, Lab, LabTopology, NatKind, PublicMachine
from ginnel.lab.demo import ping
from ginnel.lab.scenario import Scenario
from support.coturn import PASSWORD, USER, coturn_argv
from support.mesh_lab import NODES, MeshLab

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(shutil.which("turnserver") is None, reason="Debian's coturn is not here"),
]

TOPOLOGY = LabTopology(
    homes=(
        Home("pia", NatKind.UDP_BLOCKED),
        Home("dora", NatKind.SYMMETRIC),
        Home("tess", NatKind.TCP443),
    ),
    public=tuple(PublicMachine(name) for name in (*NODES, "turn")),
)
SETTINGS = "/etc/ginnel/demo/settings.toml"
CONNECT_S = 90.0  # seconds; UDP is given up after 5, and each step has a limit of its own


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("coturn")


@pytest.fixture(scope="module")
def mesh(folder: Path) -> Iterator[MeshLab]:
    with Lab.create(TOPOLOGY) as lab:
        mesh = MeshLab(lab, Scenario(lab, lambda _who, _text: None))
        turn = mesh.machine("turn")
        argv = coturn_argv(folder, turn.address, 3478, tls_port=443)
        server = turn.popen(argv, stdout=subprocess.DEVNULL)
        try:
            for name in NODES:
                mesh.scenario.start_node(name)
            options = ("--name", "pia", *mesh.scenario.hints(), "--json")
            mesh.scenario.ginnel("pia", "init", mesh.scenario.network, *options)
            entry = f"turn:{turn.address}?transport=tcp {USER} {PASSWORD}"
            mesh.machine("pia").run(["sed", "-i", f's|^turn = .*|turn = ["{entry}"]|', SETTINGS])
            mesh.scenario.up("pia")
            mesh.scenario.join_all("pia", ("dora",))
            yield mesh
        finally:
            mesh.scenario.stop_nodes()
            server.terminate()
            server.wait()


def address_of(mesh: MeshLab, name: str) -> str:
    address: str = mesh.scenario.status(name)["self"]["addresses"][0]
    return address


def test_a_home_without_udp_lets_others_join_and_connects_over_tcp(mesh: MeshLab) -> None:
    path = mesh.wait_for_path("pia", "dora", CONNECT_S)
    assert not path["direct"]
    assert path["local"]["address"].startswith(f"{mesh.machine('turn').address}:")
    assert ping(mesh.machine("pia"), address_of(mesh, "dora")) is not None


def test_a_home_without_udp_joins_and_meets_others_over_tls(mesh: MeshLab, folder: Path) -> None:
    settings = folder / "tess.toml"
    entry = f"turns:{mesh.machine('turn').address}:443 {USER} {PASSWORD}"
    authority = folder / "tls" / "cert.pem"
    settings.write_text(f'turn = ["{entry}"]\nturn_ca = "{authority}"\n')
    mesh.scenario.join("pia", "tess", options=("--settings", str(settings)))
    for other in ("pia", "dora"):
        path = mesh.wait_for_path("tess", other, CONNECT_S)
        assert not path["direct"]
        assert ping(mesh.machine("tess"), address_of(mesh, other)) is not None


def test_without_a_server_it_says_what_it_needs(mesh: MeshLab) -> None:
    mesh.scenario.ginnel("tess", "down", mesh.scenario.network)
    mesh.machine("tess").run(["sed", "-i", "s|^turn = .*|turn = []|", SETTINGS])
    mesh.scenario.up("tess")

    def says() -> bool:
        return "TURN server" in str(mesh.scenario.status("tess"))

    assert mesh.scenario.wait_until(says, CONNECT_S)
