"""A tunnel in join mode as its parent sees it: it finds nobody, says so, ends with the channel."""

import asyncio
import os
import socket
import threading
import time

import pytest

from ginnel.base.config import Settings
from ginnel.daemon.channel import Channel, DeliverTo, Nodes, Points, Stage
from ginnel.daemon.join_tunnel import JoinTunnelOptions, run_join_tunnel
from support.joins import AdminSide, attempt
from support.live_tunnel import WAIT, udp_on_loopback
from support.members import NetworkFactory


@pytest.fixture
def parent() -> tuple[socket.socket, threading.Thread]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    udp = udp_on_loopback()
    settings = Settings(port=20_000, tunnel_uid=64100)
    options = JoinTunnelOptions(settings, (), theirs.detach(), udp.detach(), None)
    thread = threading.Thread(target=run_join_tunnel, args=(options,))
    thread.start()
    return ours, thread


def test_a_request_that_finds_nobody_is_told_so(
    parent: tuple[socket.socket, threading.Thread],
) -> None:
    end, thread = parent
    unix_now = int(time.time())
    net = NetworkFactory(now=unix_now)
    joiner = attempt(AdminSide(net).invite(unix_now=unix_now), "pi", unix_now=unix_now)
    point = joiner.admin_points(unix_now=unix_now)[0]
    replies = joiner.reply_points(unix_now=unix_now)

    async def play() -> list[object]:
        channel = Channel(end)
        await channel.send(Nodes((b"nonsense", os.urandom(100))))
        await channel.send(Stage("not for the tunnel"))
        await channel.send(Points(tuple(replies)))
        await channel.send(DeliverTo(point, joiner.envelope(point)))
        seen: list[object] = []
        async with asyncio.timeout(WAIT):
            while len(seen) < 2:
                seen.append(await channel.receive())
        channel.close()
        return seen

    seen = asyncio.run(play())
    thread.join(WAIT)
    assert not thread.is_alive()
    assert all(isinstance(message, Stage) for message in seen)
    texts = [message.text for message in seen if isinstance(message, Stage)]
    assert any("no reachable node" in text for text in texts), texts


def test_it_ends_with_its_parent(parent: tuple[socket.socket, threading.Thread]) -> None:
    end, thread = parent
    end.send(b"nonsense")
    end.close()
    thread.join(WAIT)
    assert not thread.is_alive()
