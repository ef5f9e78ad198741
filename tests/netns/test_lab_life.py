"""Labs come up, carry slow packets, are recorded, and leave nothing behind, however they end."""

from __future__ import annotations

import json
import os
import select
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner

import ginnel
from ginnel.base.errors import SystemFailure, UsageError
from ginnel.cli.commands.lab import lab as lab_command
from ginnel.lab import Home, Lab, LabTopology, Link, PublicMachine
from support.labs import Agent

pytestmark = pytest.mark.netns(tun=False)

GONE_S = 10.0  # seconds for the kernel to end all of a lab
NOBODY = 65534
MAKE_AND_WAIT = """
import sys
from ginnel.lab import Home, Lab, LabTopology, PublicMachine
lab = Lab.create(LabTopology((Home("anna"),), (PublicMachine("node1"),)))
daemon = lab.machine("anna").popen(["sleep", "1000"])
pids = [lab.holder_pid, daemon.pid, *(machine.pid for machine in lab._machines.values())]
print(*pids, flush=True)
sys.stdin.read()
"""
MAKE_AND_PING = """
from ginnel.lab import Home, Lab, LabTopology, Link, PublicMachine
with Lab.create(LabTopology((Home("anna"),), (PublicMachine("node1", Link(0.001)),))) as lab:
    anna = lab.machine("anna")
    anna.run(["sh", "-c", "echo secret > /etc/ginnel/key && test ! -w /etc/passwd"])
    print(anna.run(["ping", "-c1", "-W3", "node1"]).stdout)
"""


def devices() -> list[str]:
    return sorted(os.listdir("/sys/class/net"))


def open_processes(pids: list[int]) -> list[int]:
    return [os.pidfd_open(pid) for pid in pids]


