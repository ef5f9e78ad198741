"""Hostile packets against one live core: nothing raised, everything counted, nothing grows.

Half of the packets and more are mutated inside valid encryption, by peers with sessions.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ginnel.base.types import Address, NodeId
from ginnel.discv5.enr import sign_enr
from ginnel.discv5.events import Drop
from ginnel.discv5.messages import (
    FindNode,
    Message,
    Nodes,
    Ping,
    Pong,
    TalkRequest,
    TalkResponse,
    encode_message,
)
from ginnel.discv5.packet import Flag, PacketCodec
from support.discv5_net import Host, Net
from support.discv5_peer import RawPeer
from support.discv5_scenes import SCENES, TIGHT, Scene

PEERS = 12  # at a time
ADDRESSES = 90
RECORDS = [
    sign_enr(bytes([i]) * 32, 1, {"ip": bytes((20, i, i, 7)), "udp": 9}).raw for i in range(1, 40)
]


class Assault:
    """A host, and peers that throw at it what a seed says."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.net = Net(seed)
        self.host: Host = self.net.add(
            0, config=TIGHT | {"packet_burst": 500.0, "packet_rate": 100.0, "talk_limit": 3}
        )
        self.peers = [RawPeer(self.host, self.place(i), i) for i in range(PEERS)]
        self.number = PEERS
        self.inside = 0  # thrown inside valid encryption, and mutated
        self.thrown = 0

    def place(self, index: int) -> Address:
        """Return an address: private ones are never banned or limited."""
        index %= ADDRESSES
        if index % 3:
            return Address(f"10.0.{index % 250}.9", 1000 + index)
        return Address(f"30.{index // 250 % 250}.{index % 250}.9", 1000)

    def throw(self, count: int) -> None:
        for _ in range(count):
            self.net.now += 0.02
            self.thrown += 1
            peer = self.rng.choice(self.peers)
            banned = self.host.core.drops[Drop.BANNED]
            if self.rng.random() < 0.65:
                self.throw_inside(peer)
            else:
                self.host.core.handle_datagram(self.packet(peer), peer.address, now=self.net.now)
            if self.rng.random() < 0.02:
                self.ask(peer)
            self.host.core.handle_timeout(now=self.net.now)
            self.drain()
            if self.rng.random() < 0.005 or self.host.core.drops[Drop.BANNED] > banned:
                self.replace(peer)

    def throw_inside(self, peer: RawPeer) -> None:
        """Send plaintext under valid keys, mostly mutated; a banned peer can't get any."""
        whole = encode_message(self.message())
        plain = bytearray(whole)
        for _ in range(self.rng.choice((0, 1, 2, 3, 4, 5, 6, 7))):
            at = self.rng.randrange(len(plain) + 1)
            plain[at : at + self.rng.randrange(3)] = self.rng.randbytes(self.rng.randrange(3))
        try:
            if peer.session is None:
                peer.connect(self.net.now)
        except (AssertionError, ValueError):  # banned, or limited: it comes back as somebody else
            self.replace(peer)
            return
        self.inside += plain != whole
        peer.send(bytes(plain), now=self.net.now)

    def packet(self, peer: RawPeer) -> bytes:
        """Return random bytes, or a packet of the peer with some of them changed."""
        if self.rng.random() < 0.3 or peer.session is None:
            return self.rng.randbytes(self.rng.randrange(1400))
        flag = Flag(self.rng.choice((0, 2)))
        authdata = self.rng.choice((peer.node_id, self.rng.randbytes(131), b""))
        data = bytearray(peer.packet(flag, authdata, encode_message(self.message())))
        for _ in range(self.rng.randrange(1, 4)):
            data[self.rng.randrange(len(data))] ^= self.rng.randrange(256)
        return bytes(data)

    def message(self) -> Message:
        rng = self.rng
        request_id = rng.randbytes(rng.randrange(9))
        records = tuple(rng.sample(RECORDS, rng.randrange(4)))
        choices: Sequence[Message] = (
            Ping(request_id, rng.randrange(1 << 64)),
            Pong(request_id, 1, Address("192.0.2.1", 9)),
            FindNode(request_id, tuple(rng.randrange(300) for _ in range(rng.randrange(5)))),
            Nodes(request_id, rng.randrange(20), records),
            TalkRequest(request_id, b"p", rng.randbytes(rng.randrange(300))),
            TalkResponse(request_id, b"x"),
        )
        return rng.choice(choices)

    def ask(self, peer: RawPeer) -> None:
        """Let the host ask, so that answers and challenges can be of something."""
        core = self.host.core
        core.add_node(peer.record, self.net.now)
        contact = core.contact_for(peer.record)
        assert contact is not None
        core.find_node(contact, (255, 256), now=self.net.now)

    def replace(self, peer: RawPeer) -> None:
        if peer not in self.peers:
            return
        self.number += 1
        self.peers[self.peers.index(peer)] = RawPeer(
            self.host, self.place(self.number), self.number
        )

    def drain(self) -> None:
        core = self.host.core
        while (transmit := core.poll_transmit()) is not None:
            assert 63 <= len(transmit.data) <= 1280
        while core.poll_event() is not None:
            pass

    def sizes(self) -> dict[str, float]:
        gauges = ("discovery_sessions", "discovery_table_nodes", "discovery_requests_open")
        return {s.name: s.value for s in self.host.core.samples() if s.name in gauges}


