"""The manager with a real tunnel process, in a network namespace of its own.

child of pytest (root of the namespaces)
  └ manager ── gn-test (TUN), UDP 45454
      ├ tunnel   own uid, or Landlock where one uid is mapped
      └ signer
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.daemon.paths import NetworkPaths
from ginnel.net.netlink import Netlink
from support import tiny_manager
from support.confined import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    can_enter_namespaces,
    enter_namespaces,
    in_child,
    unshare,
)
from support.machine_state import look

PORT = 45454
DEVICE = "gn-test"
TABLE = 64_191  # of the tunnel's uid
WAIT = 20.0  # seconds, at most
REFUSALS = ("b''", "PermissionError", "ConnectionResetError", "BrokenPipeError")

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not os.access("/dev/net/tun", os.R_OK | os.W_OK), reason="no TUN for us"),
]


def as_root() -> None:
    unshare(CLONE_NEWNET | CLONE_NEWNS)


ROOMS = [
    pytest.param(
        as_root, id="root", marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
    ),
    pytest.param(
        enter_namespaces,
        id="one-uid",
        marks=pytest.mark.skipif(not can_enter_namespaces(), reason="no user namespaces here"),
    ),
]


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder that another uid can walk through: not pytest's, whose next run closes it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        monkeypatch.setenv("GINNEL_TEST_ROOT", name)
        yield folder


def paths_in(root: Path) -> NetworkPaths:
    return NetworkPaths("test", *(root / name for name in ("etc", "state", "run")))


@contextmanager
def manager() -> Iterator[subprocess.Popen[str]]:
    """Run a manager until its READY, and end it in the end."""
    process = subprocess.Popen(
        [sys.executable, tiny_manager.__file__, str(PORT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "READY\n", process.communicate()[1]
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(root: Path, verb: str, **keys: object) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(WAIT)
        stream.connect(str(paths_in(root).manager_socket))
        stream.sendall(json.dumps({"verb": verb, **keys}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(stream.makefile("rb").readline())
    return answer


def until(root: Path, is_reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask for the status until it is as wanted; the wait between is the system's."""
    for _ in range(int(WAIT * 20)):
        status = ask(root, "status")
        if is_reached(status):
            return status
        select.select([], [], [], 0.05)
    raise AssertionError(status)


def is_running(status: dict[str, Any]) -> bool:
    return status["tunnel"]["state"] == "running" and bool(status["peers"])


def network_state() -> dict[str, Any] | None:
    with Netlink() as netlink:
        try:
            netlink.index_of(DEVICE)
        except SystemFailure:
            return None
        return {
            "addresses": netlink.addresses(DEVICE),
            "routes": netlink.routes(DEVICE, table=TABLE),
            "mtu": netlink.mtu_of(DEVICE),
        }


APPLIED = {
    "addresses": ["100.64.7.1/16", "fd12:3456::7/48"],
    "routes": ["100.64.0.0/16", "fd12:3456::/48"],
    "mtu": 1380,
}


