"""A tunnel in join mode: finds the admin's node for the parent of `ginnel join`, and no more.

It has a key of its own for the DHT, thrown away at the end, no keys of the network and no invite
secret; the parent gives it points and whole envelopes.

Source: docs/formats.md, "Invite and join".
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import time
from dataclasses import dataclass

from ginnel.base.config import Settings
from ginnel.base.links import CloseLink, LinkEvent, OpenLink, SendLink
from ginnel.base.servers import Server, parse_turn
from ginnel.daemon.channel import Channel
from ginnel.daemon.node_core import NodeCore, NodeEvent
from ginnel.daemon.node_shell import NodeShell, ip_versions, open_multicast
from ginnel.daemon.signer_port import SignerPort
from ginnel.daemon.turn_links import turn_config
from ginnel.daemon.wall_clock import WallClock
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.enr import Enr
from ginnel.discv5.protocol import Contact, DiscoveryCore
from ginnel.mesh.courier import Courier
from ginnel.mesh.lan import LanCore
from ginnel.mesh.relays import Relays
from ginnel.mesh.rendezvous import PROTOCOL, Tokens
from ginnel.net.dual import DualSocket
from ginnel.net.links import StreamLinks
from ginnel.net.udp import UdpSocket
from ginnel.storage.identity import draw_secp256k1


@dataclass(frozen=True, slots=True)
class JoinTunnelOptions:
    """What the parent hands over."""

    settings: Settings
    hints: tuple[Enr | Contact, ...]
    channel_fd: int
    udp4_fd: int
    udp6_fd: int | None
    tls: ssl.SSLContext | None = None  # for TURN servers over TLS; read before the rights went


def run_join_tunnel(options: JoinTunnelOptions) -> None:
    """Serve the parent until it closes the channel."""
    asyncio.run(_run(options))


async def _run(options: JoinTunnelOptions) -> None:
    settings = options.settings
    core = _make_core(options)
    udp4 = UdpSocket.from_fd(options.udp4_fd)
    udp6 = None if options.udp6_fd is None else UdpSocket.from_fd(options.udp6_fd)
    source = DualSocket(udp4, udp6)
    ports: list[SignerPort] = []

    def on_event(event: NodeEvent) -> None:
        if isinstance(event, OpenLink | SendLink | CloseLink):
            links.on_command(event)
        for port in ports:
            port.on_event(event)

    def on_link(event: LinkEvent) -> None:
        core.on_link(event, now=shell.now)
        shell.changed()

    async def use(server: Server) -> None:
        config = await turn_config(server)
        assert core.relays is not None
        core.relays.add_server(config, now=shell.now)
        shell.changed()

    fds = (options.udp4_fd, options.udp6_fd)
    multicast = open_multicast(source, *fds) if settings.lan else None
    links = StreamLinks(options.tls, on_link)
    shell = NodeShell(core, source, on_event, port=udp4.address.port, multicast=multicast)
    assert core.courier is not None
    channel = Channel.from_fd(options.channel_fd)
    ports.append(SignerPort(shell, core.courier, channel, envelope_gap_s=0.0))
    shell.start(options.hints)
    servers = [parse_turn(text) for text in settings.turn]
    try:
        async with asyncio.TaskGroup() as tasks:
            serving = [tasks.create_task(shell.run()), tasks.create_task(links.run())]
            serving += [tasks.create_task(use(s)) for s in servers if s.transport.is_stream]
            await ports[0].run()
            for task in serving:
                task.cancel()
    finally:
        ports[0].close()
        shell.stop()
        links.close()
        source.close()


def _make_core(options: JoinTunnelOptions) -> NodeCore:
    now = asyncio.get_running_loop().time()
    rng = random.Random(os.urandom(16))
    protocol_id = options.settings.protocol_id.encode()
    discovery = DiscoveryCore(
        DiscoveryConfig(
            protocol_id=protocol_id,
            client_mode=True,
            talk_protocols=(PROTOCOL,),
            ip_versions=ip_versions(),
        ),
        draw_secp256k1(os.urandom),
        bootstrap=[hint for hint in options.hints if isinstance(hint, Enr)],
        random_bytes=os.urandom,
        rng=rng,
        now=now,
        enr_seq=int(time.time()),
    )
    return NodeCore(
        discovery,
        clock=WallClock.at(time.time(), now),
        courier=Courier(discovery.node_id, tokens=Tokens(), random_bytes=os.urandom, rng=rng),
        relays=Relays(random_bytes=os.urandom, rng=rng),
        lan=LanCore(discovery.record, serves=False, rng=rng, now=now)
        if options.settings.lan
        else None,
    )
