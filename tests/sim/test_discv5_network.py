"""Whole discv5 networks on virtual time."""

from __future__ import annotations

import pytest

from ginnel.base.types import Address, NodeId
from ginnel.discv5.events import (
    LookupDone,
    NodesReceived,
    PongReceived,
    ReflexiveChanged,
    RequestFailed,
    TalkAnswered,
    TalkReceived,
)
from support.discv5_net import Host, Net


def build(net: Net, publics: int, clients: int = 0) -> tuple[list[Host], list[Host]]:
    boot = net.add(0)
    hosts = [boot]
    for index in range(1, publics):
        hosts.append(net.add(index, bootstrap=[boot.core.record]))
        net.run(0.3)
    inner = [
        net.add(publics + index, bootstrap=[boot.core.record], public=False)
        for index in range(clients)
    ]
    net.run(60)
    return hosts, inner


def recall(net: Net, asker: Host, hosts: list[Host], target: NodeId, count: int = 16) -> float:
    others = [host for host in hosts if host is not asker and host.is_up]
    number = asker.core.lookup(target, now=net.now)
    net.drain(asker)
    net.run_until(lambda: any(e.lookup == number for e in asker.of(LookupDone)))
    (done,) = (e for e in asker.of(LookupDone) if e.lookup == number)
    found = [enr.node_id for enr in done.nodes]
    true = net.closest(target, others, count)
    ordered = sorted(found, key=true.index if set(found) <= set(true) else found.index)
    assert found == ordered
    return len(set(found) & set(true)) / len(true)


def test_lookup_finds_the_true_closest() -> None:
    net = Net(1)
    hosts, clients = build(net, 50, 10)
    results = []
    for asker in (hosts[0], hosts[7], hosts[49], clients[0], clients[9]):
        results += [recall(net, asker, hosts, NodeId(net.random_bytes(32))) for _ in range(4)]
    assert sum(results) / len(results) >= 0.99
    for client in clients:
        assert len(client.core.nodes()) >= 16
    inner_ids = {client.core.node_id for client in clients}
    for host in hosts:
        assert not inner_ids & {enr.node_id for enr in host.core.nodes()}


@pytest.mark.parametrize("seed", [2, 3])
def test_ten_percent_loss(seed: int) -> None:
    net = Net(seed, loss=0.1)
    hosts, _ = build(net, 40)
    results = [recall(net, host, hosts, NodeId(net.random_bytes(32))) for host in hosts[::4]]
    assert sum(results) / len(results) >= 0.95


def test_dead_nodes_are_skipped() -> None:
    net = Net(4)
    hosts, _ = build(net, 40)
    for host in hosts[3::3]:
        host.is_up = False
    results = [recall(net, host, hosts, NodeId(net.random_bytes(32))) for host in hosts[1:3] * 6]
    assert sum(results) / len(results) >= 0.95


def test_two_nodes_are_quick() -> None:
    net = Net(5)
    first = net.add(0)
    second = net.add(1, bootstrap=[first.core.record])
    net.run(5)
    third = net.add(2, bootstrap=[first.core.record, second.core.record], public=False)
    start = net.now
    number = third.core.lookup(NodeId(bytes(32)), now=net.now)
    net.drain(third)
    net.run_until(lambda: any(e.lookup == number for e in third.of(LookupDone)))
    assert net.now - start < 0.5
    (done,) = (e for e in third.of(LookupDone) if e.lookup == number)
    assert {enr.node_id for enr in done.nodes} == {first.core.node_id, second.core.node_id}
    net.run(1)
    assert third.of(ReflexiveChanged)[-1] == ReflexiveChanged(third.address, False, 2, False)


def test_bootstrap_that_comes_up_late() -> None:
    net = Net(6)
    first = net.add(0)
    first.is_up = False
    second = net.add(1, bootstrap=[first.core.record])
    net.run(10)
    first.is_up = True
    net.run(20)
    assert [enr.node_id for enr in second.core.closest(first.core.node_id, 16)] == [
        first.core.node_id
    ]


def serve_talks(net: Net, host: Host) -> list[TalkReceived]:
    talks = [event for event in host.of(TalkReceived)]
    for talk in talks:
        host.core.respond_talk(talk.token, b"re:" + talk.payload[:8], now=net.now)
        host.events.remove(talk)
    net.drain(host)
    return talks


def talk(net: Net, sender: Host, receiver: Host, payload: bytes, limit: float = 10) -> bytes | None:
    """Return the answer, None if the request failed."""
    contact = receiver.contact
    number = sender.core.talk_request(contact, b"ginnel-rdv", payload, now=net.now)
    net.drain(sender)
    ends: list[TalkAnswered | RequestFailed] = []

    def is_over() -> bool:
        serve_talks(net, receiver)
        ends[:] = [e for e in sender.events if getattr(e, "request", None) == number]
        return bool(ends)

    net.run_until(is_over, limit)
    net.run(5)
    assert len([e for e in sender.events if getattr(e, "request", None) == number]) == 1
    return ends[0].payload if isinstance(ends[0], TalkAnswered) else None


def test_storer_pushes_to_a_client_over_its_session() -> None:
    net = Net(7)
    storer = net.add(0)
    client = net.add(1, bootstrap=[storer.core.record], public=False)
    net.run(1)
    payload = bytes(1166)
    assert talk(net, client, storer, payload) == b"re:" + bytes(8)
    assert talk(net, storer, client, payload) == b"re:" + bytes(8)


