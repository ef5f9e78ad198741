import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ginnel.base.config import Settings
from ginnel.base.errors import GinnelError, SystemFailure
from ginnel.base.types import NodeId
from ginnel.daemon.channel import Channel, Delivered, DeliverTo, Envelope, Nodes, Points, Stage
from ginnel.daemon.joiner import (
    MAX_STAGES,
    NO_NODE_HELP,
    Joiner,
    JoinRefused,
    JoinTimes,
    join_and_store,
)
from ginnel.daemon.paths import NetworkPaths
from ginnel.mesh.join_attempt import Granted
from ginnel.mesh.rendezvous import NO_NODE
from ginnel.storage.network_files import load_bundle
from support.joins import AdminSide, attempt, joiner_keys
from support.members import NOW, MemberKeys, NetworkFactory

NAME = "laptop-of-alice"
NET = NetworkFactory()
TIMES = JoinTimes(0.01, 0.01, 0.01, unix=lambda: NOW)


class Tunnel:
    """The other end of the channel, and the admin behind it."""

    def __init__(self, channel: Channel, admin: AdminSide) -> None:
        self.channel = channel
        self.admin = admin
        self.seen: list[object] = []

    async def pass_one(self) -> None:
        """Carry the next request to the admin and the replies back."""
        message = await self.channel.receive()
        self.seen.append(message)
        if isinstance(message, DeliverTo):
            await self.channel.send(Delivered(message.point.location, True))
            handled = self.admin.book.handle_envelope(message.envelope, unix_now=NOW)
            for reply in handled.replies:
                await self.channel.send(Envelope(reply.point.tag, reply.envelope))


async def serve(tunnel: Tunnel) -> None:
    while True:
        await tunnel.pass_one()


def run_join(
    admin: AdminSide,
    text: str,
    *,
    finish: Callable[[Joiner], Awaitable[Granted]] = Joiner.run,
    play: Callable[[Tunnel], Awaitable[None]] = serve,
    times: JoinTimes = TIMES,
    name: str = NAME,
) -> tuple[Granted | GinnelError, list[str], Tunnel]:
    stages: list[str] = []

    async def run() -> tuple[Granted | GinnelError, list[str], Tunnel]:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        tunnel = Tunnel(Channel(far), admin)
        channel = Channel(near)
        joiner = Joiner(channel, attempt(text, name), [b"record"], stages.append, times)
        playing = asyncio.ensure_future(play(tunnel))
        try:
            outcome: Granted | GinnelError = await finish(joiner)
        except GinnelError as error:
            outcome = error
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
        channel.close()
        tunnel.channel.close()
        return outcome, stages, tunnel

    return asyncio.run(run())


def test_an_auto_join_is_granted_and_stored(tmp_path: Path) -> None:
    admin = AdminSide(NET)
    settings = Settings(41000, os.geteuid() or 64100, 0, "100.80.0.0/16")

    def folders(name: str) -> NetworkPaths:
        return NetworkPaths(name, tmp_path / "etc", tmp_path / "var", tmp_path / "run")

    async def finish(joiner: Joiner) -> Granted:
        return await join_and_store(joiner, joiner_keys(NAME), settings, folders, lambda: NOW)

    outcome, stages, tunnel = run_join(admin, admin.invite(is_auto=True), finish=finish)
    assert isinstance(outcome, Granted)
    assert stages[-1] == "granted"
    assert isinstance(tunnel.seen[0], Nodes)
    assert isinstance(tunnel.seen[1], Points)
    bundle = load_bundle(folders(NET.name))
    assert bundle.certificate == outcome.certificate


def test_the_code_is_shown_while_a_person_decides() -> None:
    admin = AdminSide(NET)
    text = admin.invite()

    async def play(tunnel: Tunnel) -> None:
        await tunnel.channel.send(Stage("searching for a node"))
        while not admin.book.pending():
            await tunnel.pass_one()
        while len([m for m in tunnel.seen if isinstance(m, DeliverTo)]) < 4:
            await tunnel.pass_one()
        admin.book.approve(NAME, unix_now=NOW)
        await serve(tunnel)

    outcome, stages, _ = run_join(admin, text, play=play)
    assert isinstance(outcome, Granted)
    assert f"waiting for approval, code {attempt(text, NAME).code}" in stages
    assert stages[0] == "searching for a node"


