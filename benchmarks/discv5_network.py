"""A network of 10,000 discv5 nodes on virtual time in one process, 70 % of them behind NATs.

It shows how recall, round trips, packets and memory grow with the number of nodes. The public-key
operations of handshakes are replaced by constants (an identity codec behind the same functions):
they are most of the time of a simulation and change nothing in what is measured here. Records are
signed and verified, messages encrypted.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Row, below, compare, publish, resident_mb
from ginnel.discv5 import wire

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import discv5_large  # needs the path above
from support.discv5_net import Net

NODES = 10_000
JOIN_GAP = 0.005  # seconds of virtual time between two nodes that join
SETTLE = 20.0  # seconds of virtual time after the last one joined
LOOKUPS = 200
MINUTES_LIMIT = 10.0
MEMORY_LIMIT = 6.0  # GiB
RECALL = 0.99
MB_PER_GIB = 1073.741824


def use_identity_codec() -> None:
    """Replace the public-key operations of handshakes by constants."""

    def agree(public_key: bytes, private_key: bytes) -> bytes:
        return bytes(33)

    def make_id_signature(
        private_key: bytes, challenge_data: bytes, ephemeral_key: bytes, recipient: bytes
    ) -> bytes:
        return bytes(64)

    def verify_id_signature(*arguments: bytes) -> bool:
        return True

    wire.__dict__.update(
        agree=agree, make_id_signature=make_id_signature, verify_id_signature=verify_id_signature
    )


def measure(nodes: int) -> list[Row]:
    """Build the network, look targets up, and return the rows."""
    use_identity_codec()
    discv5_large.JOIN_GAP = JOIN_GAP
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
    began = time.monotonic()
    net = Net(77)
    publics, hidden = discv5_large.build(net, nodes, SETTLE)
    everybody = publics + hidden
    known = [len(host.core.nodes()) for host in everybody]
    print(f"joined after {time.monotonic() - began:.0f} s", file=sys.stderr)
    packets = net.sent / nodes
    found = discv5_large.look_up(net, net.rng.sample(everybody, min(LOOKUPS, nodes)), publics)
    minutes = (time.monotonic() - began) / 60
    memory = resident_mb(os.getpid()) / MB_PER_GIB
    size = f"{nodes:,} nodes: "
    return [
        below(size + "minutes", "min", [minutes], MINUTES_LIMIT, "our limit"),
        below(size + "memory", "GiB", [memory], MEMORY_LIMIT, "our limit"),
        compare(size + "recall of lookups", "", [found.recall], "wanted", [RECALL], target=1.0),
        compare(size + "least nodes known", "", [min(known)], "wanted", [16], target=1.0),
        figure(size + "round trips of a lookup", found.rounds),
        figure(size + "requests of a lookup", found.requests),
        figure(size + "packets a node until joined", packets),
        figure(size + "memory a node, MB", memory * MB_PER_GIB / nodes),
    ]


def figure(name: str, value: float) -> Row:
    """Return a row that compares with nothing."""
    return compare(name, "", [value], "-", [value])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--print", action="store_true", help="only print, write no results")
    options = parser.parse_args(arguments)
    notes = ("Public-key operations of handshakes are replaced by constants (identity codec).",)
    title = "a simulated discv5 network, 70 % of it behind NATs"
    publish("discv5_network", title, measure(options.nodes), notes, options.print)


if __name__ == "__main__":
    main()
