"""A large network on virtual time, 70 % of it behind NATs, and what lookups in it find."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ginnel.base.types import Address, NodeId
from ginnel.discv5.events import LookupDone
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
    """Let each asker look up a target; truth: the 16 closest public nodes that are up."""
    askers = list(askers)
    goals = list(targets) if targets is not None else [NodeId(net.random_bytes(32)) for _ in askers]
    recalls, rounds, requests = [], [], []
    for asker, target in zip(askers, goals, strict=True):
        others = [host for host in publics if host is not asker and host.is_up]
        true = net.closest(target, others, 16)
        before = asker.core.metrics.requests_outgoing[""]
        number = asker.core.lookup(target, now=net.now)
        net.drain(asker)
        ended = [event for event in asker.of(LookupDone) if event.lookup == number]
        began = net.now
        while not ended:
            assert net.now < began + 60
            net.run(0.01)
            ended = [event for event in asker.of(LookupDone) if event.lookup == number]
        found = {enr.node_id for enr in ended[0].nodes}
        recalls.append(len(found & set(true)) / len(true))
        rounds.append((net.now - began) / (2 * DELAY))
        requests.append(asker.core.metrics.requests_outgoing[""] - before)
    size = len(askers)
    return Found(sum(recalls) / size, sum(rounds) / size, sum(requests) / size)
