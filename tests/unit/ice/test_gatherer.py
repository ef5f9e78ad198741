"""Candidates of one port: hosts, how servers see them, relays; silent servers delay nobody."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ginnel.base.links import CloseLink, LinkBytes, LinkLost, LinkOpened, OpenLink, SendLink
from ginnel.base.servers import parse_server
from ginnel.base.types import Address, Transmit
from ginnel.ice import stun
from ginnel.ice.candidate import Candidate, CandidateKind
from ginnel.ice.framing import StreamSplitter, frame
from ginnel.ice.gatherer import (
    Gathered,
    Gatherer,
    RelayedDatagram,
    RelayGone,
    RelayRefused,
)
from ginnel.ice.settings import IceSettings, NetworkType
from support.stun_responder import StunResponder
from support.tiny_turn import TinyTurn

BASE, BASE6 = Address("192.168.1.2", 4000), Address("2001:db8::2", 4000)
STUN, DEAD = Address("192.0.2.3", 3478), Address("192.0.2.4", 3478)
SEEN = Address("203.0.113.5", 6000)
RELAY, RELAYED = Address("192.0.2.9", 3478), Address("192.0.2.9", 50000)
PEER = Address("198.51.100.7", 7)


class World:
    """A gatherer behind a NAT that shows `SEEN`, one STUN server, one TURN server."""

    def __init__(self, *urls: str, **settings: Any) -> None:  # noqa: ANN401  # any setting
        rng = random.Random(1)
        self.now = 1000.0
        self.settings = IceSettings(urls=urls, **settings)
        self.core = Gatherer(self.settings, random_bytes=rng.randbytes, rng=rng)
        self.stun = StunResponder(SEEN)
        self.turn = TinyTurn(RELAYED)
        self.events: list[object] = []
        self.sent: list[Transmit] = []
        self.commands: list[object] = []
        self.link = 0
        self.splitter = StreamSplitter()

    def start(self, *bases: Address) -> None:
        self.core.start(bases or (BASE, BASE6), now=self.now)
        for server in self.settings.servers:
            self.core.add_server(server, [Address(server.host, server.port)], now=self.now)
        self.drain()

    def drain(self) -> None:
        moved = True
        while moved:
            moved = self.carry() or self.obey() or self.answer()
        while (event := self.core.poll_event()) is not None:
            self.events.append(event)

    def carry(self) -> bool:
        out = self.core.poll_transmit()
        if out is not None:
            self.sent.append(out)
        if out is not None and out.destination == STUN:
            self.stun.handle_datagram(out.data, SEEN, now=self.now)
        elif out is not None and out.destination == RELAY:
            self.turn.handle(out.data, SEEN)
        return out is not None

    def obey(self) -> bool:
        command = self.core.poll_link()
        if command is not None:
            self.commands.append(command)
        if isinstance(command, SendLink):
            for item in self.splitter.feed(command.data):
                self.turn.handle(item, SEEN)
        elif isinstance(command, OpenLink):
            self.link, self.splitter = command.link, StreamSplitter()
        return command is not None

    def answer(self) -> bool:
        out = self.stun.poll_transmit()
        if out is not None:
            self.take(out.data, STUN)
        elif self.turn.answers and self.link:
            answer = frame(self.turn.answers.popleft())
            self.core.on_link(LinkBytes(self.link, answer), now=self.now)
        elif self.turn.answers:
            self.take(self.turn.answers.popleft(), RELAY)
        else:
            return False
        return True

    def take(self, data: bytes, source: Address) -> None:
        assert self.core.handle_message(stun.decode_message(data), source, now=self.now)

    def run_for(self, seconds: float) -> None:
        end = self.now + seconds
        while (deadline := self.core.poll_deadline()) is not None and deadline.at <= end:
            self.now = max(self.now, deadline.at)
            self.core.handle_timeout(now=self.now)
            self.drain()
        self.now = end

    def found(self) -> list[tuple[str, Address]]:
        return [(c.kind.name.lower(), c.address) for c in self.core.candidates]


def test_hosts_are_found_at_once_and_families_take_turns() -> None:
    world = World()
    world.start()
    assert world.found() == [("host", BASE), ("host", BASE6)]
    first, second = world.core.candidates
    assert second.priority > first.priority  # IPv6 first (RFC 8421)
    assert world.core.is_settled
    assert world.core.is_enough


def test_a_dead_stun_server_and_a_dead_relay_delay_nobody() -> None:
    world = World(
        f"stun:{DEAD.ip}",
        f"turn:{DEAD.ip}:99 me x",
        f"stun:{STUN.ip}",
        f"turn:{RELAY.ip}:{RELAY.port} user pass",
    )
    world.start(BASE)
    world.run_for(0.2)  # four transactions, 50 ms apart
    kinds = [kind for kind, _ in world.found()]
    assert kinds == ["host", "srflx", "relay"]
    assert world.core.is_enough
    assert not world.core.is_settled
    world.run_for(45.0)
    assert world.core.is_settled
    assert "does not answer" in world.core.failures[str(DEAD)]
    assert "does not answer" in world.core.failures[str(Address(DEAD.ip, 99))]


def test_a_relay_shows_the_reflexive_address_too_and_it_is_given_once() -> None:
    world = World(f"turn:{RELAY.ip}:{RELAY.port} user pass", f"stun:{STUN.ip}")
    world.start(BASE)
    world.run_for(0.5)
    srflx = [c for c in world.core.candidates if c.kind is CandidateKind.SRFLX]
    assert [(c.address, c.base) for c in srflx] == [(SEEN, BASE)]
    assert sum(isinstance(event, Gathered) for event in world.events) == 3


def test_no_nat_no_reflexive_candidate() -> None:
    world = World(f"stun:{STUN.ip}")
    world.stun.told = BASE
    world.start(BASE)
    assert world.found() == [("host", BASE)]
    assert world.core.is_enough
    assert world.core.is_settled


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({"force_relay": True}, {"relay"}),
        ({"candidate_types": (CandidateKind.HOST,)}, {"host"}),
        ({"candidate_types": (CandidateKind.SRFLX,)}, {"srflx"}),
        ({"nat_1to1": ("203.0.113.77", "2001:db8::77")}, {"host", "srflx", "relay"}),
    ],
)
def test_only_wanted_kinds_are_offered(settings: dict[str, object], kinds: set[str]) -> None:
    world = World(f"turn:{RELAY.ip}:{RELAY.port} user pass", f"stun:{STUN.ip}", **settings)
    world.start()
    world.run_for(1.0)
    assert {kind for kind, _ in world.found()} == kinds
    if "nat_1to1" in settings:
        assert ("srflx", Address("203.0.113.77", BASE.port)) in world.found()
        assert ("srflx", Address("2001:db8::77", BASE6.port)) in world.found()


def test_udp4_alone_offers_no_ipv6() -> None:
    world = World(network_types=(NetworkType.UDP4,))
    world.start()
    assert world.found() == [("host", BASE)]


def test_a_name_that_does_not_resolve_is_named() -> None:
    world = World("stun:stun.example.org")
    server = parse_server("stun:stun.example.org")
    world.core.start([BASE], now=world.now)
    assert not world.core.is_settled
    world.core.add_server(server, [], now=world.now)
    assert world.core.is_settled
    assert "does not resolve" in world.core.failures[str(server)]


def relay_of(world: World) -> Candidate:
    return next(c for c in world.core.candidates if c.is_relayed)


def test_data_goes_through_the_relay_both_ways() -> None:
    world = World(f"turn:{RELAY.ip}:{RELAY.port} user pass")
    world.start(BASE)
    ours = relay_of(world).address
    assert (ours, world.core.is_relay(ours)) == (RELAYED, True)
    for text in (b"early", b"later"):
        world.core.send(Transmit(text, PEER, relayed_from=ours), now=world.now)
        world.drain()
    assert [data for _, data in world.turn.sent] == [b"early", b"later"]
    assert world.core.handle_channel_data(b"\x40\x00\x00\x02hi", RELAY, now=world.now)
    assert not world.core.handle_channel_data(b"\x40\x00\x00\x02hi", PEER, now=world.now)
    world.turn.tell(PEER, b"hello")
    world.drain()
    arrived = [event for event in world.events if isinstance(event, RelayedDatagram)]
    assert [(e.relayed, e.peer, e.data) for e in arrived] == [
        (RELAYED, PEER, b"hi"),
        (RELAYED, PEER, b"hello"),
    ]
    assert not world.core.send(Transmit(b"x", PEER, relayed_from=DEAD), now=world.now)
    world.core.close(now=world.now)
    assert not world.core.is_relay(ours)


def test_a_relay_over_tcp_needs_a_connection_and_its_end_is_told() -> None:
    world = World(f"turn:{RELAY.ip}:{RELAY.port}?transport=tcp user pass")
    world.start(BASE)
    [opened] = world.commands
    assert isinstance(opened, OpenLink)
    assert (opened.server, world.found()) == (RELAY, [("host", BASE)])
    world.core.on_link(LinkOpened(opened.link), now=world.now)
    world.drain()
    relayed = relay_of(world).address
    world.core.on_link(LinkLost(opened.link, "cut"), now=world.now)
    world.drain()
    assert RelayGone(relayed, "cut") in world.events
    assert world.found() == [("host", BASE)]
    world.run_for(0.1)  # it worked until now: at once again
    again = [c for c in world.commands if isinstance(c, OpenLink)]
    assert len(again) == 2
    world.core.close(now=world.now)
    world.drain()
    assert CloseLink(again[1].link) in world.commands


def test_a_peer_that_the_relay_refuses_is_told() -> None:
    world = World(f"turn:{RELAY.ip}:{RELAY.port} user pass")
    world.start(BASE)
    ours = relay_of(world).address
    world.core.send(Transmit(b"x", Address("127.0.0.1", 9), relayed_from=ours), now=world.now)
    world.drain()
    assert any(isinstance(event, RelayRefused) for event in world.events)


@pytest.mark.parametrize("first", [[], [BASE6]])
def test_a_relay_of_an_ip_version_that_we_have_not_is_asked_once_we_have_it(
    first: list[Address],
) -> None:
    world = World(f"turn:{RELAY.ip}:{RELAY.port} user pass")
    (server,) = world.settings.servers
    world.core.start(first, now=world.now)
    world.core.add_server(server, [RELAY], now=world.now)
    world.drain()
    assert world.core.failures == {str(server): "no address of this IP version"}
    assert world.core.is_settled
    for _ in range(2):
        world.core.start([BASE], now=world.now)
        world.drain()
    assert [address for kind, address in world.found() if kind == "relay"] == [RELAYED]
    assert world.core.failures == {}


def test_an_allocation_whose_address_of_ours_is_gone_is_made_anew_from_another() -> None:
    world = World(f"turn:{RELAY.ip}:{RELAY.port} user pass")
    world.start(BASE)
    world.core.start([Address("192.168.7.9", 4000)], now=world.now)
    world.sent.clear()
    world.run_for(0.2)
    assert {(out.destination, out.source_ip) for out in world.sent} == {(RELAY, "192.168.7.9")}
    gone = world.events.index(RelayGone(RELAYED, "our address is gone"))
    again = [e for e in world.events[gone:] if isinstance(e, Gathered) and e.candidate.is_relayed]
    assert [event.candidate.address for event in again] == [RELAYED]
    world.core.start([BASE6], now=world.now)
    world.drain()
    assert list(world.core.failures.values()) == ["no address of this IP version"]
    assert not any(candidate.is_relayed for candidate in world.core.candidates)
