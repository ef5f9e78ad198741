"""`make bench-connect`: time until two peers are connected, beside pion/ice and aioice.

A lab with real NATs; 25 ms from every peer to the Internet, so that the round trip is 100 ms
between peers and 50 ms to the server (coturn: STUN and TURN). Both ends start at once; what they
signal crosses a pipe of 50 ms one way. The time of a run is that of the end that is later. Every
peer is a new process for each run, and its start does not count.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import platform
import selectors
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import Row, below, compare, publish
from ginnel.lab import Home, Lab, LabTopology, Link, Machine, NatKind, PublicMachine

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "target" / "bench-peers"
ROUNDS = 7
HALF_S = 0.025  # one way from a peer to the Internet
SIGNALLING_S = 0.05  # one way
RTT_MS = 1000 * 4 * HALF_S
LIMIT_S = 25.0  # of one run; pion gives up after less
READY_LIMIT_S = 20.0  # until both processes are there, with candidates where they are to be known
PORT = 3478
USER, PASSWORD, REALM = "bench", "bench-word", "lab"
SLACK = 1.05  # how much slower than the faster peer we may be
SIDES = ("ginnel", "pion", "aioice")


@dataclass(frozen=True)
class Pair:
    """Two machines, and how many round trips of theirs connecting may take."""

    name: str
    one: str
    other: str
    limit_rtt: float | None
    is_direct: bool = True
    is_known: bool = False


PAIRS = (
    Pair("none - none", "open1", "open2", None),
    Pair("port-restricted x2, cold", "port1", "port2", 4.0),
    Pair("port-restricted x2, candidates known", "port1", "port2", 2.5, is_known=True),
    Pair("full-cone - symmetric", "full1", "symm1", 5.0),
    Pair("port-restricted - symmetric, relayed", "port1", "symm1", 5.5, is_direct=False),
    Pair("symmetric x2, relayed", "symm1", "symm2", 5.5, is_direct=False),
)
_LINE = Link(delay_s=HALF_S)
TOPOLOGY = LabTopology(
    homes=(
        Home("port1", NatKind.PORT_RESTRICTED, link=_LINE),
        Home("port2", NatKind.PORT_RESTRICTED, link=_LINE),
        Home("full1", NatKind.FULL_CONE, link=_LINE),
        Home("symm1", NatKind.SYMMETRIC, link=_LINE),
        Home("symm2", NatKind.SYMMETRIC, link=_LINE),
    ),
    public=(
        PublicMachine("server1"),
        PublicMachine("server2"),
        PublicMachine("open1", _LINE),
        PublicMachine("open2", _LINE),
    ),
)


@dataclass
class Run:
    """What one run came to."""

    seconds: float  # of the later end; infinite if it failed
    is_direct: bool = False
    tunnel_s: float = 0.0  # until WireGuard was up at both ends; ours only
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    failure: str = ""


@contextmanager
def servers(lab: Lab) -> Iterator[list[str]]:
    """Run coturn on both servers, on the first with a second address; return their addresses."""
    first, second = lab.machine("server1"), lab.machine("server2")
    other = first.address.rpartition(".")[0] + ".3"
    first.run(["ip", "address", "add", f"{other}/24", "dev", "eth0"])
    with ExitStack() as stack:
        for machine, addresses in ((first, (first.address, other)), (second, (second.address,))):
            argv = ["turnserver", "-n", "--lt-cred-mech", f"--user={USER}:{PASSWORD}"]
            argv += [f"--realm={REALM}", f"--listening-port={PORT}", "--no-tls", "--no-dtls"]
            argv += ["--no-cli", "--log-file=/run/coturn.log", "--pidfile=/run/coturn.pid"]
            argv += ["--userdb=/run/coturn.db", f"--relay-ip={addresses[0]}"]
            argv += [f"--listening-ip={address}" for address in addresses]
            process = machine.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        time.sleep(1.0)  # until it listens; it has no way to say so
        yield [first.address, second.address]


def command(side: str, role: str, mode: str, machine: Machine, stun: Sequence[str]) -> list[str]:
    """Return the arguments that start one end."""
    urls = [f"stun:{ip}:{PORT}" for ip in stun]
    common = [role, mode, urls[0], f"turn:{stun[0]}:{PORT}?transport=udp", USER, PASSWORD]
    if side == "pion":
        return [str(PEERS / "pion"), *common]
    if side == "aioice":
        script = str(ROOT / "benchmarks" / "peers" / "aioice" / "peer.py")
        return [str(PEERS / "aioice" / "bin" / "python"), script, *common]
    module = "benchmarks.connect_peer"
    return [sys.executable, "-m", module, *common, machine.address, *urls[1:]]


class Pipe:
    """Both ends of a run, and what they signal on its way."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._processes = processes
        self._selector = selectors.DefaultSelector()
        self._buffers = [b"", b""]
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._numbers = itertools.count()
        self.ready: set[int] = set()
        self.connected: dict[int, dict[str, Any]] = {}
        self.failures: list[str] = []
        for number, process in enumerate(processes):
            assert process.stdout is not None
            self._selector.register(process.stdout.fileno(), selectors.EVENT_READ, number)

    def close(self) -> None:
        """Close what it opened itself."""
        self._selector.close()

    def go(self) -> None:
        """Start both ends."""
        for number in range(2):
            self._write(number, b'{"go": true}\n')

    def run_until(self, is_done: Callable[[], bool], limit_s: float) -> None:
        """Carry lines until it is done, an end failed, or the time is up."""
        ends_at = time.monotonic() + limit_s
        while not is_done() and not self.failures:
            now = time.monotonic()
            if now >= ends_at:
                self.failures.append(f"not connected in {limit_s:g} s")
                return
            while self._under_way and self._under_way[0][0] <= now:
                _, _, target, data = heapq.heappop(self._under_way)
                self._write(target, data)
            wait = self._under_way[0][0] - now if self._under_way else ends_at - now
            for key, _ in self._selector.select(max(0.0, wait)):
                self._read(key.fd, key.data)

    def _read(self, fd: int, number: int) -> None:
        data = os.read(fd, 65536)
        if not data:
            self.failures.append(f"end {number} has ended")
            return
        *lines, self._buffers[number] = (self._buffers[number] + data).split(b"\n")
        for line in lines:
            got = json.loads(line)
            if "signal" in got:
                entry = (time.monotonic() + SIGNALLING_S, next(self._numbers), 1 - number)
                heapq.heappush(self._under_way, (*entry, line + b"\n"))
            elif "connected" in got:
                self.connected[number] = got["connected"]
            elif "ready" in got:
                self.ready.add(number)
            elif "failed" in got:
                self.failures.append(f"end {number}: {got['failed']}")

    def _write(self, number: int, data: bytes) -> None:
        pipe = self._processes[number].stdin
        assert pipe is not None
        try:
            os.write(pipe.fileno(), data)
        except BrokenPipeError:
            self.failures.append(f"end {number} has ended")


