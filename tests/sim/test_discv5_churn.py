"""An hour of virtual churn: nodes come, go, sleep and move, behind each kind of NAT."""

from __future__ import annotations

import pytest

from ginnel.base.types import Address
from ginnel.discv5.events import ReflexiveChanged
from support.discv5_large import KINDS, add_natted, look_up, outer
from support.discv5_net import Host, Net

PUBLICS = 16
HOUR = 3600.0
STEP = 60.0


def suspend(net: Net, host: Host, seconds: float) -> None:
    """Let a machine sleep: its clock jumps, what was sent to it is lost."""
    host.is_up = False
    net.run(seconds)
    host.is_up = True
    host.core.handle_timeout(now=net.now)
    net.drain(host)


SEEDS = [91, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(191, 195))]


@pytest.mark.parametrize("seed", SEEDS)
def test_an_hour_of_churn_leaves_nobody_alone(seed: int) -> None:
    net = Net(seed)
    boot = net.add(0, address=Address(outer(0), 9000))
    publics = [boot]
    for index in range(1, PUBLICS):
        address = Address(outer(index), 9000)
        publics.append(net.add(index, bootstrap=[boot.core.record], address=address))
    hidden = {kind: add_natted(net, 100 + i, kind, boot) for i, kind in enumerate(KINDS)}
    net.run(30)
    end, number = net.now + HOUR, PUBLICS
    while net.now < end:
        victim = net.rng.choice(publics[1:])
        match net.rng.randrange(4):
            case 0:  # it leaves for good, and another comes
                victim.is_up = False
                publics.remove(victim)
                address = Address(outer(number), 9000)
                publics.append(net.add(number, bootstrap=[boot.core.record], address=address))
                number += 1
            case 1:  # it restarts without memory
                victim.is_up = False
                publics[publics.index(victim)] = net.restart(victim, bootstrap=[boot.core.record])
            case 2:
                suspend(net, victim, 2 * STEP)
            case 3:  # a NAT forgets everything
                nat = net.nats[hidden[net.rng.choice(list(KINDS))].address]
                nat.ports.clear()
                nat.sent_to.clear()
        net.run(STEP)
    net.run(5 * STEP)  # until what a NAT forgot is no longer mixed with what it maps now
    for kind, host in hidden.items():
        view = host.of(ReflexiveChanged)[-1]
        assert view.symmetric is (kind == "symmetric")
    everyone = [*publics, *hidden.values()]
    for host in everyone:
        seen = [node for node in host.core.table.nodes() if node.is_seen]
        assert len(seen) >= 8
        assert len(host.core.table) <= len(publics) + 12  # the dead have been taken out
    found = look_up(net, everyone, publics)
    told = [sum(node.is_seen for node in host.core.table.nodes()) for host in everyone]
    print(f"\nseed {seed}: everybody knows {min(told)} or more alive, recall {found.recall:.3f}")
    assert found.recall >= 0.95


def test_a_machine_that_slept_is_back_at_once() -> None:
    net = Net(92)
    boot = net.add(0, address=Address(outer(0), 9000))
    others = [
        net.add(i, bootstrap=[boot.core.record], address=Address(outer(i), 9000))
        for i in range(1, 12)
    ]
    host = add_natted(net, 100, "port-restricted", boot)
    net.run(30)
    suspend(net, host, HOUR / 2)
    assert look_up(net, [host], [boot, *others]).recall >= 0.9
    assert len(host.core.table) >= 10


def test_our_own_dead_link_does_not_empty_the_table() -> None:
    net = Net(93)
    boot = net.add(0, address=Address(outer(0), 9000))
    for index in range(1, 12):
        net.add(index, bootstrap=[boot.core.record], address=Address(outer(index), 9000))
    host = add_natted(net, 100, "full-cone", boot)
    net.run(30)
    known = len(host.core.table)
    net.loss = 1.0
    net.run(600)
    net.loss = 0.0
    assert len(host.core.table) == known
    net.run(60)
    assert sum(node.is_seen for node in host.core.table.nodes()) >= known // 2
