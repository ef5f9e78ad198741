"""One port for all: what goes to discovery, storer and mesh, and talking to oneself."""

from __future__ import annotations

import pytest

from ginnel.base.errors import UsageError
from ginnel.base.types import Address, NodeId
from ginnel.daemon.node_core import NodeCore, NodeDrop
from ginnel.daemon.wall_clock import WallClock
from ginnel.discv5.events import TalkAnswered
from ginnel.mesh.events import PointRegistered
from ginnel.mesh.rendezvous import (
    PROTOCOL,
    LookupRequest,
    PushRequest,
    Status,
    contact_of,
    decode_answer,
    encode_request,
)
from support.mesh_world import MeshWorld

SOURCE = Address("192.0.2.77", 7)


def test_datagrams_are_told_apart() -> None:
    net = MeshWorld(1)
    node = net.nodes[0]
    node.handle_datagram(b"\x04\0\0\0" + bytes(60), SOURCE, now=net.now)
    assert node.drops == {NodeDrop.WIREGUARD: 1}
    before = sum(node.discovery.drops.values())
    stun = b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12)
    node.handle_datagram(stun, SOURCE, now=net.now)  # no mesh: tried as discv5
    node.handle_datagram(b"whatever", SOURCE, now=net.now)
    assert sum(node.discovery.drops.values()) == before + 2


def test_a_mesh_brings_its_own_courier() -> None:
    net = MeshWorld(2)
    member = net.add_member("raspberry-pi")
    node = member.core.node
    with pytest.raises(UsageError):
        NodeCore(node.discovery, clock=net.clock(), mesh=node.mesh, courier=node.courier)


def test_the_wall_clock_can_be_set() -> None:
    net = MeshWorld(3)
    node = net.nodes[0]
    node.set_clock(WallClock.at(5000.0, now=10.0))
    assert node.unix_at(12.5) == 5002.5


def talk(net: MeshWorld, asker: NodeCore, server: NodeCore, payload: bytes) -> bytes:
    """Ask as a stranger would: by the DHT core alone, its own node asleep."""
    contact = contact_of(server.discovery.record)
    assert contact is not None
    answers: list[bytes] = []
    number = asker.discovery.talk_request(contact, PROTOCOL, payload, now=net.now)
    for _ in range(100):
        for source, target in ((asker, server), (server, asker)):
            own = contact_of(source.discovery.record)
            assert own is not None
            while (transmit := source.poll_transmit()) is not None:
                if target is asker:
                    asker.discovery.handle_datagram(transmit.data, own.address, now=net.now)
                else:
                    target.handle_datagram(transmit.data, own.address, now=net.now)
        while (event := asker.discovery.poll_event()) is not None:
            if isinstance(event, TalkAnswered) and event.request == number:
                answers.append(event.payload)
        if answers:
            return answers[0]
    raise AssertionError("no answer")


def test_requests_reach_the_storer_and_pushes_nobody() -> None:
    net = MeshWorld(4)
    net.world.run_for(5.0)
    asker, server = net.nodes
    answer = decode_answer(
        talk(net, asker, server, encode_request(LookupRequest(NodeId(bytes(32)))))
    )
    assert answer.status is Status.UNKNOWN
    answer = decode_answer(talk(net, asker, server, b"garbage"))
    assert answer.status is Status.REFUSED
    push = encode_request(PushRequest(NodeId(bytes(32)), b"e"))
    assert decode_answer(talk(net, asker, server, push)).status is Status.REFUSED


def test_a_node_that_refuses_gives_the_empty_answer() -> None:
    net = MeshWorld(5, enabled=False)
    net.world.run_for(5.0)
    asker, server = net.nodes
    assert talk(net, asker, server, encode_request(LookupRequest(NodeId(bytes(32))))) == b""


def test_a_reachable_member_alone_registers_at_itself() -> None:
    net = MeshWorld(6, publics=0)
    member = net.add_member("server-in-rack", "public")
    net.world.run_for(2.0)
    registered = member.of(PointRegistered)
    assert registered
    assert {event.storers for event in registered} == {1}
    assert member.core.node.storer is not None
    assert len(member.core.node.storer) >= 1
