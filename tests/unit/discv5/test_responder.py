"""What we answer, and what of it others may see."""

from __future__ import annotations

import pytest

from ginnel.base.types import Address
from ginnel.discv5.enr import sign_enr
from ginnel.discv5.keys import log_distance
from ginnel.discv5.messages import (
    FindNode,
    Message,
    Nodes,
    Ping,
    Pong,
    TalkRequest,
    TalkResponse,
    decode_message,
    encode_message,
)
from support.discv5_net import Host, Net
from support.discv5_peer import RawPeer


def network(**config: object) -> tuple[Net, Host, RawPeer]:
    net = Net(51)
    host = net.add(0, config=config)
    for index in range(1, 25):
        net.add(index, bootstrap=[host.core.record])
    net.run(40)
    return net, host, RawPeer(host, Address("203.99.9.9", 1234))


@pytest.fixture(scope="module")
def served() -> tuple[Net, Host, RawPeer]:
    return network(talk_protocols=(b"known",))


def ask(net: Net, peer: RawPeer, message: Message) -> list[Message]:
    peer.send(encode_message(message), now=net.now)
    return [decode_message(plain) for plain in peer.receive()]


def nodes_of(answers: list[Message]) -> list[Nodes]:
    assert all(isinstance(answer, Nodes) for answer in answers)
    return [answer for answer in answers if isinstance(answer, Nodes)]


def test_ping_tells_the_address(served: tuple[Net, Host, RawPeer]) -> None:
    net, host, peer = served
    assert ask(net, peer, Ping(b"\x00\x01", 1)) == [
        Pong(b"\x00\x01", host.core.record.seq, peer.address)
    ]


@pytest.mark.parametrize("distances", [(0,), (0, 255, 256), (256, 0, 256)])
def test_zero_is_only_our_own_record(
    served: tuple[Net, Host, RawPeer], distances: tuple[int, ...]
) -> None:
    net, host, peer = served
    answer = ask(net, peer, FindNode(b"1", distances))
    assert answer == [Nodes(b"1", 1, (host.core.record.raw,))]


@pytest.mark.parametrize("distances", [(), (257,), (256, 257), (1,), (2**32,)])
def test_nothing_to_tell_is_one_empty_packet(
    served: tuple[Net, Host, RawPeer], distances: tuple[int, ...]
) -> None:
    net, _, peer = served
    assert ask(net, peer, FindNode(b"1", distances)) == [Nodes(b"1", 1, ())]


def test_several_distances_are_served_fairly(served: tuple[Net, Host, RawPeer]) -> None:
    net, host, peer = served
    packets = nodes_of(ask(net, peer, FindNode(b"1", (256, 255, 254))))
    assert {packet.total for packet in packets} == {len(packets)}
    raw = [record for packet in packets for record in packet.records]
    assert len(raw) <= 16
    records = [net.records.decode(item) for item in raw]
    per_distance = [log_distance(host.core.node_id, record.node_id) for record in records]
    known = [log_distance(host.core.node_id, enr.node_id) for enr in host.core.nodes()]
    for distance in (255, 254):
        assert per_distance.count(distance) >= min(5, known.count(distance))


def test_records_per_packet_can_be_held_at_three() -> None:
    for fill, most in ((False, 3), (True, 8)):
        net, _, peer = network(fill_packets=fill)
        packets = nodes_of(ask(net, peer, FindNode(b"1", (256, 255))))
        assert max(len(packet.records) for packet in packets) <= most
        assert (len(packets[0].records) > 3) is fill


def test_unknown_talk_protocols_get_the_empty_answer(served: tuple[Net, Host, RawPeer]) -> None:
    net, _, peer = served
    assert ask(net, peer, TalkRequest(b"7", b"other", b"x")) == [TalkResponse(b"7", b"")]
    assert ask(net, peer, TalkRequest(b"8", b"known", b"x")) == []


def test_only_nodes_that_answered_are_named() -> None:
    net = Net(52)
    host = net.add(0)
    peer = RawPeer(host, Address("203.99.9.9", 1234))
    silent = sign_enr(b"\x05" * 32, 1, {"ip": b"\xcb\x63\x01\x01", "udp": 9})
    assert host.core.add_node(silent, net.now)
    distance = log_distance(host.core.node_id, silent.node_id)
    assert ask(net, peer, FindNode(b"1", (distance,))) == [Nodes(b"1", 1, ())]


def test_nodes_that_the_asker_can_not_reach_take_no_place_in_its_answer() -> None:
    net = Net(53)
    host = net.add(0, config={"bucket_size": 100, "bucket_ip_limit": 100, "table_ip_limit": 100})
    for index in range(1, 21):
        net.add(index, bootstrap=[host.core.record])
    net.run(20)
    for index in range(21, 81):
        address = Address(f"10.0.0.{index}", 9000)
        net.add(index, address=address, bootstrap=[host.core.record])
    net.run(20)
    far = {"public": 0, "private": 0}
    for record in host.core.nodes():
        if log_distance(host.core.node_id, record.node_id) == 256:
            far["private" if str(record.ip).startswith("10.") else "public"] += 1
    assert far["private"] > 16
    peer = RawPeer(host, Address("203.99.9.9", 1234))
    named = [
        raw for nodes in nodes_of(ask(net, peer, FindNode(b"1", (256,)))) for raw in nodes.records
    ]
    assert len(named) == min(16, far["public"])
