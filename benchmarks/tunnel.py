"""`make bench-tunnel`: Ginnel's tunnel beside wireguard-go, gotatun and boringtun.

Two public machines of a lab, `anna` and `ben`, run a whole Ginnel network (manager, signer, tunnel;
found, joined and connected as always) and the others on the same wire, with an MTU of 1420 and
socket buffers of one size. Each of the others is started with its defaults and with the settings
that it offers for speed; the quicker counts. iperf3 and ping measure them in turns; who is not
measured is idle. The wire is veth, which carries GSO trains whole: a real network card narrows the
gap.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from benchmarks.common import (
    Row,
    below,
    compare,
    cpu_seconds,
    in_turns,
    proportional_mb,
    publish,
)
from ginnel import __version__
from ginnel.lab.networks import Lab, Machine
from ginnel.lab.scenario import Scenario
from ginnel.lab.topology import LabTopology, PublicMachine

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "target" / "bench-peers"
OTHERS = {  # the first is the one that targets are set against
    "wireguard-go": ("wireguard", "-f"),
    "gotatun": ("bin/gotatun", "--disable-drop-privileges", "-f"),
    "boringtun": ("bin/boringtun-cli", "--disable-drop-privileges", "-f"),
}
CORES = str(os.cpu_count() or 1)
# What each offers for speed besides its defaults; wireguard-go has no settings.
SETTINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "wireguard-go": ((),),
    "gotatun": ((),),
    "boringtun": (
        (),
        ("--threads", CORES),
        ("--disable-multi-queue",),
        ("--threads", CORES, "--disable-connected-udp"),
    ),
}
SOCKET_BUFFER = 7 << 20  # bytes; what wireguard-go asks for, as default and largest of all sockets
BUFFER_SETTINGS = ("rmem_default", "rmem_max", "wmem_default", "wmem_max")
# What the tunnel process imports; it ends with its input.
BASELINE = """
import sys
import ginnel.cli.main, ginnel.daemon.tunnel, ginnel.daemon.tunnel_child
print("ready", flush=True)
sys.stdin.read()
"""
NETWORK = "bench"
WG_PORT = 51900  # and the next ones
REKEY_S = 130.0  # seconds of a run in which keys change (whitepaper 6.1: after 120)
MTU = 1420  # bytes; what a path of 1500 takes: WireGuard's usual one
UDP_PAYLOAD = 1372  # bytes; fills the MTU over IPv4
UDP_BUFFER = "4M"  # of iperf3's sockets: so that it is the tunnel that is measured
CONNECT_LIMIT_S = 60.0  # seconds until both sides are connected
PINGS = 100  # echo requests of one turn, 4 ms apart: short, for hosts change within seconds
PING_TURNS = 10  # of one measurement
TCP_FORMS: dict[str, tuple[str, ...]] = {  # options of iperf3
    "TCP, 1 stream": (),
    "TCP, 4 streams": ("-P", "4"),
    "TCP, reverse": ("-R",),
}
TCP_TARGET = 1.8  # times wireguard-go
UDP_TARGET = 3.0  # times wireguard-go
PING_SLACK_US = 20.0  # microseconds, and 5 %, that a ping may be behind
PEAK_LIMIT_MIB = 16.0  # of the tunnel process less the same interpreter and imports
SAMPLE_S = 0.05  # seconds between two looks at memory
SETUP = """
import socket, sys
with socket.socket(socket.AF_UNIX) as uapi:
    uapi.connect(sys.argv[1])
    uapi.sendall(sys.stdin.read().encode())
    assert uapi.recv(100).startswith(b"errno=0"), "settings were refused"
