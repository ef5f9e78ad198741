"""A tunnel from Start to Stop, as its manager and its users see it."""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from ginnel.base.config import Settings
from ginnel.base.errors import SystemFailure
from ginnel.base.types import Secret
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.messages import Start
from ginnel.daemon.member_state import MemberState
from ginnel.daemon.tunnel import agent_config
from ginnel.engine import embedded
from ginnel.engine.embedded import EmbeddedEngine
from ginnel.mesh.objects import DAY_S
from ginnel.storage.network_files import load_bundle
from support.confined import ChildError, in_child
from support.live_tunnel import WAIT, Handlers, live_tunnel, make_network, settings_of

NOW = int(time.time())


def test_a_tunnel_starts_asks_for_its_network_and_answers(tmp_path: Path) -> None:
    paths = make_network(tmp_path, NOW)

    async def play() -> None:
        async with live_tunnel(paths) as tunnel:
            await tunnel.start()
            (settings,) = tunnel.handlers.settings
            assert list(settings.ipv4_settings.addrs) == ["100.99.0.1"]
            status = await tunnel.ask("GET", "/v1/status")
            assert status["network"] == "home"
            assert status["self"]["name"] == "attic"
            assert status["port"] == tunnel.port
            assert status["separation"].startswith("uid 64100, Landlock 7")
            assert status["peers"] == []
            await tunnel.manager.wake()
            await tunnel.manager.get_peers()
            assert [item.name for item in tunnel.manager.workspaces] == ["home"]
            assert tunnel.manager.agents == []

    asyncio.run(play())


def test_what_was_learned_is_written_at_stop(tmp_path: Path) -> None:
    paths = make_network(tmp_path, NOW)

    async def play() -> None:
        for _ in range(2):  # the second finds the first one's files
            async with live_tunnel(paths) as tunnel:
                await tunnel.start()
            paths.tunnel_socket.unlink()

    asyncio.run(play())
    assert (paths.state / "trust").exists()


def test_a_refusal_of_root_ends_the_start(tmp_path: Path) -> None:
    paths = make_network(tmp_path, NOW)

    async def play() -> None:
        async with live_tunnel(paths, handlers=Handlers("mtu: too small")) as tunnel:
            with pytest.raises(SystemFailure, match="mtu: too small"):
                await tunnel.start()

    asyncio.run(play())


def test_a_stop_during_start_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_network(tmp_path, NOW)
    closed: list[str] = []
    asked = asyncio.Event()
    close_engine = EmbeddedEngine.close

    def close(engine: EmbeddedEngine) -> None:
        closed.append("engine")
        close_engine(engine)

    class Undecided(Handlers):
        async def on_settings(self, settings: pb.NetworkSettingsRequest) -> str | None:
            asked.set()
            await asyncio.Event().wait()
            return None

    async def play() -> None:
        async with live_tunnel(paths, handlers=Undecided()) as tunnel:
            starting = asyncio.ensure_future(tunnel.start())
            await asked.wait()
            await tunnel.manager.stop(wait_s=WAIT)
            assert closed == ["engine"]  # before the reply
            with pytest.raises(SystemFailure, match="stopped"):
                await starting
            await tunnel.running

    monkeypatch.setattr(EmbeddedEngine, "close", close)
    asyncio.run(play())
    assert closed == ["engine"]


make_plane: Callable[..., object] = embedded.DataPlane


def blind(**keys: object) -> object:
    """Make a data plane that works without the TUN that it is given."""
    return make_plane(**(keys | {"tun_fd": None}))


def broken(**keys: object) -> object:
    """Fail to make one."""
    raise SystemFailure("the TUN is none")


@pytest.mark.parametrize(
    ("plane", "refusal", "token", "error"),
    [
        (blind, None, None, None),
        (blind, "mtu: too small", None, "mtu"),
        (broken, None, None, "the TUN is none"),
        (blind, None, Secret(b"nonsense"), "bundle"),
    ],
)
def test_no_copy_of_the_tun_that_came_along_stays_with_us(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plane: Callable[..., object],
    refusal: str | None,
    token: Secret | None,
    error: str | None,
) -> None:
    paths = make_network(tmp_path, NOW)
    monkeypatch.setattr(embedded, "DataPlane", plane)
    read_fd, write_fd = os.pipe()  # whose end is seen when the last copy is closed
    os.set_blocking(read_fd, False)

    async def play() -> None:
        async with live_tunnel(paths, handlers=Handlers(refusal)) as tunnel:
            start = Start(write_fd, "ginnel:home", token or load_bundle(paths).to_bundle())
            answered = pytest.raises(SystemFailure, match=error) if error else nullcontext()
            with answered:
                await tunnel.manager.start(start, wait_s=WAIT, pass_descriptor=True)
            os.close(write_fd)
            assert os.read(read_fd, 1) == b""

    asyncio.run(play())
    os.close(read_fd)


