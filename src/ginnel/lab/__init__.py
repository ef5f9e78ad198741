"""Networks with NATs and slow lines on one machine, for demo, tests and curious users.

Reading order: `topology.py` (what a lab consists of), `nat.py` (rules per kind of NAT), `plan.py`
(devices and addresses), `networks.py` (the API: `Lab`, `Machine`), `hold.py` (the process that
builds and holds a lab), `furnish.py` (files per machine), `wire.py` (delay and loss), `capture.py`
(pcap files), `enter.py` (namespaces). Product code knows nothing of the lab, and the lab starts
Ginnel only as a command.
"""

from ginnel.lab.enter import enter_namespaces
from ginnel.lab.networks import Lab, Machine, requirements, tun_problem
from ginnel.lab.topology import (
    Home,
    LabTopology,
    Link,
    NatKind,
    PublicMachine,
    make_topology,
    parse_home,
)

__all__ = [
    "Home",
    "Lab",
    "LabTopology",
    "Link",
    "Machine",
    "NatKind",
    "PublicMachine",
    "enter_namespaces",
    "make_topology",
    "parse_home",
    "requirements",
    "tun_problem",
]
