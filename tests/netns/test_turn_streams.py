"""Homes that let no UDP out connect through coturn over TCP and TLS; without it they say so.

node1, node2   public, no members
turn           public: coturn, TCP on 3478 and TLS on 443
pia            no UDP; makes the network, has turn: over TCP
dora           symmetric; knows nothing of the server
tess           no UDP since it joined, and TCP to 443 only; has turns:
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ginnel.lab import Home, Lab, LabTopology, NatKind, PublicMachine, requirements
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
        Home("tess", NatKind.PORT_RESTRICTED),
    ),
    public=tuple(PublicMachine(name) for name in (*NODES, "turn")),
)
SETTINGS = "/etc/ginnel/demo/settings.toml"
CONNECT_S = 90.0  # seconds; UDP is given up after 5, and each step has a limit of its own
BLOCK = (
    "nft insert rule inet filter forwards meta l4proto udp drop && "
    "nft insert rule inet filter forwards oifname wan meta l4proto tcp tcp dport != 443 drop && "
    "conntrack -F 2>/dev/null; true"
)


def set_turn(mesh: MeshLab, name: str, entry: str, authority: Path | None = None) -> None:
    machine = mesh.machine(name)
    machine.run(["sed", "-i", f's|^turn = .*|turn = ["{entry} {USER} {PASSWORD}"]|', SETTINGS])
    if authority is not None:
        machine.run(["sed", "-i", f's|^turn_ca = .*|turn_ca = "{authority}"|', SETTINGS])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("coturn")


@pytest.fixture(scope="module")
def mesh(folder: Path) -> Iterator[MeshLab]:
    lacking = requirements()
    if lacking:
        pytest.skip(f"no lab on this machine: {'; '.join(lacking)}")
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
            set_turn(mesh, "pia", f"turn:{turn.address}?transport=tcp")
            mesh.scenario.up("pia")
            mesh.scenario.join_all("pia", ("dora", "tess"))
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


def test_two_homes_without_udp_meet_over_tcp_and_tls(mesh: MeshLab, folder: Path) -> None:
    mesh.scenario.ginnel("tess", "down", mesh.scenario.network)
    mesh.lab.router("tess").run(["sh", "-c", BLOCK])
    authority = folder / "tls" / "cert.pem"
    set_turn(mesh, "tess", f"turns:{mesh.machine('turn').address}:443", authority)
    mesh.scenario.up("tess")
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
