"""After kill -9 of any process all is as before; `down` takes everything back.

node1, node2   public, no members
anna           has the admin key, so a signer; port-restricted NAT
ben            port-restricted NAT
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest

from ginnel.lab import Home, LabTopology, PublicMachine
from support import witness
from support.mesh_lab import NODES, MeshLab, mesh_lab, network_state

pytestmark = pytest.mark.netns

TOPOLOGY = LabTopology(
    homes=(Home("anna"), Home("ben")), public=tuple(PublicMachine(name) for name in NODES)
)
TUNNEL_S = 20.0  # seconds from the kill of a tunnel until packets flow again
MANAGER_S = 30.0  # seconds from `ginnel up` after the kill of a manager until packets flow again
GONE_S = 10.0  # seconds for children of what was killed to die
SIGNER_S = 15.0  # seconds until a signer that was killed signs again


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshLab]:
    with mesh_lab(TOPOLOGY, ("anna", "ben")) as made:
        made.wait_for_path("anna", "ben")
        yield made


def kill(mesh: MeshLab, name: str, roles: Sequence[str]) -> None:
    """Kill in this order; the later ones may have ended with the first already."""
    first, *others = (str(mesh.pids(name)[role]) for role in roles)
    kills = f"kill -9 {first} || exit 1; for pid in {' '.join(others)}; do kill -9 $pid; done; :"
    mesh.machine(name).run(["sh", "-c", kills])


def wait_until_packets_flow(mesh: MeshLab, limit_s: float) -> float:
    """Return after how many seconds a ping has crossed the TUNs, from both ends."""
    began = time.monotonic()

    def answers(one: str, other: str) -> bool:
        ping = ["ping", "-n", "-c1", "-W0.5", mesh.addresses[other][0]]
        return mesh.machine(one).run(ping, check=False).returncode == 0

    for pair in (("anna", "ben"), ("ben", "anna")):
        left = limit_s - (time.monotonic() - began)
        met = mesh.scenario.wait_until(partial(answers, *pair), left)
        assert met, f"no packets in {limit_s} s: {mesh.scenario.peer(*pair)}"
    return time.monotonic() - began


ECHO = """
import socket, sys
listener = socket.create_server((sys.argv[1], 7007))
print("ready", flush=True)
connection, _ = listener.accept()
while data := connection.recv(100):
    connection.sendall(data)
"""
TALK = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 7007))
for line in sys.stdin:
    connection.sendall(line.encode())
    print(connection.recv(100).decode().strip(), flush=True)
"""


