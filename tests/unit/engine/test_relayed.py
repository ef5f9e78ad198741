"""The data plane behind relays: loopback sockets stand for peers and never show."""

import socket
from collections.abc import Iterator, Sequence

import pytest

from ginnel.base.dataplane import (
    CloseChannel,
    CloseProxy,
    Endpoint,
    EndpointRoamed,
    EngineCommand,
    EngineEvent,
    HandshakeCompleted,
    OpenChannel,
    PeerStats,
    RemovePeer,
    SetPeer,
)
from ginnel.base.types import Address, Datagram, Transmit
from ginnel.engine import relayed
from ginnel.engine.base import EngineStats
from ginnel.engine.relayed import RelayedEngine

OURS = Address("203.0.113.1", 50_000)
THEIRS = Address("203.0.113.1", 50_001)
KEY = bytes(32)


class ToyPlane:
    """A data plane of one socket that keeps what it is told."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(5)
        self.commands: list[EngineCommand] = []
        self.events: list[EngineEvent] = []
        self.endpoint: Address | None = None

    @property
    def port(self) -> int:
        port: int = self.socket.getsockname()[1]
        return port

    def apply(self, command: EngineCommand) -> None:
        self.commands.append(command)

    def fileno(self) -> int:
        return self.socket.fileno()

    def receive(self, limit: int) -> Sequence[Datagram]:
        return []

    def send(self, transmits: Sequence[Transmit]) -> int:
        return len(transmits)

    def poll_event(self) -> EngineEvent | None:
        return self.events.pop(0) if self.events else None

    def stats(self) -> EngineStats:
        return EngineStats(*[0] * len(EngineStats.__slots__))

    def peer_stats(self) -> list[PeerStats]:
        return [PeerStats(KEY, self.endpoint, 0, 0, None, None)]

    def drops(self) -> dict[str, int]:
        return {}

    def offloads(self) -> dict[str, bool]:
        return {"udp_send": True}

    def close(self) -> None:
        self.socket.close()


class Rig:
    """An engine around a toy one, and what went out to relays."""

    def __init__(self) -> None:
        self.plane = ToyPlane()
        self.sent: list[Transmit] = []
        self.engine = RelayedEngine(self.plane, port=self.plane.port, send=self.sent.append)

    def set_peer(self, endpoint: Endpoint | None) -> Endpoint | None:
        """Set the peer; return what the data plane was told."""
        self.engine.apply(SetPeer(KEY, (), endpoint))
        command = self.plane.commands[-1]
        assert isinstance(command, SetPeer)
        return command.endpoint


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.engine.close()
    made.engine.close()


def test_packets_go_both_ways(rig: Rig) -> None:
    proxy = rig.set_peer(Endpoint(THEIRS, relayed_from=OURS))
    assert proxy is not None
    assert proxy.address.ip == proxy.source_ip == "127.0.0.1"
    rig.plane.socket.sendto(b"wireguard", proxy.address)
    rig.engine.receive(64)
    assert rig.sent == [Transmit(b"wireguard", THEIRS, relayed_from=OURS)]
    rig.engine.deliver(OURS, THEIRS, b"answer")
    assert rig.plane.socket.recvfrom(100) == (b"answer", tuple(proxy.address))


def test_a_closed_proxy_is_gone_and_comes_back_anew(rig: Rig) -> None:
    endpoint = Endpoint(THEIRS, relayed_from=OURS)
    first = rig.set_peer(endpoint)
    assert first is not None
    told = len(rig.plane.commands)
    rig.engine.apply(CloseProxy(KEY, endpoint))
    rig.engine.apply(CloseProxy(KEY, endpoint))
    assert len(rig.plane.commands) == told
    rig.plane.socket.sendto(b"late", first.address)
    rig.engine.receive(64)
    assert rig.sent == []
    assert rig.set_peer(endpoint) is not None


def test_other_commands_pass_unchanged(rig: Rig) -> None:
    endpoint = Endpoint(Address("192.0.2.1", 7), "192.0.2.2")
    assert rig.set_peer(endpoint) == endpoint
    assert rig.set_peer(None) is None
    rig.engine.apply(RemovePeer(KEY))
    assert rig.plane.commands[-1] == RemovePeer(KEY)
    assert rig.engine.send([Transmit(b"x", THEIRS)]) == 1
    assert rig.engine.offloads() == {"udp_send": True}
    assert rig.engine.stats().peers == 0
    assert rig.engine.drops() == {}


def test_loopback_never_shows(rig: Rig) -> None:
    proxy = rig.set_peer(Endpoint(THEIRS, relayed_from=OURS))
    assert proxy is not None
    other = Address("192.0.2.1", 7)
    rig.plane.endpoint = proxy.address
    assert rig.engine.peer_stats()[0].endpoint == THEIRS
    for address, shown in ((proxy.address, THEIRS), (other, other)):
        rig.plane.events = [HandshakeCompleted(KEY, address), EndpointRoamed(KEY, address)]
        assert rig.engine.poll_event() == HandshakeCompleted(KEY, shown)
        assert rig.engine.poll_event() == EndpointRoamed(KEY, shown)
    assert rig.engine.poll_event() is None


def test_a_channel_takes_the_peer_and_gives_it_back(rig: Rig) -> None:
    endpoint = Endpoint(THEIRS, relayed_from=OURS)
    proxy = rig.set_peer(endpoint)
    server = Address("203.0.113.1", 3478)
    opened = OpenChannel(OURS, THEIRS, server, "192.0.2.2", 0x4001)
    in_channel = Endpoint(server, "192.0.2.2", channel=0x4001)
    rig.engine.apply(opened)
    assert rig.plane.commands[-2:] == [opened, SetPeer(KEY, (), in_channel)]
    assert rig.set_peer(endpoint) == in_channel
    # What comes in the channel shows as the peer, also when it was under way at the end.
    rig.engine.apply(CloseChannel(opened))
    assert rig.plane.commands[-2:] == [CloseChannel(opened), SetPeer(KEY, (), proxy)]
    rig.plane.events = [EndpointRoamed(KEY, server, 0x4001), EndpointRoamed(KEY, server, 0x4002)]
    assert rig.engine.poll_event() == EndpointRoamed(KEY, THEIRS)
    assert rig.engine.poll_event() == EndpointRoamed(KEY, server)


def test_a_channel_leaves_peers_alone_that_are_elsewhere(rig: Rig) -> None:
    rig.set_peer(Endpoint(Address("192.0.2.1", 7)))
    opened = OpenChannel(OURS, THEIRS, Address("203.0.113.1", 3478), None, 0x4001)
    rig.engine.apply(opened)
    assert rig.plane.commands[-1] == opened
    newer = OpenChannel(OURS, THEIRS, Address("203.0.113.1", 3478), None, 0x4002)
    rig.engine.apply(newer)
    rig.engine.apply(CloseChannel(opened))  # late: the newer one stays
    told = rig.set_peer(Endpoint(THEIRS, relayed_from=OURS))
    assert told is not None
    assert told.channel == 0x4002


def test_strangers_on_this_machine_are_not_heard(rig: Rig) -> None:
    proxy = rig.set_peer(Endpoint(THEIRS, relayed_from=OURS))
    assert proxy is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"forged", proxy.address)
    rig.engine.receive(64)
    assert rig.sent == []


def test_proxies_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relayed, "MAX_PROXIES", 2)
    first = rig.set_peer(Endpoint(THEIRS, relayed_from=OURS))
    for port in (1, 2):
        rig.engine.deliver(OURS, Address("203.0.113.1", port), b"x")
    again = rig.set_peer(Endpoint(THEIRS, relayed_from=OURS))
    assert first is not None
    assert again is not None
    assert again.address != first.address


def test_after_the_end_nothing_is_delivered(rig: Rig) -> None:
    rig.engine.close()
    rig.engine.deliver(OURS, THEIRS, b"late")
