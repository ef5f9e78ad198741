"""Requests and the handshakes they wait for, packet by packet."""

from __future__ import annotations

import pytest

from ginnel.base.types import Address, Transmit
from ginnel.discv5 import session
from ginnel.discv5.events import Drop, NodesReceived, PongReceived, RequestFailed, TalkReceived
from ginnel.discv5.messages import Ping, decode_message, encode_message
from ginnel.discv5.metrics import ALL, NO_RESPONSE
from ginnel.discv5.packet import HandshakePacket, OrdinaryPacket, PacketCodec, WhoAreYouPacket
from ginnel.discv5.protocol import Contact
from ginnel.discv5.requests import MAX_HANDSHAKES_PER_REQUEST, Failure
from support.discv5_net import Host, Net
from support.discv5_peer import RawPeer


def transmits(host: Host) -> list[Transmit]:
    return list(iter(host.core.poll_transmit, None))


def kinds(net: Net, to: Host, sent: list[Transmit]) -> list[type]:
    codec = PacketCodec(to.core.node_id, b"discv5", net.random_bytes)
    return [type(codec.decode(transmit.data)) for transmit in sent]


def give(net: Net, to: Host, source: Host, sent: list[Transmit]) -> list[Transmit]:
    for transmit in sent:
        to.core.handle_datagram(transmit.data, source.address, now=net.now)
    return transmits(to)


def test_one_handshake_serves_all_that_wait() -> None:
    net = Net(51)
    left, right = net.add(0), net.add(1)
    left.core.ping(right.contact, now=net.now)
    left.core.find_node(right.contact, [0], now=net.now)
    left.core.talk_request(right.contact, b"x", b"y", now=net.now)
    knock = transmits(left)
    assert kinds(net, right, knock) == [OrdinaryPacket]
    challenge = give(net, right, left, knock)
    assert kinds(net, left, challenge) == [WhoAreYouPacket]
    handshake = give(net, left, right, challenge)
    assert kinds(net, right, handshake) == [HandshakePacket]
    pong = give(net, right, left, handshake)
    assert kinds(net, left, pong) == [OrdinaryPacket]
    rest = give(net, left, right, pong)
    assert kinds(net, right, rest)[:2] == [OrdinaryPacket, OrdinaryPacket]
    net.drain(left)
    for transmit in give(net, right, left, rest):
        left.core.handle_datagram(transmit.data, right.address, now=net.now)
    net.drain(left)
    net.drain(right)
    assert len(left.of(PongReceived)) == len(left.of(NodesReceived)) == 1
    assert len(right.of(TalkReceived)) == 1


def test_a_talk_never_rides_in_a_handshake() -> None:
    net = Net(52)
    left, right = net.add(0), net.add(1)
    left.core.talk_request(right.contact, b"x", b"y", now=net.now)
    pong = give(net, right, left, give(net, left, right, give(net, right, left, transmits(left))))
    net.drain(right)
    assert right.of(TalkReceived) == []
    give(net, right, left, give(net, left, right, pong))
    net.drain(right)
    assert len(right.of(TalkReceived)) == 1


def test_a_lost_handshake_is_sent_again_under_the_same_keys() -> None:
    net = Net(53)
    left, right = net.add(0), net.add(1)
    left.core.ping(right.contact, now=net.now)
    give(net, left, right, give(net, right, left, transmits(left)))  # the handshake is lost
    net.now += 0.8
    left.core.handle_timeout(now=net.now)
    again = transmits(left)
    assert kinds(net, right, again) == [OrdinaryPacket]
    handshake = give(net, left, right, give(net, right, left, again))
    assert kinds(net, right, handshake) == [HandshakePacket]
    give(net, left, right, give(net, right, left, handshake))
    net.drain(left)
    assert len(left.of(PongReceived)) == 1


