"""Packets of the control port: built, checked, refused; pings; bodies in parts."""

from __future__ import annotations

import struct

import pytest

from ginnel.base.errors import RemoteProtocolError
from ginnel.mesh.control_port import (
    MAX_PART,
    MAX_PENDING_PINGS,
    MAX_PENDING_PROBES,
    PING_TIMEOUT_S,
    PORT,
    BodyArrived,
    ControlDrop,
    ControlPort,
    Kind,
    PongArrived,
    build_packet,
    decode_message,
    encode_message,
    parse_packet,
)
from support.rdv import chance

A4, B4 = "100.80.0.1", "100.80.0.2"
A6, B6 = "fd00:1::1", "fd00:1::2"
KEY_A, KEY_B = b"a" * 32, b"b" * 32


def pair() -> tuple[ControlPort, ControlPort]:
    return (
        ControlPort((A4, A6), random_bytes=chance(1)),
        ControlPort((B4, B6), random_bytes=chance(2)),
    )


def carry(a: ControlPort, b: ControlPort, now: float) -> int:
    count = 0
    while (inner := a.poll_packet()) is not None:
        assert inner.peer == KEY_B
        b.on_packet(KEY_A, inner.packet, now=now)
        count += 1
    return count


@pytest.mark.parametrize(("source", "destination"), [(A4, B4), (A6, B6)])
@pytest.mark.parametrize("size", [0, 1, 2, 999, MAX_PART])
def test_packets_survive_a_round_trip(source: str, destination: str, size: int) -> None:
    payload = bytes(range(256)) * 5
    packet = build_packet(source, destination, payload[:size])
    assert parse_packet(packet) == (source, destination, payload[:size])


def test_a_packet_by_hand() -> None:
    """Checksums worked out with RFC 1071's sum over the fields as written here."""
    packet = build_packet("100.80.0.1", "100.80.0.2", b"\x01\x02\x03")
    header = struct.unpack("!BBHHHBBH4s4s", packet[:20])
    assert header[:7] == (0x45, 0, 31, 0, 0x4000, 64, 17)
    words = [0x4500, 31, 0, 0x4000, 0x4011, 0x6450, 1, 0x6450, 2]
    total = sum(words)
    assert header[7] == ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    assert struct.unpack("!HHH", packet[20:26]) == (PORT, PORT, 11)
    total = sum([0x6450, 1, 0x6450, 2, 17, 11, PORT, PORT, 11, 0x0102, 0x0300])
    expected = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    assert packet[26:28] == expected.to_bytes(2, "big")


@pytest.mark.parametrize(("source", "destination"), [(A4, B4), (A6, B6)])
def test_damaged_packets_are_refused(source: str, destination: str) -> None:
    packet = build_packet(source, destination, b"payload")
    for cut in range(len(packet)):
        with pytest.raises(RemoteProtocolError):
            parse_packet(packet[:cut])
    head = 40 if ":" in source else 20
    for at in (*range(head, len(packet)), 0, head - 1):
        changed = bytearray(packet)
        changed[at] ^= 0x41
        with pytest.raises(RemoteProtocolError):
            parse_packet(bytes(changed))


def test_fragments_and_missing_checksums_are_refused() -> None:
    fragment = bytearray(build_packet(A4, B4, b"x"))
    fragment[6:8] = b"\x20\x00"
    with pytest.raises(RemoteProtocolError):
        parse_packet(bytes(fragment))
    bare = bytearray(build_packet(A6, B6, b"x"))
    bare[46:48] = b"\0\0"
    with pytest.raises(RemoteProtocolError, match="no UDP checksum"):
        parse_packet(bytes(bare))


@pytest.mark.parametrize("ips", [(B4, B6), (B6,)])
def test_a_ping_comes_back(ips: tuple[str, ...]) -> None:
    a, b = pair()
    a.ping(7, KEY_B, ips, now=1.0)
    assert carry(a, b, 1.02) == 1
    while (answer := b.poll_packet()) is not None:
        a.on_packet(KEY_B, answer.packet, now=1.05)
    event = a.poll_event()
    assert isinstance(event, PongArrived)
    assert (event.token, event.peer) == (7, KEY_B)
    assert event.seconds == pytest.approx(0.05)
    a.handle_timeout(now=100.0)
    assert a.poll_event() is None


