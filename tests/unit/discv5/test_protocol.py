"""The core's answers to a peer that speaks whatever it likes."""

from __future__ import annotations

import pytest

from ginnel.base.errors import UsageError
from ginnel.base.types import Address
from ginnel.discv5 import session
from ginnel.discv5.enr import address_fields, sign_enr
from ginnel.discv5.events import (
    Drop,
    NodesReceived,
    PongReceived,
    RequestFailed,
    TalkAnswered,
    TalkReceived,
)
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
from ginnel.discv5.metrics import ALL, INVALID_RESPONSE, NO_RESPONSE
from ginnel.discv5.packet import Flag
from ginnel.discv5.protocol import Contact
from ginnel.discv5.requests import Failure
from support.discv5_net import Host, Net
from support.discv5_peer import RawPeer

PEER = Address("203.9.9.9", 1234)


@pytest.fixture
def net() -> Net:
    return Net(31)


@pytest.fixture
def host(net: Net) -> Host:
    return net.add(0)


@pytest.fixture
def peer(net: Net, host: Host) -> RawPeer:
    peer = RawPeer(host, PEER)
    peer.connect(net.now)
    return peer


def ask(net: Net, peer: RawPeer, message: Message) -> list[Message]:
    peer.send(encode_message(message), now=net.now)
    return [decode_message(plain) for plain in peer.receive()]


def events(host: Host, kind: type) -> list[object]:
    while (event := host.core.poll_event()) is not None:
        host.events.append(event)
    return host.of(kind)


@pytest.mark.parametrize("request_id", [b"", b"\x00", b"\x00\x01", bytes(8), b"\xff" * 8])
def test_request_ids_are_echoed_exactly(net: Net, peer: RawPeer, request_id: bytes) -> None:
    assert ask(net, peer, Ping(request_id, 1)) == [Pong(request_id, 1, PEER)]


def test_longer_request_ids_are_dropped(net: Net, host: Host, peer: RawPeer) -> None:
    assert ask(net, peer, Ping(bytes(9), 1)) == []
    assert host.core.drops[Drop.MESSAGE] == 1


def test_find_node(net: Net, host: Host, peer: RawPeer) -> None:
    for index in range(1, 40):
        net.add(index, bootstrap=[host.core.record])
        net.run(0.1)
    net.run(5)
    own = host.core.record.raw
    assert ask(net, peer, FindNode(b"a", (0,))) == [Nodes(b"a", 1, (own,))]
    assert ask(net, peer, FindNode(b"a", (256, 0, 255))) == [Nodes(b"a", 1, (own,))]
    for distances in ((), (257,), (256, 2**64 - 1), (3,)):
        assert ask(net, peer, FindNode(b"a", distances)) == [Nodes(b"a", 1, ())]
    answers = ask(net, peer, FindNode(b"\xff" * 8, (256, 255, 254)))
    records = []
    for answer in answers:
        assert isinstance(answer, Nodes)
        assert answer.total == len(answers)
        records += answer.records
    assert len(records) == len(set(records)) == 16


def test_unknown_types_and_broken_messages_are_counted(net: Net, host: Host, peer: RawPeer) -> None:
    for plain in (b"\x07\xc0", b"\x0a\xc1\x01", b""):
        peer.send(plain, now=net.now)
    assert peer.receive() == []
    assert host.core.drops[Drop.MESSAGE_TYPE] == 2
    assert host.core.drops[Drop.MESSAGE] == 1