def test_challenges_that_repeat_or_that_nothing_caused_are_dropped() -> None:
    net = Net(54)
    left, right, other = net.add(0), net.add(1), net.add(2)
    left.core.ping(right.contact, now=net.now)
    challenge = give(net, right, left, transmits(left))
    give(net, left, other, challenge)
    assert left.core.drops[Drop.UNSOLICITED_CHALLENGE] == 1
    handshake = give(net, left, right, challenge)
    assert give(net, left, right, challenge) == []
    assert left.core.drops[Drop.CHALLENGE_REPEATED] == 1
    give(net, left, right, give(net, right, left, handshake))
    assert give(net, left, right, challenge) == []
    assert left.core.drops[Drop.UNSOLICITED_CHALLENGE] == 2


def test_the_queue_is_bounded() -> None:
    net = Net(55)
    left, right = net.add(0), net.add(1)
    numbers = [left.core.ping(right.contact, now=net.now) for _ in range(10)]
    net.drain(left)
    assert left.of(RequestFailed) == [RequestFailed(numbers[9], Failure.TOO_MANY)]
    net.run(2)
    assert sorted(event.request for event in left.of(PongReceived)) == numbers[:9]


def test_keys_that_are_used_up_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_MESSAGES_PER_KEY", 5)
    net = Net(56)
    left, right = net.add(0), net.add(1)
    for turn in range(30):
        asker, asked = (left, right) if turn % 4 else (right, left)
        asker.core.ping(asked.contact, now=net.now)
        net.drain(asker)
        net.run(5)
    assert len(left.of(PongReceived)) + len(right.of(PongReceived)) == 30
    assert left.of(RequestFailed) == right.of(RequestFailed) == []
    assert left.core.metrics.handshakes_initiated + right.core.metrics.handshakes_initiated > 5


def test_a_request_too_large_for_a_handshake_goes_behind_a_ping() -> None:
    net = Net(57)
    left, right = net.add(0, fields={"k": bytes(140)}), net.add(1)
    number = left.core.find_node(right.contact, range(257), now=net.now)
    net.drain(left)
    net.run(1)
    assert [event.request for event in left.of(NodesReceived)] == [number]
    assert left.core.metrics.handshakes_initiated == 1
    assert left.core.metrics.requests_outgoing[""] == 2


def test_challenges_without_end_are_answered_four_times() -> None:
    net = Net(58)
    left, right = net.add(0), net.add(1)
    left.core.ping(right.contact, now=net.now)
    (knock,) = transmits(left)
    codec = PacketCodec(right.core.node_id, b"discv5", net.random_bytes)
    packet = codec.decode(knock.data)
    assert isinstance(packet, OrdinaryPacket)
    answers = 0
    for _ in range(10):
        net.now += 0.01
        data, _ = codec.encode_whoareyou(left.core.node_id, packet.nonce, net.random_bytes(16), 0)
        left.core.handle_datagram(data, right.address, now=net.now)
        answers += len(transmits(left))
    assert answers == MAX_HANDSHAKES_PER_REQUEST == 4
    assert left.core.drops[Drop.CHALLENGE_REPEATED] == 6


def test_keys_that_nobody_confirmed_are_forgotten() -> None:
    net = Net(59)
    left, right = net.add(0), net.add(1)
    number = left.core.ping(right.contact, now=net.now)
    give(net, left, right, give(net, right, left, transmits(left)))  # the handshake is lost
    assert left.core.has_session(right.core.node_id, right.address)
    net.now += 4.1
    left.core.handle_timeout(now=net.now)
    net.drain(left)
    assert left.of(RequestFailed) == [RequestFailed(number, Failure.TIMEOUT)]
    assert not left.core.has_session(right.core.node_id, right.address)


