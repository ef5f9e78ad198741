"""The path through a TURN channel beside the direct one (a part of `make bench-tunnel`).

Two public machines of a lab, `anna` and `ben`, are in two networks: in one they are direct, in the
other each goes through the relay of a third, `cleo`, though it need not. Three processes share this
machine's cores on the relayed path, two on the direct one.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from functools import partial

from benchmarks.common import Row, publish
from benchmarks.tunnel import (
    CONNECT_LIMIT_S,
    MTU,
    TCP_FORMS,
    Load,
    Side,
    beside,
    find_processes,
    run,
)
from ginnel.lab.networks import Lab
from ginnel.lab.scenario import Scenario
from ginnel.lab.topology import LabTopology, PublicMachine

DIRECT, RELAYED = "direct", "relayed"


def connect(lab: Lab, network: str, records: list[str]) -> Side:
    """Make a network of anna, ben and a relay, and wait for the path that is meant."""
    scenario = Scenario(lab, lambda who, text: print(f"{who}: {text}", file=sys.stderr), network)
    scenario.records = records
    is_relayed = network == RELAYED
    os.environ["GINNEL_FORCE_RELAY"] = str(is_relayed).lower()  # of what is started from here
    scenario.init("anna")
    if is_relayed:
        scenario.join("anna", "cleo", relay=True)
    scenario.join("anna", "ben")

    def is_there() -> bool:
        peer = scenario.peer("anna", "ben")
        if peer is None or peer["status"] != "connected":
            return False
        return bool(peer["path"]["direct"]) is not is_relayed

    if not scenario.wait_until(is_there, CONNECT_LIMIT_S):
        raise RuntimeError(f"anna and ben did not connect: {network}")
    address = scenario.status("ben")["self"]["addresses"][0]
    return Side(network, address, find_processes("tunnel", network))


def measure(load: Load, sides: tuple[Side, ...], rounds: int) -> list[Row]:
    """Measure both paths in turns."""
    rows = []
    for name, options in TCP_FORMS.items():
        found = run(rounds, sides, partial(load.tcp, options))
        rows += beside(f"{name}, relayed", "Gbit/s", sides, found)
    found = run(rounds, sides, load.udp)
    rows += beside("UDP received, relayed", "packets/s", sides, found)

    async def ping(side: Side) -> float:
        return statistics.median(load.ping(side))

    found = run(rounds, sides, ping)
    rows += beside("ping, median, relayed", "us", sides, found, less_is_better=True)
    cpu = [side.cpu_per_gb for side in sides]
    return rows + beside("CPU for a GB, all ends, relayed", "s", sides, cpu, less_is_better=True)


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each iperf3 run")
    parser.add_argument("--print", action="store_true", help="write no JSON")
    options = parser.parse_args()
    busy = os.getloadavg()[0]
    os.environ["GINNEL_MTU"] = str(MTU)
    names = ("node1", "anna", "ben", "cleo")
    with Lab.create(LabTopology(public=tuple(PublicMachine(name) for name in names))) as lab:
        nodes = Scenario(lab, lambda *_: None, DIRECT)
        nodes.start_node("node1")
        try:
            sides = tuple(connect(lab, name, nodes.records) for name in (RELAYED, DIRECT))
            load = Load(lab, options.seconds)
            for side in sides:
                load.ping(side)
            rows = measure(load, sides, options.rounds)
        finally:
            nodes.stop_nodes()
    notes = [
        f"{options.rounds} rounds of {options.seconds:g} s; MTU {MTU}; veth; all processes, the "
        f"relay's too, on this machine's {os.cpu_count()} cores; Linux {platform.release()}; load "
        f"{busy:.1f} before the start, {os.getloadavg()[0]:.1f} at the end",
    ]
    title = "Tunnel: through a TURN channel of a member's relay beside direct"
    publish("tunnel_relayed", title, rows, notes, options.print)


if __name__ == "__main__":
    main()
