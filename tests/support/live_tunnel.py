"""A real tunnel in this process: a network on disk, UDP on loopback, a manager, a signer's end."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from pathlib import Path

from ginnel.base.config import Settings
from ginnel.base.rlp import Encodable
from ginnel.base.types import MemberId
from ginnel.cli.client import Json, ask_tunnel
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.aio import Manager
from ginnel.codervpn.messages import LogRecord, Start
from ginnel.daemon.channel import Channel
from ginnel.daemon.paths import NetworkPaths
from ginnel.daemon.privileges import Separation
from ginnel.daemon.tunnel import TunnelOptions, TunnelProcess
from ginnel.mesh.join import NodeKeys
from ginnel.mesh.objects import RevocationKind, make_certificate, make_object
from ginnel.storage.network_files import (
    NewNetwork,
    create_network,
    first_certificate,
    load_authority,
    load_bundle,
)

NAME = "home"
WAIT = 10.0  # seconds, at most


@dataclass
class Handlers:
    """A manager that applies nothing, and refuses if it is told to."""

    refusal: str | None = None
    settings: list[pb.NetworkSettingsRequest] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    async def on_settings(self, settings: pb.NetworkSettingsRequest) -> str | None:
        self.settings.append(settings)
        return self.refusal

    def on_peers(self) -> None:
        pass

    def on_log(self, record: LogRecord) -> None:
        self.lines.append(record.message)


@dataclass
class LiveTunnel:
    """The ends that a test holds."""

    paths: NetworkPaths
    manager: Manager
    handlers: Handlers
    signer: Channel
    port: int
    running: asyncio.Future[object]  # the process's inside

    async def start(self) -> None:
        token = load_bundle(self.paths).to_bundle()
        await self.manager.start(Start(-1, "ginnel:home", token), wait_s=WAIT)

    async def ask(self, method: str, target: str, body: Json | None = None) -> Json:
        return await asyncio.to_thread(ask_tunnel, self.paths.tunnel_socket, method, target, body)


def make_network(root: Path, unix_now: int, **changes: object) -> NetworkPaths:
    """Make a network as `ginnel init` does."""
    paths = NetworkPaths(NAME, *(root / name for name in ("etc", "state", "run")))
    paths.run.mkdir(parents=True)
    settings = replace(settings_of(), **changes)
    create_network(NewNetwork(NAME, "attic", settings, unix_now), paths, os.urandom)
    return paths


def settings_of() -> Settings:
    own = os.geteuid()
    return Settings(port=41000, tunnel_uid=own, signer_uid=own, ipv4_prefix="100.99.0.0/16")


def udp_on_loopback() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    opened.bind(("127.0.0.1", 0))
    return opened


@asynccontextmanager
async def live_tunnel(
    paths: NetworkPaths, settings: Settings | None = None, handlers: Handlers | None = None
) -> AsyncIterator[LiveTunnel]:
    """Run a tunnel process's inside, and the manager's end of its stream."""
    handlers = handlers or Handlers()
    ours, theirs = socket.socketpair()
    signer, tunnel_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with udp_on_loopback() as udp, socket.socket(socket.AF_UNIX) as listener, tunnel_end:
        listener.bind(str(paths.tunnel_socket))
        listener.listen()
        rpc_fd = theirs.detach()
        options = TunnelOptions(
            state=paths.state,
            settings=settings or settings_of(),
            hints=(),
            rpc_read_fd=rpc_fd,
            rpc_write_fd=rpc_fd,
            udp4_fd=udp.fileno(),
            udp6_fd=None,
            listen_fd=listener.fileno(),
            signer_fd=os.dup(tunnel_end.fileno()),
        )
        running = asyncio.ensure_future(TunnelProcess(options, Separation(64100, 7)).run())
        our_fd = ours.detach()
        manager = Manager(our_fd, our_fd, handlers)
        serving = asyncio.ensure_future(manager.run())
        channel = Channel(signer)
        try:
            yield LiveTunnel(paths, manager, handlers, channel, udp.getsockname()[1], running)
            if not manager.is_closed:
                await manager.stop(wait_s=WAIT)
        finally:
            manager.close()
            channel.close()
            await asyncio.gather(running, serving)


def certificate_of(paths: NetworkPaths, keys: NodeKeys, name: str, unix_now: int) -> bytes:
    """Return a certificate of the network's own admin for another machine."""
    authority = load_authority(paths, unix_now=unix_now)
    membership = authority.membership
    new = NewNetwork(NAME, name, settings_of(), unix_now)
    first = IPv4Network(settings_of().ipv4_prefix).network_address.packed
    fields = first_certificate(new, keys, membership.network_id, first, os.urandom(16))
    second = replace(fields, ipv4=first[:3] + b"\2")
    return make_certificate(second, seed=authority.admin, network_id=membership.network_id)


def revocation_of(paths: NetworkPaths, member_id: MemberId, unix_now: int) -> bytes:
    """Return the network's own admin's word that a machine is no member any more."""
    authority = load_authority(paths, unix_now=unix_now)
    fields: list[Encodable] = [RevocationKind.MEMBER, member_id, unix_now]
    network_id = authority.membership.network_id
    return make_object("revoke", fields, seed=authority.admin, network_id=network_id)