def test_a_peer_that_loses_its_keys_for_ever_keeps_no_talk_open() -> None:
    net = Net(60)
    left, right = net.add(0, start=False), net.add(1, start=False)
    number = left.core.talk_request(right.contact, b"x", b"y", now=net.now)
    sent = transmits(left)
    began = net.now
    while net.now < began + 30.0:
        right = net.restart(right)  # so that whatever the request comes in is challenged
        handshake = give(net, left, right, give(net, right, left, sent))
        sent = give(net, left, right, give(net, right, left, handshake))
        net.now += 0.5
        left.core.handle_timeout(now=net.now)
        sent += transmits(left)
        left.events += iter(left.core.poll_event, None)
        if net.now <= began + 2 * 4.0:
            ended = left.of(RequestFailed)
    assert ended == left.of(RequestFailed) == [RequestFailed(number, Failure.TIMEOUT)]
    assert left.core.metrics.handshakes_initiated <= 10


def open_session(net: Net, peer: RawPeer) -> None:
    """Let the peer make new keys from its side, whatever it was sent before."""
    peer.transmits()
    challenge = peer.knock(net.now)
    record = peer.record.raw if challenge.enr_seq < peer.record.seq else b""
    data = peer.handshake(challenge, encode_message(Ping(b"hi", 1)), record)
    peer.host.core.handle_datagram(data, peer.address, now=net.now)


def challenge_all(net: Net, peer: RawPeer) -> None:
    """Let the peer challenge each ordinary packet that the host has sent it."""
    for transmit in peer.transmits():
        packet = peer.codec.decode(transmit.data)
        if isinstance(packet, OrdinaryPacket):
            host_id, id_nonce = peer.host.core.node_id, net.random_bytes(16)
            data, _ = peer.codec.encode_whoareyou(host_id, packet.nonce, id_nonce, 0)
            peer.host.core.handle_datagram(data, peer.address, now=net.now)


@pytest.mark.parametrize("kind", ["ping", "find_node", "talk"])
def test_a_peer_that_challenges_and_opens_sessions_without_end_keeps_nothing_open(
    kind: str,
) -> None:
    net = Net(61)
    left = net.add(0, start=False)
    peer = RawPeer(left, Address("203.9.9.9", 1234))
    open_session(net, peer)
    peer.receive()
    contact = Contact(peer.node_id, peer.address, peer.public_key)
    if kind == "ping":
        number = left.core.ping(contact, now=net.now)
    elif kind == "find_node":
        number = left.core.find_node(contact, (256,), now=net.now)
    else:
        number = left.core.talk_request(contact, b"x", b"y", now=net.now)
    began = net.now
    for _ in range(60):
        challenge_all(net, peer)
        net.now += 0.5
        open_session(net, peer)
        left.core.handle_timeout(now=net.now)
        left.events += iter(left.core.poll_event, None)
        if net.now <= began + 2 * 4.0:
            ended = left.of(RequestFailed)
    assert ended == left.of(RequestFailed) == [RequestFailed(number, Failure.TIMEOUT)]


def test_a_challenge_too_many_holds_up_no_other_request() -> None:
    net = Net(62)
    left = net.add(0, start=False)
    peer = RawPeer(left, Address("203.9.9.9", 1234))
    open_session(net, peer)
    contact = Contact(peer.node_id, peer.address, peer.public_key)
    peer.receive()
    left.core.find_node(contact, (256,), now=net.now)
    for _ in range(MAX_HANDSHAKES_PER_REQUEST + 1):
        challenge_all(net, peer)
        net.now += 0.4
        if not left.core.drops[Drop.CHALLENGE_REPEATED]:
            open_session(net, peer)
    assert left.core.drops[Drop.CHALLENGE_REPEATED] == 1
    peer.receive()
    left.core.ping(contact, now=net.now)
    (plain,) = peer.receive()
    assert isinstance(decode_message(plain), Ping)


def test_requests_that_waited_in_vain_for_a_handshake_count_as_unanswered() -> None:
    net = Net(63)
    left, right = net.add(0, start=False), net.add(1)
    right.is_up = False
    numbers = [left.core.ping(right.contact, now=net.now) for _ in range(3)]
    net.drain(left)
    net.run(5)
    assert sorted(failed.request for failed in left.of(RequestFailed)) == numbers
    assert left.core.metrics.requests_outgoing == {ALL: 3, NO_RESPONSE: 3}