def run_once(lab: Lab, side: str, pair: Pair, stun: Sequence[str], *, is_swapped: bool) -> Run:
    """Connect once; who controls changes with `is_swapped`."""
    roles = ("controlled", "controlling") if is_swapped else ("controlling", "controlled")
    mode = "known" if pair.is_known else "cold"
    with ExitStack() as stack:
        processes = []
        for name, role in zip((pair.one, pair.other), roles, strict=True):
            machine = lab.machine(name)
            process = stack.enter_context(
                machine.popen(
                    command(side, role, mode, machine, stun),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=os.environ | {"PYTHONPATH": str(ROOT)},
                )
            )
            stack.callback(process.terminate)
            processes.append(process)
        pipe = Pipe(processes)
        stack.callback(pipe.close)
        pipe.run_until(lambda: len(pipe.ready) == 2, READY_LIMIT_S)
        time.sleep(0.1)  # so that starting the processes doesn't slow the beginning
        pipe.go()
        pipe.run_until(lambda: len(pipe.connected) == 2, LIMIT_S)
    if len(pipe.connected) < 2:
        return Run(float("inf"), failure="; ".join(pipe.failures))
    ends = [pipe.connected[number] for number in range(2)]
    kinds = [end[which] for end in ends for which in ("local", "remote")]
    return Run(
        seconds=max(end["seconds"] for end in ends),
        is_direct=not any(kind.startswith("relay") for kind in kinds),
        tunnel_s=max(end.get("tunnel_seconds", 0.0) for end in ends),
        ends={pair.one: ends[0], pair.other: ends[1]},
    )


