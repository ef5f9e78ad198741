"""Engines on loopback sockets: everything real but the wire's length.

Where a TUN is needed, a pair of datagram sockets stands in: like a TUN it gives and takes one
packet for each read and write.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ginnel.base.dataplane import (
    ConsentAnswered,
    ConsentMissed,
    ConsentTerms,
    DataUnanswered,
    Endpoint,
    EndpointRoamed,
    ForgetConsent,
    HandshakeCompleted,
    InnerReceived,
    RemovePeer,
    SendInner,
    SetPeer,
    StartHandshake,
    WatchConsent,
)
from ginnel.base.errors import UsageError
from ginnel.base.types import Address, Datagram, Secret, Transmit
from ginnel.engine.embedded import EmbeddedEngine
from ginnel.ice import stun
from ginnel.ice.stun import Attribute, MessageClass
from ginnel.net.tun import open_tun
from support.confined import can_enter_namespaces, enter_namespaces, in_child
from support.engine_node import CONTROL_PORT, PATIENCE_S, Node, inner_packet, udp_socket


@pytest.fixture
def pair() -> Iterator[tuple[Node, Node]]:
    left, right = Node("100.64.0.1"), Node("100.64.0.2")
    yield left, right
    left.close()
    right.close()


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    with udp_socket() as made:
        yield made


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_handshake_inner_packet_and_statistics(family: socket.AddressFamily) -> None:
    left, right = Node("100.64.0.1", family), Node("100.64.0.2", family)
    left.add(right)
    right.add(left, endpoint=False)
    packet = inner_packet("100.64.0.1", "100.64.0.2", CONTROL_PORT, b"hello")

    left.engine.apply(SendInner(right.public_key, packet))  # waits for the handshake it starts
    right.wait(right.has(InnerReceived))
    left.wait(left.has(HandshakeCompleted))

    assert InnerReceived(left.public_key, packet) in right.events
    assert HandshakeCompleted(left.public_key, left.address) in right.events
    assert HandshakeCompleted(right.public_key, right.address) in left.events
    assert EndpointRoamed(left.public_key, left.address) in right.events  # it knew none
    (stats,) = left.engine.peer_stats()
    assert stats.public_key == right.public_key
    assert stats.endpoint == right.address
    assert stats.tx_bytes == 48  # 33 bytes, padded to 16
    assert stats.handshake_age_s is not None
    assert stats.last_handshake_unix is not None
    assert right.engine.peer_stats()[0].rx_bytes == 48
    assert left.engine.stats().udp_tx_packets >= 2
    assert left.engine.drops() == {}
    left.close()
    right.close()


def test_start_handshake_and_a_preshared_key(pair: tuple[Node, Node]) -> None:
    left, right = pair
    psk = Secret(bytes(range(32)))
    left.add(right, psk=psk)
    right.add(left, endpoint=False, psk=psk)
    left.engine.apply(StartHandshake(right.public_key))
    left.wait(left.has(HandshakeCompleted))
    right.wait(right.has(HandshakeCompleted))

    # Changing it on a live peer keeps the keys and serves the next handshake.
    newer = Secret(bytes(range(32, 64)))
    left.add(right, psk=newer)
    right.add(left, psk=newer)
    packet = inner_packet("100.64.0.1", "100.64.0.2", CONTROL_PORT, b"still there")
    left.engine.apply(SendInner(right.public_key, packet))
    right.wait(right.has(InnerReceived))
    left.engine.apply(StartHandshake(right.public_key))
    left.wait(left.has(HandshakeCompleted, 2))


def test_a_stranger_gets_no_answer(pair: tuple[Node, Node], stranger: socket.socket) -> None:
    left, right = pair
    left.add(right)  # right does not know left
    left.engine.apply(StartHandshake(right.public_key))
    select.select([right.socket], [], [], 0)
    stranger.sendto(b"\x04\0\0\0" + b"\x77" * 60, right.address)
    right.wait_drop("unknown_index", stranger)
    stranger.sendto(b"\x01\0\0\0" + b"\x77" * 144, right.address)
    right.wait_drop("bad_mac", stranger)
    right.wait_drop("unknown_peer", stranger)
    assert not left.events


def test_a_false_inner_source_is_dropped(pair: tuple[Node, Node], stranger: socket.socket) -> None:
    left, right = pair
    left.add(right)
    right.add(left)
    packet = inner_packet("100.64.0.9", "100.64.0.2", CONTROL_PORT, b"not me")
    left.engine.apply(SendInner(right.public_key, packet))
    left.wait(left.has(HandshakeCompleted))
    right.wait(right.has(HandshakeCompleted))
    proper = inner_packet("100.64.0.1", "100.64.0.2", CONTROL_PORT, b"me")
    left.engine.apply(SendInner(right.public_key, proper))
    right.wait(right.has(InnerReceived))
    assert right.engine.drops()["source_not_allowed"] == 1


def test_other_inner_packets_need_a_tun(pair: tuple[Node, Node]) -> None:
    left, right = pair
    left.add(right)
    right.add(left)
    packet = inner_packet("100.64.0.1", "100.64.0.2", CONTROL_PORT + 1, b"")
    control = inner_packet("100.64.0.1", "100.64.0.2", CONTROL_PORT, b"after it")
    left.engine.apply(SendInner(right.public_key, packet))
    left.engine.apply(SendInner(right.public_key, control))
    right.wait(right.has(InnerReceived))
    assert right.engine.drops()["no_tun"] == 1


def test_foreign_datagrams_arrive_with_both_addresses(
    pair: tuple[Node, Node], stranger: socket.socket
) -> None:
    node = pair[0]
    discv5 = b"\xd1" * 63
    stun = b"\0\x01\0\0\x21\x12\xa4\x42" + b"t" * 12
    stranger.sendto(discv5, node.address)
    stranger.sendto(stun, node.address)
    node.wait(lambda: len(node.datagrams) == 2)
    source = Address(*stranger.getsockname())
    assert Datagram(discv5, source, "127.0.0.1") in node.datagrams
    assert Datagram(stun, source, "127.0.0.1") in node.datagrams
    stats = node.engine.stats()
    assert (stats.passed_discv5, stats.passed_stun) == (1, 1)


def test_ipv6_datagrams_arrive_with_both_addresses() -> None:
    node = Node("100.64.0.1", socket.AF_INET6)
    with udp_socket(socket.AF_INET6) as stranger:
        stranger.settimeout(PATIENCE_S)
        stranger.sendto(b"\xd1" * 63, node.address)
        node.wait(lambda: len(node.datagrams) == 1)
        source = Address(*stranger.getsockname()[:2])
        assert node.datagrams == [Datagram(b"\xd1" * 63, source, "::1")]
        assert node.engine.send([Transmit(b"back", source, "::1")]) == 1
        assert stranger.recvfrom(100)[1][:2] == node.address
    node.close()


def test_send_leaves_from_the_shared_port(pair: tuple[Node, Node], stranger: socket.socket) -> None:
    node = pair[0]
    stranger.settimeout(PATIENCE_S)
    target = Address(*stranger.getsockname())
    assert node.engine.send([Transmit(b"one", target), Transmit(b"two", target, "127.0.0.1")]) == 2
    assert stranger.recvfrom(100) == (b"one", tuple(node.address))
    assert stranger.recvfrom(100) == (b"two", tuple(node.address))


def test_a_send_that_fails_is_counted_and_the_next_goes_on(
    pair: tuple[Node, Node], stranger: socket.socket
) -> None:
    node = pair[0]
    stranger.settimeout(PATIENCE_S)
    lost = [Transmit(b"v6", Address("2001:db8::1", 9)), Transmit(b"b", Address("127.0.0.1", 0))]
    assert node.engine.send([*lost, Transmit(b"ok", Address(*stranger.getsockname()))]) == 3
    assert stranger.recv(100) == b"ok"
    assert node.engine.drops()["send_no_socket"] == 1


def test_a_flood_of_one_kind_leaves_the_other_its_room(
    pair: tuple[Node, Node], stranger: socket.socket
) -> None:
    node = pair[0]
    stun = b"\0\x01\0\0\x21\x12\xa4\x42" + b"t" * 12
    # The queue holds 1024: send until the counter says that it was full.
    while "discv5_queue_full" not in node.engine.drops():
        stranger.sendto(b"\xd1" * 63, node.address)
    while not node.engine.stats().passed_stun:
        stranger.sendto(stun, node.address)
    assert any(item.data == stun for item in node.engine.receive(2))


def test_wireguard_goes_on_while_every_queue_is_full(
    pair: tuple[Node, Node], stranger: socket.socket
) -> None:
    left, right = pair
    left.add(right)
    right.add(left)
    stun = b"\0\x01\0\0\x21\x12\xa4\x42" + b"t" * 12
    # Nobody takes anything out of the queues meanwhile.
    while not {"discv5_queue_full", "stun_queue_full"} <= set(right.engine.drops()):
        stranger.sendto(b"\xd1" * 63, right.address)
        stranger.sendto(stun, right.address)
    packet = inner_packet("100.64.0.1", "100.64.0.2", CONTROL_PORT, b"1")
    left.engine.apply(SendInner(right.public_key, packet))
    until = time.monotonic() + PATIENCE_S
    while not right.has(InnerReceived)() and time.monotonic() < until:
        stranger.sendto(b"\xd1" * 63, right.address)
        while (event := right.engine.poll_event()) is not None:
            right.events.append(event)
    assert right.has(InnerReceived)()
    assert right.engine.stats().passed_discv5 == right.engine.stats().passed_stun == 1024


def test_roaming_and_an_override(pair: tuple[Node, Node]) -> None:
    left, right = pair
    left.add(right)
    right.add(left, endpoint=False)
    packet = inner_packet("100.64.0.1", "100.64.0.2", CONTROL_PORT, b"1")
    left.engine.apply(SendInner(right.public_key, packet))
    right.wait(right.has(InnerReceived))
    # The same keys on another port: a peer that moved.
    moved = Node("100.64.0.1", key=left.key)
    moved.add(right)
    moved.engine.apply(SendInner(right.public_key, packet))
    right.wait(right.has(InnerReceived, 2))
    assert EndpointRoamed(left.public_key, moved.address) in right.events
    assert right.engine.peer_stats()[0].endpoint == moved.address
    right.add(left)
    assert right.engine.peer_stats()[0].endpoint == left.address
    moved.close()


def test_data_that_nobody_answers_is_told(pair: tuple[Node, Node]) -> None:
    left, right = pair
    left.add(right)
    right.add(left)
    ping, pong = (
        inner_packet("100.64.0.1", "100.64.0.2", CONTROL_PORT, b"1"),
        inner_packet("100.64.0.2", "100.64.0.1", CONTROL_PORT, b"2"),
    )
    left.engine.apply(SendInner(right.public_key, ping))
    right.wait(right.has(InnerReceived))
    right.engine.apply(SendInner(left.public_key, pong))
    left.wait(left.has(InnerReceived))
    right.engine.close()
    left.engine.apply(SendInner(right.public_key, ping))
    left.wait(left.has(DataUnanswered))
    assert DataUnanswered(right.public_key, 1.0) in left.events


def test_consent_is_asked_for_and_answered_until_an_answer_stays_out(
    pair: tuple[Node, Node], stranger: socket.socket
) -> None:
    node, peer = pair[0], pair[1].public_key
    there = Address(*stranger.getsockname())
    ours, theirs = Secret(b"our password"), Secret(b"their password")
    role = (8 * b"\x07", Attribute.ICE_CONTROLLED, Attribute.ICE_CONTROLLING)
    priority = (Attribute.PRIORITY, b"\0\0\x01\0")
    attributes = [(Attribute.USERNAME, b"them:us"), priority, (role[1], role[0])]
    terms = ConsentTerms(
        b"us:them", ours, theirs, stun.encode_attributes(attributes), False, 0.5, 0.3
    )
    node.engine.apply(WatchConsent(peer, Endpoint(there), terms))
    stranger.settimeout(PATIENCE_S)
    asked = stun.decode_message(stranger.recv(2048))
    assert asked.message_class is MessageClass.REQUEST
    assert asked.username == "them:us"
    assert stun.check_integrity(asked, theirs.reveal())
    asked_id = asked.transaction_id
    mapped = (Attribute.XOR_MAPPED_ADDRESS, stun.encode_address(node.address, asked_id))
    answer = stun.encode_message(MessageClass.SUCCESS, asked_id, [mapped], key=theirs.reveal())
    stranger.sendto(answer, node.address)
    node.wait(node.has(ConsentAnswered))
    username = (Attribute.USERNAME, b"us:them")
    wanted = [username, priority, (role[2], role[0]), (Attribute.USE_CANDIDATE, b"")]
    request = stun.encode_message(MessageClass.REQUEST, b"t" * 12, wanted, key=ours.reveal())
    stranger.sendto(request, node.address)
    got = stun.decode_message(stranger.recv(2048))
    while got.message_class is not MessageClass.SUCCESS:  # its next request came first
        got = stun.decode_message(stranger.recv(2048))
    assert got.transaction_id == b"t" * 12
    assert got.mapped_address == there
    assert stun.check_integrity(got, ours.reveal())
    assert node.datagrams == []
    node.wait(node.has(ConsentMissed))
    missed = next(event for event in node.events if isinstance(event, ConsentMissed))
    assert missed.public_key == peer
    assert 0.3 <= missed.seconds < PATIENCE_S
    node.engine.apply(ForgetConsent(peer))
    stranger.sendto(request, node.address)
    node.wait(lambda: bool(node.datagrams))
    assert node.datagrams[0].data == request


def test_wrong_commands_are_refused(pair: tuple[Node, Node]) -> None:
    left, right = pair
    engine = left.engine
    with pytest.raises(UsageError, match="no such peer"):
        engine.apply(StartHandshake(right.public_key))
    with pytest.raises(UsageError, match="no such peer"):
        engine.apply(RemovePeer(right.public_key))
    with pytest.raises(UsageError, match="not an IP prefix"):
        engine.apply(SetPeer(right.public_key, ("100.64.0.2/33",)))
    with pytest.raises(UsageError, match="32 bytes"):
        engine.apply(SetPeer(b"short", ()))
    with pytest.raises(UsageError, match="our own key"):
        engine.apply(SetPeer(left.public_key, ()))
    left.add(right, endpoint=False)
    with pytest.raises(UsageError, match="no endpoint"):
        engine.apply(StartHandshake(right.public_key))
    with pytest.raises(UsageError, match="whole IP packet"):
        engine.apply(SendInner(right.public_key, b"junk"))
    with pytest.raises(UsageError, match="keepalive"):
        engine.apply(SetPeer(right.public_key, (), None, 65536))
    engine.apply(RemovePeer(right.public_key))
    assert engine.peer_stats() == []


def test_close_joins_and_is_harmless_twice(pair: tuple[Node, Node]) -> None:
    engine = pair[0].engine
    engine.close()
    engine.close()
    with pytest.raises(UsageError, match="closed"):
        engine.stats()
    pair[0].socket.getsockname()  # the caller's descriptor is still open


def test_bad_arguments() -> None:
    with pytest.raises(UsageError, match="private key"):
        EmbeddedEngine(udp4_fd=None, private_key=Secret(b""), control_ips=[], mtu=1420)
    with pytest.raises(UsageError, match="MTU"):
        EmbeddedEngine(udp4_fd=None, private_key=Secret(bytes(32)), control_ips=[], mtu=1)
    with pytest.raises(UsageError, match="not an IP address"):
        EmbeddedEngine(udp4_fd=None, private_key=Secret(bytes(32)), control_ips=["x"], mtu=1420)


class Host:
    """One engine with a UDP socket on loopback and the host's end of its TUN."""

    def __init__(self, overlay: str) -> None:
        self.overlay = overlay
        self.key = X25519PrivateKey.generate()
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.host_end, tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.host_end.settimeout(PATIENCE_S)
        with tun:
            self.engine = EmbeddedEngine(
                udp4_fd=self.udp.fileno(),
                tun_fd=tun.fileno(),
                private_key=Secret(self.key.private_bytes_raw()),
                control_ips=[overlay],
                mtu=1420,
            )

    def add(self, other: Host, *networks: str) -> None:
        address = Address(*other.udp.getsockname())
        key = other.key.public_key().public_bytes_raw()
        allowed = (f"{other.overlay}/32", *networks)
        self.engine.apply(SetPeer(key, allowed, Endpoint(address, "127.0.0.1")))

    def close(self) -> None:
        self.engine.close()
        self.udp.close()
        self.host_end.close()


