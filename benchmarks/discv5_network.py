"""Networks of up to 10,000 discv5 nodes on virtual time, 70 % of them behind NATs.

It shows how recall, round trips, packets and memory grow with the number of nodes; each network is
built in one process of its own. The public-key operations of handshakes are replaced by constants
behind the same functions: they are most of the time of a simulation and change nothing in what is
measured here. Packets are encrypted, records are signed and verified.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from benchmarks.common import Row, below, compare, publish, resident_mb
from ginnel.discv5 import wire
from ginnel.discv5.keys import new_private_key, public_key_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import discv5_large  # needs the path above
from support.discv5_net import Net

NODES = 10_000
SMALLER = (300, 1000, 3000)  # nodes of the networks that it is compared with
JOINING = 50.0  # seconds of virtual time in which all join, however many they are
SETTLE = 20.0  # seconds of virtual time after the last one joined
LOOKUPS = 200
MINUTES_LIMIT = 10.0
MEMORY_LIMIT = 6.0  # GiB
RECALL = 0.99
KNOWN = 16  # other nodes that each one must know
KIB_PER_GIB = 1024.0 * 1024.0
NOTES = (
    "Public-key operations of handshakes are replaced by constants; packets are encrypted.",
    "All join through the same node within 50 s; packets are counted until 20 s later.",
    "Nodes behind NATs are in nobody's table: a lookup's truth is the 16 closest of the others.",
    "Memory a node is what the process grew by, the simulated network included; the limit is on "
    "the process's peak.",
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one network came to."""

    nodes: int
    minutes: float  # of real time, lookups included
    cpu_minutes: float  # of the one core that it used: less than the above on a busy machine
    peak_gib: float  # memory of the process at most
    recall: float
    least_known: int  # nodes in the table of the node that knows fewest
    rounds: float  # round trips of a lookup
    requests: float  # of a lookup
    packets: float  # a node until all had joined
    memory: float  # MB a node


def use_constant_keys() -> None:
    """Replace the public-key operations of handshakes by constants."""

    def agree(public_key: bytes, private_key: bytes) -> bytes:
        return bytes(33)

    def make_id_signature(
        private_key: bytes, challenge_data: bytes, ephemeral_key: bytes, recipient: bytes
    ) -> bytes:
        return bytes(64)

    def verify_id_signature(*arguments: bytes) -> bool:
        return True

    ephemeral = new_private_key(os.urandom)
    wire.__dict__.update(
        agree=agree,
        make_id_signature=make_id_signature,
        verify_id_signature=verify_id_signature,
        new_private_key=lambda random_bytes: ephemeral,
        public_key_of=lru_cache(maxsize=2)(public_key_of),
    )


def measure(nodes: int) -> Measured:
    """Build the network and look targets up."""
    use_constant_keys()
    discv5_large.JOIN_GAP = JOINING / nodes
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
    before = resident_mb(os.getpid())
    began, cpu_began = time.monotonic(), time.process_time()
    net = Net(77)
    publics, hidden = discv5_large.build(net, nodes, SETTLE)
    everybody = publics + hidden
    known = [len(host.core.nodes()) for host in everybody]
    print(f"{nodes} joined after {time.monotonic() - began:.0f} s", file=sys.stderr)
    packets = net.sent / nodes
    memory = (resident_mb(os.getpid()) - before) / nodes
    found = discv5_large.look_up(net, net.rng.sample(everybody, min(LOOKUPS, nodes)), publics)
    return Measured(
        nodes,
        (time.monotonic() - began) / 60,
        (time.process_time() - cpu_began) / 60,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_GIB,
        found.recall,
        min(known),
        found.rounds,
        found.requests,
        packets,
        memory,
    )


def measure_apart(nodes: int) -> Measured:
    """Measure in a process of its own: what one network leaves behind is not the next one's."""
    command = [sys.executable, "-m", "benchmarks.discv5_network", "--one", str(nodes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return Measured(**json.loads(done.stdout))


def rows_of(all_measured: Sequence[Measured]) -> list[Row]:
    """Return the largest network's limits, then each figure against the number of nodes."""
    largest = all_measured[-1]
    size = f"{largest.nodes:,} nodes: "
    rows = [
        below(size + "minutes", "min", [largest.minutes], MINUTES_LIMIT, "our limit"),
        below(size + "memory", "GiB", [largest.peak_gib], MEMORY_LIMIT, "our limit"),
    ]
    for one in all_measured:
        name = f"recall of lookups, {one.nodes:,} nodes"
        rows.append(compare(name, "", [one.recall], "wanted", [RECALL], target=1.0))
    for one in all_measured:
        name = f"least nodes known, {one.nodes:,} nodes"
        rows.append(compare(name, "", [one.least_known], "wanted", [KNOWN], target=1.0))
    for what, key in (
        ("CPU minutes", "cpu_minutes"),
        ("round trips of a lookup", "rounds"),
        ("requests of a lookup", "requests"),
        ("packets a node until joined", "packets"),
        ("memory a node, MB", "memory"),
    ):
        rows += [figure(f"{what}, {m.nodes:,} nodes", getattr(m, key)) for m in all_measured]
    return rows


def figure(name: str, value: float) -> Row:
    """Return a row that compares with nothing."""
    return compare(name, "", [value], "-", [value])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=NODES, help="of the largest network")
    parser.add_argument("--one", type=int, help="measure one network, print it as JSON")
    parser.add_argument("--print", action="store_true", help="only print, write no results")
    options = parser.parse_args(arguments)
    if options.one is not None:
        print(json.dumps(asdict(measure(options.one))))
        return
    sizes = [size for size in SMALLER if size < options.nodes] + [options.nodes]
    title = "simulated discv5 networks, 70 % of each behind NATs"
    rows = rows_of([measure_apart(size) for size in sizes])
    publish("discv5_network", title, rows, NOTES, options.print)


if __name__ == "__main__":
    main()
