"""Liveness of the table."""

from __future__ import annotations

from ginnel.discv5.events import NodeAdded, NodeRemoved
from support.discv5_net import Net


def test_nodes_that_start_together_find_each_other() -> None:
    net = Net(61)
    boot = net.add(0)
    hosts = [net.add(n, bootstrap=[boot.core.record]) for n in range(1, 12)]
    net.run(30)
    assert [len(host.core.nodes()) for host in (boot, *hosts)] == [11] * 12


def test_a_dead_node_leaves_and_comes_back() -> None:
    net = Net(62)
    boot = net.add(0)
    hosts = [net.add(n, bootstrap=[boot.core.record]) for n in range(1, 6)]
    net.run(60)
    dead = hosts[4]
    dead.is_up = False
    net.run(200)
    for host in (boot, *hosts[:4]):
        assert dead.core.node_id not in {enr.node_id for enr in host.core.nodes()}
    assert set(boot.of(NodeRemoved)) == {NodeRemoved(dead.core.node_id)}
    back = net.restart(dead, bootstrap=[boot.core.record])
    net.run(60)
    assert len(back.core.nodes()) == 5
    assert boot.of(NodeAdded)[-1].enr.node_id == dead.core.node_id


def test_bootstrap_nodes_are_never_removed() -> None:
    net = Net(63)
    boots = [net.add(n) for n in range(2)]
    host = net.add(5, bootstrap=[boot.core.record for boot in boots])
    net.run(20)
    boots[0].is_up = False
    net.run(300)
    assert len(host.core.nodes()) == 2
    assert host.core.nodes()[0] == boots[1].core.record
    assert host.core.closest(host.core.node_id, 16) == [boots[1].core.record]


def test_a_node_that_slept_is_taken_back_over_its_old_session() -> None:
    net = Net(77)
    first = net.add(0)
    second = net.add(1, bootstrap=[first.core.record])
    net.add(2, bootstrap=[first.core.record])
    net.run(5)
    second.is_up = False
    net.run(120)
    assert first.core.table.get(second.core.node_id) is None
    second.is_up = True
    second.core.ping(first.contact, now=net.now)
    net.drain(second)
    net.run(5)
    assert first.core.closest(second.core.node_id, 1) == [second.core.record]