@pytest.fixture
def tun_pair() -> Iterator[tuple[Host, Host]]:
    left, right = Host("100.64.0.1"), Host("100.64.0.2")
    left.add(right)
    right.add(left)
    yield left, right
    left.close()
    right.close()


def test_packets_go_from_tun_to_tun_whole_and_in_order(tun_pair: tuple[Host, Host]) -> None:
    left, right = tun_pair
    packets = [
        inner_packet(left.overlay, right.overlay, 80, os.urandom(size))
        for size in (0, 1, 700, 1392)
    ]
    for packet in packets:
        left.host_end.send(packet)
    assert [right.host_end.recv(2000) for _ in packets] == packets
    right.host_end.send(inner_packet(right.overlay, left.overlay, 80, b"back"))
    assert left.host_end.recv(2000).endswith(b"back")


def test_a_tun_without_virtio_header_works_plainly(tun_pair: tuple[Host, Host]) -> None:
    offloads = tun_pair[0].engine.offloads()
    assert sorted(offloads) == ["tun_big", "tun_tcp", "tun_udp", "udp_receive", "udp_send"]
    assert not offloads["tun_tcp"]
    assert not offloads["tun_udp"]


@pytest.mark.skipif(
    not (can_enter_namespaces() and os.access("/dev/net/tun", os.R_OK | os.W_OK)),
    reason="no user namespaces or no TUN here",
)
def test_a_device_with_virtio_header_gets_offloads() -> None:
    def child() -> None:
        enter_namespaces()
        for vnet_header in (True, False):
            device = open_tun("gn-test", vnet_header=vnet_header)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                engine = EmbeddedEngine(
                    udp4_fd=udp.fileno(),
                    tun_fd=device.fd,
                    private_key=Secret(bytes(32)),
                    control_ips=[],
                    mtu=1420,
                )
                assert engine.offloads()["tun_tcp"] == vnet_header
                engine.close()
            os.close(device.fd)

    in_child(child)


