"""What a path loses when the network under it changes, measured by 100 pings a second.

node1, node2   public, no members
anna, ben      port-restricted
attic          full-cone, may relay
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from ginnel.lab import Home, LabTopology, NatKind, PublicMachine
from ginnel.lab.transfer import transfer
from ginnel.peer.status import Stage
from support.mesh_lab import NODES, MeshLab, mesh_lab

pytestmark = pytest.mark.netns

TOPOLOGY = LabTopology(
    homes=(Home("anna"), Home("ben"), Home("attic", NatKind.FULL_CONE)),
    public=tuple(PublicMachine(name) for name in NODES),
)
PING_S = 90  # seconds of each ping at most
FLOWS_S = 30.0  # seconds without data at most; a busy machine is slow (aim: 2)
MIN_GAP_S = 1.2  # seconds; what comes later than this is no answer from before the change
NOTICED_S = 30.0  # seconds until a dead path is noticed at most (aim: 6.5)
MAX_LOST = 1  # of the packets of a ping, from relay to direct
DIRECT_S = 60.0  # seconds until a relayed pair is direct


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshLab]:
    with mesh_lab(TOPOLOGY, ("anna", "ben")) as made:
        made.wait_for_path("anna", "ben")
        yield made


class Pings:
    """A ping from anna to ben, 100 packets a second, while something changes."""

    def __init__(self, mesh: MeshLab, folder: Path) -> None:
        self._output = folder / "ping"
        self._mesh = mesh
        with self._output.open("w") as file:
            command = ["ping", "-D", "-n", "-i0.01", f"-w{PING_S}", mesh.addresses["ben"][0]]
            self._process = mesh.machine("anna").popen(command, stdout=file)
        self.wait(lambda: len(self.answers()) > 100, 30.0)

    def answers(self) -> list[float]:
        """Return when each answer came."""
        found = re.findall(r"^\[([\d.]+)\] \d+ bytes from", self._output.read_text(), re.M)
        return [float(at) for at in found]

    def wait(self, condition: Callable[[], bool], limit_s: float) -> None:
        met = self._mesh.scenario.wait_until(condition, limit_s)
        assert met, [self._mesh.scenario.peer(*ends) for ends in (("anna", "ben"), ("ben", "anna"))]

    def wait_for_data(self) -> None:
        """Wait until answers come that are not from before a change made now."""
        changed_at = time.time()
        self.wait(lambda: self.answers()[-1] > changed_at + MIN_GAP_S, FLOWS_S)

    def end(self) -> tuple[int, float]:
        """Return how many packets were lost, and the longest time between two answers.

        Those after the last answer are not counted: they are still on their way.
        """
        self._process.send_signal(signal.SIGINT)
        self._process.wait(20.0)
        answered = {int(n) for n in re.findall(r"icmp_seq=(\d+) ttl", self._output.read_text())}
        gaps = [later - earlier for earlier, later in pairwise(self.answers())]
        return max(answered) - len(answered), max(gaps)


def run(mesh: MeshLab, where: str, script: str) -> None:
    machine = mesh.lab.router(where[:-3]) if where.endswith("-gw") else mesh.machine(where)
    machine.run(["sh", "-ec", script])


def noticed_after(mesh: MeshLab, one: str, other: str, since: float) -> float | None:
    """Return after how many seconds one's journal said that the path to the other is lost."""
    text = f"{other}: {Stage.BROKEN.value}"
    at = [float(event["at"]) for event in mesh.events(one) if event["text"] == text]
    return next((moment - since for moment in at if moment >= since - 1.0), None)


def moved(device: str, old: str, new: str, gateway: str) -> str:
    return (
        f"ip addr del {old}/24 dev {device}; ip addr add {new}/24 dev {device};"
        f"ip route replace default via {gateway} dev {device}"
    )


@contextmanager
def no_direct_path(mesh: MeshLab) -> Iterator[Callable[[], None]]:
    """Drop what goes directly between the two homes; yields what ends it."""
    other = mesh.lab.router("ben").address
    rules = (
        "nft add table inet cut; nft 'add chain inet cut both "
        "{ type filter hook forward priority -300; }';"
        f"nft add rule inet cut both ip daddr {other} drop;"
        f"nft add rule inet cut both ip saddr {other} drop"
    )
    run(mesh, "anna-gw", rules)
    end = "nft delete table inet cut 2>/dev/null || true"
    try:
        yield lambda: run(mesh, "anna-gw", end)
    finally:
        run(mesh, "anna-gw", end)


def test_a_renumbered_nat_is_followed(mesh: MeshLab, tmp_path: Path) -> None:
    old = mesh.lab.router("anna").address
    network = old.rpartition(".")[0]
    pings = Pings(mesh, tmp_path)
    run(mesh, "anna-gw", moved("wan", old, f"{network}.77", f"{network}.1"))
    pings.wait_for_data()
    lost, gap_s = pings.end()
    print(f"renumbered NAT: data again after {gap_s:.2f} s, {lost} packets lost")
    mesh.wait_for_path("anna", "ben")


def test_a_change_of_interface_is_followed(mesh: MeshLab, tmp_path: Path) -> None:
    old = mesh.machine("ben").address
    network = old.rpartition(".")[0]
    pings = Pings(mesh, tmp_path)
    run(mesh, "ben", moved("eth0", old, f"{network}.99", f"{network}.1"))
    pings.wait_for_data()
    lost, gap_s = pings.end()
    print(f"changed interface: data again after {gap_s:.2f} s, {lost} packets lost")
    mesh.wait_for_path("anna", "ben")


def test_a_dead_path_is_noticed_on_both_sides_and_comes_back(mesh: MeshLab) -> None:
    with no_direct_path(mesh):
        cut_at = time.time()
        for one, other in (("anna", "ben"), ("ben", "anna")):
            noticed = partial(noticed_after, mesh, one, other, cut_at)
            assert mesh.scenario.wait_until(
                lambda noticed=noticed: noticed() is not None, NOTICED_S
            )
            print(f"{one} noticed a dead path after {noticed():.1f} s")
    mesh.wait_for_path("anna", "ben")


def test_from_relay_to_direct_packets_go_on(mesh: MeshLab, tmp_path: Path) -> None:
    mesh.scenario.join("anna", "attic", relay=True)
    for name in ("anna", "ben"):
        mesh.wait_for_path(name, "attic")

    def is_direct() -> list[bool | None]:
        ends = [mesh.path(*end) for end in (("anna", "ben"), ("ben", "anna"))]
        return [None if path is None else path["direct"] for path in ends]

    with no_direct_path(mesh) as mend:
        assert mesh.scenario.wait_until(lambda: is_direct() == [False, False], DIRECT_S)
        pings = Pings(mesh, tmp_path)
        mend()
        network = mesh.machine("anna").address.rpartition(".")[0]
        run(mesh, "anna", f"ip addr add {network}.200/24 dev eth0")  # a reason to try at once
        pings.wait(lambda: is_direct() == [True, True], DIRECT_S)
        pings.wait_for_data()
        lost, gap_s = pings.end()
    print(f"relay to direct: {lost} packets lost, longest gap {gap_s:.2f} s")
    assert lost <= MAX_LOST
    assert transfer(mesh.machine("anna"), mesh.machine("ben"), mesh.addresses["ben"][0], 10**6) > 1