def test_a_refusal_says_why() -> None:
    admin = AdminSide(NET, MemberKeys("another-machine"))
    outcome, _, _ = run_join(admin, admin.invite(is_auto=True), name="another-machine")
    assert isinstance(outcome, JoinRefused)
    assert "already" in str(outcome) or "taken" in str(outcome)


def test_a_used_invite_says_so() -> None:
    admin = AdminSide(NET)
    text = admin.invite(is_auto=True)
    run_join(admin, text)
    outcome, _, _ = run_join(admin, text, name="second-machine")
    assert isinstance(outcome, JoinRefused)
    assert "used this invite" in str(outcome)


def test_without_an_answer_the_error_says_what_to_do() -> None:
    async def play(tunnel: Tunnel) -> None:
        await tunnel.channel.send(Delivered(NodeId(bytes(32)), False))

    admin = AdminSide(NET)
    times = JoinTimes(answer_timeout=0.05, unix=lambda: NOW)
    outcome, stages, _ = run_join(admin, admin.invite(), play=play, times=times)
    assert isinstance(outcome, SystemFailure)
    assert "clock" in str(outcome)
    assert stages == ["searching for the admin"]


def test_without_any_node_the_remedy_is_shown_once_and_at_the_end() -> None:
    async def play(tunnel: Tunnel) -> None:
        for number in range(2 * MAX_STAGES):
            await tunnel.channel.send(Stage(f"not registered: {NO_NODE}"))
            await tunnel.channel.send(Stage(f"searching: {NO_NODE}"))
            await tunnel.channel.send(Stage(f"nonsense {number}"))

    admin = AdminSide(NET)
    times = JoinTimes(answer_timeout=0.3, unix=lambda: NOW)
    outcome, stages, _ = run_join(admin, admin.invite(), play=play, times=times)
    assert str(outcome) == NO_NODE_HELP
    assert stages.count(NO_NODE_HELP) == 1
    assert len(stages) == MAX_STAGES


def test_a_request_that_found_no_way_is_sent_again_soon() -> None:
    admin = AdminSide(NET)

    async def play(tunnel: Tunnel) -> None:
        for _ in range(6):  # nodes, points, and requests that get nowhere
            message = await tunnel.channel.receive()
            if isinstance(message, DeliverTo):
                await tunnel.channel.send(Delivered(message.point.location, False))
        await serve(tunnel)

    times = JoinTimes(ask_interval=60.0, retry_interval=0.01, unix=lambda: NOW)
    outcome, stages, _ = run_join(admin, admin.invite(is_auto=True), play=play, times=times)
    assert isinstance(outcome, Granted)
    assert stages[0] == "searching for the admin"


def test_nobody_approves() -> None:
    admin = AdminSide(NET)
    times = JoinTimes(0.01, 0.01, 0.01, 5.0, approval_timeout=0.05, unix=lambda: NOW)
    outcome, _, _ = run_join(admin, admin.invite(), times=times)
    assert isinstance(outcome, SystemFailure)
    assert "approved" in str(outcome)


def test_a_tunnel_that_dies_ends_the_join() -> None:
    async def play(tunnel: Tunnel) -> None:
        tunnel.channel.close()

    admin = AdminSide(NET)
    outcome, _, _ = run_join(admin, admin.invite(), play=play)
    assert isinstance(outcome, SystemFailure)
    assert "gone" in str(outcome)


@pytest.mark.parametrize("data", [b"junk", b"\xc0", bytes(4096)])
def test_nonsense_from_the_tunnel_is_passed_over(data: bytes) -> None:
    admin = AdminSide(NET)
    text = admin.invite(is_auto=True)

    async def run() -> Granted:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        far.send(data)
        tunnel = Tunnel(Channel(far), admin)
        joiner = Joiner(Channel(near), attempt(text, NAME), [], lambda _: None, TIMES)
        playing = asyncio.ensure_future(serve(tunnel))
        granted = await joiner.run()
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
        near.close()
        far.close()
        return granted

    assert asyncio.run(run()).member_name == NAME