def test_the_control_port_is_closed_to_the_host(tun_pair: tuple[Host, Host]) -> None:
    left, right = tun_pair
    left.host_end.send(inner_packet(left.overlay, right.overlay, CONTROL_PORT, b"forged"))
    after = inner_packet(left.overlay, right.overlay, 80, b"after it")
    left.host_end.send(after)
    assert right.host_end.recv(2000) == after
    assert left.engine.drops()["control_from_tun"] == 1
    assert right.engine.stats().inner_received == 0


def test_what_is_no_ones_is_counted(tun_pair: tuple[Host, Host]) -> None:
    left, right = tun_pair
    left.host_end.send(inner_packet(left.overlay, "10.0.0.1", 80, b""))
    left.host_end.send(b"not IP")
    after = inner_packet(left.overlay, right.overlay, 80, b"after them")
    left.host_end.send(after)
    assert right.host_end.recv(2000) == after
    assert left.engine.drops() == {"no_route": 1, "bad_tun_packet": 1}


def test_a_foreign_datagram_that_came_through_the_overlay_is_dropped() -> None:
    # 127.0.0.2 plays our own overlay address: the tunnel's traffic must not run inside itself.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("0.0.0.0", 0))
        port = udp.getsockname()[1]
        engine = EmbeddedEngine(
            udp4_fd=udp.fileno(),
            private_key=Secret(bytes(32)),
            control_ips=["127.0.0.2"],
            mtu=1420,
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"\xd1" * 63, ("127.0.0.2", port))
            stranger.sendto(b"\xd2" * 63, ("127.0.0.3", port))
            assert select.select([engine.fileno()], [], [], PATIENCE_S)[0]
            (datagram,) = engine.receive(64)
        assert (datagram.data[0], datagram.local_ip) == (0xD2, "127.0.0.3")
        assert engine.drops() == {"from_overlay": 1}
        engine.close()


def test_close_ends_a_thread_that_waits_for_the_tun(tun_pair: tuple[Host, Host]) -> None:
    tun_pair[0].engine.close()
    with pytest.raises(ConnectionRefusedError):
        tun_pair[0].host_end.send(b"nobody reads: the engine's copy is closed")


def test_a_tun_that_breaks_leaves_the_rest_at_work() -> None:
    host = Host("100.64.0.1")
    host.host_end.shutdown(socket.SHUT_RDWR)
    host.host_end.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"\xd1" * 63, host.udp.getsockname())
    assert select.select([host.engine.fileno()], [], [], PATIENCE_S)[0]
    assert len(host.engine.receive(64)) == 1
    host.engine.close()
    host.udp.close()