def test_a_lost_ping_ends_too_and_pings_are_bounded() -> None:
    a, _ = pair()
    for token in range(MAX_PENDING_PINGS + 1):
        a.ping(token, KEY_B, (B4,), now=0.0)
    assert a.poll_event() == PongArrived(MAX_PENDING_PINGS, KEY_B, None)
    a.handle_timeout(now=5.0)
    assert a.poll_event() == PongArrived(0, KEY_B, None)
    assert a.poll_deadline() is None


def test_a_pong_of_another_peer_counts_for_nothing() -> None:
    a, b = pair()
    a.ping(7, KEY_B, (B4,), now=0.0)
    carry(a, b, 0.0)
    answer = b.poll_packet()
    assert answer is not None
    a.on_packet(b"c" * 32, answer.packet, now=0.1)
    assert a.poll_event() is None
    assert a.drops == {ControlDrop.UNASKED: 1}


@pytest.mark.parametrize("size", [10, MAX_PART, MAX_PART + 1, 4 * MAX_PART])
def test_bodies_arrive_whole_in_any_order(size: int) -> None:
    a, b = pair()
    body = bytes(i % 251 for i in range(size))
    a.send_body(KEY_B, (B4,), body)
    packets = []
    while (inner := a.poll_packet()) is not None:
        packets.append(inner.packet)
    for packet in reversed(packets):
        b.on_packet(KEY_A, packet, now=0.0)
    assert b.poll_event() == BodyArrived(KEY_A, body)
    assert b.poll_event() is None


def test_what_is_not_for_us_is_dropped() -> None:
    a, _ = pair()
    [ping] = encode_message(Kind.PING, bytes(8))
    a.on_packet(KEY_B, build_packet(B4, "100.80.0.9", ping), now=0.0)
    a.on_packet(KEY_B, b"garbage", now=0.0)
    a.on_packet(KEY_B, build_packet(B4, A4, b"short"), now=0.0)
    a.on_packet(KEY_B, build_packet(B4, A4, b"\x02" + ping[1:]), now=0.0)
    [psk] = encode_message(Kind.PSK, bytes(8))
    a.on_packet(KEY_B, build_packet(B4, A4, psk), now=0.0)
    assert a.poll_packet() is None
    assert a.drops == {ControlDrop.PACKET: 2, ControlDrop.MESSAGE: 1, ControlDrop.KIND: 2}


def test_a_flood_is_held_back() -> None:
    a, _ = pair()
    [ping] = encode_message(Kind.PING, bytes(8))
    for _ in range(300):
        a.on_packet(KEY_B, build_packet(B4, A4, ping), now=0.0)
    assert a.drops == {ControlDrop.RATE: 100}


def test_parts_are_checked() -> None:
    for part, parts in ((0, 0), (1, 1), (4, 4), (0, 5)):
        raw = bytes((1, 3)) + bytes(8) + bytes((part, parts))
        with pytest.raises(RemoteProtocolError):
            decode_message(raw)


@pytest.mark.parametrize("size", [300, 1280, 1420, 9000])
@pytest.mark.parametrize("ips", [(B4,), (B6,)])
def test_a_probe_has_its_size_and_is_answered_by_a_small_packet(
    size: int, ips: tuple[str, ...]
) -> None:
    left, right = pair()
    left.probe(7, b"right", ips, size, now=0.0)
    probe = left.poll_packet()
    assert probe is not None
    assert (len(probe.packet), probe.is_probe) == (size, True)
    right.on_packet(b"left", probe.packet, now=0.0)
    answer = right.poll_packet()
    assert answer is not None
    assert len(answer.packet) < 100
    assert not answer.is_probe
    left.on_packet(b"right", answer.packet, now=0.2)
    assert left.poll_event() == PongArrived(7, b"right", 0.2)


def test_probes_are_bounded_and_end() -> None:
    left, _ = pair()
    for token in range(MAX_PENDING_PROBES + 1):
        left.probe(token, b"right", (B4,), 600, now=0.0)
    assert left.poll_event() == PongArrived(MAX_PENDING_PROBES, b"right", None)
    left.handle_timeout(now=PING_TIMEOUT_S)
    ended = [left.poll_event() for _ in range(MAX_PENDING_PROBES)]
    assert all(isinstance(event, PongArrived) and event.seconds is None for event in ended)
