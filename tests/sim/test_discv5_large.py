"""1,000 nodes on virtual time, 70 % behind NATs: what lookups find when all is well, and when not.

The network is built once; each test leaves it as it was, but for what nodes learned.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ginnel.base.types import Address, NodeId, Secret
from ginnel.discv5.keys import new_private_key, node_id_of, public_key_of
from support.discv5_large import Found, build, look_up, outer
from support.discv5_liar import Liar, each_other, far, invented, oversized, too_many
from support.discv5_net import Host, Net

NODES = 1000
ASKERS = 30
World = tuple[Net, list[Host], list[Host]]


@pytest.fixture(scope="module")
def world() -> World:
    net = Net(77)
    publics, hidden = build(net, NODES)
    return net, publics, hidden


def some(world: World, count: int = ASKERS, *, up: bool = True) -> list[Host]:
    net, publics, hidden = world
    hosts = [host for host in publics + hidden if host.is_up and not isinstance(host.core, Liar)]
    return net.rng.sample(hosts, count)


def told(name: str, found: Found) -> None:
    print(
        f"\n{name}: recall {found.recall:.3f}, {found.rounds:.1f} round trips, "
        f"{found.requests:.1f} requests"
    )


@contextmanager
def turned(net: Net, hosts: list[Host], rng: random.Random) -> Iterator[None]:
    """Let the hosts lie, each in one of four ways."""
    honest = [host.core for host in hosts]
    records = [host.core.record for host in hosts]
    for index, host in enumerate(hosts):
        others = rng.sample(records, min(len(records), 80))
        own = host.core.record
        lies = (invented(rng, own), far(others), oversized, too_many(others))
        host.core = Liar(host.key, own, lies[index % 4], index)  # type: ignore[assignment]
    yield
    for host, core in zip(hosts, honest, strict=True):
        host.core = core
        net.drain(host)


def test_everybody_knows_others_after_joining_through_one(world: World) -> None:
    net, publics, hidden = world
    known = [len(host.core.nodes()) for host in publics + hidden]
    print(f"\n{NODES} nodes: {net.sent / NODES:.0f} packets a node until all had joined")
    assert min(known) >= 16
    inner = {host.core.node_id for host in hidden}
    assert not any(inner & {enr.node_id for enr in host.core.nodes()} for host in publics)


def test_lookups_find_the_true_closest(world: World) -> None:
    net, publics, _ = world
    found = look_up(net, some(world, 60), publics)
    told("all well", found)
    assert found.recall >= 0.99
    assert found.rounds <= 3 * math.log2(NODES)
    assert found.requests <= 16 + 4 * math.log2(NODES)


def test_twenty_percent_loss(world: World) -> None:
    net, publics, _ = world
    net.loss = 0.2
    try:
        found = look_up(net, some(world), publics)
    finally:
        net.loss = 0.0
    told("20 % loss", found)
    assert found.recall >= 0.95


def test_twenty_percent_lie(world: World) -> None:
    net, publics, _ = world
    rng = random.Random(5)
    liars = rng.sample(publics[1:], len(publics) // 5)
    with turned(net, liars, rng):
        found = look_up(net, some(world), publics)
        assert sum(host.core.asked for host in liars if isinstance(host.core, Liar)) > 20
    told("20 % hostile", found)
    assert found.recall >= 0.90


def test_thirty_percent_die_at_once(world: World) -> None:
    net, publics, hidden = world
    dead = random.Random(6).sample(publics[1:] + hidden, NODES * 3 // 10)
    for host in dead:
        host.is_up = False
    found = look_up(net, some(world), publics)
    told("30 % dead", found)
    assert found.recall >= 0.95


def sharing(net: Net, target: NodeId, least: int, most: int) -> NodeId:
    """Return a random id that shares so many leading bits with the target, and not one more."""
    bits = net.rng.randint(least, most)
    changed = int.from_bytes(target, "big") ^ 1 << (255 - bits)
    rest = (1 << (255 - bits)) - 1
    return NodeId((changed ^ net.rng.getrandbits(256) & rest).to_bytes(32, "big"))


@pytest.mark.soak
def test_ground_ids_around_a_target() -> None:
    """20 % ground their ids next to the target and answer only with each other: stated, not met."""
    net = Net(78)
    publics, hidden = build(net, NODES)
    target = NodeId(net.random_bytes(32))
    prefix = int.from_bytes(target[:2], "big") >> 5  # 11 bits: nearer than any honest node
    keys: list[Secret] = []
    while len(keys) < NODES // 5:
        key = new_private_key(net.random_bytes)
        if int.from_bytes(node_id_of(public_key_of(key))[:2], "big") >> 5 == prefix:
            keys.append(Secret(key))
    boot = publics[0].core.record
    attackers = [
        net.add(5000 + i, bootstrap=[boot], key=key, address=Address(outer(5000 + i), 9000))
        for i, key in enumerate(keys)
    ]
    net.run(30)
    records = [host.core.record for host in attackers]
    for index, host in enumerate(attackers):
        lie = each_other(records, host.core.record)
        host.core = Liar(host.key, host.core.record, lie, index)  # type: ignore[assignment]
    askers = net.rng.sample(publics + hidden, ASKERS)
    near = look_up(net, askers, publics, [target] * ASKERS)
    told("20 % ground around the target, lookups to it", near)
    beside = look_up(net, askers, publics, [sharing(net, target, 4, 7) for _ in askers])
    told("20 % ground around the target, lookups that share its first 4 to 7 bits", beside)
    elsewhere = look_up(net, askers, publics, [sharing(net, target, 0, 2) for _ in askers])
    told("20 % ground around the target, lookups elsewhere", elsewhere)
    assert elsewhere.recall >= 0.95
