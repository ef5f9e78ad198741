"""`make bench-connect`: time until two peers are connected, beside pion/ice and aioice.

A lab with real NATs; 25 ms from every peer to the Internet, so that the round trip is 100 ms
between peers and 50 ms to the server (coturn: STUN and TURN). Both ends start at once; what they
signal crosses a pipe of 50 ms one way. The time of a run is that of the end that is later. Every
peer is a new process for each run, and its start does not count.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import Row, below, compare, publish
from ginnel.lab import Home, Lab, LabTopology, Link, NatKind, PublicMachine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.connect_run import (  # needs the path above
    PASSWORD,
    PORT,
    USER,
    connecting,
    end_command,
    servers,
)

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "target" / "bench-peers"
ROUNDS = 7
HALF_S = 0.025  # one way from a peer to the Internet
SIGNALLING_S = 0.05  # one way
RTT_MS = 1000 * 4 * HALF_S
LIMIT_S = 25.0  # of one run; pion gives up after less
READY_LIMIT_S = 20.0  # until both processes are there, with candidates where they are to be known
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


def command(side: str, role: str, mode: str, stun: Sequence[str]) -> list[str]:
    """Return the arguments that start one end."""
    turn = f"{stun[0]}:{PORT}"
    if side == "ginnel":
        return end_command(role, mode, [f"{ip}:{PORT}" for ip in stun], f"turn:{turn}")
    common = [role, mode, f"stun:{turn}", f"turn:{turn}?transport=udp", USER, PASSWORD]
    if side == "pion":
        return [str(PEERS / "pion"), *common]
    script = str(ROOT / "benchmarks" / "peers" / "aioice" / "peer.py")
    return [str(PEERS / "aioice" / "bin" / "python"), script, *common]


def run_once(lab: Lab, side: str, pair: Pair, stun: Sequence[str], *, is_swapped: bool) -> Run:
    """Connect once; who controls changes with `is_swapped`."""
    roles = ("controlled", "controlling") if is_swapped else ("controlling", "controlled")
    mode = "known" if pair.is_known else "cold"
    ends = [
        (lab.machine(name), command(side, role, mode, stun))
        for name, role in zip((pair.one, pair.other), roles, strict=True)
    ]
    with connecting(ends, SIGNALLING_S) as pipe:
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
    with Lab.create(TOPOLOGY) as lab, servers(lab) as (stun, _):
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