def test_requests_of_others_are_counted_and_those_that_get_no_answer(net: Net) -> None:
    host = net.add(9, config={"talk_limit": 1})
    peer = RawPeer(host, PEER)
    incoming = host.core.metrics.requests_incoming
    peer.connect(net.now)  # brings a PING
    assert incoming == {ALL: 1}
    for message in (Ping(b"1", 1), FindNode(b"2", (256,)), TalkRequest(b"3", b"t", b"")):
        ask(net, peer, message)
    assert incoming == {ALL: 4}
    peer.send(b"\x07\xc0", now=net.now)  # of a kind that nobody knows
    assert incoming == {ALL: 5, NO_RESPONSE: 1}
    ask(net, peer, TalkRequest(b"4", b"t", b""))  # one too many
    assert host.core.drops[Drop.TOO_MANY_TALKS] == 1
    assert incoming == {ALL: 6, NO_RESPONSE: 2}
    (talk,) = events(host, TalkReceived)
    host.core.refuse_talk(talk.token)  # type: ignore[attr-defined]
    assert incoming == {ALL: 6, NO_RESPONSE: 3}
    ask(net, peer, Pong(b"1", 1, PEER))  # a response is no request
    assert incoming == {ALL: 6, NO_RESPONSE: 3}


def test_responses_to_nothing_are_counted_and_never_acted_on(
    net: Net, host: Host, peer: RawPeer
) -> None:
    other = sign_enr(b"\x07" * 32, 1, address_fields(Address("203.7.7.7", 9)))
    events(host, PongReceived)
    host.events.clear()
    seen = Address("198.51.100.1", 4000)
    for message in (Pong(b"a", 9, seen), Nodes(b"a", 1, (other.raw,)), TalkResponse(b"a", b"")):
        assert ask(net, peer, message) == []
    assert host.core.drops[Drop.UNSOLICITED_RESPONSE] == 3
    assert host.core.metrics.unsolicited_messages == 3
    assert events(host, object) == []  # no vote, no node, no answer
    assert not host.core.table.nodes()[0].is_seen


def test_an_answer_from_elsewhere_is_none(net: Net, host: Host, peer: RawPeer) -> None:
    """The same node has sessions at two addresses; what was asked at one is answered there."""
    twin = RawPeer(host, Address("203.9.9.9", 4321))
    twin.connect(net.now)
    number, request_id = pending(net, host, peer, (0,))
    ask(net, twin, Nodes(request_id, 1, (peer.record.raw,)))
    assert host.core.drops[Drop.UNSOLICITED_RESPONSE] == 1
    assert events(host, NodesReceived) == []
    ask(net, peer, Nodes(request_id, 1, (peer.record.raw,)))
    assert events(host, NodesReceived) == [NodesReceived(number, (peer.record,))]


def test_answers_go_to_where_the_packet_came_from(net: Net, host: Host) -> None:
    """Whatever the record says: nobody can aim our answers at somebody else."""
    peer = RawPeer(host, PEER)
    victim = Address("203.8.8.8", 53)
    peer.record = sign_enr(peer.key, 1, address_fields(victim))
    peer.connect(net.now)
    for message in (Ping(b"a", 9), FindNode(b"a", (0, 256)), TalkRequest(b"a", b"x", b"")):
        peer.send(encode_message(message), now=net.now)
    for talk in events(host, TalkReceived):
        assert isinstance(talk, TalkReceived)
        host.core.respond_talk(talk.token, b"answer", now=net.now)
    sent = list(iter(host.core.poll_transmit, None))
    assert len(sent) >= 3
    assert {transmit.destination for transmit in sent} == {PEER}
    for _ in range(20):  # nor does anything follow
        net.now += 1
        host.core.handle_timeout(now=net.now)
        assert {t.destination for t in iter(host.core.poll_transmit, None)} <= {PEER}


def test_a_request_ends_after_the_response_timeout(net: Net, host: Host, peer: RawPeer) -> None:
    number, _ = pending(net, host, peer, (0,))
    net.now += 3.99
    host.core.handle_timeout(now=net.now)
    assert events(host, RequestFailed) == []
    net.now += 0.02
    host.core.handle_timeout(now=net.now)
    assert events(host, RequestFailed) == [RequestFailed(number, Failure.TIMEOUT)]


