"""Asyncio connections over loopback, signalling by a direct call: seed 000's open and its ends."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ginnel.base.dataplane import (
    EngineCommand,
    HandshakeCompleted,
    RemovePeer,
    SetPeer,
    StartHandshake,
)
from ginnel.base.errors import SystemFailure
from ginnel.base.types import Address
from ginnel.ice.candidate import make_host
from ginnel.ice.events import AgentConfig
from ginnel.net.udp import UdpSocket
from ginnel.peer import Conn
from ginnel.peer.aio import Handlers, discover_interfaces
from ginnel.peer.errors import (
    ConnectionAlreadyClosed,
    ConnectionClosed,
    ConnectionDisconnected,
    ConnectionTimeout,
)
from ginnel.peer.events import ConnConfig
from ginnel.peer.signal import ModeMessage
from ginnel.peer.status import ConnStatus, StatusRecorder, WgStats

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
        self.modes: list[ModeMessage] = []
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
            signal_candidates=lambda *_: None,
            apply=self.apply,
            send_signal_message=lambda message: self.tell("on_remote_mode", message),
            on_connected=self.on_connected,
        )
        self.conn = Conn(config, self.source, handlers, recorder=self.recorder)
        self.conn.set_handlers(on_disconnected=lambda key, ips: self.disconnected.append(ips))

    def on_connected(self, *told: object) -> None:
        self.told.append(told)
        self.connected.set()

    def tell(self, name: str, value: object) -> None:
        if self.other is not None:
            asyncio.get_running_loop().call_soon(getattr(self.other.conn, name), value)

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


def test_a_clean_up_that_fails_goes_on_and_names_the_first_failure() -> None:
    async def scene(a: Home, b: Home) -> None:
        tasks = await open_both(a, b)
        a.refused = RemovePeer
        a.conn.close()
        b.conn.close()
        for task in tasks:
            with pytest.raises(ConnectionClosed):
                await task
        assert a.disconnected == [("100.64.7.1/32",)]
        assert str(a.conn.cleanup_error) == "no memory"
        assert b.conn.cleanup_error is None

    run(scene)


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


def test_interfaces_are_asked_for_and_servers_updated() -> None:
    asked: list[ConnConfig] = []

    async def main() -> None:
        source = UdpSocket.open(Address("127.0.0.1", 0))
        config = ConnConfig(
            KEYS[1],
            KEYS[0],
            timeout=0.05,
            local_wg_port=source.address.port,
            nat_external_ips=("203.0.113.9",),
        )
        offers: list[Any] = []
        handlers = Handlers(offers.append, lambda _: None, lambda *_: None, lambda _: None)

        def discover(config: ConnConfig) -> list[str]:
            asked.append(config)
            return ["192.0.2.7"]

        conn = Conn(config, source, handlers, discover=discover)
        with pytest.raises(ConnectionTimeout):
            await conn.open()
        port = source.address.port
        found = {candidate.address for candidate in offers[0].candidates}
        assert found == {Address("192.0.2.7", port), Address("203.0.113.9", port)}
        assert offers[0].wg_listen_port == port
        conn.update_stun_turn(["turn:192.0.2.3?transport=tcp"])
        source.close()

    asyncio.run(asyncio.wait_for(main(), 10.0))
    assert asked[-1].stun_turn == ("turn:192.0.2.3?transport=tcp",)


def test_no_ipv6_where_it_is_switched_off() -> None:
    config = ConnConfig(KEYS[1], KEYS[0], disable_ipv6_discovery=True)
    assert not any(":" in ip for ip in discover_interfaces(config))
