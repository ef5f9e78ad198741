"""Ports opened at real routers: Debian's miniupnpd, by each of the three protocols.

node1, node2, node3   public, no members
pia, nat, upn         port-restricted homes; routers with miniupnpd that serves all three, NAT-PMP
                      and UPnP, UPnP alone
dora                  symmetric NAT: without a mapping none of them could be met directly
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ginnel.lab import Home, Lab, LabTopology, NatKind, PublicMachine
from support.mesh_lab import NODES, MeshLab, mesh_lab

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(shutil.which("miniupnpd") is None, reason="Debian's miniupnpd is not here"),
]

HOMES = {"pia": "PCP", "nat": "NAT-PMP", "upn": "UPnP"}  # and what maps there
TOPOLOGY = LabTopology(
    homes=(
        # miniupnpd takes the prefixes for documentation for private ones
        *(Home(name, outer=f"11.0.{number}") for number, name in enumerate(HOMES, 1)),
        Home("dora", NatKind.SYMMETRIC),
    ),
    public=tuple(PublicMachine(name) for name in (*NODES, "node3")),
)
WAIT_S = 60.0  # seconds, at most
TABLE = """\
table inet igd {
  chain forward { type filter hook forward priority 0; policy accept; jump opened; }
  chain before { type nat hook prerouting priority dstnat; jump inwards; }
  chain after { type nat hook postrouting priority srcnat; jump outwards; }
  chain opened { }
  chain inwards { }
  chain outwards { }
}
insert rule inet filter forwards iifname "wan" ct status dnat accept
"""
NO_PCP = 'insert rule inet filter inputs iifname "lan" udp dport 5351 @th,64,8 2 drop\n'
CONF = """\
ext_ifname=wan
listening_ip=lan
enable_natpmp={natpmp}
enable_upnp=yes
secure_mode=yes
min_lifetime=120
max_lifetime=86400
upnp_table_name=igd
upnp_nat_table_name=igd
upnp_forward_chain=opened
upnp_nat_chain=inwards
upnp_nat_postrouting_chain=outwards
uuid=9a2e4f5c-0d9a-495b-8dbe-f81cf85d33d5
allow 1024-65535 192.168.0.0/16 1024-65535
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshLab]:
    folder = tmp_path_factory.mktemp("igd")
    daemons: list[subprocess.Popen[str]] = []

    def prepare(lab: Lab) -> None:
        daemons.extend(start_router(lab, home, folder) for home in HOMES)

    try:
        nodes = (*NODES, "node3")
        with mesh_lab(TOPOLOGY, ("dora", *HOMES), nodes=nodes, prepare=prepare) as made:
            yield made
    finally:
        for daemon in daemons:
            daemon.wait()


def start_router(lab: Lab, home: str, folder: Path) -> subprocess.Popen[str]:
    router = lab.router(home)
    router.run(["nft", "-f", "-"], text=TABLE + (NO_PCP if HOMES[home] == "NAT-PMP" else ""))
    conf = folder / f"{home}.conf"
    conf.write_text(CONF.format(natpmp="no" if HOMES[home] == "UPnP" else "yes"))
    argv = ["miniupnpd", "-d", "-f", str(conf), "-P", str(folder / f"{home}.pid")]
    with (folder / f"{home}.log").open("w") as log:
        return router.popen(argv, stdout=log, stderr=log)


def redirections(mesh: MeshLab, home: str) -> str:
    return mesh.lab.router(home).run(["nft", "list", "chain", "inet", "igd", "inwards"]).stdout


@pytest.mark.parametrize("home", HOMES)
def test_the_router_opens_the_port(mesh: MeshLab, home: str) -> None:
    def reachable() -> str:
        return str(mesh.scenario.status(home)["reachable"])

    assert mesh.scenario.wait_until(lambda: reachable().startswith("yes"), WAIT_S), reachable()
    outer = mesh.lab.router(home).address
    assert reachable().startswith(f"yes (mapped by {HOMES[home]}: {outer}:")


@pytest.mark.parametrize("home", HOMES)
def test_a_symmetric_home_meets_it_directly(mesh: MeshLab, home: str) -> None:
    assert mesh.scenario.wait_until(
        lambda: str(mesh.scenario.status(home)["reachable"]).startswith("yes"), WAIT_S
    )
    path = mesh.wait_for_path(home, "dora", WAIT_S)
    assert path["direct"]
    assert mesh.ping("dora", home) is not None


@pytest.mark.parametrize("home", HOMES)
def test_the_mapping_is_removed_at_the_end(mesh: MeshLab, home: str) -> None:
    port = str(mesh.scenario.status(home)["port"])
    assert mesh.scenario.wait_until(lambda: port in redirections(mesh, home), WAIT_S)
    mesh.scenario.ginnel(home, "down", mesh.scenario.network)
    assert mesh.scenario.wait_until(lambda: port not in redirections(mesh, home), WAIT_S)