def assert_all_end(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        assert select.select([descriptor], (), (), GONE_S)[0], "a process of the lab is left"
        os.close(descriptor)


@pytest.fixture
def slow() -> Iterator[Lab]:
    homes = (Home("anna", link=Link(0.025)), Home("ben", link=Link(loss=0.2)))
    public = (PublicMachine("node1"), PublicMachine("node2", Link(0.001, 0.2, seed=7)))
    with Lab.create(LabTopology(homes, public, ipv6=True)) as lab:
        yield lab


def test_delay_and_loss(slow: Lab) -> None:
    node1, node2 = ((slow.machine(name).address, 5000) for name in ("node1", "node2"))
    with ExitStack() as stack:
        agents = {
            name: stack.enter_context(Agent(machine)) for name, machine in slow.machines.items()
        }
        for agent in agents.values():
            agent.open("s", 5000)
        times = []
        for _ in range(6):  # the first one also asks for hardware addresses
            agents["node1"].post("echo", "s")
            times.append(agents["anna"].ask("rtt", "s", *node1))
            agents["node1"].answer()
        assert 0.050 <= statistics.median(times[1:]) < 0.060
        for source, target, to in (("ben", "node1", node1), ("node1", "node2", node2)):
            slow.machine(source).run(["ping", "-c1", "-w10", to[0]])  # hardware addresses
            agents[source].send("s", to, count=200)  # as many as a small buffer takes
            assert 120 <= agents[target].ask("count", "s", 0.3) <= 190  # 20 % lost


def test_tcp_crosses_a_wire_in_whole_segments(slow: Lab) -> None:
    anna, node1 = slow.machine("anna"), slow.machine("node1")
    serve = "import socket; s=socket.create_server(('',80)); print(1,flush=True); c=s.accept()[0]"
    process = node1.popen(
        [sys.executable, "-c", f"{serve}; n=0\nwhile d:=c.recv(99999): n+=len(d)\nprint(n)"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    send = f"import socket; socket.create_connection(('{node1.address}',80)).sendall(bytes(500000))"
    anna.run([sys.executable, "-c", send])
    assert process.communicate(timeout=20)[0] == "500000\n"


def test_ipv6_is_routed_and_filtered(slow: Lab) -> None:
    anna, node1 = slow.machine("anna"), slow.machine("node1")
    assert anna.address6 is not None
    assert node1.address6 is not None
    anna.run(["ping", "-c1", "-W3", node1.address6])
    assert node1.run(["ping", "-c1", "-W0.3", anna.address6], check=False).returncode == 1


def test_captures_hold_the_frames_of_every_link(slow: Lab, tmp_path: Path) -> None:
    assert set(slow.links) == {"anna", "ben", "node1", "node2", "anna-wan", "ben-wan"}
    slow.start_captures(tmp_path)
    with pytest.raises(SystemFailure, match="already"):
        slow.start_captures(tmp_path)
    with Agent(slow.machine("anna")) as anna, Agent(slow.machine("node1")) as node1:
        anna.open("s", 5000)
        node1.open("s", 5000)
        anna.send("s", (node1.machine.address, 5000), "a-needle-in-the-hay")
        assert node1.receive_text("s") == "a-needle-in-the-hay"
    assert sum(slow.stop_captures().values()) == 0
    found = {path.stem: path.read_bytes() for path in tmp_path.glob("*.pcap")}
    assert set(found) == set(slow.links)
    has = {name for name, data in found.items() if b"a-needle-in-the-hay" in data}
    assert has == {"anna", "anna-wan", "node1"}
    assert all(data.startswith(bytes.fromhex("d4c3b2a1 0200 0400")) for data in found.values())
    with pytest.raises(SystemFailure, match="no link"):
        slow.start_captures(tmp_path, ["nowhere"])


def test_machines_have_files_and_names_of_their_own(slow: Lab) -> None:
    anna, ben = slow.machine("anna"), slow.machine("ben")
    for folder in ("/etc/ginnel", "/var/lib/ginnel", "/run"):
        anna.run(["sh", "-c", f"echo mine > {folder}/test-file"])
        assert ben.run(["ls", f"{folder}/test-file"], check=False).returncode != 0
        assert not Path(folder, "test-file").exists()
    assert anna.run(["hostname"]).stdout == "anna\n"
    assert "192.0.2.2 node1" in ben.run(["cat", "/etc/hosts"]).stdout
    for path in ("/etc/passwd", "/etc/.host/new-file", "/var/lib/.host/new-file"):
        result = anna.run(["sh", "-c", f"echo broken >> {path}"], check=False)
        assert result.returncode != 0
    assert anna.run(["ls", "/sys/class/net"]).stdout.split() == ["eth0", "lo"]


def test_commands_end_as_they_would_anywhere(slow: Lab) -> None:
    anna = slow.machine("anna")
    assert anna.run(["sh", "-c", "exit 7"], check=False).returncode == 7
    missing = anna.run(["no-such-command"], check=False)
    assert missing.returncode in (126, 127)  # 126 if a folder of PATH is closed to this user
    assert anna.run(["cat"], text="through").stdout == "through"
    with pytest.raises(SystemFailure, match="exit code 3: why"):
        anna.run(["sh", "-c", "echo why; exit 3"])
    process = anna.popen(["sh", "-c", "echo ready; exec sleep 1000"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    assert process.wait() == -signal.SIGTERM
    process.stdout.close()
    with pytest.raises(UsageError, match="no machine"):
        slow.machine("nobody")


@pytest.mark.parametrize("victim", ["maker", "holder"])
def test_kill_leaves_nothing(victim: str) -> None:
    before = devices()
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKE_AND_WAIT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert maker.stdin is not None
    assert maker.stdout is not None
    pids = [int(word) for word in maker.stdout.readline().split()]
    processes = open_processes(pids)
    os.kill(maker.pid if victim == "maker" else pids[0], signal.SIGKILL)
    # A holder whose parent lives on is its zombie, which a pidfd shows as ended too.
    assert_all_end(processes)
    maker.stdin.close()
    maker.stdout.close()
    maker.wait()
    assert devices() == before
    with Lab.create(LabTopology((Home("anna"),))) as second:
        second.machine("anna").run(["true"])


def test_command_line_keeps_a_lab_until_down(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    runner = CliRunner()

    def lab(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "ginnel.cli.main", "lab", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    code, text = lab("up", "--home", "flat:hairpin:2", "--kind", "cgnat", "--public", "rock")
    assert code == 0
    assert "flat2" in text
    assert lab("exec", "flat1", "--", "hostname") == (0, "flat1\n")
    assert lab("exec", "anna-cg", "sh", "-c", "exit 5")[0] == 5
    assert lab("exec", "flat1", "ping", "-c1", "rock")[0] == 0
    assert lab("up")[0] == 1
    state = json.loads((tmp_path / "ginnel-lab" / "lab.json").read_text())
    processes = open_processes([state["holder"], state["machines"]["machine:anna"]["pid"]])
    assert runner.invoke(lab_command, ["down"]).output == "the lab is down\n"
    assert_all_end(processes)
    assert lab("down") == (0, "no lab is up\n")
    assert not (tmp_path / "ginnel-lab").exists()
    assert lab("exec", "anna", "true")[0] == 1


def test_second_start_after_kill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    runner = CliRunner()
    assert runner.invoke(lab_command, ["up", "--kind", "leaky"]).exit_code == 0
    holder = json.loads((tmp_path / "ginnel-lab" / "lab.json").read_text())["holder"]
    processes = open_processes([holder])
    os.kill(holder, signal.SIGKILL)
    assert_all_end(processes)
    assert runner.invoke(lab_command, ["up", "--kind", "leaky"]).exit_code == 0
    assert runner.invoke(lab_command, ["down"]).output == "the lab is down\n"


def test_ordinary_user_gets_a_lab() -> None:
    """As root this becomes nobody; an ordinary user has all these tests run that way."""
    prefix, python = [], sys.executable
    if os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split()[2] != "1":
        uid = str(NOBODY)
        prefix = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"]
        # Ours may be in a folder of root's; the lab needs no more than the standard library.
        python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    done = subprocess.run(
        [*prefix, python, "-c", MAKE_AND_PING],
        env=os.environ | {"PYTHONPATH": str(Path(ginnel.__file__).parents[1])},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "1 received" in done.stdout


def test_entered_namespaces_end_with_the_command() -> None:
    script = "from ginnel.lab import enter_namespaces; import sys; enter_namespaces(sys.argv[1:])"
    inner = "import os, ginnel.lab as l; print(os.getpid(), os.geteuid(), l.Lab)"
    done = subprocess.run(
        [sys.executable, "-c", script, sys.executable, "-c", inner],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.stdout.startswith("2 0 "), done.stderr
    nested = subprocess.run(
        [sys.executable, "-c", script, sys.executable, "-c", MAKE_AND_PING],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert "1 received" in nested.stdout, nested.stderr