@pytest.mark.parametrize("kind", [Ping, FindNode, TalkRequest])
def test_every_answered_request_marks_the_node_as_seen(
    net: Net, host: Host, peer: RawPeer, kind: type
) -> None:
    assert not host.core.table.nodes()[0].is_seen
    contact = Contact(peer.node_id, PEER, peer.public_key)
    if kind is Ping:
        host.core.ping(contact, now=net.now)
    elif kind is FindNode:
        host.core.find_node(contact, (256,), now=net.now)
    else:
        host.core.talk_request(contact, b"x", b"", now=net.now)
    (request,) = (decode_message(plain) for plain in peer.receive())
    assert isinstance(request, kind)
    answers: dict[type, Message] = {
        Ping: Pong(request.request_id, 1, host.address),
        FindNode: Nodes(request.request_id, 1, ()),
        TalkRequest: TalkResponse(request.request_id, b""),
    }
    ask(net, peer, answers[kind])
    assert host.core.table.nodes()[0].is_seen


def test_the_open_challenge_is_sent_again_unchanged(net: Net, host: Host) -> None:
    peer = RawPeer(host, PEER)
    first, second = peer.knock(net.now), peer.knock(net.now + 1.9)
    assert first == second
    third = peer.knock(net.now + 2.1)
    assert third.id_nonce != first.id_nonce


def test_challenges_are_limited_per_public_source(net: Net, host: Host) -> None:
    peers = [RawPeer(host, Address("203.9.9.9", 1000 + n), seed=100 + n) for n in range(70)]
    for peer in peers[:60]:
        peer.knock(net.now)
    with pytest.raises(ValueError, match="unpack"):
        peers[60].knock(net.now)
    assert host.core.drops[Drop.CHALLENGE_RATE] == 1


def test_the_same_node_from_another_address_is_challenged(
    net: Net, host: Host, peer: RawPeer
) -> None:
    data = peer.packet(Flag.ORDINARY, peer.node_id, encode_message(Ping(b"a", 1)))
    host.core.handle_datagram(data, Address("203.9.9.9", 1235), now=net.now)
    transmit = host.core.poll_transmit()
    assert transmit is not None
    assert len(transmit.data) == 63
    assert transmit.destination.port == 1235


def test_handshake_faults(net: Net, host: Host) -> None:
    ping = encode_message(Ping(b"a", 1))
    foreign = RawPeer(host, PEER, seed=9).record.raw
    faults = [(b"", Drop.NO_RECORD), (b"\xc0", Drop.BAD_RECORD), (foreign, Drop.BAD_RECORD)]
    for seed, (record, drop) in enumerate(faults):
        peer = RawPeer(host, PEER, seed=20 + seed)
        data = peer.handshake(peer.knock(net.now), ping, record)
        host.core.handle_datagram(data, PEER, now=net.now)
        assert host.core.drops[drop] >= 1
        assert not host.core.has_session(peer.node_id, PEER)
    late = RawPeer(host, PEER, seed=30)
    data = late.handshake(late.knock(net.now), ping, late.record.raw)
    host.core.handle_datagram(data, PEER, now=net.now + 2.1)
    assert host.core.drops[Drop.NO_CHALLENGE] == 1
    net.now += 3
    data = late.handshake(late.knock(net.now), ping, late.record.raw)
    host.core.handle_datagram(data, PEER, now=net.now)
    assert [decode_message(plain) for plain in late.receive()] == [Pong(b"a", 1, PEER)]
    host.core.handle_datagram(data, PEER, now=net.now)
    assert host.core.drops[Drop.NO_CHALLENGE] == 2