def test_a_stop_that_can_not_save_ends_all_parts_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_network(tmp_path, NOW)
    save, is_full = MemberState.save, False

    def save_or_fail(state: MemberState) -> None:
        if is_full:
            raise SystemFailure("trust: no space left")
        save(state)

    async def play() -> int:
        nonlocal is_full
        async with live_tunnel(paths) as tunnel:
            await tunnel.start()
            if is_full:
                with pytest.raises(SystemFailure, match="no space left"):
                    await tunnel.manager.stop(wait_s=WAIT)
                await tunnel.running
        paths.tunnel_socket.unlink()
        is_full = True
        return len(os.listdir("/proc/self/fd"))

    monkeypatch.setattr(MemberState, "save", save_or_fail)
    before = asyncio.run(play())
    assert asyncio.run(play()) == before


@pytest.mark.parametrize("token", [b"", b"ginnel1:", b"ginnel1:AAAA", b"nonsense"])
def test_a_damaged_token_is_refused_in_words(tmp_path: Path, token: bytes) -> None:
    paths = make_network(tmp_path, NOW)

    async def play() -> None:
        async with live_tunnel(paths) as tunnel:
            with pytest.raises(SystemFailure, match=r"bundle|no token"):
                await tunnel.manager.start(Start(-1, "ginnel:home", Secret(token)))

    asyncio.run(play())


@pytest.mark.parametrize("days", [-366, 400], ids=["expired", "of the future"])
def test_a_certificate_that_is_not_in_force_is_said_with_the_clock(
    tmp_path: Path, days: int
) -> None:
    paths = make_network(tmp_path, NOW + days * DAY_S)
    trust = paths.state / "trust"
    trust_time = int(trust.read_text().split("time ")[1].split()[0])
    assert trust_time == NOW + days * DAY_S
    if days > 0:  # the confirmed time alone would be believed
        trust.unlink()

    async def play() -> None:
        async with live_tunnel(paths) as tunnel:
            with pytest.raises(SystemFailure, match="Is the clock right"):
                await tunnel.start()

    asyncio.run(play())


def test_a_node_that_advertises_is_reachable(tmp_path: Path) -> None:
    paths = make_network(tmp_path, NOW)
    settings = replace(settings_of(), advertise="192.0.2.7", debug=True)

    async def play() -> None:
        async with live_tunnel(paths, settings) as tunnel:
            await tunnel.start()
            status = await tunnel.ask("GET", "/v1/status")
            assert status["reachable"] == f"yes (advertised as 192.0.2.7:{tunnel.port})"

    asyncio.run(play())


def test_an_address_that_can_not_be_advertised_is_refused(tmp_path: Path) -> None:
    paths = make_network(tmp_path, NOW)
    settings = replace(settings_of(), advertise="no address")

    async def play() -> None:
        async with live_tunnel(paths, settings) as tunnel:
            with pytest.raises(SystemFailure, match="no address"):
                await tunnel.start()

    asyncio.run(play())


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    paths = make_network(tmp_path, NOW)

    async def play() -> int:
        async with live_tunnel(paths) as tunnel:
            await tunnel.start()
        paths.tunnel_socket.unlink()
        return len(os.listdir("/proc/self/fd"))

    first = asyncio.run(play())
    assert asyncio.run(play()) == first


def test_a_data_plane_that_panicked_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manager starts another one (`test_a_killed_tunnel_starts_again_while_routes_stay`)."""
    paths = make_network(tmp_path, NOW)

    def fail(engine: EmbeddedEngine, limit: int) -> None:
        raise SystemFailure("data plane: a thread of the data plane panicked")

    async def play() -> None:
        async with live_tunnel(paths) as tunnel:
            await tunnel.start()
            monkeypatch.setattr(EmbeddedEngine, "receive", fail)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.sendto(bytes([0xD1]) * 63, ("127.0.0.1", tunnel.port))
            await asyncio.wait_for(tunnel.running, 30)

    with pytest.raises(ChildError, match="panicked"):  # what a process leaves open is the kernel's
        in_child(lambda: asyncio.run(play()))


def test_what_the_settings_say_of_ice_reaches_its_agents() -> None:
    defaults = Settings(port=41641, tunnel_uid=1000)
    settings = replace(
        defaults,
        ice_keepalive=11.0,
        ice_disconnected_timeout=12.0,
        ice_failed_timeout=13.0,
        ice_relay_acceptance_wait=14.0,
        force_relay=True,
    )
    agent = agent_config(settings, ["100.99.0.0/16"])
    assert (agent.keepalive, agent.disconnected_timeout, agent.failed_timeout) == (11, 12, 13)
    assert agent.relay_acceptance_wait == 14.0
    assert agent.force_relay
    assert not agent_config(defaults, []).force_relay
    assert agent.overlay == (ip_network("100.99.0.0/16"),)