"""


@dataclass
class Side:
    """One tunnel: where it leads to, and its processes on both machines."""

    name: str
    address: str  # of ben
    pids: list[int]
    flags: tuple[str, ...] = ()
    idle_mb: float = 0.0
    cpu_per_gb: list[float] = field(default_factory=list)

    def cpu(self) -> float:
        """Return the CPU seconds that its processes have used."""
        return sum(cpu_seconds(pid) for pid in self.pids)

    def memory_mb(self, key: str) -> float:
        """Return the largest memory figure of its processes, from /proc/PID/status."""
        return max(read_status_mb(pid, key) for pid in self.pids)


Measurement: TypeAlias = Callable[[Side], Awaitable[float]]


def read_status_mb(pid: int, key: str) -> float:
    """Return VmRSS or VmHWM in MB (10**6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no {key} of process {pid}")


def find_processes(*words: str) -> list[int]:
    """Return the processes whose command line has all these arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_text().split("\0")
        except OSError:
            continue
        if all(word in arguments for word in words) and "--pid" not in arguments:
            found.append(int(path.parent.name))
    return found


@contextmanager
def ginnel_tunnel(lab: Lab) -> Iterator[Side]:
    """Make a network of both machines and wait for their connection."""
    scenario = Scenario(lab, lambda who, text: print(f"{who}: {text}", file=sys.stderr), NETWORK)
    scenario.start_node("node1")
    try:
        scenario.init("anna")
        scenario.join("anna", "ben")

        def connected() -> bool:
            peer = scenario.peer("anna", "ben")
            return peer is not None and peer["status"] == "connected"

        if not scenario.wait_until(connected, CONNECT_LIMIT_S):
            raise RuntimeError("anna and ben did not connect")
        address = scenario.status("ben")["self"]["addresses"][0]
        yield Side("ginnel", address, find_processes("tunnel", NETWORK))
    finally:
        scenario.stop_nodes()


@contextmanager
def other_tunnel(lab: Lab, number: int, name: str, flags: tuple[str, ...] = ()) -> Iterator[Side]:
    """Run another implementation on both machines, told what it needs by its own socket."""
    machines = [lab.machine("anna"), lab.machine("ben")]
    keys = [X25519PrivateKey.generate() for _ in machines]
    device, subnet, port = f"wgbench{number}", f"10.77.{number}", WG_PORT + number
    with ExitStack() as stack:
        for place, machine in enumerate(machines):
            other = machines[1 - place]
            argv = [str(PEERS / OTHERS[name][0]), *flags, *OTHERS[name][1:], device]
            silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = machine.popen(argv, **silent)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            settings = {
                "private_key": keys[place].private_bytes_raw().hex(),
                "listen_port": port,
                "public_key": keys[1 - place].public_key().public_bytes_raw().hex(),
                "endpoint": f"{other.address}:{port}",
                "allowed_ip": f"{subnet}.{2 - place}/32",
            }
            text = "set=1\n" + "".join(f"{k}={v}\n" for k, v in settings.items()) + "\n"
            configure(machine, device, f"{subnet}.{place + 1}/24", text)
        yield Side(name, f"{subnet}.2", find_processes("-f", device), flags)


@contextmanager
def equal_buffers() -> Iterator[str]:
    """Give all sockets the same buffers until the block ends; yield what came of it."""
    folder = Path("/proc/sys/net/core")
    before = {name: (folder / name).read_text() for name in BUFFER_SETTINGS}
    try:
        try:
            for name in reversed(BUFFER_SETTINGS):
                (folder / name).write_text(str(SOCKET_BUFFER))
            yield f"{SOCKET_BUFFER >> 20} MiB for every socket"
        except PermissionError:
            yield "as the system and each program choose (root sets them alike)"
    finally:
        with suppress(PermissionError):
            for name, value in before.items():
                (folder / name).write_text(value)


def best_settings(lab: Lab, load: Load, name: str) -> tuple[tuple[str, ...], dict[str, float]]:
    """Return the settings with which another implementation is quickest, and Gbit/s of each."""
    found: dict[tuple[str, ...], float] = {}
    if len(SETTINGS[name]) == 1:
        return SETTINGS[name][0], {}
    for number, flags in enumerate(SETTINGS[name]):
        with other_tunnel(lab, len(OTHERS) + number, name, flags) as side:
            load.ping(side)
            found[flags] = round(load.iperf(side)["bits_per_second"] / 1e9, 3)
    return max(found, key=lambda flags: found[flags]), {
        " ".join(flags) or "defaults": value for flags, value in found.items()
    }


def configure(machine: Machine, device: str, address: str, settings: str) -> None:
    """Give an implementation that has just been started its settings."""
    path = f"/var/run/wireguard/{device}.sock"
    for _ in range(50):
        argv = [sys.executable, "-c", SETUP, path]
        if machine.run(argv, text=settings, check=False).returncode == 0:
            break
        time.sleep(0.1)
    machine.run(["ip", "address", "add", address, "dev", device])
    machine.run(["ip", "link", "set", device, "mtu", str(MTU), "up"])


class Load:
    """iperf3 and ping from anna to ben, over a side's tunnel."""

    def __init__(self, lab: Lab, seconds: float) -> None:
        self._anna = lab.machine("anna")
        self._ben = lab.machine("ben")
        self._seconds = seconds

    def iperf(self, side: Side, *options: str) -> dict[str, Any]:
        """Run iperf3 once and return what the receiver saw."""
        end: dict[str, Any] = self.answer(side, *options)["end"]
        found: dict[str, Any] = end.get("sum_received") or end["sum"]
        return found

    def answer(self, side: Side, *options: str) -> dict[str, Any]:
        """Run iperf3 once, a later `-t` winning, and return all that it says."""
        with self._ben.popen(["iperf3", "-s", "-1", "-J"], stdout=subprocess.DEVNULL) as server:
            try:
                argv = ["iperf3", "-c", side.address, "-t", str(self._seconds), "-J", *options]
                for _ in range(20):
                    result = self._anna.run(argv, check=False, timeout=REKEY_S + 60)
                    answer = json.loads(result.stdout)
                    if "Connection refused" not in answer.get("error", ""):
                        break
                    time.sleep(0.05)
            finally:
                server.terminate()
        if "error" in answer:
            raise RuntimeError(f"iperf3 {' '.join(options)}: {answer['error']}")
        said: dict[str, Any] = answer
        return said

    async def tcp(self, options: tuple[str, ...], side: Side) -> float:
        """Return Gbit/s of payload; note the CPU time that a GB costs."""
        before = side.cpu()
        received = self.iperf(side, *options)
        if not options:
            side.cpu_per_gb.append((side.cpu() - before) / (received["bytes"] / 1e9))
        return float(received["bits_per_second"]) / 1e9

    async def udp(self, side: Side) -> float:
        """Return the datagrams a second that arrive of as many as a sender can make."""
        received = self.iperf(side, "-u", "-b", "0", "-l", str(UDP_PAYLOAD), "-w", UDP_BUFFER)
        return float(received["bits_per_second"]) / 8 / UDP_PAYLOAD

    def ping(self, side: Side) -> list[float]:
        """Return the round trips in microseconds."""
        argv = ["ping", "-n", "-c", str(PINGS), "-i", "0.004", side.address]
        lines = self._anna.run(argv).stdout.splitlines()
        return [
            float(line.split("time=")[1].split()[0]) * 1000 for line in lines if "time=" in line
        ]


def measure(load: Load, sides: tuple[Side, ...], rounds: int) -> list[Row]:
    """Measure everything in turns and compare ours, the first, with each other."""
    rows = []
    for name, options in TCP_FORMS.items():
        found = run(rounds, sides, partial(load.tcp, options))
        rows += beside(name, "Gbit/s", sides, found, target=TCP_TARGET)
    found = run(rounds, sides, load.udp)
    rows += beside("UDP received", "packets/s", sides, found, target=UDP_TARGET)
    rows += ping_rows(load, sides, rounds)
    cpu = [side.cpu_per_gb for side in sides]
    rows += beside("CPU for a GB, both ends", "s", sides, cpu, less_is_better=True)
    return rows + memory_rows(load, sides)


def beside(
    name: str,
    unit: str,
    sides: tuple[Side, ...],
    found: list[list[float]],
    *,
    target: float | None = None,
    less_is_better: bool = False,
) -> list[Row]:
    """Compare ours with each other; only the first of them bears the target."""
    return [
        compare(
            name,
            unit,
            found[0],
            side.name,
            values,
            target=target if place == 0 else None,
            less_is_better=less_is_better,
        )
        for place, (side, values) in enumerate(zip(sides[1:], found[1:], strict=True))
    ]


def ping_rows(load: Load, sides: tuple[Side, ...], rounds: int) -> list[Row]:
    """Compare round trips; the target is against the best of the others."""
    turns: dict[str, list[list[float]]] = {side.name: [] for side in sides}

    async def ping(side: Side) -> float:
        turns[side.name].append(load.ping(side)[1:])  # the first wakes what has slept meanwhile
        return 0.0

    run(rounds * PING_TURNS, sides, ping)
    samples = [joined(turns[side.name]) for side in sides]
    rows = []
    for name, share in (("ping, median", 0.5), ("ping, p99", 0.99)):
        found = [[sample[int(len(sample) * share)] for sample in side] for side in samples]
        best = min(statistics.median(values) for values in found[1:])
        for side, values in zip(sides[1:], found[1:], strict=True):
            limit = best / (best * 1.05 + PING_SLACK_US)
            is_best = statistics.median(values) == best
            target = round(limit, 3) if is_best else None
            rows.append(
                compare(name, "us", found[0], side.name, values, target=target, less_is_better=True)
            )
    return rows


def joined(turns: list[list[float]]) -> list[list[float]]:
    """Return the round trips of each round, sorted; those of a lost answer are missing."""
    rounds = [turns[start : start + PING_TURNS] for start in range(0, len(turns), PING_TURNS)]
    return [sorted(chain.from_iterable(one)) for one in rounds]


def peak_of_ours(load: Load, side: Side) -> float:
    """Return the peak PSS of our processes under load, less that of an interpreter, in MiB."""
    argv = [sys.executable, "-c", BASELINE]
    peak, is_over = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(SAMPLE_S):
            peak = max(peak, *(proportional_mb(pid) for pid in side.pids))

    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for options in (("-P", "4"), ("-R",), ("-u", "-b", "0", "-l", str(UDP_PAYLOAD))):
                load.iperf(side, *options)
        finally:
            is_over.set()
            watcher.join()
        baseline = proportional_mb(process.pid)
        process.communicate()
    return peak - baseline


def memory_rows(load: Load, sides: tuple[Side, ...]) -> list[Row]:
    """Compare what the processes hold when idle and at their peak."""
    peaks = [[side.memory_mb("VmHWM")] for side in sides]
    idle = [[side.idle_mb] for side in sides]
    ours = peak_of_ours(load, sides[0])
    return [
        *beside("memory, idle", "MB", sides, idle, less_is_better=True),
        *beside("memory, peak", "MB", sides, peaks, less_is_better=True),
        below("data plane, peak", "MiB", [ours], PEAK_LIMIT_MIB, "our limit"),
    ]


def rekey_rows(load: Load, sides: tuple[Side, ...]) -> list[Row]:
    """Compare the slowest second of a run in which keys change with the whole run."""
    rows = []
    for side in sides[:2]:
        answer = load.answer(side, "-t", str(REKEY_S))
        seconds = [item["sum"]["bits_per_second"] / 1e9 for item in answer["intervals"]]
        middle = statistics.median(seconds)
        name = f"slowest second of {REKEY_S:.0f}, a rekey in it"
        rows.append(compare(name, "Gbit/s", [min(seconds)], f"{side.name}: median", [middle]))
    return rows


def run(rounds: int, sides: tuple[Side, ...], measurement: Measurement) -> list[list[float]]:
    """Measure all sides in turns; return the values of each."""
    wanted = {side.name: partial(measurement, side) for side in sides}
    found = asyncio.run(in_turns(rounds, wanted))
    return [found[side.name] for side in sides]


def versions(lab: Lab) -> dict[str, str]:
    """Return the version of each program."""
    version = subprocess.run(
        ["go", "version", "-m", str(PEERS / "wireguard")],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    module = [line.split()[1:3] for line in version.splitlines() if "\tmod\t" in line]
    rust = [
        subprocess.run(
            [str(PEERS / OTHERS[name][0]), "--version"], capture_output=True, text=True, check=False
        ).stdout.splitlines()[0]
        for name in ("gotatun", "boringtun")
    ]
    iperf = lab.machine("anna").run(["iperf3", "--version"]).stdout.splitlines()[0]
    return {
        "ginnel": __version__,
        "wireguard-go": " ".join(module[0]) if module else "unknown",
        "gotatun": rust[0],
        "boringtun": rust[1],
        "iperf3": iperf,
        "Linux": platform.release(),
        "Python": platform.python_version(),
    }


def congestion_control(lab: Lab) -> str:
    """Return the one that iperf3's sockets have."""
    argv = ["cat", "/proc/sys/net/ipv4/tcp_congestion_control"]
    return lab.machine("anna").run(argv).stdout.strip()


def notes(lab: Lab, load_seconds: float, rounds: int, busy: float, buffers: str) -> list[str]:
    """Say what was measured with what."""
    status = Scenario(lab, lambda *_: None, NETWORK).status("anna")
    offloads = status["offloads"]
    return [
        "; ".join(f"{name} {version}" for name, version in versions(lab).items()),
        f"{rounds} rounds of {load_seconds:g} s; MTU {MTU}; veth; all processes on this machine's "
        f"{os.cpu_count()} cores, which others may use: load {busy:.1f} "
        f"before the start, {os.getloadavg()[0]:.1f} at the end",
        f"TCP's congestion control: {congestion_control(lab)}, this machine's",
        f"offloads of ours: {', '.join(name for name, used in offloads.items() if used)}; "
        f"packets sealed by {status['cipher']}",
        f"socket buffers: {buffers}",
        "data plane, peak: the largest PSS of the tunnel process under TCP and UDP, less that of "
        "an interpreter with the same imports; the state of discv5, mesh and ICE counts in",
    ]


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each iperf3 run")
    parser.add_argument("--print", action="store_true", help="write no JSON")
    parser.add_argument("--long", action="store_true", help="also 130 s with a rekey")
    options = parser.parse_args()
    busy = os.getloadavg()[0]
    os.environ["GINNEL_MTU"] = str(MTU)  # of both machines, which are started from here
    topology = LabTopology(public=tuple(PublicMachine(name) for name in ("node1", "anna", "ben")))
    with equal_buffers() as buffers, Lab.create(topology) as lab, ExitStack() as stack:
        load = Load(lab, options.seconds)
        chosen = {name: best_settings(lab, load, name) for name in OTHERS}
        tunnels = [ginnel_tunnel(lab)]
        for number, (name, (flags, _)) in enumerate(chosen.items()):
            tunnels.append(other_tunnel(lab, number, name, flags))
        sides = tuple(stack.enter_context(tunnel) for tunnel in tunnels)
        for side in sides:
            load.ping(side)
            side.idle_mb = side.memory_mb("VmRSS")
        rows = measure(load, sides, options.rounds)
        if options.long:
            rows += rekey_rows(load, sides)
        text = notes(lab, options.seconds, options.rounds, busy, buffers)
        setup = {
            "versions": versions(lab),
            "flags": {side.name: " ".join(side.flags) or "defaults" for side in sides},
            "tried": {name: tried for name, (_, tried) in chosen.items() if tried},
            "rounds": options.rounds,
            "seconds": options.seconds,
            "socket_buffers": buffers,
            "congestion_control": congestion_control(lab),
        }
        title = "Tunnel: Ginnel beside wireguard-go, gotatun and boringtun"
        publish("tunnel", title, rows, text, options.print, setup)


if __name__ == "__main__":
    main()