def test_talks_go_up_once_and_the_answer_is_repeated(net: Net, host: Host, peer: RawPeer) -> None:
    request = TalkRequest(b"a", b"ginnel-rdv", b"payload")
    assert ask(net, peer, request) == []
    (talk,) = events(host, TalkReceived)
    assert isinstance(talk, TalkReceived)
    assert talk.contact == Contact(peer.node_id, PEER, peer.public_key)
    host.core.respond_talk(talk.token, b"answer", now=net.now)
    host.core.respond_talk(talk.token, b"again", now=net.now)
    assert [decode_message(plain) for plain in peer.receive()] == [TalkResponse(b"a", b"answer")]
    assert ask(net, peer, request) == [TalkResponse(b"a", b"answer")]
    assert len(events(host, TalkReceived)) == 1
    assert host.core.drops[Drop.REPEATED_TALK] == 1


def test_a_late_talk_answer_is_not_sent_and_a_large_one_is_refused(
    net: Net, host: Host, peer: RawPeer
) -> None:
    ask(net, peer, TalkRequest(b"a", b"x", b""))
    (talk,) = events(host, TalkReceived)
    assert isinstance(talk, TalkReceived)
    with pytest.raises(UsageError):
        host.core.respond_talk(talk.token, bytes(1190), now=net.now)
    host.core.respond_talk(talk.token, b"", now=net.now + 5)
    assert peer.receive() == []


def test_unknown_talk_protocols_get_the_empty_answer(net: Net) -> None:
    host = net.add(5, config={"talk_protocols": (b"ginnel-rdv",)})
    peer = RawPeer(host, PEER)
    peer.connect(net.now)
    assert ask(net, peer, TalkRequest(b"a", b"other", b"")) == [TalkResponse(b"a", b"")]
    assert events(host, TalkReceived) == []


def pending(net: Net, host: Host, peer: RawPeer, distances: tuple[int, ...]) -> tuple[int, bytes]:
    """Send FINDNODE to the peer; return its number and request id."""
    contact = Contact(peer.node_id, PEER, peer.public_key)
    number = host.core.find_node(contact, distances, now=net.now)
    (plain,) = peer.receive()
    message = decode_message(plain)
    assert isinstance(message, FindNode)
    return number, message.request_id


def test_nodes_are_checked_and_gathered(net: Net, host: Host, peer: RawPeer) -> None:
    others = [
        sign_enr(bytes([n]) * 32, 1, address_fields(Address(f"203.7.{n}.1", 9)))
        for n in range(1, 4)
    ]
    private = sign_enr(b"\x09" * 32, 1, address_fields(Address("10.0.0.1", 9)))
    distances = tuple({log_distance(peer.node_id, enr.node_id): None for enr in others[:2]})
    wanted = [e for e in others if log_distance(peer.node_id, e.node_id) in distances]
    number, request_id = pending(net, host, peer, distances)
    forged = others[0].raw[:4] + bytes(4) + others[0].raw[8:]
    first = [others[0].raw, others[2].raw, private.raw, forged]
    ask(net, peer, Nodes(request_id, 2, tuple(first)))
    ask(net, peer, Nodes(request_id, 2, tuple(first)))
    assert events(host, NodesReceived) == []
    ask(net, peer, Nodes(request_id, 2, (others[1].raw, host.core.record.raw)))
    (event,) = events(host, NodesReceived)
    assert isinstance(event, NodesReceived)
    assert event.request == number
    assert sorted(e.seq for e in event.records) == [1] * len(wanted)
    assert {e.node_id for e in event.records} == {e.node_id for e in wanted}


def test_what_came_of_a_partial_answer_is_kept(net: Net, host: Host, peer: RawPeer) -> None:
    _, request_id = pending(net, host, peer, (0,))
    ask(net, peer, Nodes(request_id, 5, (peer.record.raw,)))
    net.now += 4.1
    host.core.handle_timeout(now=net.now)
    (event,) = events(host, NodesReceived)
    assert isinstance(event, NodesReceived)
    assert event.records == (peer.record,)


