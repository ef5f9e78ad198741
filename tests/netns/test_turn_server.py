"""A configured TURN server (coturn, UDP) carries a pair that can't be direct; no member may relay.

node1, node2   public, no members
turn           public: coturn
pia            port-restricted; has the server in its settings
dora           symmetric; knows nothing of it
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ginnel.lab import Home, LabTopology, NatKind, PublicMachine
from ginnel.lab.demo import ping
from support.mesh_lab import NODES, MeshLab, mesh_lab

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(shutil.which("turnserver") is None, reason="Debian's coturn is not here"),
]

TOPOLOGY = LabTopology(
    homes=(Home("pia", NatKind.PORT_RESTRICTED), Home("dora", NatKind.SYMMETRIC)),
    public=tuple(PublicMachine(name) for name in (*NODES, "turn")),
)
SETTINGS = "/etc/ginnel/demo/settings.toml"


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshLab]:
    with mesh_lab(TOPOLOGY, ("pia", "dora")) as made:
        yield made


def test_a_configured_server_relays(mesh: MeshLab, tmp_path: Path) -> None:
    machine = mesh.machine("turn")
    argv = ["turnserver", "-n", "--lt-cred-mech", "--user=user:pass", "--realm=example.org"]
    argv += [f"--listening-ip={machine.address}", f"--relay-ip={machine.address}", "--no-cli"]
    argv += ["--no-tls", "--no-dtls", "--log-file=stdout", f"--pidfile={tmp_path}/pid"]
    argv += [f"--userdb={tmp_path}/db"]
    server = machine.popen(argv, stdout=subprocess.DEVNULL)
    try:
        pia = mesh.machine("pia")
        assert mesh.scenario.wait_until(lambda: mesh.scenario.peer("pia", "dora") is not None, 15)
        entry = f'turn = ["turn:{machine.address} user pass"]'
        pia.run(["sed", "-i", f"s/^turn = .*/{entry}/", SETTINGS])
        mesh.scenario.ginnel("pia", "down", mesh.scenario.network)
        mesh.scenario.up("pia")
        path = mesh.wait_for_path("pia", "dora")
        assert not path["direct"]
        assert path["local"]["kind"] == "relay"
        assert path["local"]["address"].startswith(f"{machine.address}:")
        status = mesh.scenario.status("pia")
        assert ping(pia, status["peers"][0]["addresses"][0]) is not None
    finally:
        server.terminate()
        server.wait()