def measure(
    lab: Lab, stun: Sequence[str], pairs: Sequence[Pair], rounds: int, sides: Sequence[str]
) -> dict[Pair, dict[str, list[Run]]]:
    """Run every pair with every side in turns."""
    runs: dict[Pair, dict[str, list[Run]]] = {p: {side: [] for side in sides} for p in pairs}
    for number in range(rounds):
        for pair in pairs:
            turn = number % len(sides)
            for side in (*sides[turn:], *sides[:turn]):
                run = run_once(lab, side, pair, stun, is_swapped=number % 2 == 1)
                runs[pair][side].append(run)
                print(describe(pair, side, run), file=sys.stderr)
    return runs


def describe(pair: Pair, side: str, run: Run) -> str:
    """Return one line about a run."""
    if run.failure:
        return f"{pair.name}: {side}: FAILED: {run.failure}"
    ends = ", ".join(
        f"{name} {end['local']}-{end['remote']} {end['seconds'] * 1000:.0f}"
        for name, end in run.ends.items()
    )
    tunnel = f", WireGuard {run.tunnel_s * 1000:.0f}" if run.tunnel_s else ""
    return f"{pair.name}: {side}: {run.seconds * 1000:.0f} ms ({ends}{tunnel})"


def make_rows(pair: Pair, runs: dict[str, list[Run]]) -> tuple[list[Row], list[str]]:
    """Return the rows of a pair and notes about it."""
    ours = [1000 * run.seconds for run in runs["ginnel"]]
    rows, notes = [], []
    if pair.limit_rtt is not None:
        limit = pair.limit_rtt * RTT_MS
        rows.append(below(pair.name, "ms", ours, limit, f"limit {pair.limit_rtt:g} RTT"))
    tunnel = [1000 * run.tunnel_s for run in runs["ginnel"]]
    notes.append(f"{pair.name}: WireGuard up at both ends after {statistics.median(tunnel):.0f} ms")
    wrong = sum(run.is_direct != pair.is_direct for run in runs["ginnel"])
    if wrong:
        notes.append(f"{pair.name}: {wrong} of our runs ended on the other kind of path")
    same: dict[str, list[float]] = {}
    for side in SIDES[1:]:
        theirs = runs.get(side, [])
        alike = [run for run in theirs if run.is_direct == pair.is_direct and not run.failure]
        if len(alike) < len(theirs):
            notes.append(
                f"{pair.name}: {side} ended on this kind of path in {len(alike)} of {len(theirs)}"
            )
        if alike:
            same[side] = [1000 * run.seconds for run in alike]
    if same:
        faster = min(same, key=lambda side: statistics.median(same[side]))
        for side, values in same.items():
            target = round(1 / SLACK, 3) if side == faster else None
            median = statistics.median(values)  # fewer values than rounds where paths differed
            filled = values if len(values) == len(ours) else [median] * len(ours)
            rows.append(
                compare(pair.name, "ms", ours, side, filled, target=target, less_is_better=True)
            )
    return rows, notes


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--pairs", type=int, nargs="+", default=list(range(len(PAIRS))))
    parser.add_argument("--print", action="store_true", help="only print, write no results")
    options = parser.parse_args(arguments)
    pairs = [PAIRS[number] for number in options.pairs]
    load = os.getloadavg()[0]
    with Lab.create(TOPOLOGY) as lab, servers(lab) as stun:
        for name in lab.machines:  # so that no run waits for address resolution on a slow line
            lab.machine(name).run(["ping", "-c2", "-i0.2", stun[0]])
        ping = lab.machine("open1").run(["ping", "-c5", "-i0.2", lab.machine("open2").address])
        runs = measure(lab, stun, pairs, options.rounds, options.sides)
    rows, notes = [], []
    for pair in pairs:
        more, text = make_rows(pair, runs[pair])
        rows += more
        notes += text
    notes.append(
        "Counted for each run: the later end, from the start at both. Ours: when WireGuard is "
        "given the pair: it is valid there and none better is likely (RFC 8445 section 12.1); pion "
        "when the nomination was answered; aioice when a check that nominates was."
    )
    rtt = ping.stdout.rpartition("= ")[2].strip()
    notes.append(f"ping between two peers, min/avg/max/mdev: {rtt}; load before: {load:.1f}")
    notes.append(f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}")
    title = "Time to connected, RTT 100 ms, signalling 50 ms one way; a ratio above 1 is faster"
    publish("connect", title, rows, notes, options.print)


if __name__ == "__main__":
    main()