def test_an_answer_of_the_wrong_kind_fails_the_request(net: Net, host: Host, peer: RawPeer) -> None:
    number, request_id = pending(net, host, peer, (0,))
    assert [enr.node_id for enr in host.core.nodes()] == [peer.node_id]
    ask(net, peer, Pong(request_id, 1, PEER))
    assert events(host, RequestFailed) == [RequestFailed(number, Failure.WRONG_ANSWER)]
    assert host.core.drops[Drop.WRONG_RESPONSE] == 1
    assert host.core.metrics.requests_outgoing[INVALID_RESPONSE] == 1
    assert host.core.nodes() == []  # replaced at once


def test_a_dead_link_of_our_own_does_not_empty_the_table(net: Net) -> None:
    boot = net.add(0)
    hosts = [net.add(n, bootstrap=[boot.core.record]) for n in range(1, 8)]
    net.run(20)
    known = len(hosts[0].core.nodes())
    assert known == 7
    for host in (boot, *hosts[1:]):
        host.is_up = False
    net.run(120)
    assert len(hosts[0].core.nodes()) == known
    for host in (boot, *hosts[1:]):
        host.is_up = True
        net.drain(host)
    net.run(60)
    assert len(hosts[0].core.closest(boot.core.node_id, 16)) >= 5


def test_a_link_that_only_brings_does_not_empty_the_table(net: Net) -> None:
    """All our sends fail, say at a firewall, while others' requests still come in."""
    boot = net.add(0)
    hosts = [net.add(n, bootstrap=[boot.core.record]) for n in range(1, 8)]
    net.run(60)
    mute = hosts[0]
    known = len(mute.core.nodes())
    assert known == 7
    mute.is_mute = True
    for _ in range(60):
        for other in (boot, *hosts[1:]):
            other.core.ping(mute.contact, now=net.now)
            net.drain(other)
        net.run(5)
    assert len(mute.core.nodes()) == known
    mute.is_mute = False
    net.run(60)
    assert len(mute.core.closest(boot.core.node_id, 16)) >= 5


def test_a_newer_record_is_fetched(net: Net) -> None:
    left = net.add(0)
    right = net.add(1, bootstrap=[left.core.record])
    net.run(5)
    left.core.update_record({"ginnel": b"\x01"}, now=net.now)
    net.run(60)
    (enr,) = right.core.nodes()
    assert enr.seq == 2
    assert enr.get("ginnel") == b"\x01"


def test_limits_of_requests_and_lookups(net: Net) -> None:
    host = net.add(0, config={"request_limit": 3, "lookup_limit": 0})
    contact = RawPeer(host, PEER)
    numbers = [
        host.core.ping(Contact(contact.node_id, PEER, contact.public_key), now=net.now)
        for _ in range(5)
    ]
    assert events(host, RequestFailed) == [
        RequestFailed(number, Failure.TOO_MANY) for number in numbers[3:]
    ]
    token = host.core.lookup(host.core.node_id, now=net.now)
    assert events(host, RequestFailed)[2:] == [RequestFailed(token, Failure.TOO_MANY)]
    own = Contact(host.core.node_id, host.address, host.core.record.public_key)
    host.core.ping(own, now=net.now)
    assert len(events(host, RequestFailed)) == 4


def test_what_came_of_a_response_is_an_answer(net: Net, host: Host, peer: RawPeer) -> None:
    contact = Contact(peer.node_id, PEER, peer.public_key)
    distance = log_distance(peer.node_id, host.core.node_id)
    named = host.core.find_node(contact, [0], now=net.now)
    silent = host.core.find_node(contact, [distance], now=net.now)
    first, _ = (decode_message(plain) for plain in peer.receive())
    assert isinstance(first, FindNode)
    part = Nodes(first.request_id, 2, (peer.record.raw,))
    peer.send(encode_message(part), now=net.now)
    net.now += 4.1
    host.core.handle_timeout(now=net.now)
    assert events(host, NodesReceived) == [NodesReceived(named, (peer.record,))]
    assert host.core.metrics.requests_outgoing[NO_RESPONSE] == 1
    failed = [event for event in host.events if isinstance(event, RequestFailed)]
    assert failed == [RequestFailed(silent, Failure.TIMEOUT)]