def run(assault: Assault, count: int) -> None:
    """Warm up with three quarters of the packets, then see that nothing grows."""
    assault.throw(count * 3 // 4)
    gc.collect()
    before = len(gc.get_objects())
    assault.throw(count // 4)
    gc.collect()
    assert len(gc.get_objects()) - before < 2000
    sizes = assault.sizes()
    assert sizes["discovery_sessions"] <= 256
    assert sizes["discovery_table_nodes"] < 600
    assert sizes["discovery_requests_open"] < 4096
    assert assault.inside >= assault.thrown / 2


def meet_every_reason(assault: Assault) -> None:
    met = {drop for drop, count in assault.host.core.drops.items() if count}
    for index, (_, play) in enumerate(SCENES):
        assault.net.now += 30
        play(Scene(assault.net, assault.host, Address(f"40.1.{index}.9", 77), 1000 + index))
        assault.drain()
        met |= {drop for drop, count in assault.host.core.drops.items() if count}
    assert met == set(Drop)


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_hostile_packets(seed: int) -> None:
    assault = Assault(seed)
    run(assault, 5000)
    meet_every_reason(assault)


SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 5))]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hundred_thousand_hostile_packets(seed: int) -> None:
    assault = Assault(seed)
    run(assault, 100_000)
    counts = {drop.name: count for drop, count in assault.host.core.drops.items() if count}
    inside = f"{assault.inside} mutated inside encryption"
    print(f"\nseed {seed}: {assault.thrown} packets, {inside}, {counts}")
    meet_every_reason(assault)


def test_a_flood_of_strangers_takes_no_more_than_its_bounds() -> None:
    """From private addresses, which no rate limits: each an own node at an own address."""
    net = Net(5)
    host = net.add(0)
    count = 0

    def knock(until: int) -> None:
        nonlocal count
        while count < until:
            count += 1
            address = Address(f"10.{count >> 8 & 255}.{count & 255}.9", 1000)
            codec = PacketCodec(NodeId(net.random_bytes(32)), b"discv5", net.random_bytes)
            data = codec.encode_random(host.core.node_id, net.random_bytes(12))
            host.core.handle_datagram(data, address, now=net.now)
            sent = list(iter(host.core.poll_transmit, None))
            assert [(len(one.data), one.destination) for one in sent] == [(63, address)]

    knock(2000)
    gc.collect()
    before = len(gc.get_objects())
    knock(5000)
    gc.collect()
    assert len(gc.get_objects()) - before < 500
    for number in range(300):
        RawPeer(host, Address(f"10.9.{number >> 8}.{number & 255}", 9), 1000 + number).connect(
            net.now
        )
        while host.core.poll_event() is not None:
            pass
    sizes = {sample.name: sample.value for sample in host.core.samples()}
    assert sizes["discovery_sessions"] == 256
    assert sizes["discovery_table_nodes"] <= 300
