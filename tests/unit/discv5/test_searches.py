"""Lookups, queries and resolves over a small network."""

from __future__ import annotations

import pytest

from ginnel.base.types import NodeId
from ginnel.discv5.events import LookupDone, QueryDone, RequestFailed, Resolved
from ginnel.discv5.requests import Failure
from ginnel.discv5.searches import newer
from support.discv5_net import Host, Net


@pytest.fixture(scope="module")
def hosts() -> tuple[Net, list[Host]]:
    net = Net(11)
    boot = net.add(0)
    others = [net.add(index, bootstrap=[boot.core.record]) for index in range(1, 12)]
    net.run(30)
    return net, [boot, *others]


def resolve(net: Net, host: Host, node_id: NodeId) -> Resolved:
    number = host.core.resolve(node_id, now=net.now)
    net.drain(host)
    net.run_until(lambda: any(event.request == number for event in host.of(Resolved)))
    (done,) = (event for event in host.of(Resolved) if event.request == number)
    return done


def test_a_query_returns_all_it_found(hosts: tuple[Net, list[Host]]) -> None:
    net, (first, *others) = hosts
    number = first.core.query_random(now=net.now)
    net.drain(first)
    net.run_until(lambda: bool(first.of(QueryDone)))
    (done,) = first.of(QueryDone)
    assert done.query == number
    assert {enr.node_id for enr in done.nodes} == {other.core.node_id for other in others}


def test_resolve_asks_the_node_itself(hosts: tuple[Net, list[Host]]) -> None:
    net, (first, second, *_) = hosts
    before = second.core.record
    second.core.update_record({"k": b"new"}, now=net.now)
    assert second.core.record.is_newer_than(before)
    assert resolve(net, first, second.core.node_id).record == second.core.record


def test_resolve_of_ourselves_and_of_nobody(hosts: tuple[Net, list[Host]]) -> None:
    net, (first, *_) = hosts
    assert resolve(net, first, first.core.node_id).record == first.core.record
    assert resolve(net, first, NodeId(bytes(32))).record is None


def test_a_silent_node_is_looked_up_and_a_newer_record_wins(
    hosts: tuple[Net, list[Host]],
) -> None:
    net, (first, _, third, fourth, *_) = hosts
    third.core.update_record({"k": b"newest"}, now=net.now)
    number = fourth.core.resolve(third.core.node_id, now=net.now)
    net.drain(fourth)
    net.run_until(lambda: bool(fourth.of(Resolved)))
    assert fourth.of(Resolved)[-1] == Resolved(number, third.core.record)
    known = first.core.table.get(third.core.node_id)
    assert known is not None
    assert known.record != third.core.record
    third.is_up = False
    number = first.core.resolve(third.core.node_id, now=net.now)
    first.core.ping(fourth.contact, now=net.now)  # others are heard: it is the node that is silent
    net.drain(first)
    net.run(12)
    assert first.of(Resolved)[-1] == Resolved(number, third.core.record)


def test_many_searches_at_once_each_find_what_one_alone_does(
    hosts: tuple[Net, list[Host]],
) -> None:
    net, (_, *others) = hosts
    asker, up = others[5], [host for host in hosts[1] if host.is_up]
    targets = [NodeId(bytes([17 * i]) * 32) for i in range(15)]
    numbers = [asker.core.lookup(target, now=net.now, count=4) for target in targets]
    asker.core.query_random(now=net.now)
    resolving = asker.core.resolve(up[1].core.node_id, now=net.now)
    net.drain(asker)
    net.run(30)
    done = {event.lookup: event.nodes for event in asker.of(LookupDone)}
    near = [host for host in up if host is not asker]
    for number, target in zip(numbers, targets, strict=True):
        assert [enr.node_id for enr in done[number]] == net.closest(target, near, 4)
    assert Resolved(resolving, up[1].core.record) in asker.of(Resolved)


def test_searches_are_bounded_and_each_one_ends() -> None:
    net = Net(12)
    first = net.add(0, config={"lookup_limit": 2})
    second = net.add(1, bootstrap=[first.core.record], config={"lookup_limit": 2})
    net.run(5)
    begin = [second.core.lookup(NodeId(bytes([i]) * 32), now=net.now) for i in range(5)]
    begin += [second.core.query(NodeId(bytes([i]) * 32), now=net.now) for i in range(3)]
    resolves = [second.core.resolve(NodeId(bytes([i]) * 32), now=net.now) for i in range(3)]
    net.drain(second)
    net.run(20)
    ended = [event.lookup for event in second.of(LookupDone)]
    ended += [event.query for event in second.of(QueryDone)]
    ended += [event.request for event in second.of(Resolved)]
    refused = [event.request for event in second.of(RequestFailed)]
    assert 1 <= len(ended) <= 2
    assert sorted(ended + refused) == sorted(begin + resolves)
    assert {event.reason for event in second.of(RequestFailed)} == {Failure.TOO_MANY}


def test_resolves_that_ask_the_node_itself_are_bounded_too() -> None:
    net = Net(13)
    boot = net.add(0)
    others = [net.add(i, bootstrap=[boot.core.record]) for i in range(1, 6)]
    asker = net.add(9, bootstrap=[boot.core.record], config={"lookup_limit": 2})
    net.run(20)
    begun = [asker.core.resolve(other.core.node_id, now=net.now) for other in others]
    net.drain(asker)
    net.run(20)
    ended = [event.request for event in asker.of(Resolved)]
    refused = [event.request for event in asker.of(RequestFailed)]
    assert (len(ended), len(refused)) == (2, 3)
    assert sorted(ended + refused) == begun


def test_newer(hosts: tuple[Net, list[Host]]) -> None:
    record = hosts[1][0].core.record
    assert newer(None, None) is None
    assert newer(record, None) == record
    assert newer(None, record) == record