@pytest.mark.parametrize("size", [10, 1166])
def test_client_that_lost_its_sessions_gets_the_push(size: int) -> None:
    net = Net(8)
    storer = net.add(0)
    client = net.add(1, bootstrap=[storer.core.record], public=False)
    net.run(30)
    client = net.restart(client, public=False)
    assert talk(net, storer, client, bytes(size)) == b"re:" + bytes(8)


def test_storer_that_lost_its_sessions_is_reached_again() -> None:
    net = Net(9)
    storer = net.add(0)
    client = net.add(1, bootstrap=[storer.core.record], public=False)
    net.run(30)
    storer = net.restart(storer)
    assert talk(net, client, storer, bytes(1166)) == b"re:" + bytes(8)
    assert talk(net, storer, client, bytes(1166)) == b"re:" + bytes(8)


def test_both_knock_at_the_same_time() -> None:
    net = Net(10)
    left, right = net.add(0), net.add(1)
    for _ in range(3):
        one = left.core.talk_request(right.contact, b"x", b"1", now=net.now)
        two = right.core.talk_request(left.contact, b"x", b"2", now=net.now)
        net.drain(left)
        net.drain(right)
        net.run(0.3)
        serve_talks(net, left)
        serve_talks(net, right)
        net.run(0.3)
        assert [e.request for e in left.of(TalkAnswered)][-1] == one
        assert [e.request for e in right.of(TalkAnswered)][-1] == two


def test_many_requests_through_loss_and_restarts() -> None:
    net = Net(11, loss=0.1)
    left, right = net.add(0), net.add(1)
    answered = 0
    for turn in range(30):
        if turn % 7 == 3:
            right = net.restart(right)
        if turn % 11 == 5:
            left = net.restart(left)
        answered += talk(net, left, right, bytes([turn]) * 900) is not None
        answered += talk(net, right, left, bytes([turn]) * 900) is not None
    assert answered >= 57


def test_dead_node_ends_in_one_failure_each() -> None:
    net = Net(12)
    left, right = net.add(0), net.add(1)
    right.is_up = False
    numbers = [left.core.ping(right.contact, now=net.now) for _ in range(12)]
    net.drain(left)
    net.run(10)
    assert sorted(e.request for e in left.of(RequestFailed)) == numbers


def test_symmetric_nat_shows_in_votes() -> None:
    net = Net(13)
    observers = [net.add(index) for index in range(3)]
    inner = net.add(5, public=False)
    net.translate[inner.address] = lambda to: Address("198.51.100.1", 5000 + int(to.ip[6]))
    for observer in observers:
        inner.core.ping(observer.contact, now=net.now)
    net.drain(inner)
    net.run(2)
    assert len(inner.of(PongReceived)) == 3
    last = inner.of(ReflexiveChanged)[-1]
    assert (last.symmetric, last.observers) == (True, 3)


def test_a_nat_that_maps_alike_gives_a_candidate() -> None:
    net = Net(14)
    observers = [net.add(index) for index in range(2)]
    outer = Address("198.51.100.1", 5000)
    inner = net.add(5, public=False, bootstrap=[o.core.record for o in observers])
    net.translate[inner.address] = lambda to: outer
    net.run(3)
    assert inner.of(ReflexiveChanged)[-1] == ReflexiveChanged(outer, False, 2, False)
    inner.events.clear()
    net.translate[inner.address] = lambda to: Address("198.51.100.9", 6000)
    net.run(400)
    assert inner.of(ReflexiveChanged)[-1].address == Address("198.51.100.9", 6000)


@pytest.mark.parametrize("seed", [20, 21])
def test_every_request_ends_exactly_once(seed: int) -> None:
    net = Net(seed, loss=0.15)
    boot = net.add(0)
    records = [boot.core.record]
    hosts = [boot, *(net.add(n, bootstrap=records, public=n % 3 > 0) for n in range(1, 10))]
    issued: dict[Address, set[int]] = {host.address: set() for host in hosts}
    for step in range(300):
        asker, asked = net.rng.sample(hosts, 2)
        size = net.rng.randrange(1166)
        if step % 3 == 0:
            number = asker.core.find_node(asked.contact, [256, 255], now=net.now)
        else:
            number = asker.core.talk_request(asked.contact, b"x", bytes(size), now=net.now)
        issued[asker.address].add(number)
        net.drain(asker)
        if step % 50 == 49:
            at = hosts.index(asked)
            issued[asked.address].clear()
            hosts[at] = net.restart(asked, public=at % 3 > 0, bootstrap=[boot.core.record])
        net.run(net.rng.uniform(0, 0.5))
        for host in hosts:
            serve_talks(net, host)
    for _ in range(100):
        net.run(0.2)
        for host in hosts:
            serve_talks(net, host)
    failed = 0
    for host in hosts:
        kinds = (NodesReceived, TalkAnswered, RequestFailed)
        ended = [event for event in host.events if isinstance(event, kinds)]
        assert sorted(event.request for event in ended) == sorted(issued[host.address])
        failed += len(host.of(RequestFailed))
    assert failed <= 12