def wait_gone(pid: int) -> None:
    """Wait until a process that is not our child is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], WAIT)[0], f"process {pid} is still there"
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("enter", ROOMS)
def test_settings_are_there_while_it_runs_and_gone_after_down(
    enter: Callable[[], None], root: Path
) -> None:
    def child() -> None:
        enter()
        assert network_state() is None
        with manager() as process:
            status = until(root, is_running)
            assert network_state() == APPLIED
            assert status["settings"]["mtu"] == 1380
            assert status["peers"][0]["name"] == "pi\\x1b[1m"
            found = json.loads((paths_in(root).state / "found.json").read_text())
            assert found["is_tun"]
            assert found["port"] == PORT
            assert found["listens"] == str(paths_in(root).tunnel_socket)
            assert found["token"] == "ginnel1:c2VjcmV0"
            assert "included_routes: 0.0.0.0/0 needs `default_route`" in found["refused"]
            assert found["manager.sock"] in REFUSALS
            check_threads(status["tunnel"]["pid"])
            check_manager(process.pid)
            assert ask(root, "approve", name="pi", code=None) == {
                "asked": {"verb": "approve", "name": "pi", "code": None}
            }
            assert ask(root, "wake") == {"done": True}
            assert ask(root, "down") == {"done": True}
            assert process.wait(WAIT) == 0
            assert "hello\\x0afrom the tunnel" in process.communicate()[1]
        assert network_state() is None
        assert sorted(path.name for path in paths_in(root).run.iterdir()) == ["lock"]

    in_child(child)


def threads_of(pid: int) -> Iterator[dict[str, str]]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        yield {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def check_threads(pid: int) -> None:
    for fields in threads_of(pid):
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(fields[name], 16) == 0, name
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == "2"


def check_manager(pid: int) -> None:
    """Hold each thread of the manager to what it needs: for the network, and for its children."""
    kept = {"CAP_NET_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL"}
    for_children = {"CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_CHOWN"}
    for fields in threads_of(pid):
        assert names_of(fields["CapEff"]) == names_of(fields["CapPrm"]) == kept
        assert names_of(fields["CapInh"]) == names_of(fields["CapAmb"]) == set()
        assert names_of(fields["CapBnd"]) == kept | for_children


def names_of(mask: str) -> set[str]:
    return {NAMES.get(number, str(number)) for number in range(64) if int(mask, 16) >> number & 1}


NAMES = {  # linux/capability.h
    0: "CAP_CHOWN",
    1: "CAP_DAC_OVERRIDE",
    5: "CAP_KILL",
    6: "CAP_SETGID",
    7: "CAP_SETUID",
    8: "CAP_SETPCAP",
    12: "CAP_NET_ADMIN",
    21: "CAP_SYS_ADMIN",
}


@pytest.mark.parametrize("enter", ROOMS)
def test_a_killed_tunnel_starts_again_while_routes_stay(
    enter: Callable[[], None], root: Path
) -> None:
    def child() -> None:
        enter()
        with manager():
            first = until(root, is_running)["tunnel"]["pid"]
            os.kill(first, signal.SIGKILL)
            status = until(root, lambda status: status["tunnel"]["state"] == "restarting")
            assert network_state() == APPLIED
            assert "SIGKILL" in status["tunnel"]["last_error"]
            status = until(root, is_running)
            assert status["tunnel"]["pid"] != first
            assert status["tunnel"]["restarts"] == 1
            assert network_state() == APPLIED
            signer = status["signer"]["pid"]
            os.kill(signer, signal.SIGKILL)
            until(root, lambda status: status["signer"]["pid"] not in (None, signer))
            assert ask(root, "pending") == {"asked": {"verb": "pending"}}

    in_child(child)


def test_three_deaths_within_a_minute_are_in_the_status_and_connections_stay(root: Path) -> None:
    def child() -> None:
        enter_namespaces()
        with manager():
            until(root, is_running)
            dead: set[int | None] = {None}
            for _ in range(3):  # the later two before they have started
                status = until(root, lambda status: status["tunnel"]["pid"] not in dead)
                dead.add(status["tunnel"]["pid"])
                os.kill(status["tunnel"]["pid"], signal.SIGKILL)
            problem = until(root, lambda status: status["tunnel"]["problem"])["tunnel"]["problem"]
            assert problem.startswith("the tunnel died 3 times within a minute: ")
            assert "SIGKILL" in problem
            assert network_state() == APPLIED

    in_child(child)


@pytest.mark.parametrize("enter", ROOMS)
def test_after_kill_9_of_the_manager_nothing_is_left_and_it_starts_again(
    enter: Callable[[], None], root: Path
) -> None:
    def child() -> None:
        enter()
        with manager() as process:
            status = until(root, is_running)
            process.kill()
            process.wait()
            wait_gone(status["tunnel"]["pid"])
            wait_gone(status["signer"]["pid"])
            assert network_state() is None
        with manager() as process:
            until(root, is_running)
            assert network_state() == APPLIED
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT) == 0
        assert network_state() is None

    in_child(child)


@pytest.mark.parametrize("enter", ROOMS)
def test_a_second_manager_and_a_port_in_use_are_refused(
    enter: Callable[[], None], root: Path
) -> None:
    def second() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, tiny_manager.__file__, str(PORT)]
        return subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)

    def child() -> None:
        enter()
        with manager():
            refused = second()
            assert refused.returncode == 1
            assert "test is up already" in refused.stderr
            pids = [until(root, is_running)[name]["pid"] for name in ("tunnel", "signer")]
        for pid in pids:
            wait_gone(pid)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("0.0.0.0", PORT))
            refused = second()
        assert refused.returncode == 1
        assert f"UDP port {PORT} is in use" in refused.stderr
        assert network_state() is None

    in_child(child)


BREAK = """
from support import tiny_manager
def break_down(text, flush): raise RuntimeError("on purpose")
tiny_manager.print = break_down  # instead of its READY
tiny_manager.main()
"""


def test_a_manager_that_breaks_takes_its_rules_and_filter_back(root: Path) -> None:
    def child() -> None:
        enter_namespaces()
        before = look()
        command = [sys.executable, "-c", BREAK, str(PORT)]
        tests = str(Path(__file__).parents[1])
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": tests},
            timeout=WAIT,
            check=False,
        )
        assert "on purpose" in done.stderr
        assert look() == before

    in_child(child)