@contextlib.contextmanager
def connection(mesh: MeshLab, server: str, client: str) -> Iterator[Callable[[str], bool]]:
    """Open a TCP connection over the overlay; yield what says whether a word comes back."""
    address = mesh.addresses[server][0]

    def start(name: str, code: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", code, address]
        return mesh.machine(name).popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    with start(server, ECHO) as listening:
        assert listening.stdout is not None
        assert listening.stdout.readline() == "ready\n"
        with start(client, TALK) as talking:

            def echoes(word: str) -> bool:
                assert talking.stdin is not None
                assert talking.stdout is not None
                talking.stdin.write(f"{word}\n")
                talking.stdin.flush()
                return talking.stdout.readline() == f"{word}\n"

            try:
                yield echoes
            finally:
                for process in (talking, listening):
                    process.kill()


def assert_gone(mesh: MeshLab, name: str, pids: Sequence[int | None]) -> None:
    check = [f"kill -0 {pid} 2>/dev/null && exit 1;" for pid in pids if pid is not None]
    script = ["sh", "-c", "".join([*check, "exit 0"])]
    machine = mesh.machine(name)
    assert mesh.scenario.wait_until(
        lambda: machine.run(script, check=False).returncode == 0, GONE_S
    ), "a process is left"


def test_up_when_it_is_up_says_so_and_changes_nothing(mesh: MeshLab) -> None:
    before, pids = network_state(mesh.machine("ben")), mesh.pids("ben")
    again = mesh.machine("ben").run(["ginnel", "up", "--no-wait"])
    assert "demo is up already" in again.stdout
    assert network_state(mesh.machine("ben")) == before
    assert mesh.pids("ben") == pids


def test_down_takes_everything_back(mesh: MeshLab) -> None:
    machine = mesh.machine("anna")
    up, pids = network_state(machine), mesh.pids("anna")
    assert up != mesh.pristine["anna"]
    mesh.scenario.ginnel("anna", "down")
    assert network_state(machine) == mesh.pristine["anna"]
    assert_gone(mesh, "anna", list(pids.values()))
    assert machine.run(["ginnel", "status"], check=False).returncode == 1
    mesh.scenario.up("anna")
    assert network_state(machine) == up
    wait_until_packets_flow(mesh, MANAGER_S)


@pytest.mark.parametrize("name", ["anna", "ben"])
def test_a_killed_tunnel_comes_back_by_itself(mesh: MeshLab, name: str) -> None:
    before, port, pids = (
        network_state(mesh.machine(name)),
        mesh.manager(name)["port"],
        mesh.pids(name),
    )
    with connection(mesh, "anna", "ben") as echoes:
        assert echoes("before")
        kill(mesh, name, ["tunnel"])
        seconds = wait_until_packets_flow(mesh, TUNNEL_S)
        assert echoes("after")
    print(f"tunnel of {name} killed: packets after {seconds:.1f} s")
    after = mesh.pids(name)
    assert after["manager"] == pids["manager"]
    assert after["tunnel"] != pids["tunnel"]
    assert mesh.manager(name)["port"] == port == mesh.scenario.status(name)["port"]
    assert network_state(mesh.machine(name)) == before


def test_a_data_plane_that_fails_is_replaced(mesh: MeshLab, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.mkdir()
    mesh.scenario.ginnel("ben", "down")
    with patch.dict(os.environ, witness.environment(hook, "broken_engine", tmp_path)):
        mesh.scenario.up("ben")
    wait_until_packets_flow(mesh, MANAGER_S)
    before = mesh.pids("ben")
    mesh.machine("ben").run(["kill", "-USR1", str(before["tunnel"])])
    assert mesh.scenario.wait_until(
        lambda: mesh.pids("ben")["tunnel"] not in (None, before["tunnel"]), MANAGER_S
    )
    wait_until_packets_flow(mesh, MANAGER_S)
    assert mesh.pids("ben")["manager"] == before["manager"]
    mesh.scenario.ginnel("ben", "down")
    mesh.scenario.up("ben")


def test_a_killed_signer_comes_back_by_itself(mesh: MeshLab) -> None:
    anna = mesh.machine("anna")
    before, pids = network_state(anna), mesh.pids("anna")
    kill(mesh, "anna", ["signer"])
    assert mesh.scenario.wait_until(
        lambda: anna.run(["ginnel", "invite", "--json"], check=False).returncode == 0, SIGNER_S
    )
    assert mesh.ping("anna", "ben") is not None
    after = mesh.pids("anna")
    assert after.pop("signer") != pids.pop("signer")
    assert after == pids  # nobody else was disturbed
    assert network_state(anna) == before


@pytest.mark.parametrize(
    ("roles", "says_down"), [(["manager"], True), (["manager", "tunnel", "signer"], False)]
)
def test_after_a_killed_manager_up_makes_it_as_before(
    mesh: MeshLab, roles: list[str], says_down: bool
) -> None:
    anna = mesh.machine("anna")
    before, pids = network_state(anna), mesh.pids("anna")
    kill(mesh, "anna", roles)
    assert_gone(mesh, "anna", list(pids.values()))
    left, pristine = network_state(anna), mesh.pristine["anna"]
    for what in ("links", "addresses", "routes"):  # the kernel's part: gone with the device
        assert left[what] == pristine[what]
    assert anna.run(["ginnel", "status"], check=False).returncode == 1
    if says_down:
        anna.run(["ginnel", "down"])
        assert network_state(anna) == pristine  # rules and filters too
    began = time.monotonic()
    mesh.scenario.up("anna")
    started = time.monotonic() - began
    seconds = wait_until_packets_flow(mesh, MANAGER_S - started)
    print(f"{'+'.join(roles)} killed: up in {started:.1f} s, packets {seconds:.1f} s later")
    assert network_state(anna) == before
    anna.run(["ginnel", "invite", "--json"])


def start_demo(until: str) -> subprocess.Popen[str]:
    """Start the demo as a terminal does, and return it once it has said that."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "ginnel.cli.main", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert demo.stdout is not None
    said = []
    for line in demo.stdout:
        said.append(line)
        if until in line:
            return demo
    raise AssertionError(f"the demo ended with {demo.wait()}: {''.join(said)}")


def family_of(pid: int) -> list[int]:
    """Return pidfds of a process and of all that descend from it."""
    parents: dict[int, int] = {}
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().split()[-49])
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    descriptors = []
    for member in family:
        with contextlib.suppress(ProcessLookupError):
            descriptors.append(os.pidfd_open(member))
    return descriptors


def test_a_demo_that_is_ended_leaves_nothing_and_starts_again() -> None:
    devices = sorted(os.listdir("/sys/class/net"))
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        demo = start_demo("ginnel join: ")  # so that every kind of process is there
        family = family_of(demo.pid)
        assert len(family) > 10
        if number == signal.SIGKILL:
            demo.kill()
        else:
            os.killpg(demo.pid, number)  # as Ctrl-C does
        rest, _ = demo.communicate(timeout=GONE_S)
        assert demo.returncode == (-number if number == signal.SIGKILL else 130)
        assert "Traceback" not in rest
        for descriptor in family:  # with the last process their namespaces end too
            assert select.select([descriptor], (), (), GONE_S)[0], "a process of the demo is left"
            os.close(descriptor)
        assert sorted(os.listdir("/sys/class/net")) == devices
