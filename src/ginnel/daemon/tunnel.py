"""The tunnel process: a member at work, without any right.

Puts together clock, chance, sockets and files: the data plane, the NodeCore that decides, CoderVPN
with the manager, the signer's channel, the control socket. Everything that can be asked of the
network's other machines is decided in the cores; this file moves values.

Source: DESIGN, "Processes".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import sqlite3
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from ginnel import __version__
from ginnel.base.config import Settings
from ginnel.base.errors import GinnelError
from ginnel.base.links import LinkEvent
from ginnel.base.servers import Server, parse_ports, parse_stun, parse_turn
from ginnel.base.types import Address, Transmit
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.aio import Tunnel as Rpc
from ginnel.codervpn.messages import Start
from ginnel.daemon.channel import Channel
from ginnel.daemon.control import ControlServer
from ginnel.daemon.logs import SinkHandler
from ginnel.daemon.member_state import MemberState
from ginnel.daemon.name_service import NameService
from ginnel.daemon.node_core import NodeCore, NodeEvent
from ginnel.daemon.node_shell import (
    NodeShell,
    ip_versions,
    open_multicast,
    parse_advertised,
    record_fields,
)
from ginnel.daemon.port_mapping import PortMapping
from ginnel.daemon.privileges import Separation
from ginnel.daemon.reachability import Reachability
from ginnel.daemon.tunnel_events import TunnelEvents
from ginnel.daemon.tunnel_service import TunnelService
from ginnel.daemon.turn_links import resolved, turn_config
from ginnel.daemon.uapi_server import UapiServer, describe_mesh
from ginnel.daemon.wall_clock import WallClock
from ginnel.daemon.wire_settings import (
    overlay_prefixes,
    settings_for,
    workspace_for,
)
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.enr import Enr, decode_enr
from ginnel.discv5.protocol import Contact, DiscoveryCore
from ginnel.engine.embedded import EmbeddedEngine
from ginnel.engine.relayed import RelayedEngine
from ginnel.ice.events import AgentConfig
from ginnel.mesh.lan import LanCore
from ginnel.mesh.mesh import Mesh, MeshConfig
from ginnel.mesh.names import overlay_addresses
from ginnel.mesh.rendezvous import PROTOCOL, Tokens
from ginnel.mesh.sealer import HpkeSealer
from ginnel.mesh.signalling import MeshKeys
from ginnel.mesh.storer import Storer
from ginnel.net.links import StreamLinks
from ginnel.net.portmap import Protocol
from ginnel.net.tun import DEVICE_PREFIX
from ginnel.storage.identity import NodeBundle

SAVE_INTERVAL_S = 60.0  # seconds between two writes of what is known

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TunnelOptions:
    """What the manager hands over, and what was read of the settings before rights were dropped."""

    state: Path  # the folder to write in
    settings: Settings
    hints: tuple[Enr | Contact, ...]
    rpc_read_fd: int
    rpc_write_fd: int
    udp4_fd: int
    udp6_fd: int | None
    listen_fd: int | None
    signer_fd: int | None
    dns_fds: tuple[int, ...] = ()  # on port 53 of our overlay addresses
    upstream_fd: int | None = None  # the system's name servers before ours (`dns_upstream`)
    tls: ssl.SSLContext | None = None  # for TURN servers over TLS; read before the rights went
    resets_clock: bool = False  # believe this machine's clock, though it went back
    uapi_fd: int | None = None  # where `wg show` asks


def run_tunnel(options: TunnelOptions, separation: Separation) -> str | None:
    """Serve the manager until the stream ends; return its error, or None."""
    return asyncio.run(TunnelProcess(options, separation).run())


class TunnelProcess:
    """One tunnel; also the handler of what the manager asks (TunnelHandlers)."""

    def __init__(self, options: TunnelOptions, separation: Separation) -> None:
        self._options = options
        self._separation = separation
        self._rpc: Rpc | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._running: _Running | None = None
        self._parts = contextlib.ExitStack()  # of what runs, the last made ends first
        self._job: asyncio.Task[None] | None = None

    async def run(self) -> str | None:
        """See `run_tunnel`."""
        self._rpc = rpc = Rpc(self._options.rpc_read_fd, self._options.rpc_write_fd, self)
        handler = SinkHandler(lambda level, text, name: rpc.log(level, text, name.split(".")))
        root = logging.getLogger("ginnel")
        root.addHandler(handler)
        root.setLevel(logging.DEBUG if self._options.settings.debug else logging.INFO)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                error = await rpc.run()
                fault = await self.on_stop()  # the manager is gone, perhaps without a word
                return error or fault
        finally:
            root.removeHandler(handler)

    async def on_start(self, start: Start) -> str | None:
        """Become a member: data plane, cores, network settings; return what went wrong."""
        try:
            return await self._bring_up(start)
        except (GinnelError, OSError, sqlite3.Error) as error:
            return str(error)

    async def _bring_up(self, start: Start) -> str | None:
        assert self._rpc is not None
        assert self._tasks is not None
        with contextlib.ExitStack() as parts:  # a Stop cancels this
            running = _Running(self._options, self._separation, start, self._rpc, parts)
            refusal = await self._rpc.network_settings(running.settings_request())
            if refusal is not None:
                return refusal
            await running.start(parts)
            self._parts = parts.pop_all()
        if start.file_descriptor >= 0:
            os.close(start.file_descriptor)  # the data plane has a copy
        self._running = running
        self._job = self._tasks.create_task(running.run())
        return None

    async def on_stop(self) -> str | None:
        """Say good-bye to the peers, write what is known; return what went wrong."""
        self._running = None
        try:
            self._parts.close()
        except (GinnelError, OSError, sqlite3.Error) as error:  # the other parts ended
            return str(error)
        finally:
            if self._job is not None:
                self._job.cancel()
        return None

    async def on_wake(self) -> None:
        """The machine slept or changed networks: register anew, look at the addresses."""
        if self._running is not None:
            self._running.wake()


class _Running:
    """A member at work, from Start to Stop; `parts` gets what ends it, also when half made."""

    def __init__(
        self,
        options: TunnelOptions,
        separation: Separation,
        start: Start,
        rpc: Rpc,
        parts: contextlib.ExitStack,
    ) -> None:
        bundle = NodeBundle.from_bundle(start.token)
        self._options = options
        self._settings = settings = options.settings
        self._state = state = MemberState(
            options.state,
            bundle,
            unix_now=time.time(),
            resets_clock=options.resets_clock,
        )
        parts.callback(state.database.close)
        parts.callback(state.save)
        self._port = _port_of(options.udp4_fd)
        advertised = parse_advertised(settings.advertise, self._port)
        own = overlay_addresses(state.certificate)
        plane = EmbeddedEngine(
            udp4_fd=options.udp4_fd,
            udp6_fd=options.udp6_fd,
            tun_fd=start.file_descriptor if start.file_descriptor >= 0 else None,
            private_key=bundle.keys.wireguard,
            control_ips=own,
            big_for=own if settings.big_packets else (),
            mtu=settings.mtu,
        )
        self._engine = RelayedEngine(plane, port=self._port, send=self._send_relayed)
        parts.callback(self._engine.close)
        self._core = _make_core(options, state, bundle, advertised)
        self._rpc = rpc
        fds = (options.udp4_fd, options.udp6_fd)
        multicast = open_multicast(self._engine, *fds) if settings.lan else None
        self._shell = NodeShell(
            self._core,
            self._engine,
            self._on_event,
            port=self._port,
            own_devices=(f"{DEVICE_PREFIX}*", *settings.interface_blacklist),
            only_devices=settings.interfaces,
            ipv6=settings.ipv6,
            multicast=multicast,
            not_before=state.trust.confirmed_at,
            after_receive=self._take_engine_events,
        )
        signer = None if options.signer_fd is None else Channel.from_fd(options.signer_fd)
        self._links = links = StreamLinks(options.tls, self._on_link)
        self._events = TunnelEvents(self._shell, self._engine, state, rpc, signer, links=links)
        self._reach = Reachability(self._shell, settings.protocol_id, advertised)
        self._ports = PortMapping(self._port, settings.port_mapping, self._on_mapped)
        self._shell.on_network = self._ports.on_network_changed
        self._control = ControlServer(self._service(separation).handlers())
        self._uapi = UapiServer(lambda: describe_mesh(self._engine, self._port))
        control, uapi = self._control, self._uapi
        for part in (self._events.close, links.close, self._shell.stop, uapi.close, control.close):
            parts.callback(part)

    def _service(self, separation: Separation) -> TunnelService:
        return TunnelService(
            self._shell,
            self._engine,
            self._state,
            self._events,
            separation=separation.describe(),
            reach=self._reach,
            ports=self._ports,
            protocol_id=self._settings.protocol_id,
        )

    def settings_request(self) -> pb.NetworkSettingsRequest:
        """Return what the manager is asked to set up."""
        return settings_for(
            self._state.certificate,
            self._state.membership,
            self._settings.mtu,
            with_dns=bool(self._options.dns_fds),
        )

    async def start(self, parts: contextlib.ExitStack) -> None:
        """Begin: the control socket, discovery, the mesh."""
        if self._options.listen_fd is not None:
            listener = socket.socket(fileno=os.dup(self._options.listen_fd))
            await self._control.start(listener)
        if self._options.uapi_fd is not None:
            await self._uapi.start(socket.socket(fileno=os.dup(self._options.uapi_fd)))
        if self._options.dns_fds:
            members = self._state.membership
            names = NameService(self._options.dns_fds, members, self._options.upstream_fd)
            parts.callback(names.close)
        self._rpc.upsert([workspace_for(self._state.membership)])
        self._shell.start([*self._options.hints, *self._known_nodes()])

    async def run(self) -> None:
        """Run until cancelled; a bug in a core ends the process, loudly."""
        async with asyncio.TaskGroup() as tasks:
            saving = tasks.create_task(self._save_often())
            relaying = tasks.create_task(self._use_servers())
            signing = tasks.create_task(self._events.serve_signer())
            telling = tasks.create_task(self._events.tell_often())
            reaching = tasks.create_task(self._reach.run())
            mapping = tasks.create_task(self._ports.run())
            linking = tasks.create_task(self._links.run())
            await self._shell.run()
            for task in (saving, telling, relaying, signing, reaching, mapping, linking):
                task.cancel()

    def wake(self) -> None:
        """Look at addresses and registrations at once."""
        self._shell.on_wake()

    async def _use_servers(self) -> None:
        """Resolve the servers of the settings, each as soon as it can be, and use them."""
        settings = self._settings
        async with asyncio.TaskGroup() as tasks:
            for text in settings.stun:
                tasks.create_task(self._use_stun(parse_stun(text)))
            for text in settings.turn:
                tasks.create_task(self._use_turn(parse_turn(text)))

    async def _use_stun(self, server: Server) -> None:
        self._core.own.add_stun_servers(
            await resolved(server),
            random_bytes=os.urandom,
            rng=random.Random(os.urandom(16)),
            now=self._shell.now,
        )
        self._shell.changed()

    async def _use_turn(self, server: Server) -> None:
        config = await turn_config(server)
        if self._core.mesh is not None:
            self._core.mesh.relays.add_server(config, now=self._shell.now)
            self._shell.changed()

    def _on_event(self, event: NodeEvent) -> None:
        self._events.on_event(event)
        self._reach.on_event(event)

    def _on_mapped(self, protocol: Protocol | None, address: Address | None) -> None:
        self._reach.set_mapped("" if protocol is None else protocol.value, address)

    def _on_link(self, event: LinkEvent) -> None:
        self._core.on_link(event, now=self._shell.now)
        self._shell.changed()

    def _send_relayed(self, transmit: Transmit) -> None:
        assert self._core.mesh is not None
        self._core.mesh.send_relayed(transmit, now=self._shell.now)

    def _take_engine_events(self) -> None:
        while (event := self._engine.poll_event()) is not None:
            self._core.on_engine_event(event, now=self._shell.now)

    def _known_nodes(self) -> list[Enr]:
        found: list[Enr] = []
        for node in self._state.database.nodes():
            try:
                found.append(decode_enr(node.record))
            except GinnelError:
                continue
        return found

    async def _save_often(self) -> None:
        while True:
            await asyncio.sleep(SAVE_INTERVAL_S)
            self._state.save()


def _make_core(
    options: TunnelOptions, state: MemberState, bundle: NodeBundle, advertised: Address | None
) -> NodeCore:
    now = asyncio.get_running_loop().time()
    rng = random.Random(os.urandom(16))
    settings = options.settings
    discovery = DiscoveryCore(
        DiscoveryConfig(
            protocol_id=settings.protocol_id.encode(),
            client_mode=advertised is None,
            talk_protocols=(PROTOCOL,),
            ip_versions=ip_versions(),
        ),
        bundle.keys.discovery,
        fields=record_fields(serves=advertised is not None),
        endpoint=advertised,
        bootstrap=[hint for hint in options.hints if isinstance(hint, Enr)],
        random_bytes=os.urandom,
        rng=rng,
        now=now,
        enr_seq=int(state.unix_now),
    )
    tokens = Tokens()
    mesh = Mesh(
        MeshConfig(
            discovery.node_id,
            mtu=settings.mtu,
            lends_consent=True,
            ice=agent_config(settings, overlay_prefixes(state.membership)),
            relay=settings.relay,
            relay_ports=parse_ports(settings.relay_ports),
            parallel_connects=settings.parallel_connects,
            version=__version__,
        ),
        MeshKeys(bundle.keys.identity, bundle.keys.wireguard, (bundle.keys.sealing,)),
        state.membership,
        sealer=HpkeSealer(),
        random_bytes=os.urandom,
        rng=rng,
        tokens=tokens,
    )
    storer = Storer(
        discovery.node_id,
        discovery.closest,
        tokens=tokens,
        now=now,
        enabled=advertised is not None,
    )
    lan = LanCore(discovery.record, serves=True, rng=rng, now=now) if settings.lan else None
    clock = WallClock.at(state.unix_now, now)
    core = NodeCore(discovery, clock=clock, storer=storer, mesh=mesh, lan=lan)
    core.own.outer_ips = settings.nat_1to1
    return core


def agent_config(settings: Settings, overlay: Sequence[str]) -> AgentConfig:
    """Return what the settings say of ICE."""
    return AgentConfig(
        keepalive=settings.ice_keepalive,
        disconnected_timeout=settings.ice_disconnected_timeout,
        failed_timeout=settings.ice_failed_timeout,
        relay_acceptance_wait=settings.ice_relay_acceptance_wait,
        force_relay=settings.force_relay,
        overlay=tuple(map(ip_network, overlay)),
    )


def _port_of(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as bound:
        port: int = bound.getsockname()[1]
        return port
