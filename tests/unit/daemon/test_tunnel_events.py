"""What the core of a running tunnel tells, seen where it ends: manager, journal, database."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ginnel.base.dataplane import (
    CommandRefused,
    EngineCommand,
    EngineEvent,
    PeerStats,
    RemovePeer,
    SendInner,
    SetPeer,
)
from ginnel.base.errors import UsageError
from ginnel.daemon import tunnel_events
from ginnel.daemon.channel import NewObjects
from ginnel.daemon.tunnel_events import TunnelEvents
from ginnel.engine.relayed import RelayedEngine
from ginnel.mesh.events import Engine
from ginnel.net.links import StreamLinks
from support.full_disk import full_disk
from support.joins import joiner_keys
from support.live_tunnel import (
    WAIT,
    LiveTunnel,
    certificate_of,
    live_tunnel,
    make_network,
    revocation_of,
)

NOW = int(time.time())
PI = "raspberry-pi"


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the tunnel tells by itself; turns of the loop, no clock."""
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110  # the tunnel has no event for it
            await asyncio.sleep(0)


async def admit(tunnel: LiveTunnel) -> None:
    """Tell the tunnel a new certificate, as the signer does."""
    raw = certificate_of(tunnel.paths, joiner_keys(PI), PI, NOW)
    await tunnel.signer.send(NewObjects((raw,)))
    await until(lambda: bool(tunnel.manager.agents))


def test_a_new_member_reaches_manager_status_journal_and_disk(tmp_path: Path) -> None:
    paths = make_network(tmp_path, NOW)

    async def play() -> None:
        async with live_tunnel(paths) as tunnel:
            await tunnel.start()
            await admit(tunnel)
            (agent,) = tunnel.manager.agents
            assert agent.name == PI
            assert agent.id == joiner_keys(PI).member_id[:16]
            assert agent.ip_addrs[0] == "100.99.0.2"
            (peer,) = (await tunnel.ask("GET", "/v1/status"))["peers"]
            assert peer["fqdn"] == f"{PI}.home.internal"
            assert peer["status"] == "disconnected"
            found = (await tunnel.ask("GET", "/v1/events"))["events"]
            assert ("roster", "1 new objects") in [(item["kind"], item["text"]) for item in found]
            assert any(item["text"].startswith(f"{PI}: ") for item in found)
        paths.tunnel_socket.unlink()
        async with live_tunnel(paths) as again:  # known without anybody telling
            await again.start()
            await until(lambda: bool(again.manager.agents))
            assert again.manager.agents[0].name == PI

    asyncio.run(play())


def test_a_revoked_member_is_told_as_deleted(tmp_path: Path) -> None:
    paths = make_network(tmp_path, NOW)

    async def play() -> None:
        async with live_tunnel(paths) as tunnel:
            await tunnel.start()
            await admit(tunnel)
            revoked = revocation_of(paths, joiner_keys(PI).member_id, NOW)
            await tunnel.signer.send(NewObjects((revoked,)))
            await until(lambda: not tunnel.manager.agents)  # without its asking
            found = (await tunnel.ask("GET", "/v1/events"))["events"]
            assert f"{PI} is no member any more" in [item["text"] for item in found]

    asyncio.run(play())


def test_handshakes_are_told_again_without_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_network(tmp_path, NOW)
    shaken_at = float(NOW - 200)

    def stats(engine: RelayedEngine) -> list[PeerStats]:
        return [PeerStats(joiner_keys(PI).public[1], None, 0, 0, shaken_at, NOW - shaken_at)]

    def is_told(tunnel: LiveTunnel, seconds: int) -> bool:
        return tunnel.manager.agents[0].last_handshake.seconds == seconds

    async def play() -> None:
        nonlocal shaken_at
        async with live_tunnel(paths) as tunnel:
            await tunnel.start()
            await admit(tunnel)

            for seconds in (NOW - 150, NOW - 30):
                shaken_at = float(seconds)
                await until(partial(is_told, tunnel, seconds))

    monkeypatch.setattr(RelayedEngine, "peer_stats", stats)
    monkeypatch.setattr(tunnel_events, "TELL_INTERVAL_S", 0.001)
    asyncio.run(play())


def test_a_certificate_of_another_network_changes_nothing(tmp_path: Path) -> None:
    paths = make_network(tmp_path / "one", NOW)
    other = make_network(tmp_path / "two", NOW)

    async def play() -> None:
        async with live_tunnel(paths) as tunnel:
            await tunnel.start()
            raw = certificate_of(other, joiner_keys(PI), PI, NOW)
            await tunnel.signer.send(NewObjects((raw, b"nonsense")))
            await admit(tunnel)
            assert len(tunnel.manager.agents) == 1

    asyncio.run(play())


def test_pings_that_wait_end_with_the_tunnel(tmp_path: Path) -> None:
    paths = make_network(tmp_path, NOW)

    async def play() -> list[object]:
        async with live_tunnel(paths) as tunnel:
            await tunnel.start()
            await admit(tunnel)
            asked = [
                asyncio.ensure_future(tunnel.ask("POST", "/v1/ping", {"peer": PI}))
                for _ in range(3)
            ]
            await tunnel.ask("GET", "/v1/status")
        return await asyncio.gather(*asked, return_exceptions=True)

    assert len(asyncio.run(play())) == 3


class RefusingEngine:
    """A data plane that refuses every command."""

    def apply(self, command: EngineCommand) -> None:
        raise UsageError("too many peers")


class Told:
    """Of a `NodeShell`: its core, and the clock."""

    def __init__(self) -> None:
        self.core, self.now, self.events = self, 7.0, []  # type: ignore[var-annotated]

    def on_engine_event(self, event: EngineEvent, *, now: float) -> None:
        self.events.append((event, now))


def test_a_refused_peer_is_told_to_its_connection_and_the_rest_is_not() -> None:
    shell, links = Told(), StreamLinks(None, lambda event: None)
    parts: tuple[Any, ...] = (shell, RefusingEngine(), None, None, None)
    events = TunnelEvents(*parts, links=links)
    key = b"k" * 32
    events.on_event(Engine(SetPeer(key, ("100.64.7.1/32",))))
    events.on_event(Engine(RemovePeer(key)))
    events.on_event(Engine(SendInner(key, b"E")))
    assert shell.events == [(CommandRefused(key, "too many peers"), 7.0)]


def test_a_full_disk_ends_no_tunnel(tmp_path: Path) -> None:
    paths = make_network(tmp_path, NOW)

    async def play() -> None:
        async with live_tunnel(paths) as tunnel:
            await tunnel.start()
            with full_disk():
                await admit(tunnel)
                status = await tunnel.ask("GET", "/v1/status")
            assert [peer["name"] for peer in status["peers"]] == [PI]
            assert any("disk" in text for text in status["warnings"])

    asyncio.run(play())
