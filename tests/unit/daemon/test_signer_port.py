"""The tunnel's end of the signer's channel, at a running tunnel: points, envelopes, nodes."""

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

from ginnel.base.types import Secret
from ginnel.daemon.channel import DeliverTo, Nodes, Points, Stage
from ginnel.discv5.enr import decode_enr
from ginnel.mesh.derive import invite_point
from support.live_tunnel import WAIT, LiveTunnel, live_tunnel, make_network, settings_of

NOW = int(time.time())
NETWORK_ID = bytes(32)


async def next_of(tunnel: LiveTunnel, kind: type[object]) -> object:
    async with asyncio.timeout(WAIT):
        while not isinstance(message := await tunnel.signer.receive(), kind):
            pass
    return message


def test_the_signer_learns_which_nodes_an_invite_can_name(tmp_path: Path) -> None:
    settings = replace(settings_of(), advertise="192.0.2.7")

    async def play() -> None:
        async with live_tunnel(make_network(tmp_path, NOW), settings) as tunnel:
            await tunnel.start()
            message = await next_of(tunnel, Nodes)
            assert isinstance(message, Nodes)
            (raw,) = message.records
            assert str(decode_enr(raw).address()) == f"192.0.2.7:{tunnel.port}"

    asyncio.run(play())


def test_points_without_a_node_say_so_and_nonsense_ends_nothing(tmp_path: Path) -> None:
    point = invite_point(NETWORK_ID, Secret(os.urandom(32)), NOW // 3600)

    async def play() -> Stage:
        async with live_tunnel(make_network(tmp_path, NOW)) as tunnel:
            await tunnel.start()
            await tunnel.signer.send(Nodes((b"nonsense",)))
            await tunnel.signer.send(Stage("not for the tunnel"))
            await tunnel.signer.send(Points((point,)))
            await tunnel.signer.send(DeliverTo(point, os.urandom(200)))
            message = await next_of(tunnel, Stage)
            await tunnel.signer.send(Points(()))
            assert (await tunnel.ask("GET", "/v1/status"))["network"] == "home"
            assert isinstance(message, Stage)
            return message

    assert "no reachable node" in asyncio.run(play()).text
