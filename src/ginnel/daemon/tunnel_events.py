"""What the member's core tells, carried to where it belongs.

Commands to the data plane, peers to the manager, envelopes to the signer, nodes and objects to the
disk, pings to who waits for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from ginnel.base.dataplane import CommandRefused, PathCommand
from ginnel.base.errors import UsageError
from ginnel.base.links import CloseLink, OpenLink, SendLink
from ginnel.base.types import MemberId
from ginnel.codervpn.aio import Tunnel as Rpc
from ginnel.daemon.channel import Channel
from ginnel.daemon.member_state import MemberState
from ginnel.daemon.node_core import NodeEvent
from ginnel.daemon.node_shell import NodeShell
from ginnel.daemon.relay_ports import RelayPorts
from ginnel.daemon.signer_port import SignerPort
from ginnel.daemon.wire_settings import agent_for, who_relays
from ginnel.discv5.events import NodeAdded, ReflexiveChanged
from ginnel.engine.relayed import RelayedEngine
from ginnel.ice.turn_ports import FreePort, HoldPort, PortCommand
from ginnel.mesh.events import (
    Engine,
    MemberFound,
    Notice,
    PeerChanged,
    PingResult,
    PointRegistered,
    RelayedPacket,
    RosterChanged,
)
from ginnel.net.links import StreamLinks
from ginnel.peer.status import ConnStatus
from ginnel.storage.state import KnownNode

TELL_INTERVAL_S = 30.0  # seconds; a handshake counts as old after 5 minutes
MAX_PINGS = 64  # pings that somebody waits for at once

logger = logging.getLogger(__name__)


class TunnelEvents:
    """Handler of the core's events; also the signer's channel and the waiting pings."""

    def __init__(
        self,
        shell: NodeShell,
        engine: RelayedEngine,
        state: MemberState,
        rpc: Rpc,
        signer: Channel | None,
        *,
        links: StreamLinks,
    ) -> None:
        self.peers: dict[MemberId, PeerChanged] = {}
        self.notices: dict[str, str] = {}
        self._shell = shell
        self._engine = engine
        self._state = state
        self._rpc = rpc
        self._links = links
        self._relay_ports = RelayPorts()
        self._pings: dict[int, asyncio.Future[float | None]] = {}
        self._stages: dict[MemberId, str] = {}
        self._port: SignerPort | None = None
        if signer is not None:
            courier = shell.core.courier
            assert courier is not None
            self._port = SignerPort(shell, courier, signer, on_objects=self._on_new_objects)

    @property
    def has_signer(self) -> bool:
        """Say whether this machine has an admin key, and so perhaps no other member yet."""
        return self._port is not None

    @property
    def lost_records(self) -> int:
        """Return how many log records the manager had no room for."""
        return self._rpc.lost_records

    async def serve_signer(self) -> None:
        """Serve the signer's channel, if there is one, until it ends."""
        if self._port is not None:
            self._port.tell_nodes_soon()
            await self._port.run()

    def close(self) -> None:
        """Release who waits."""
        if self._port is not None:
            self._port.close()
        self._relay_ports.close()
        for future in self._pings.values():
            if not future.done():
                future.set_result(None)

    async def ping(self, member_id: MemberId) -> float | None:
        """Ping a member through the tunnel; return seconds, or None without an answer.

        Raises:
            UsageError: too many at once.
        """
        if len(self._pings) >= MAX_PINGS:
            raise UsageError("too many pings at once")
        mesh = self._shell.core.mesh
        assert mesh is not None
        token = mesh.ping(member_id, now=self._shell.now)
        future: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
        self._pings[token] = future
        self._shell.changed()
        try:
            return await future
        finally:
            self._pings.pop(token, None)

    def on_event(self, event: NodeEvent) -> None:
        """Carry one event."""
        match event:
            case Engine():
                self._command(event)
            case RelayedPacket(relayed, peer, data):
                self._engine.deliver(relayed, peer, data)
                return
            case OpenLink() | SendLink() | CloseLink():
                self._links.on_command(event)
                return
            case HoldPort() | FreePort():
                self._on_port(event)
                return
            case PeerChanged():
                self._on_peer(event)
            case PingResult():
                future = self._pings.get(event.token)
                if future is not None and not future.done():
                    future.set_result(event.seconds)
            case _:
                self._remember(event)
        if self._port is not None:
            self._port.on_event(event)

    def _remember(self, event: NodeEvent) -> None:
        """Put into journal and database what people or the next start want to know."""
        match event:
            case MemberFound():
                self._note("found", f"{event.name} found by {event.via}")
            case RosterChanged():
                self._note("roster", f"{len(event.objects)} new objects")
                self._state.save()
            case Notice():
                self.notices.pop(event.kind.value, None)
                if event.text:  # an empty one ends the former
                    self.notices[event.kind.value] = event.text
                    self._note("notice", event.text)
            case PointRegistered():
                text = f"{event.storers} storing nodes" if event.storers else event.reason
                self._note("registered", text)
            case ReflexiveChanged():
                kind = "symmetric NAT" if event.symmetric else "same port for all"
                self._note("address", f"{event.observers} observers, {kind}")
            case NodeAdded():
                record = event.enr
                known = KnownNode(record.node_id, record.raw, self._shell.unix_now)
                self._state.see_node(known)
            case _:
                pass

    def _on_port(self, command: PortCommand) -> None:
        is_held = self._relay_ports.on_command(command)
        mesh = self._shell.core.mesh
        if isinstance(command, HoldPort) and mesh is not None:
            mesh.relays.on_port(command.port, is_held, now=self._shell.now)

    def _command(self, event: Engine) -> None:
        try:
            self._engine.apply(event.command)
        except UsageError as error:  # of a peer that was removed meanwhile, or one too many
            command = event.command
            logger.warning("data plane: %s: %s", type(command).__name__, error)
            if isinstance(command, PathCommand):
                refused = CommandRefused(command.public_key, str(error))
                self._shell.core.on_engine_event(refused, now=self._shell.now)

    def _on_peer(self, peer: PeerChanged) -> None:
        before = self.peers.get(peer.member_id)
        if peer.is_gone:
            self.peers.pop(peer.member_id, None)
            self._stages.pop(peer.member_id, None)
            self._rpc.delete(agent_ids=[peer.member_id[:16]])
            self._note("peer", f"{peer.name} is no member any more")
            return
        self.peers[peer.member_id] = peer
        if self._stages.get(peer.member_id) != peer.stage:
            self._stages[peer.member_id] = peer.stage
            self._note("peer", f"{peer.name}: {peer.stage}")
        became_connected = peer.state.status is ConnStatus.CONNECTED and (
            before is None or before.state.remote_address != peer.state.remote_address
        )
        if became_connected and peer.state.remote_address is not None:
            self._state.endpoint_worked(
                peer.member_id, peer.state.remote_address, unix_now=self._shell.unix_now
            )
        self.tell_manager(peer)

    def tell_manager(self, *peers: PeerChanged) -> None:
        """Send peers to the manager as agents, with the data plane's last handshakes."""
        stats = {item.public_key: item.last_handshake_unix for item in self._engine.peer_stats()}
        network_id = self._state.membership.network_id
        self._rpc.upsert(
            agents=[
                agent_for(
                    peer,
                    network_id,
                    last_handshake_unix=stats.get(peer.state.remote_key),
                    through=who_relays(peer, self.peers.values()),
                )
                for peer in peers
            ]
        )

    async def tell_often(self) -> None:
        """Keep the manager's view fresh: handshakes and latencies change without an event."""
        while True:
            await asyncio.sleep(TELL_INTERVAL_S)
            self.tell_manager(*self.peers.values())

    def _on_new_objects(self, raws: Sequence[bytes]) -> None:
        mesh = self._shell.core.mesh
        assert mesh is not None
        mesh.add_objects(raws, now=self._shell.now, unix_now=self._shell.unix_now)

    def _note(self, kind: str, text: str) -> None:
        logger.info("%s", text)
        self._state.note(kind, text, unix_now=self._shell.unix_now)
