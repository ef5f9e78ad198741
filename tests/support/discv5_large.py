"""A large network on virtual time, 70 % of it behind NATs, and what lookups in it find."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ginnel.base.types import Address, NodeId
from ginnel.discv5.events import LookupDone
from support.discv5_liar import Liar
from support.discv5_net import DELAY, Host, Nat, Net

PUBLIC_SHARE = 0.3
JOIN_GAP = 0.05  # seconds between two nodes that join
DEPENDENT = "address-and-port-dependent"
KINDS = {
    "full-cone": ("endpoint-independent", "endpoint-independent"),
    "restricted": ("endpoint-independent", "address-dependent"),
    "port-restricted": ("endpoint-independent", DEPENDENT),
    "symmetric": (DEPENDENT, DEPENDENT),
}


@dataclass
class Found:
    """What some lookups came to, on average."""

    recall: float
    rounds: float  # round trips that one took, handshakes included
    requests: float


def outer(index: int) -> str:
    """Return a public address, each in a /24 of its own."""
    return f"{20 + index // 62500}.{index // 250 % 250}.{index % 250}.7"


def add_natted(net: Net, index: int, kind: str, boot: Host, **options: object) -> Host:
    inner = Address(f"10.{index // 62500}.{index // 250 % 250}.{index % 250}", 9000)
    mapping, filtering = KINDS[kind]
    net.nats[inner] = Nat(mapping, filtering, outer(index))
    return net.add(index, bootstrap=[boot.core.record], public=False, address=inner, config=options)


def build(net: Net, count: int, settle: float = 20.0) -> tuple[list[Host], list[Host]]:
    """Return the public hosts and those behind NATs, all joined through the first."""
    boot = net.add(0, address=Address(outer(0), 9000))
    publics, hidden = [boot], []
    kinds = list(KINDS)
    for index in range(1, count):
        if index % 10 < PUBLIC_SHARE * 10:
            address = Address(outer(index), 9000)
            publics.append(net.add(index, bootstrap=[boot.core.record], address=address))
        else:
            hidden.append(add_natted(net, index, kinds[index % 4], boot))
        net.run(JOIN_GAP)
    net.run(settle)
    return publics, hidden


def look_up(
    net: Net, askers: Iterable[Host], publics: list[Host], targets: Iterable[NodeId] | None = None
) -> Found:
    """Let each asker look up a target; truth: the 16 closest public nodes that are up.

    Of nodes that lie it does not matter whether they are found.
    """
    askers = list(askers)
    goals = list(targets) if targets is not None else [NodeId(net.random_bytes(32)) for _ in askers]
    before = [host.core.metrics.requests_outgoing[""] for host in askers]
    began = net.now
    open_ones: dict[int, int] = {}  # place in the list -> number of the lookup
    for place, (asker, target) in enumerate(zip(askers, goals, strict=True)):
        open_ones[place] = asker.core.lookup(target, now=net.now)
        net.drain(asker)
    recalls, rounds, requests = [], [], []
    while open_ones:
        assert net.now < began + 60
        net.run(DELAY / 2)
        for place, number in list(open_ones.items()):
            asker = askers[place]
            ended = [event for event in asker.of(LookupDone) if event.lookup == number]
            if ended:
                del open_ones[place]
                recalls.append(recall_of(net, ended[0], asker, publics))
                rounds.append((net.now - began) / (2 * DELAY))
                requests.append(asker.core.metrics.requests_outgoing[""] - before[place])
    size = len(askers)
    return Found(sum(recalls) / size, sum(rounds) / size, sum(requests) / size)


def recall_of(net: Net, done: LookupDone, asker: Host, publics: list[Host]) -> float:
    """Return how much of the truth a lookup found."""
    others = [host for host in publics if host is not asker and host.is_up]
    liars = {host.core.node_id for host in others if isinstance(host.core, Liar)}
    true = [one for one in net.closest(done.target, others, 16) if one not in liars]
    found = {enr.node_id for enr in done.nodes}
    return len(found & set(true)) / max(len(true), 1)
