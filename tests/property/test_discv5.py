"""Hostile and random bytes against live cores, and round trips of the codecs."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ginnel.base.ciphers import mask
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Address, make_address
from ginnel.discv5.enr import Enr, decode_enr, sign_enr
from ginnel.discv5.events import PongReceived
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
from ginnel.discv5.packet import Flag, PacketCodec
from ginnel.discv5.session import Session
from support.discv5_net import Host, Net
from support.discv5_peer import RawPeer

SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
IDS = st.binary(max_size=8)
U64 = st.integers(0, 2**64 - 1)
ADDRESSES = st.builds(make_address, st.ip_addresses(), st.integers(0, 65535))
RECORD = sign_enr(b"\x01" * 32, 1, {"ip": b"\x01\x02\x03\x04", "udp": 9})
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ping, IDS, U64),
    st.builds(Pong, IDS, U64, ADDRESSES),
    st.builds(FindNode, IDS, st.lists(st.integers(0, 300), max_size=20).map(tuple)),
    st.builds(Nodes, IDS, U64, st.lists(st.just(RECORD.raw), max_size=4).map(tuple)),
    st.builds(TalkRequest, IDS, st.binary(max_size=20), st.binary(max_size=600)),
    st.builds(TalkResponse, IDS, st.binary(max_size=600)),
)
KEYS = st.text(st.characters(min_codepoint=0x61, max_codepoint=0x7A), min_size=1, max_size=8)


@SETTINGS
@given(MESSAGES)
def test_messages_come_back(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


@SETTINGS
@given(st.binary(max_size=300))
def test_random_messages_decode_or_are_refused(data: bytes) -> None:
    try:
        message = decode_message(data)
    except RemoteProtocolError:
        return
    assert encode_message(message) == data


@SETTINGS
@given(
    st.dictionaries(KEYS, st.binary(max_size=12), max_size=5), st.integers(0, 2**64 - 1), st.data()
)
def test_records_come_back_and_no_changed_one_does(
    fields: dict[str, bytes], seq: int, data: st.DataObject
) -> None:
    record = sign_enr(b"\x02" * 32, seq, fields)
    assert decode_enr(record.raw) == record
    assert Enr.from_text(record.to_text()) == record
    changed = bytearray(record.raw)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteProtocolError):
        decode_enr(bytes(changed))


@pytest.fixture(scope="module")
def target() -> tuple[Net, Host, RawPeer]:
    net = Net(21)
    host = net.add(0, config={"ban_strikes": 0})
    return net, host, RawPeer(host, Address("203.9.9.9", 1234), seed=3)


@SETTINGS
@given(st.binary(max_size=1400), st.integers(0, 65535))
def test_random_packets_are_dropped(
    target: tuple[Net, Host, RawPeer], data: bytes, port: int
) -> None:
    net, host, _ = target
    before = sum(host.core.drops.values())
    host.core.handle_datagram(data, Address("203.1.1.1", port), now=net.now)
    assert sum(host.core.drops.values()) == before + 1
    assert host.core.poll_transmit() is None


@SETTINGS
@given(MESSAGES, st.data())
def test_mutated_inside_valid_encryption(
    target: tuple[Net, Host, RawPeer], message: Message, data: st.DataObject
) -> None:
    net, host, peer = target
    plain = bytearray(encode_message(message))
    for _ in range(data.draw(st.integers(0, 4))):
        plain[data.draw(st.integers(0, len(plain) - 1))] = data.draw(st.integers(0, 255))
    net.now += 0.05
    peer.send(bytes(plain), now=net.now)
    answers = peer.receive()
    assert all(len(answer) >= 1 for answer in answers)
    request_id = bytes(data.draw(IDS))
    peer.send(encode_message(Ping(request_id, 1)), now=net.now)
    assert [decode_message(answer) for answer in peer.receive()][-1:] == [
        Pong(request_id, host.core.record.seq, peer.address)
    ]


@SETTINGS
@given(st.sampled_from([0, 1, 2, 3]), st.binary(max_size=400), st.binary(max_size=100), st.data())
def test_well_masked_headers_with_any_content(
    target: tuple[Net, Host, RawPeer], flag: int, authdata: bytes, rest: bytes, data: st.DataObject
) -> None:
    net, host, peer = target
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    codec = PacketCodec(peer.node_id, b"discv5", rng.randbytes)
    header = codec.header(Flag.ORDINARY, rng.randbytes(12), authdata)
    header = header[:8] + bytes((flag,)) + header[9:]
    packet = mask(host.core.node_id, rng.randbytes(16) + header) + rest
    net.now += 0.1
    host.core.handle_datagram(packet, Address("203.2.2.2", 5), now=net.now)
    sizes = []
    while (transmit := host.core.poll_transmit()) is not None:
        sizes.append(len(transmit.data))
    assert sum(sizes) <= len(packet)


@SETTINGS
@given(st.data())
def test_damaged_handshakes_never_open_a_session(data: st.DataObject) -> None:
    net = Net(data.draw(st.integers(0, 1000)))
    left, right = net.add(0), net.add(1)
    left.core.ping(right.contact, now=net.now)
    knock = left.core.poll_transmit()
    assert knock is not None
    right.core.handle_datagram(knock.data, left.address, now=net.now)
    challenge = right.core.poll_transmit()
    assert challenge is not None
    left.core.handle_datagram(challenge.data, right.address, now=net.now)
    handshake = left.core.poll_transmit()
    assert handshake is not None
    damaged = bytearray(handshake.data)
    damaged[data.draw(st.integers(16, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    right.core.handle_datagram(bytes(damaged), left.address, now=net.now)
    assert not right.core.has_session(left.core.node_id, left.address)
    right.core.handle_datagram(handshake.data, left.address, now=net.now)
    net.drain(right)
    net.run(1)
    assert len(left.of(PongReceived)) == 1


def test_session_refuses_another_key() -> None:
    one = Session(RECORD.node_id, b"", bytes(16), bytes(16))
    other = Session(RECORD.node_id, b"", b"\x01" * 16, bytes(16))
    start = bytes(39)
    sealed = one.seal(start, bytes(12), b"hello")[len(start) :]
    assert one.decrypt(bytes(12), sealed, start) == b"hello"
    assert other.decrypt(bytes(12), sealed, start) is None
