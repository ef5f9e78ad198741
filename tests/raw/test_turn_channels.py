"""The data plane between TURN clients and servers, from bytes written by hand (RFC 8656 12.4)."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from ginnel.base.dataplane import (
    EndForwards,
    Endpoint,
    ForwardChannel,
    HandshakeCompleted,
    OpenChannel,
    SetPeer,
    StartHandshake,
)
from ginnel.base.types import Address, Datagram
from support.engine_node import PATIENCE_S, Node, udp_socket


@pytest.fixture
def pair() -> Iterator[tuple[Node, Node]]:
    left, right = Node("100.64.0.1"), Node("100.64.0.2")
    yield left, right
    left.close()
    right.close()


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    with udp_socket() as made:
        made.settimeout(PATIENCE_S)
        yield made


def test_packets_in_a_channel_are_the_peers_and_the_rest_comes_up(
    pair: tuple[Node, Node], stranger: socket.socket
) -> None:
    """A stranger's socket is the TURN server between both."""
    left, right = pair
    server = Address(*stranger.getsockname())
    for node in pair:
        node.engine.apply(OpenChannel(server, server, server, None, 0x4001))
    ips = ("100.64.0.0/16",)
    left.engine.apply(SetPeer(right.public_key, ips, Endpoint(server, channel=0x4001)))
    right.add(left)
    left.engine.apply(StartHandshake(right.public_key))
    initiation, source = stranger.recvfrom(2048)
    assert (initiation[:4], source[1]) == (b"\x40\x01\x00\x94", left.address.port)
    stranger.sendto(initiation, right.address)
    response, source = stranger.recvfrom(2048)
    assert (response[:4], source[1]) == (b"\x40\x01\x00\x5c", right.address.port)
    stranger.sendto(b"\x40\x01\x00\x05hello\0\0\0", right.address)
    right.wait(lambda: bool(right.datagrams))
    assert right.datagrams[0].data == b"\x40\x01\x00\x05hello\0\0\0"
    stranger.sendto(response, left.address)
    left.wait(lambda: HandshakeCompleted(right.public_key, server, 0x4001) in left.events)
    assert left.engine.peer_stats()[0].channel == 0x4001


def test_a_relay_passes_on_what_it_may(pair: tuple[Node, Node], stranger: socket.socket) -> None:
    node = pair[0]
    client = Address(*stranger.getsockname())
    data = b"\x40\x01\x00\x05hello\0\0\0"
    with udp_socket() as other:
        other.settimeout(PATIENCE_S)
        target = Endpoint(Address(*other.getsockname()), channel=0x4002)
        node.engine.apply(ForwardChannel(client, 0x4001, target, 60.0, 1, 8))
        stranger.sendto(data, node.address)
        assert other.recvfrom(100) == (b"\x40\x02\x00\x05hello", tuple(node.address))
        stranger.sendto(data, node.address)
        node.wait_drop("relay_quota", stranger)
        node.engine.apply(EndForwards(client))
        stranger.sendto(data, node.address)
        node.wait(lambda: len(node.datagrams) == 2)
    assert node.datagrams[1] == Datagram(data, client, "127.0.0.1")
    stats = node.engine.stats()
    assert (stats.relayed_packets, stats.relayed_bytes) == (1, 5)
