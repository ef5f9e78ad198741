"""Liveness of the table."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ginnel.base.types import Address, NodeId
from ginnel.discv5.enr import address_fields, sign_enr
from ginnel.discv5.events import (
    LookupDone,
    NodeAdded,
    NodeRemoved,
    PongReceived,
    RequestFailed,
    TalkAnswered,
    TalkReceived,
)
from ginnel.discv5.lookup import lookup_distances
from ginnel.discv5.messages import (
    FindNode,
    Message,
    Nodes,
    Ping,
    Pong,
    decode_message,
    encode_message,
)
from ginnel.discv5.protocol import Contact
from support.discv5_net import Host, Net
from support.discv5_peer import RawPeer


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


def test_a_dead_bootstrap_node_does_not_keep_others_from_being_asked() -> None:
    net = Net(78)
    boots = [net.add(n) for n in range(2)]
    others = [net.add(n, bootstrap=[boots[1].core.record]) for n in range(2, 6)]
    quiet = {"refresh_first": 1e6, "refresh_interval": 1e6}  # nothing but revalidation
    host = net.add(9, bootstrap=[boot.core.record for boot in boots], config=quiet)
    net.run(60)
    boots[0].is_up = others[0].is_up = False
    net.run(300)
    known = {node.record.node_id: node.is_seen for node in host.core.table.nodes()}
    alive = [boots[1], *others[1:]]
    assert known == {boots[0].core.node_id: False} | {up.core.node_id: True for up in alive}


def test_nodes_of_an_ip_version_that_we_lack_have_no_place() -> None:
    net = Net(79)
    six = net.add(1, address=Address("2001:db8::7", 9000))
    peer = net.add(2)
    host = net.add(3, bootstrap=[peer.core.record], config={"ip_versions": (4,)})
    net.run(5)
    assert not host.core.add_node(six.core.record, net.now)
    assert host.core.nodes() == [peer.core.record]
    peer.core.update_record({"ip": None, "ip6": Address("2001:db8::9", 0).packed_ip}, now=net.now)
    host.core.add_node(peer.core.record, net.now)  # no way left to it, but it is to begin with
    net.run(60)
    assert host.core.nodes() == [peer.core.record]


def test_a_node_that_lies_about_its_seq_is_asked_for_its_record_once_at_a_time() -> None:
    watched = Watched(Net(80))
    watched.peer.connect(watched.net.now)
    watched.run(5)
    watched.host.core.add_node(watched.peer.record, watched.net.now)
    assert watched.at(FindNode) == []
    for number in range(100):
        watched.peer.send(encode_message(Ping(bytes([number]), 99)), now=watched.net.now)
    watched.answer()
    assert len(watched.at(FindNode)) == 1
    watched.run(10)
    watched.peer.send(encode_message(Ping(b"x", 99)), now=watched.net.now)
    watched.answer()
    assert len(watched.at(FindNode)) == 2


def test_a_resolve_that_looks_up_counts_as_a_query() -> None:
    net = Net(81)
    watched = Watched(net, bucket_size=1)
    watched.peer.connect(net.now)
    core, began = watched.host.core, net.now
    core.start(net.now)
    watched.run(200)
    before = len(watched.at(FindNode))
    core.resolve(NodeId(bytes(32)), now=net.now)
    watched.run(290)
    after = watched.at(FindNode)[before:]
    assert {round(at - began) for at in after} == {200}


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


def table_by_events(host: Host) -> set[NodeId]:
    """Return who is in the table, as far as the events tell."""
    nodes: set[NodeId] = set()
    for event in host.events:
        if isinstance(event, NodeAdded):
            assert event.enr.node_id not in nodes
            nodes.add(event.enr.node_id)
        elif isinstance(event, NodeRemoved):
            nodes.remove(event.node_id)
    return nodes


def test_events_tell_everything_that_happens_to_the_table() -> None:
    net = Net(64)
    boot = net.add(0, config={"bucket_size": 4, "bits_per_hop": 1})
    hosts = [net.add(n, bootstrap=[boot.core.record]) for n in range(1, 30)]
    net.run(60)
    for host in hosts[::3]:
        host.is_up = False
    for host in hosts[1::3]:
        host.core.set_endpoint(None, now=net.now)
    net.run(600)
    assert boot.of(NodeRemoved)
    for host in (boot, *hosts):
        in_table = {node.record.node_id for node in host.core.table.nodes()}
        assert table_by_events(host) == in_table


def test_a_node_is_not_named_at_an_address_where_it_never_answered() -> None:
    net = Net(65)
    first = net.add(0)
    second = net.add(1, bootstrap=[first.core.record])
    net.run(5)
    assert first.core.closest(second.core.node_id, 1) == [second.core.record]
    second.core.set_endpoint(Address("203.0.113.9", 9), now=net.now)  # a victim's, for one
    first.core.add_node(second.core.record, net.now)
    assert first.core.closest(second.core.node_id, 1) == []


def test_a_node_that_moved_is_looked_up_where_it_is_now() -> None:
    net = Net(66)
    boot = net.add(0)
    hosts = [net.add(n, bootstrap=[boot.core.record]) for n in range(1, 8)]
    net.run(30)
    mover, asker = hosts[0], hosts[1]
    was_at = mover.address
    del net.hosts[was_at]
    mover.address = Address("203.7.7.7", 9000)
    net.hosts[mover.address] = mover
    mover.core.set_endpoint(mover.address, now=net.now)
    number = mover.core.lookup(mover.core.node_id, now=net.now)
    net.drain(mover)
    net.run_until(lambda: any(e.lookup == number for e in mover.of(LookupDone)))
    public_key = mover.core.record.public_key
    asker.core.ping(Contact(mover.core.node_id, was_at, public_key), now=net.now)
    asker.core.ping(boot.contact, now=net.now)  # others are heard: it is the node that is silent
    net.drain(asker)
    net.run(5)
    number = asker.core.lookup(mover.core.node_id, now=net.now)
    net.drain(asker)
    net.run_until(lambda: any(e.lookup == number for e in asker.of(LookupDone)))
    (done,) = (e for e in asker.of(LookupDone) if e.lookup == number)
    assert mover.core.record in done.nodes


class Watched:
    """A host with one neighbour that answers everything and notes what it is asked, and when."""

    def __init__(self, net: Net, **config: object) -> None:
        self.net = net
        self.host = net.add(0, config=config, start=False)
        self.peer = RawPeer(self.host, Address("203.9.9.9", 1234))
        self.asked: list[tuple[float, Message]] = []

    def run(self, seconds: float) -> None:
        end = self.net.now + seconds
        while True:
            self.answer()
            deadline = self.host.core.poll_deadline()
            if deadline is None or deadline.at > end:
                break
            self.net.now = max(self.net.now, deadline.at)
            self.host.core.handle_timeout(now=self.net.now)
        self.net.now = end

    def answer(self) -> None:
        while plains := self.peer.receive():
            for plain in plains:
                message = decode_message(plain)
                self.asked.append((self.net.now, message))
                answer: Message
                match message:
                    case Ping():
                        answer = Pong(message.request_id, 1, self.host.address)
                    case FindNode():
                        answer = Nodes(message.request_id, 1, ())
                    case _:
                        continue
                self.peer.send(encode_message(answer), now=self.net.now)

    def at(self, kind: type) -> list[float]:
        return [at for at, message in self.asked if isinstance(message, kind)]


def test_a_node_met_by_its_handshake_is_pinged_within_five_seconds() -> None:
    watched = Watched(Net(67))
    watched.peer.connect(watched.net.now)
    met_at = watched.net.now
    watched.run(20)
    assert watched.at(Ping)[0] <= met_at + 5
    assert watched.host.core.closest(watched.peer.node_id, 1) == [watched.peer.record]


def test_the_record_of_a_handshake_counts_only_if_its_address_fits() -> None:
    watched = Watched(Net(68))
    fields = address_fields(Address("203.9.9.9", 1235))
    watched.peer.record = sign_enr(watched.peer.key, 1, fields)
    watched.peer.connect(watched.net.now)
    watched.run(20)
    assert watched.host.core.has_session(watched.peer.node_id, watched.peer.address)
    assert watched.host.core.nodes() == []
    assert watched.at(Ping) == []


def test_a_record_of_a_handshake_can_not_aim_our_packets_into_our_own_network() -> None:
    watched = Watched(Net(82), ip_versions=(6, 4))
    peer, core = watched.peer, watched.host.core
    fields = address_fields(peer.address) | address_fields(Address("fd00::1", 9))
    peer.record = sign_enr(peer.key, 1, fields)
    peer.connect(watched.net.now)
    watched.run(20)
    assert core.has_session(peer.node_id, peer.address)
    assert core.nodes() == []
    core.resolve(peer.node_id, now=watched.net.now)
    assert core.poll_transmit() is None


def test_an_older_record_of_a_handshake_changes_nothing() -> None:
    watched = Watched(Net(69))
    peer, core = watched.peer, watched.host.core
    newer = sign_enr(peer.key, 3, address_fields(peer.address))
    core.add_node(newer, watched.net.now)
    challenge = peer.knock(watched.net.now)
    assert challenge.enr_seq == 3
    data = peer.handshake(challenge, encode_message(Ping(b"a", 1)), peer.record.raw)
    core.handle_datagram(data, peer.address, now=watched.net.now)
    assert core.has_session(peer.node_id, peer.address)
    watched.run(10)
    assert core.nodes() == [newer]


def test_nodes_are_revalidated_every_zero_to_ten_seconds() -> None:
    watched = Watched(Net(70))
    watched.peer.connect(watched.net.now)
    watched.host.core.start(watched.net.now)
    watched.run(1000)
    pings = watched.at(Ping)
    assert 140 <= len(pings) <= 260
    assert max(after - before for before, after in pairwise(pings)) <= 10.01


def test_the_table_is_populated_and_refreshed_only_if_no_query_ran() -> None:
    net = Net(72)
    watched = Watched(net, bucket_size=1)  # so that one node is enough for it
    watched.peer.connect(net.now)
    core, began = watched.host.core, net.now
    core.start(net.now)
    watched.run(299)
    own, at_random, *more = [m for _, m in watched.asked if isinstance(m, FindNode)]
    assert own.distances == lookup_distances(watched.host.core.node_id, watched.peer.node_id)
    assert at_random.distances != own.distances
    assert more == []
    watched.run(2)
    first = watched.at(FindNode)[2:]
    assert [round(at - began) for at in first] == [300]
    watched.run(199)
    core.query_random(now=net.now)  # at 500: the refresh of 600 is not needed
    watched.run(290)
    assert [round(at - began) for at in watched.at(FindNode)[3:]] == [500]
    watched.run(20)
    assert [round(at - began) for at in watched.at(FindNode)[4:]] == [800]


def test_where_few_nodes_are_known_lookups_for_ourselves_grow_rarer_and_end() -> None:
    net = Net(84)
    watched = Watched(net)
    watched.peer.connect(net.now)
    core, began = watched.host.core, net.now
    core.start(net.now)
    watched.run(614)
    nearest = lookup_distances(core.node_id, watched.peer.node_id)
    own = [
        at for at, one in watched.asked if isinstance(one, FindNode) and one.distances == nearest
    ]
    assert [round(at - began) for at in own] == [0, 5, 15, 35, 75, 155, 315]
    before = len(watched.asked)
    watched.run(86)
    core.query_random(now=net.now)  # at 700: so the lookup of 915 is not needed
    watched.run(310)
    after = [(at, one) for at, one in watched.asked[before:] if isinstance(one, FindNode)]
    assert list(dict.fromkeys(round(at - began) for at, _ in after)) == [615, 700, 1000]
    assert nearest not in [one.distances for _, one in after]  # all of them were at random


def with_dead_ipv4(net: Net) -> Host:
    """Add a node that can be reached by IPv6 only, though its record names both."""
    host = net.add(1, address=Address("2001:db8:1::7", 9000))
    host.core.set_endpoint(Address("203.0.9.9", 9000), now=net.now)
    return host


def test_a_request_that_times_out_goes_by_the_other_ip_version_under_its_number() -> None:
    net = Net(64)
    other = with_dead_ipv4(net)
    host = net.add(2, bootstrap=[other.core.record], config={"ip_versions": (4, 6)}, start=False)
    host.core.seed(net.now)
    contact = host.core.contact_for(other.core.record)
    assert contact is not None
    assert not contact.address.is_ipv6
    number = host.core.ping(contact, now=net.now)
    net.drain(host)
    net.run(5)
    (pong,) = host.of(PongReceived)
    assert (pong.request, pong.contact.address) == (number, other.address)
    assert host.of(RequestFailed) == []
    again = host.core.contact_for(other.core.record)  # and from now on at once
    assert again is not None
    assert again.address == other.address


@pytest.mark.parametrize("is_up", [True, False])
def test_a_node_is_not_blamed_for_the_ping_of_a_talk_while_the_talk_tries_another_way(
    is_up: bool,
) -> None:
    net = Net(83)
    other = with_dead_ipv4(net)
    host = net.add(2, config={"ip_versions": (4, 6)}, start=False)
    third = net.add(3)
    host.core.add_node(other.core.record, net.now)
    other.is_up = is_up
    contact = Contact.from_record(other.core.record)
    assert contact is not None
    number = host.core.talk_request(contact, b"x", b"y", now=net.now)
    net.drain(host)
    for _ in range(20):
        net.run(0.5)
        host.core.ping(third.contact, now=net.now)  # others are heard: it is no fault of our link
        net.drain(host)
        told, other.events = other.of(TalkReceived), []
        for talk in told:
            other.core.respond_talk(talk.token, b"z", now=net.now)
    answered = [talk.request for talk in host.of(TalkAnswered)]
    assert answered == ([number] if is_up else [])
    assert host.of(NodeRemoved) == ([] if is_up else [NodeRemoved(other.core.node_id)])


def test_lookups_pass_nodes_whose_first_address_is_dead() -> None:
    net = Net(65)
    other = with_dead_ipv4(net)
    third = net.add(3, address=Address("2001:db8:3::7", 9000), bootstrap=[other.core.record])
    host = net.add(2, bootstrap=[other.core.record], config={"ip_versions": (4, 6)})
    net.run(20)
    host.core.lookup(NodeId(bytes(32)), now=net.now)
    net.drain(host)
    net.run(10)
    found = {enr.node_id for enr in host.of(LookupDone)[-1].nodes}
    assert found == {other.core.node_id, third.core.node_id}


def test_where_both_addresses_are_dead_or_we_have_no_ipv6_it_fails_once() -> None:
    for versions in ((4, 6), (4,)):
        net = Net(66)
        other = with_dead_ipv4(net)
        other.is_up = versions == (4,)
        host = net.add(2, bootstrap=[other.core.record], config={"ip_versions": versions})
        contact = Contact.from_record(other.core.record)
        assert contact is not None
        number = host.core.ping(contact, now=net.now)
        net.drain(host)
        net.run(10)
        assert [failed.request for failed in host.of(RequestFailed)] == [number]
