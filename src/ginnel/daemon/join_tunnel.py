"""A tunnel in join mode: finds the admin's node for the parent of `ginnel join`, and no more.

It has a key of its own for the DHT, thrown away at the end, no keys of the network and no invite
secret; the parent gives it points and whole envelopes.

Source: docs/formats.md, "Invite and join".
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence

from ginnel.daemon.channel import Channel
from ginnel.daemon.node_core import NodeCore, NodeEvent, WallClock
from ginnel.daemon.node_shell import NodeShell, open_multicast
from ginnel.daemon.signer_port import SignerPort
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.enr import Enr
from ginnel.discv5.protocol import Contact, DiscoveryCore
from ginnel.mesh.courier import Courier
from ginnel.mesh.lan import LanCore
from ginnel.mesh.rendezvous import PROTOCOL, Tokens
from ginnel.net.dual import DualSocket
from ginnel.net.udp import UdpSocket
from ginnel.storage.identity import draw_secp256k1


def run_join_tunnel(
    channel_fd: int,
    udp4_fd: int,
    udp6_fd: int | None,
    hints: Sequence[Enr | Contact],
    protocol_id: str,
) -> None:
    """Serve the parent until it closes the channel."""
    asyncio.run(_run(channel_fd, udp4_fd, udp6_fd, hints, protocol_id))


async def _run(
    channel_fd: int,
    udp4_fd: int,
    udp6_fd: int | None,
    hints: Sequence[Enr | Contact],
    protocol_id: str,
) -> None:
    now = asyncio.get_running_loop().time()
    rng = random.Random(os.urandom(16))
    discovery = DiscoveryCore(
        DiscoveryConfig(
            protocol_id=protocol_id.encode(), client_mode=True, talk_protocols=(PROTOCOL,)
        ),
        draw_secp256k1(os.urandom),
        bootstrap=[hint for hint in hints if isinstance(hint, Enr)],
        random_bytes=os.urandom,
        rng=rng,
        now=now,
        enr_seq=int(time.time()),
    )
    courier = Courier(discovery.node_id, tokens=Tokens(), random_bytes=os.urandom, rng=rng)
    lan = LanCore(discovery.record, serves=False, rng=rng, now=now)
    clock = WallClock.at(time.time(), now)
    core = NodeCore(discovery, clock=clock, courier=courier, lan=lan)
    udp4 = UdpSocket.from_fd(udp4_fd)
    source = DualSocket(udp4, None if udp6_fd is None else UdpSocket.from_fd(udp6_fd))
    ports: list[SignerPort] = []

    def on_event(event: NodeEvent) -> None:
        for port in ports:
            port.on_event(event)

    multicast = open_multicast(source, udp4_fd, udp6_fd)
    port = udp4.address.port
    shell = NodeShell(core, source, on_event, port=port, multicast=multicast)
    ports.append(SignerPort(shell, courier, Channel.from_fd(channel_fd), envelope_gap_s=0.0))
    shell.start(hints)
    try:
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(shell.run())
            await ports[0].run()
            serving.cancel()
    finally:
        ports[0].close()
        shell.stop()
        source.close()
