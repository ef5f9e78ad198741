"""Asyncio connections over loopback, signalling by a direct call: seed 000's open and its ends."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest

from ginnel.base.dataplane import (
    EngineCommand,
    HandshakeCompleted,
    RemovePeer,
    SetPeer,
    StartHandshake,
)
from ginnel.base.errors import SystemFailure, UsageError
from ginnel.base.types import Address
from ginnel.ice.candidate import Candidate, make_host
from ginnel.ice.events import AgentConfig
from ginnel.ice.reasons import NatKind
from ginnel.net.interfaces import InterfaceAddress
from ginnel.net.udp import UdpSocket
from ginnel.peer import Conn, aio
from ginnel.peer.aio import Handlers, discover_interfaces
from ginnel.peer.errors import (
    ConnectionAlreadyClosed,
    ConnectionClosed,
    ConnectionDisconnected,
    ConnectionTimeout,
)
from ginnel.peer.events import ConnConfig
from ginnel.peer.signal import OfferAnswer
from ginnel.peer.status import ConnStatus, PeerState, StatusRecorder, WgStats
from support.stun_responder import serving

KEYS = (b"\x02" * 32, b"\x01" * 32)
ROSENPASS = (b"rosenpass a", b"rosenpass b")


class Home:
    """One end: its socket and connection; a handshake completes as soon as both know the path."""

    def __init__(self, index: int, **settings: Any) -> None:  # noqa: ANN401  # of ConnConfig
        self.source = UdpSocket.open(Address("127.0.0.1", 0))
        self.commands: list[EngineCommand] = []
        self.log: list[str] = []
        self.refused: type[EngineCommand] | None = None
        self.connected = asyncio.Event()
        self.told: list[tuple[object, ...]] = []
        self.disconnected: list[tuple[str, ...]] = []
        self.told_candidates, self.mode_known = asyncio.Event(), asyncio.Event()
        self.other: Home | None = None
        self.recorder = StatusRecorder()
        config = ConnConfig(
            KEYS[1 - index],
            KEYS[index],
            ("100.64.7.1/32",),
            ice=AgentConfig(allow_loopback=True),
            rosenpass_pub_key=ROSENPASS[index],
            rosenpass_addr=f"127.0.0.1:{index + 1}",
            **settings,
        )
        handlers = Handlers(
            signal_offer=lambda offer: self.tell("on_remote_offer", offer),
            signal_answer=lambda answer: self.tell("on_remote_answer", answer),
            signal_candidates=self.tell_candidates,
            apply=self.apply,
            send_signal_message=lambda message: self.tell("on_remote_mode", message),
            on_connected=self.on_connected,
            on_state=self.on_state,
        )
        self.conn = Conn(config, self.source, handlers, recorder=self.recorder)
        self.conn.set_handlers(on_disconnected=lambda key, ips: self.disconnected.append(ips))

    def on_connected(self, *told: object) -> None:
        self.told.append(told)
        self.connected.set()

    def on_state(self, state: PeerState) -> None:
        if state.remote_direct is not None:
            self.mode_known.set()

    def tell(self, name: str, value: object) -> None:
        if self.other is not None:
            asyncio.get_running_loop().call_soon(getattr(self.other.conn, name), value)

    def tell_candidates(
        self, session: bytes, candidates: tuple[Candidate, ...], nat: NatKind
    ) -> None:
        self.told_candidates.set()
        if self.other is not None:
            self.other.conn.on_remote_candidates(session, candidates, nat)

    def apply(self, command: EngineCommand) -> None:
        if self.refused is not None and isinstance(command, self.refused):
            raise SystemFailure("no memory")
        self.commands.append(command)
        if isinstance(command, StartHandshake) and self.other is not None:
            for here, there in ((self, self.other), (self.other, self)):
                asyncio.get_running_loop().call_soon(here.handshake_done, there)

    def handshake_done(self, other: "Home") -> None:
        self.conn.on_engine_event(HandshakeCompleted(self.conn.key, other.source.address))


def run(scene: Callable[[Home, Home], Coroutine[Any, Any, None]], **settings: Any) -> None:  # noqa: ANN401
    """Run a scene with two homes that hear each other."""

    async def main() -> None:
        a, b = Home(0, **settings), Home(1, **settings)
        a.other, b.other = b, a
        for home in (a, b):
            home.conn.set_local_candidates([make_host(home.source.address)])
        try:
            await scene(a, b)
        finally:
            for home in (a, b):
                home.source.close()

    asyncio.run(asyncio.wait_for(main(), 20.0))


async def open_both(a: Home, b: Home) -> list[asyncio.Task[None]]:
    """Open both and wait until they are connected."""
    tasks = [asyncio.ensure_future(home.conn.open()) for home in (a, b)]
    await asyncio.gather(a.connected.wait(), b.connected.wait())
    return tasks


def test_two_connections_open_connect_and_close() -> None:
    async def scene(a: Home, b: Home) -> None:
        a.conn.register_features([1])
        tasks = await open_both(a, b)
        assert a.conn.status is ConnStatus.CONNECTED
        assert a.conn.state.remote_address == b.source.address
        assert a.told == [(KEYS[1], ROSENPASS[1], "100.64.7.1", "127.0.0.1:2")]
        a.recorder.update_wireguard_stats(KEYS[1], WgStats(1.0, 2, 3))
        a.conn.close()
        b.conn.close()
        for task in tasks:
            with pytest.raises(ConnectionClosed):
                await task
        assert a.disconnected == [("100.64.7.1/32",)]
        recorded = a.recorder.peer_state(KEYS[1])
        assert recorded == a.conn.state
        assert recorded.status is ConnStatus.DISCONNECTED
        assert a.recorder.wireguard_stats(KEYS[1]) == WgStats()
        with pytest.raises(ConnectionAlreadyClosed):
            a.conn.close()
        with pytest.raises(ConnectionClosed):
            await a.conn.open()

    run(scene)


def test_close_before_open_makes_it_return_at_once() -> None:
    async def scene(a: Home, b: Home) -> None:
        a.conn.close()
        with pytest.raises(ConnectionClosed):
            await a.conn.open()
        assert a.commands == []

    run(scene)


def test_without_an_answer_it_times_out_and_opens_again() -> None:
    async def scene(a: Home, b: Home) -> None:
        b_hears, a.other = a.other, None
        with pytest.raises(ConnectionTimeout):
            await a.conn.open()
        a.other = b_hears
        tasks = await open_both(a, b)
        for home, task in zip((a, b), tasks, strict=True):
            home.conn.close()
            with pytest.raises(ConnectionClosed):
                await task

    run(scene, timeout=0.3)


def test_a_peer_that_the_engine_refuses_ends_it_with_the_cause() -> None:
    async def scene(a: Home, b: Home) -> None:
        a.refused = SetPeer
        other = asyncio.ensure_future(b.conn.open())
        with pytest.raises(ConnectionDisconnected, match="no memory") as caught:
            await a.conn.open()
        assert isinstance(caught.value.__cause__, SystemFailure)
        assert a.disconnected == []
        b.conn.close()
        with pytest.raises(ConnectionClosed):
            await other

    run(scene, timeout=5.0)


def test_cancelling_cleans_up_too() -> None:
    async def scene(a: Home, b: Home) -> None:
        tasks = await open_both(a, b)
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        assert isinstance(a.commands[-1], RemovePeer)
        assert a.disconnected == [("100.64.7.1/32",)]
        b.conn.close()
        with pytest.raises(ConnectionClosed):
            await tasks[1]

    run(scene)


def test_interfaces_and_servers_are_asked_and_further_servers_while_it_runs() -> None:
    asked: list[ConnConfig] = []
    seen, later = Address("203.0.113.77", 40_000), Address("203.0.113.77", 40_001)

    async def main(first: Address, second: Address) -> None:
        source = UdpSocket.open(Address("127.0.0.1", 0))
        config = ConnConfig(
            KEYS[1],
            KEYS[0],
            local_wg_port=source.address.port,
            nat_external_ips=("203.0.113.9",),
            stun_turn=(f"stun:127.0.0.1:{first.port}",),
            ice=AgentConfig(allow_loopback=True),
        )
        signalled: dict[Address, asyncio.Event] = {seen: asyncio.Event(), later: asyncio.Event()}
        offers: list[OfferAnswer] = []

        def note(_session: bytes, candidates: tuple[Candidate, ...], _nat: NatKind) -> None:
            for candidate in candidates:
                if candidate.address in signalled:
                    signalled[candidate.address].set()

        def discover(config: ConnConfig) -> list[str]:
            asked.append(config)
            return ["127.0.0.1"]

        handlers = Handlers(offers.append, lambda _: None, note, lambda _: None)
        conn = Conn(config, source, handlers, discover=discover)
        task = asyncio.ensure_future(conn.open())
        await signalled[seen].wait()
        port = source.address.port
        found = {candidate.address for candidate in offers[0].candidates}
        assert found == {Address("127.0.0.1", port), Address("203.0.113.9", port)}
        assert offers[0].wg_listen_port == port
        with pytest.raises(UsageError):
            conn.update_stun_turn(["stun:"])
        conn.update_stun_turn([*config.stun_turn, f"stun:127.0.0.1:{second.port}"])
        await signalled[later].wait()
        assert len(conn.config.stun_turn) == 2
        conn.close()
        with pytest.raises(ConnectionClosed):
            await task
        source.close()

    with serving(seen) as first, serving(later) as second:
        asyncio.run(asyncio.wait_for(main(first, second), 30.0))
    assert len(asked[-1].stun_turn) == 2


def test_a_server_of_another_form_and_a_wrong_variable_are_named() -> None:
    source, handlers = UdpSocket.open(Address("127.0.0.1", 0)), make_handlers()
    config = ConnConfig(KEYS[1], KEYS[0])
    for useless in ({}, {"local_wg_port": 7, "is_muxed": False}):
        with pytest.raises(UsageError, match="set local_wg_port"):
            Conn(replace(config, stun_turn=("stun:h",), **useless), source, handlers)
    with pytest.raises(UsageError, match="write turn:"):
        Conn(replace(config, stun_turn=("turn:192.0.2.3",)), source, handlers)
    with pytest.raises(UsageError, match=r"ice_keepalive = .*duration"):
        Conn(config, source, handlers, environ={"GINNEL_ICE_KEEPALIVE": "soon"})
    conn = Conn(config, source, handlers, environ={"GINNEL_ICE_KEEPALIVE": "9s"})
    assert conn.config.ice.keepalive == 9.0
    assert Conn(
        config, source, handlers, environ={"GINNEL_FORCE_RELAY": "true"}
    ).config.ice.force_relay
    source.close()


def make_handlers() -> Handlers:
    return Handlers(lambda _: None, lambda _: None, lambda *_: None, lambda _: None)


def test_getters_and_what_is_signalled_besides() -> None:
    async def scene(a: Home, b: Home) -> None:
        assert (a.conn.key, a.conn.status) == (KEYS[1], ConnStatus.DISCONNECTED)
        assert a.conn.config.rosenpass_pub_key == ROSENPASS[0]
        a.conn.register_features([1])
        tasks = await open_both(a, b)
        await b.mode_known.wait()  # the ModeMessage came by the handler
        assert b.conn.state.remote_direct is True
        more = make_host(Address("127.0.0.1", 9))
        b.conn.set_local_candidates([make_host(b.source.address), more])
        await b.told_candidates.wait()  # the controlled side tells them, the other one tries
        for home, task in zip((a, b), tasks, strict=True):
            home.conn.close()
            with pytest.raises(ConnectionClosed):
                await task

    run(scene)


def test_each_step_of_the_clean_up_is_attempted_and_the_first_error_is_kept() -> None:
    async def scene(a: Home, b: Home) -> None:
        tasks = await open_both(a, b)
        a.refused = RemovePeer

        def refuse(_key: bytes, ips: tuple[str, ...]) -> None:
            a.disconnected.append(ips)
            raise SystemFailure("no hooks")

        a.conn.set_handlers(on_disconnected=refuse)
        a.conn.close()
        b.conn.close()
        for task in tasks:
            with pytest.raises(ConnectionClosed):
                await task
        assert a.disconnected == [("100.64.7.1/32",)]
        assert str(a.conn.cleanup_error) == "no memory"
        assert b.conn.cleanup_error is None
        recorded = a.recorder.peer_state(KEYS[1])
        assert recorded is not None
        assert recorded.status is ConnStatus.DISCONNECTED
        assert a.recorder.wireguard_stats(KEYS[1]) == WgStats()

    run(scene)


def test_addresses_of_interfaces_on_the_black_list_are_not_discovered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def addresses(exclude_names: Sequence[str] = ()) -> list[InterfaceAddress]:
        found = (InterfaceAddress(f"eth{n}", f"192.0.2.{n}", 24, is_up=True) for n in range(3))
        return [address for address in found if address.name not in exclude_names]

    monkeypatch.setattr(aio, "host_addresses", addresses)
    config = ConnConfig(KEYS[1], KEYS[0], interface_blacklist=("eth1", "wlan*"))
    assert discover_interfaces(config) == ["192.0.2.0", "192.0.2.2"]
