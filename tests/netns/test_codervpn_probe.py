"""The real `ginnel tunnel` and `ginnel manager` with others of the protocol.

anna   alone: `ginnel codervpn probe` on both, in all combinations of role, dialect and version;
       a manager that is not ours starts our tunnel with a TUN
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import product

import pytest

from ginnel.lab import Lab, LabTopology, Machine, PublicMachine
from support import foreign_manager

pytestmark = pytest.mark.netns(tun=False)

TOKEN = "/etc/ginnel/token"
TELL_TOKEN = """
import sys
from ginnel.daemon.paths import NetworkPaths
from ginnel.storage.network_files import load_bundle
print(load_bundle(NetworkPaths("demo")).to_bundle().reveal().decode())
"""
COMMANDS = {
    "tunnel": ["--spawn", "ginnel tunnel", "--token-file", TOKEN],
    "manager": ["--spawn", "ginnel manager demo --no-tun", "--role", "manager"],
}
DIALECTS = ("seed", "shipped")
LIMIT_S = 300.0  # seconds for all steps of a probe; each starts a program anew
VERSIONS = ("1.0", "1.1", "1.2", "1.3")


@pytest.fixture(scope="module")
def anna() -> Iterator[Machine]:
    with Lab.create(LabTopology(public=(PublicMachine("anna"),))) as lab:
        machine = lab.machine("anna")
        machine.run(["ginnel", "init", "demo", "--json"])
        token = machine.run([sys.executable, "-c", TELL_TOKEN]).stdout
        machine.run(["sh", "-c", f"umask 077; cat > {TOKEN}"], text=token)
        yield machine


def probe(machine: Machine, role: str, *options: str) -> list[str]:
    command = ["ginnel", "codervpn", "probe", *COMMANDS[role], *options]
    result = machine.run(command, timeout=LIMIT_S, check=False)
    lines = result.stdout.splitlines()
    problems = [line for line in lines if not line.startswith("ok ")]
    assert (result.returncode, problems) == (0, []), (role, options, lines, result.stderr)
    return lines


def test_every_step_of_both_roles_also_the_bad_beginnings(anna: Machine) -> None:
    tunnel, manager = (probe(anna, role) for role in COMMANDS)  # not at once: both open the port
    assert len(tunnel) == 17
    assert len(manager) == 13
    assert all("a frame over the limit" in " ".join(lines) for lines in (tunnel, manager))


@pytest.mark.soak
def test_all_combinations_of_role_dialect_and_version(anna: Machine) -> None:
    for role, dialect, version in product(COMMANDS, DIALECTS, VERSIONS):
        probe(anna, role, "--quick", "--dialect", dialect, "--speak", version)


def test_our_manager_in_the_shipped_dialect(anna: Machine) -> None:
    shipped = "ginnel manager demo --no-tun --dialect shipped"
    for dialect in DIALECTS:
        probe(anna, "manager", "--quick", "--spawn", shipped, "--dialect", dialect)


def test_a_tunnel_of_no_network_says_why_it_does_not_start(anna: Machine) -> None:
    lone = "ginnel tunnel --state /etc/ginnel-state"
    command = ["ginnel", "codervpn", "probe", "--quick", "--spawn", lone]
    assert "FAILED" not in anna.run(command, timeout=LIMIT_S).stdout
    result = anna.run([*command, "--token-file", TOKEN], timeout=LIMIT_S, check=False)
    assert result.returncode == 1
    assert "it did not start: no epoch of the network is known here" in result.stdout


def test_a_stream_that_is_wrong_ends_the_manager_with_its_reason(anna: Machine) -> None:
    command = "ginnel manager demo --no-tun --rpc-read-fd 0 --rpc-write-fd 1"
    result = anna.run(["sh", "-c", command], text="codervpn 99.0 tunnel\n", check=False)
    assert result.returncode == 1
    assert "no common version" in result.stderr


@pytest.mark.netns
@pytest.mark.parametrize("how", ["along", "inherited"])
def test_any_manager_can_start_our_tunnel_with_a_tun(anna: Machine, how: str) -> None:
    command = [sys.executable, foreign_manager.__file__, how, TOKEN, "ginnel", "tunnel"]
    process = anna.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "READY\n"
    status = json.loads(anna.run(["ginnel", "status", "--json"]).stdout)
    own = status["self"]["addresses"][0]
    assert own in anna.run(["ip", "addr", "show", foreign_manager.DEVICE]).stdout
    nobody = own.rpartition(".")[0] + ".254"
    anna.run(["ping", "-c1", "-W1", nobody], check=False)  # it goes into the TUN
    status = json.loads(anna.run(["ginnel", "status", "--json"]).stdout)
    assert status["drops"]["data plane"], status
    answer, _ = process.communicate("")
    assert json.loads(answer) == {"exit": 0, "workspaces": ["demo"]}
    assert foreign_manager.DEVICE not in anna.run(["ip", "link"]).stdout
