"""What the tunnel and the signer may do, asked of the kernel and tried inside them.

 solo      a public machine with a network of its own: manager, tunnel, signer

As root each has its own uid; where one uid is mapped, Landlock alone separates them.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest

from ginnel.lab import Lab, LabTopology, Machine, PublicMachine, tun_problem
from ginnel.lab.scenario import Scenario
from support import probe, witness

pytestmark = pytest.mark.netns(tun=False)

NETWORK, SOLO = "alone", "solo"
LIMIT_S = 10.0  # seconds until a process has looked around
DENIED = (errno.EACCES, errno.EPERM)
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
UNANSWERED = ("b''", "ConnectionResetError", "BrokenPipeError")


@dataclass(frozen=True)
class Run:
    """What was found from outside and inside."""

    threads: dict[str, list[dict[str, str]]]  # role -> fields of each thread's status
    found: dict[str, dict[str, Any]]  # role -> what the probe in it tried
    separation: str
    has_uids: bool
    after: dict[str, Any]  # the manager's status after all that


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("privileges")
    for name in ("hook", "found"):
        (folder / name).mkdir()
    hooked = witness.environment(folder / "hook", "probe", folder / "found")
    with Lab.create(LabTopology(public=(PublicMachine(SOLO),))) as lab:
        # Rights are the same without a device.
        scenario = Scenario(lab, lambda *_: None, NETWORK, use_tun=tun_problem() is None)
        machine = lab.machine(SOLO)
        machine.run(["install", "-d", "-m", "777", str(probe.OPEN)])
        machine.run(["sh", "-c", f"umask 0; echo x > {probe.OPEN}/readable"])
        with patch.dict(os.environ, hooked):
            scenario.init(SOLO)
        pids = pids_of(machine)
        for pid in pids.values():
            machine.run(["kill", "-USR1", str(pid)])
        reports = {role: folder / "found" / f"{role}-{pid}.json" for role, pid in pids.items()}
        assert scenario.wait_until(
            lambda: all(path.read_text().endswith("\n") for path in reports.values()), LIMIT_S
        )
        return Run(
            {role: threads_of(machine, pid) for role, pid in pids.items()},
            {role: json.loads(path.read_text()) for role, path in reports.items()},
            scenario.status(SOLO)["separation"],
            int(machine.run(["cat", "/proc/self/uid_map"]).stdout.split()[2]) > 1,
            pids_of(machine),
        )


def pids_of(machine: Machine) -> dict[str, int]:
    """Return the numbers of tunnel and signer on the machine."""
    script = (
        "import json, sys; from pathlib import Path; from ginnel.cli.client import ask_manager; "
        "print(json.dumps(ask_manager(Path(sys.argv[1]), 'status')))"
    )
    argv = ["python", "-c", script, f"/run/ginnel/{NETWORK}/manager.sock"]
    status = json.loads(machine.run(argv).stdout)
    return {role: status[role]["pid"] for role in probe.ROLES}


def threads_of(machine: Machine, pid: int) -> list[dict[str, str]]:
    """Return the status of each thread, read by root on the machine."""
    texts = machine.run(["sh", "-c", f"for f in /proc/{pid}/task/*/status; do cat $f; echo; done"])
    return [
        dict(line.split(":\t", 1) for line in text.splitlines())
        for text in texts.stdout.split("\n\n")
        if text
    ]


@pytest.fixture(params=probe.ROLES)
def role(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_no_thread_has_a_capability(run: Run, role: str) -> None:
    threads = run.threads[role]
    assert len(threads) >= (2 if role == "tunnel" else 1)
    for status in threads:
        assert {name: int(status[name], 16) for name in SETS} == dict.fromkeys(SETS, 0)
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"


def test_each_has_a_uid_of_its_own_where_there_are_some(run: Run, role: str) -> None:
    found = run.found[role]
    uids = {name: run.found[name]["uids"][0] for name in probe.ROLES}
    assert "Landlock" in run.separation
    assert found["uid_before"] == 0
    if run.has_uids:
        assert found["uids"] == [uids[role]] * 3
        assert found["groups"] == []
        assert 0 < uids["tunnel"] != uids["signer"] > 0
        assert f"uid {uids['tunnel']}" in run.separation
    else:
        assert uids == dict.fromkeys(probe.ROLES, 0)
        assert "no uid of its own" in run.separation
        assert "empty /run" in run.separation


def test_keys_memory_and_etc_are_out_of_reach(run: Run, role: str) -> None:
    found = run.found[role]
    allowed = {name: number for name, number in found["denied"].items() if number not in DENIED}
    assert allowed == {}
    assert found["memories"] == []
    assert found["own file"] == 0  # or all of this would prove little


def test_the_manager_does_not_answer_its_own_children(run: Run, role: str) -> None:
    found = run.found[role]
    assert found["refused_before"] in UNANSWERED  # still root: by its pid
    # Afterwards by the socket's mode, or because /run is empty.
    assert found["manager.sock"] == ("PermissionError" if run.has_uids else "FileNotFoundError")


def test_the_signer_has_no_network(run: Run) -> None:
    found = run.found["signer"]
    assert found["devices"] == ["lo"]
    assert found["udp"] == errno.ENETUNREACH
    assert found["tcp"] in (*DENIED, errno.ENETUNREACH)
    assert len(run.found["tunnel"]["devices"]) > 1


def test_trying_broke_nothing(run: Run) -> None:
    assert run.after == {role: run.found[role]["pid"] for role in probe.ROLES}