def test_endpoint_and_client_mode(net: Net) -> None:
    client = net.add(3, public=False)
    assert client.core.record.address() is None
    client.core.set_endpoint(Address("203.0.113.5", 9), now=net.now)
    assert client.core.record.address() == Address("203.0.113.5", 9)
    assert client.core.record.seq == 2
    client.core.set_endpoint(Address("203.0.113.5", 9), now=net.now)
    assert client.core.record.seq == 2
    client.core.set_endpoint(None, now=net.now)
    assert client.core.record.address() is None


def test_a_client_publishes_no_address_that_its_fields_name(net: Net) -> None:
    named = address_fields(Address("203.0.113.5", 9)) | address_fields(Address("2001:db8::5", 9))
    host = net.add(3, public=False, fields=named | {"tcp": 7, "k": b"v"})
    assert host.core.record.addresses == ()
    assert {key for key, _ in host.core.record.items} == {"id", "secp256k1", "tcp", "k"}
    host.core.update_record(named, now=net.now)
    assert len(host.core.record.addresses) == 2


def test_another_protocol_id_is_another_network(net: Net) -> None:
    one = net.add(3, config={"protocol_id": b"other6"})
    same = net.add(4, config={"protocol_id": b"other6"}, bootstrap=[one.core.record])
    usual = net.add(5, bootstrap=[one.core.record])
    net.run(10)
    assert [node.record for node in same.core.table.nodes() if node.is_seen] == [one.core.record]
    assert not any(node.is_seen for node in usual.core.table.nodes())
    assert one.core.drops[Drop.PROTOCOL_ID] > 0


def test_bans_of_a_node_and_of_its_ip_hold_and_end(net: Net) -> None:
    config = {"ban_strikes": 2, "ban_ip_factor": 2, "ban_time": 60.0}
    host = net.add(3, config=config)
    peers = [RawPeer(host, Address("203.9.9.9", 1000 + n), seed=50 + n) for n in range(3)]
    for peer in peers[:2]:
        peer.connect(net.now)
        for _ in range(2):
            peer.send(b"\x01\xff", now=net.now)
    assert (host.core.drops[Drop.MESSAGE], host.core.metrics.bans) == (4, 2)
    assert host.core.nodes() == []
    with pytest.raises(ValueError, match="unpack"):
        peers[2].knock(net.now)  # nobody at this IP is heard
    assert host.core.drops[Drop.BANNED] == 1
    net.now += 61
    peers[0].connect(net.now)
    assert ask(net, peers[0], Ping(b"a", 1)) == [Pong(b"a", 1, peers[0].address)]


def test_largest_talk(net: Net) -> None:
    left, right = net.add(0), net.add(1)
    with pytest.raises(UsageError):
        left.core.talk_request(right.contact, b"ginnel-rdv", bytes(1167), now=net.now)
    left.core.talk_request(right.contact, b"ginnel-rdv", bytes(1166), now=net.now)
    net.drain(left)
    net.run(1)
    (talk,) = right.of(TalkReceived)
    right.core.respond_talk(talk.token, b"", now=net.now)
    net.drain(right)
    net.run(1)
    assert [e.payload for e in left.of(TalkAnswered)] == [b""]


def test_a_peer_is_challenged_once_our_key_is_used_up(
    net: Net, host: Host, peer: RawPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MAX_MESSAGES_PER_KEY", 5)
    again = peer.packet(Flag.ORDINARY, peer.node_id, encode_message(Ping(b"a", 1)))
    for _ in range(10):  # the same packet: only our side uses its key up
        host.core.handle_datagram(again, PEER, now=net.now)
        if not host.core.has_session(peer.node_id, PEER):
            break
    assert 1 <= len(peer.receive()) <= 4
    assert not host.core.has_session(peer.node_id, PEER)
    assert peer.knock(net.now).enr_seq == peer.record.seq
