"""A connection that asks its own servers: what it signals, and a relayed path from end to end.

[home] - NAT (shows SEEN) - STUN and TURN servers - [peer, public]
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from ginnel.base.dataplane import (
    CloseProxy,
    CommandRefused,
    HandshakeCompleted,
    RemovePeer,
    SetPeer,
)
from ginnel.base.errors import UsageError
from ginnel.base.servers import parse_server
from ginnel.base.types import Address, Transmit
from ginnel.ice.candidate import CandidateKind, make_host
from ginnel.peer.conn import ConnCore
from ginnel.peer.errors import ConnectionDisconnected
from ginnel.peer.events import (
    ConnConfig,
    Disconnected,
    Ended,
    Engine,
    PeerStateChanged,
    SendAnswer,
    SendCandidates,
    SendOffer,
)
from ginnel.peer.gathering import GatheringConn, RelayedData, settings_of
from ginnel.peer.status import ConnStatus
from support.stun_responder import StunResponder
from support.tiny_turn import TinyTurn

BASE, SEEN = Address("192.168.1.2", 4000), Address("203.0.113.5", 6000)
STUN, STUN2 = Address("192.0.2.3", 3478), Address("192.0.2.4", 3478)
RELAY, RELAYED = Address("192.0.2.9", 3478), Address("192.0.2.9", 50000)
PEER = Address("198.51.100.7", 7000)
KEYS = (b"\x02" * 32, b"\x01" * 32)
TURN = f"turn:{RELAY.ip} user pass"


class Home:
    """The connection with its servers, and the peer; one clock, no delays."""

    def __init__(self, *urls: str, **settings: Any) -> None:  # noqa: ANN401  # of ConnConfig
        rng = random.Random(1)
        self.now = 100.0
        config = ConnConfig(
            KEYS[1], KEYS[0], ("100.64.7.1/32",), stun_turn=urls, local_wg_port=4000, **settings
        )
        self.conn = ConnCore(config, random_bytes=rng.randbytes, rng=rng)
        self.core = GatheringConn(self.conn, random_bytes=rng.randbytes, rng=rng)
        self.peer = ConnCore(ConnConfig(KEYS[0], KEYS[1]), random_bytes=rng.randbytes, rng=rng)
        self.servers = {STUN: StunResponder(SEEN), STUN2: StunResponder(Address(SEEN.ip, 7777))}
        self.turn = TinyTurn(RELAYED)
        self.events: list[Any] = []
        self.core.set_addresses([BASE.ip], [], now=self.now)
        self.add(*urls)
        self.peer.set_local_candidates([make_host(PEER)], now=self.now)

    def add(self, *urls: str) -> None:
        for server in map(parse_server, urls):
            self.core.add_server(server, [Address(server.host, server.port)], now=self.now)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.core.handle_timeout(now=self.now)
            self.peer.handle_timeout(now=self.now)
            while self.move() or self.hear():
                pass
            self.now += 0.01

    def move(self) -> bool:
        """Carry what either end sends."""
        out, back = self.core.poll_transmit(), self.peer.poll_transmit()
        if out is not None:
            self.carry(out)
        if back is not None and back.destination == RELAYED:
            self.turn.tell(PEER, back.data)
        return out is not None or back is not None

    def carry(self, out: Transmit) -> None:
        if out.relayed_from is not None:
            assert self.core.send_relayed(out, now=self.now)
        elif out.destination in self.servers:
            self.servers[out.destination].handle_datagram(out.data, SEEN, now=self.now)
        elif out.destination == RELAY:
            self.turn.handle(out.data, SEEN)

    def hear(self) -> bool:
        """Deliver answers, relayed packets and signals."""
        before = len(self.events)
        for address, server in self.servers.items():
            while (answer := server.poll_transmit()) is not None:
                self.core.handle_datagram(answer.data, address, now=self.now)
        told, self.turn.sent = self.turn.sent, []
        for _, data in told:
            self.peer.handle_datagram(data, RELAYED, now=self.now)
        answers = list(self.turn.answers)
        self.turn.answers.clear()
        for answer in answers:
            self.core.handle_datagram(answer, RELAY, now=self.now)
        while (event := self.core.poll_event()) is not None:
            self.events.append(event)
            self.signal(event, self.peer)
        while (event := self.peer.poll_event()) is not None:
            self.signal(event, self.conn)
        return bool(told or answers or len(self.events) > before)

    def signal(self, event: object, to: ConnCore) -> None:
        if isinstance(event, SendOffer):
            to.on_remote_offer(event.offer, now=self.now)
        elif isinstance(event, SendAnswer):
            to.on_remote_answer(event.answer, now=self.now)
        elif isinstance(event, SendCandidates):
            to.on_remote_candidates(event.session, event.candidates, now=self.now)

    def connect(self) -> None:
        """Open both ends; WireGuard shakes hands as soon as there is a path."""
        self.peer.open(self.now)
        self.conn.open(self.now)
        self.run(4.0)
        for conn, key, address in ((self.conn, KEYS[1], PEER), (self.peer, KEYS[0], RELAYED)):
            conn.on_engine_event(HandshakeCompleted(key, address), now=self.now)
        self.run(0.1)
        assert self.conn.state.status is ConnStatus.CONNECTED

    def signalled(self) -> list[tuple[str, Address]]:
        found = []
        for event in self.events:
            if isinstance(event, SendOffer):
                found += event.offer.candidates
            elif isinstance(event, SendCandidates):
                found += event.candidates
        return [(one.kind.name.lower(), one.address) for one in found]


def test_what_servers_show_is_signalled_as_soon_as_it_is_known() -> None:
    home = Home(f"stun:{STUN.ip}", TURN)
    home.conn.open(home.now)
    home.run(0.5)
    first = next(event for event in home.events if isinstance(event, SendOffer))
    assert [one.address for one in first.offer.candidates] == [BASE]  # nothing waits for a server
    assert ("srflx", SEEN) in home.signalled()
    assert ("relay", RELAYED) in home.signalled()
    assert home.core.failures == {}


def test_a_server_that_is_added_while_it_runs_is_asked_at_once() -> None:
    home = Home(f"stun:{STUN.ip}")
    home.conn.open(home.now)
    home.run(0.5)
    home.add(f"stun:{STUN2.ip}")
    home.run(0.5)
    assert ("srflx", Address(SEEN.ip, 7777)) in home.signalled()


def test_addresses_that_are_gone_take_along_what_servers_showed_of_them() -> None:
    home = Home(f"stun:{STUN.ip}")
    home.conn.open(home.now)
    home.run(0.5)
    home.events.clear()
    home.core.set_addresses(["192.168.7.9"], [], now=home.now)
    offers = [e.offer for e in iter(home.core.poll_event, None) if isinstance(e, SendOffer)]
    assert [one.address.ip for one in offers[0].candidates] == ["192.168.7.9"]


def test_a_url_of_another_form_is_refused_without_its_password() -> None:
    urls = ("turn:example.org user",)
    with pytest.raises(UsageError, match="write turn:") as caught:
        settings_of(ConnConfig(KEYS[1], KEYS[0], stun_turn=urls, local_wg_port=4000))
    assert "user" not in str(caught.value).lower().replace("user password", "")


def test_a_relayed_path_carries_wireguard_both_ways_by_proxy() -> None:
    home = Home(TURN)
    home.connect()
    state = home.conn.state
    assert (state.local_kind, state.remote_kind) == ("relay", "prflx") or state.relayed
    assert state.relayed
    assert not state.direct
    assert state.remote_address == PEER  # its own port, where seed 000 prints ours
    endpoint = [
        e.command.endpoint
        for e in home.events
        if isinstance(e, Engine) and isinstance(e.command, SetPeer) and e.command.endpoint
    ][-1]
    assert endpoint.relayed_from == RELAYED
    packet = b"\x04\0\0\0" + bytes(28)
    home.turn.tell(PEER, packet)
    home.run(0.05)
    assert RelayedData(RELAYED, PEER, packet) in home.events
    assert home.core.send_relayed(Transmit(packet, PEER, relayed_from=RELAYED), now=home.now)
    out = home.core.poll_transmit()
    assert out is not None
    assert out.destination == RELAY
    assert packet in out.data
    elsewhere = Transmit(packet, PEER, relayed_from=Address("192.0.2.77", 1))
    assert not home.core.send_relayed(elsewhere, now=home.now)


def commands_and_ends(home: Home) -> list[str]:
    """Return what is told, in its order."""
    told = []
    while (event := home.core.poll_event()) is not None:
        named = event.command if isinstance(event, Engine) else event
        told.append(type(named).__name__)
    return told


def test_the_clean_up_of_a_relayed_path_is_in_the_order_of_the_seed() -> None:
    """Agent, proxy, peer, timers, on_disconnected, status."""
    home = Home(TURN)
    home.connect()
    sent = len(list(iter(home.core.poll_transmit, None)))
    assert sent == 0
    home.conn.close(home.now)
    order = [name for name in commands_and_ends(home) if name != "OpenLink"]
    steps = (CloseProxy, RemovePeer, Disconnected, PeerStateChanged, Ended)
    assert order == [step.__name__ for step in steps]
    home.core.handle_timeout(now=home.now + 5.0)
    assert home.conn.ufrags == ()  # the agent is gone, and asks nothing any more


def test_a_peer_that_the_engine_refuses_closes_the_proxy() -> None:
    home = Home(TURN, timeout=5.0)
    home.connect()
    home.conn.on_engine_event(CommandRefused(KEYS[1], "no memory"), now=home.now)
    told = [e for e in iter(home.core.poll_event, None)]
    commands = [type(e.command) for e in told if isinstance(e, Engine)]
    assert commands == [CloseProxy, RemovePeer]
    (ended,) = [e for e in told if isinstance(e, Ended)]
    assert isinstance(ended.error, ConnectionDisconnected)
    assert ended.error.text == "data plane: no memory"


def test_the_end_gives_the_relayed_address_back() -> None:
    home = Home(TURN)
    home.connect()
    home.conn.close(home.now)
    home.core.close(now=home.now)
    out = [transmit for transmit in iter(home.core.poll_transmit, None)]
    assert [transmit.destination for transmit in out] == [RELAY]  # Refresh with lifetime 0
    assert home.core.poll_deadline() is None


@pytest.mark.parametrize("is_off", [True, False])
def test_all_kinds_but_only_wanted_ip_versions(is_off: bool) -> None:
    """However an address of IPv6 is known: by discovery, by the caller, or outside a NAT 1:1."""
    outer = ("203.0.113.9", "2001:db8::9")
    home = Home(TURN, disable_ipv6_discovery=is_off, nat_external_ips=outer)
    told = [make_host(Address(ip, 9)) for ip in ("198.51.100.1", "2001:db8::7")]
    home.core.set_addresses([BASE.ip, "2001:db8::2"], told, now=home.now)
    home.conn.open(home.now)
    home.run(0.5)
    kinds = {kind for kind, _ in home.signalled()}
    assert kinds == {kind.name.lower() for kind in CandidateKind} - {"prflx"}
    ips = {address.ip for _, address in home.signalled() if address.is_ipv6}
    assert ips == (set() if is_off else {"2001:db8::2", "2001:db8::7", "2001:db8::9"})
