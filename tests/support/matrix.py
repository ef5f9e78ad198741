"""The matrix: every kind of NAT against every kind, connected for real, and what came of it.

    python tests/support/matrix.py --runs 500          # `make matrix`
    python tests/support/matrix.py --seeds 17 42       # these runs again

Each run is the product's peer connection with the real data plane between two machines of a lab,
a coturn beside, and a pipe that signals. Its seed decides kinds, roles, who starts later, how slow
signalling is; a third of the runs have 5 % loss on every line. A run is never repeated: what RFC
4787 makes possible has to be direct, all else relayed, and what can't be says what it needs.

Labs: `sites` with two machines of each kind, the same with losses, and one with IPv6.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ginnel.lab import Home, Lab, LabTopology, Link, NatKind, PublicMachine
from ginnel.lab.demo import can_be_direct
from support.connect_run import PORT, TLS_PORT, Pipe, Servers, connecting, end_command, servers

KINDS = tuple(kind.value for kind in NatKind)
SHARED = "one home"  # two machines behind one NAT
V6_KINDS = ("ipv6-only", "dual", "ipv6-broken")
BLOCKED = frozenset({NatKind.UDP_BLOCKED, NatKind.TCP443})
TURNS = {"udp-blocked": ("tcp", "tls", ""), "tcp443": ("tls", "tls", "")}  # else over UDP
LOSS = 0.05
LIMIT_S = 90.0  # of one run, on a machine that has much else to do
SETTLE_S = 3.0  # until both ends name the same kind of path
READY_S = 90.0  # until both processes are there
MAX_LATE_S = 0.5  # that one end may start later
MAX_SIGNALLING_S = 0.15  # one way
DROP_IPV6 = (
    "table inet broken { chain forward { type filter hook forward priority -5; "
    "meta nfproto ipv6 drop; }; }"
)


class Expected(Enum):
    """What has to come of a pair."""

    DIRECT = "direct"
    RELAYED = "relayed"
    EITHER = "direct or relayed"
    NEEDS_RELAY = "says that it needs a relay"


@dataclass(frozen=True)
class Case:
    """One run, all of it decided by its seed."""

    seed: int
    kinds: tuple[str, str]
    is_lossy: bool
    is_known: bool
    is_swapped: bool
    late_s: float
    signalling_s: float
    numbers: tuple[int, int]
    turns: tuple[str, str]  # how each end speaks with the TURN server: udp, tcp, tls, or not: ""

    @property
    def lab(self) -> str:
        """Return which lab it runs in."""
        if self.kinds[0] in V6_KINDS:
            return "ipv6"
        return "lossy" if self.is_lossy else "clean"

    def __str__(self) -> str:
        loss = ", 5 % loss" if self.is_lossy else ""
        ends = [
            f"{kind} ({turn or 'no TURN'})" if kind in BLOCKED else kind
            for kind, turn in zip(self.kinds, self.turns, strict=True)
        ]
        return f"seed {self.seed}: {' - '.join(ends)}{loss}"


@dataclass
class Outcome:
    """What came of a run."""

    case: Case
    text: str
    failure: str = ""
    seconds: float = 0.0
    ends: list[str] = field(default_factory=list)


def cells() -> list[tuple[str, str]]:
    """Return every pair of kinds once."""
    found = list(itertools.combinations_with_replacement(KINDS, 2))
    found.append((SHARED, SHARED))
    return [*found, *itertools.combinations_with_replacement(V6_KINDS, 2)]


def make_case(seed: int) -> Case:
    """Return the run of a seed; consecutive seeds go through all pairs, a third with loss."""
    everything = cells()
    kinds = everything[seed % len(everything)]
    rng = random.Random(seed)
    numbers = (1, 2) if kinds[0] == kinds[1] else (rng.randint(1, 2), rng.randint(1, 2))
    is_blocked = not BLOCKED.isdisjoint(kinds)
    if rng.random() < 0.5:
        kinds = (kinds[1], kinds[0])
    return Case(
        seed=seed,
        kinds=kinds,
        turns=(_choose_turn(kinds[0], rng), _choose_turn(kinds[1], rng)),
        is_lossy=kinds[0] not in V6_KINDS and (seed // len(everything) + seed) % 3 == 2,
        is_known=not is_blocked and rng.random() < 0.3,
        is_swapped=rng.random() < 0.5,
        late_s=rng.choice((0.0, rng.uniform(0.0, MAX_LATE_S))),
        signalling_s=rng.uniform(0.0, MAX_SIGNALLING_S),
        numbers=numbers,
    )


def _choose_turn(kind: str, rng: random.Random) -> str:
    return rng.choice(TURNS.get(kind, ("udp",)))


def expectation(kinds: tuple[str, str], turns: tuple[str, str] = ("", "")) -> Expected:
    """Return what has to come of two kinds (RFC 4787) that speak so with a TURN server."""
    if kinds[0] == SHARED:
        return Expected.DIRECT
    if kinds[0] in V6_KINDS:
        families = [{"ipv6-only": {6}, "dual": {4, 6}, "ipv6-broken": {4}}[kind] for kind in kinds]
        return Expected.DIRECT if families[0] & families[1] else Expected.RELAYED
    one, other = (NatKind(kind) for kind in kinds)
    if one in BLOCKED or other in BLOCKED:
        is_served = all(
            turn or kind not in BLOCKED for kind, turn in zip(kinds, turns, strict=True)
        )
        return Expected.RELAYED if is_served else Expected.NEEDS_RELAY
    if can_be_direct(one, other):
        return Expected.EITHER if NatKind.LEAKY in (one, other) else Expected.DIRECT
    return Expected.RELAYED


def machine_name(kind: str, number: int) -> str:
    """Return the lab name of the first or second machine of a kind."""
    if kind == SHARED:
        return f"flat{number}"
    return f"{kind.replace('restricted', 'r').replace('symmetric', 's')[:10]}{number}"


def make_lab(name: str, kinds: Sequence[str]) -> Lab:
    """Build the lab of some runs: two machines of each kind."""
    link = Link(loss=LOSS) if name == "lossy" else Link()
    homes, public = [], [PublicMachine("server1"), PublicMachine("server2")]
    for kind in kinds:
        names = [machine_name(kind, number) for number in (1, 2)]
        if kind == NatKind.NONE:
            public += [PublicMachine(each, link) for each in names]
        elif kind == SHARED:
            homes.append(Home("flat", NatKind.PORT_RESTRICTED, tuple(names), link))
        else:
            nat = NatKind.PORT_RESTRICTED if kind in V6_KINDS else NatKind(kind)
            homes += [Home(each, nat, link=link) for each in names]
    lab = Lab.create(LabTopology(tuple(homes), tuple(public), ipv6=name == "ipv6"))
    for number in (1, 2) if name == "ipv6" else ():
        if "ipv6-only" in kinds:
            only = lab.machine(machine_name("ipv6-only", number))
            only.run(["ip", "-4", "address", "flush", "dev", "eth0"])
        if "ipv6-broken" in kinds:
            router = lab.router(machine_name("ipv6-broken", number))
            router.run(["nft", "-f", "-"], text=DROP_IPV6)
    return lab


class Runner:
    """Runs cases in its labs, several at once, never two on one machine."""

    def __init__(self, labs: dict[str, tuple[Lab, Servers]], say: Callable[[str], None]) -> None:
        self._labs = labs
        self._say = say
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._guard = threading.Lock()

    def run(self, cases: Sequence[Case], jobs: int) -> list[Outcome]:
        """Run all cases and return what came of each."""
        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(self._run_alone, cases))

    def _run_alone(self, case: Case) -> Outcome:
        keys = sorted(
            {(case.lab, machine_name(k, n)) for k, n in zip(case.kinds, case.numbers, strict=True)}
        )
        with ExitStack() as stack:
            for key in keys:
                with self._guard:
                    lock = self._locks.setdefault(key, threading.Lock())
                stack.enter_context(lock)
            outcome = self._run_one(case)
        mark = f"FAILED: {outcome.failure}; {outcome.text}" if outcome.failure else outcome.text
        self._say(f"{case}: {mark}")
        return outcome

    def _run_one(self, case: Case) -> Outcome:
        lab, (addresses, authority) = self._labs[case.lab]
        roles = ["controlling", "controlled"]
        if case.is_swapped:
            roles.reverse()
        ends = []
        for kind, number, role, turn in zip(
            case.kinds, case.numbers, roles, case.turns, strict=True
        ):
            server = lab.machine("server1").address6 if kind == "ipv6-only" else addresses[0]
            host = f"[{server}]" if server and ":" in server else server
            stun = [f"{host}:{PORT}", *(f"{each}:{PORT}" for each in addresses[1:])]
            mode = "known" if case.is_known else "cold"
            uri = {
                "udp": f"turn:{host}:{PORT}",
                "tcp": f"turn:{host}:{PORT}?transport=tcp",
                "tls": f"turns:{host}:{TLS_PORT}",
            }.get(turn)
            argv = end_command(role, mode, stun, uri, authority)
            ends.append((lab.machine(machine_name(kind, number)), argv))
        began = time.monotonic()
        expected = expectation(case.kinds, case.turns)
        with connecting(ends, case.signalling_s) as pipe:
            pipe.run_until(lambda: len(pipe.ready) == 2, READY_S)
            pipe.go(case.late_s)
            needs = 2 if expected is Expected.NEEDS_RELAY else 3
            pipe.run_until(
                lambda: len(pipe.connected) == 2 or _count_reasons(pipe) >= needs, LIMIT_S
            )
            if len(pipe.connected) == 2:  # what is signalled late may tell a relay from a NAT
                ends_at = time.monotonic() + SETTLE_S
                pipe.run_until(lambda: _agree(pipe) or time.monotonic() >= ends_at, 2 * SETTLE_S)
        return judge(case, expected, pipe, time.monotonic() - began)


def _agree(pipe: Pipe) -> bool:
    return len({"relay" in (end["local"], end["remote"]) for end in pipe.connected.values()}) == 1


def _count_reasons(pipe: Pipe) -> int:
    return sum(reason.startswith("needs a relay") for reason in pipe.reasons.values())


def judge(case: Case, expected: Expected, pipe: Pipe, seconds: float) -> Outcome:
    """Say what came of a run, and whether it should have been that."""
    reasons = "; ".join(dict.fromkeys(reason for reason in pipe.reasons.values() if reason))
    if len(pipe.connected) < 2:
        failure = ""
        if expected is not Expected.NEEDS_RELAY:
            failure = f"not connected, expected: {expected.value}"
        elif _count_reasons(pipe) < 2:
            failure = "not both ends say that they need a relay"
        text = "; ".join(dict.fromkeys((*pipe.failures, reasons))) or "nothing"
        return Outcome(case, text, failure, seconds)
    ends = [pipe.connected[number] for number in range(2)]
    relayed = ["relay" in (end["local"], end["remote"]) for end in ends]
    took = max(end["tunnel_seconds"] for end in ends)
    pairs = " | ".join(f"{end['local']}-{end['remote']}" for end in ends)
    kind = "relayed" if all(relayed) else "direct"
    text = f"{kind} in {took:.2f} s ({pairs})" + (f", after: {reasons}" if reasons else "")
    failure = ""
    if len(set(relayed)) > 1:
        failure = "the ends are on different kinds of path"
    elif expected is Expected.NEEDS_RELAY:
        failure = "connected, which is impossible"
    elif expected is not Expected.EITHER and expected.value != kind:
        failure = f"expected: {expected.value}"
    elif relayed[0] and not all(end.get("why") for end in ends):
        failure = "not told why it is relayed"
    return Outcome(case, text, failure, took)


@contextmanager
def runner(cases: Sequence[Case], say: Callable[[str], None]) -> Iterator[Runner]:
    """Build the labs that some cases need."""
    with ExitStack() as stack:
        labs = {}
        for name in dict.fromkeys(case.lab for case in cases):
            kinds = [kind for case in cases if case.lab == name for kind in case.kinds]
            lab = stack.enter_context(make_lab(name, list(dict.fromkeys(kinds))))
            labs[name] = (lab, stack.enter_context(servers(lab)))
        yield Runner(labs, say)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return each pair of kinds with how often it was direct, relayed or refused, and failures."""
    head = ("pair", "expected", "runs", "direct", "relayed", "needs relay", "median s", "failed")
    lines = [head]
    for pair in cells():
        found = [o for o in outcomes if sorted(o.case.kinds) == sorted(pair)]
        if not found:
            continue
        times = sorted(o.seconds for o in found)
        counts = [sum(o.text.startswith(word) for o in found) for word in ("direct", "relayed")]
        failed = sum(bool(o.failure) for o in found)
        rest = (
            len(found)
            - sum(counts)
            - sum(bool(o.failure) and not o.text.startswith(("direct", "relayed")) for o in found)
        )
        lines.append(
            (
                " - ".join(pair),
                " / ".join(sorted({expectation(o.case.kinds, o.case.turns).value for o in found})),
                str(len(found)),
                *(str(count or "") for count in (*counts, rest)),
                f"{times[len(times) // 2]:.2f}",
                str(failed or ""),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the matrix; return 1 if a run failed."""
    parser = argparse.ArgumentParser(description="every kind of NAT against every kind")
    parser.add_argument("--runs", type=int, default=len(cells()))
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, nargs="+", help="these runs instead")
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1))
    options = parser.parse_args(arguments)
    seeds = options.seeds or range(options.first, options.first + options.runs)
    cases = [make_case(seed) for seed in seeds]
    began = time.monotonic()
    with runner(cases, lambda text: print(text, flush=True)) as runs:
        outcomes = runs.run(cases, options.jobs)
    failed = [outcome for outcome in outcomes if outcome.failure]
    print(f"\n{table(outcomes)}\n")
    print(f"{len(outcomes)} runs, {len(failed)} failed, {time.monotonic() - began:.0f} s")
    for outcome in failed:
        print(f"{outcome.case}: {outcome.failure}; {outcome.text}")
    if failed:
        seeds_again = " ".join(str(outcome.case.seed) for outcome in failed)
        print(f"again: python tests/support/matrix.py --seeds {seeds_again}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
