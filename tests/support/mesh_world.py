"""Whole meshes on virtual time: public nodes, members behind NATs, and a toy data plane.

[member] - NAT - Internet - public nodes (no members; they store and push)

The toy WireGuard knows many peers, checks the preshared key, answers handshakes, carries inner
packets once a handshake is done and follows the address that it hears a peer from.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import TypeVar

from ginnel.base.core import earliest
from ginnel.base.dataplane import (
    Endpoint,
    EngineCommand,
    EngineEvent,
    HandshakeCompleted,
    InnerReceived,
    RemovePeer,
    SendInner,
    SetPeer,
    StartHandshake,
)
from ginnel.base.types import Address, Deadline, Secret, Transmit
from ginnel.daemon.node_core import NodeCore, NodeEvent
from ginnel.daemon.wall_clock import WallClock
from ginnel.discv5.enr import Enr
from ginnel.discv5.protocol import DiscoveryConfig, DiscoveryCore
from ginnel.ice.events import AgentConfig
from ginnel.ice.turn_ports import HoldPort
from ginnel.mesh import derive
from ginnel.mesh.courier import Courier
from ginnel.mesh.events import Engine, PeerChanged, RelayedPacket
from ginnel.mesh.membership import Membership
from ginnel.mesh.mesh import Mesh, MeshConfig
from ginnel.mesh.objects import CAP_RELAY
from ginnel.mesh.rendezvous import Tokens
from ginnel.mesh.signalling import MeshKeys
from ginnel.mesh.storer import Storer
from ginnel.peer.turns import MAX_CONNECTING
from support.hpke import DeterministicSealer
from support.members import NOW, MemberKeys, NetworkFactory
from support.sim import Host, World

PORT = 41640
HOME_PORT = 33_333
INITIATION, RESPONSE, DATA = (bytes((kind, 0, 0, 0)) + b"TOYW" for kind in (1, 2, 4))
SIZES = {INITIATION: 148, RESPONSE: 92}  # bytes, as WireGuard's
HANDSHAKE_RETRY = 5.0
REKEY = 120.0  # s, as WireGuard where it has something to say

EventT = TypeVar("EventT")


class ToyEngine:
    """Many peers' WireGuard; `is_dead` makes it deaf."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.is_dead = False
        self.peers: dict[bytes, SetPeer] = {}
        self.endpoints: dict[bytes, Endpoint] = {}
        self.up: dict[bytes, bool] = {}
        self.again_at: dict[bytes, float] = {}
        self.out: deque[Transmit] = deque()
        self.inner = 0

    def apply(self, command: EngineCommand, now: float) -> None:
        match command:
            case SetPeer():
                self.peers[command.public_key] = command
                if command.endpoint is not None:
                    self.endpoints[command.public_key] = command.endpoint
            case RemovePeer(key):
                for table in (self.peers, self.endpoints, self.up, self.again_at):
                    table.pop(key, None)  # type: ignore[attr-defined]  # four dicts
            case StartHandshake(key):
                self.again_at[key] = now
                self.handle_timeout(now)
            case SendInner(key, packet):
                self.inner += 1
                if self.up.get(key):
                    self._send(DATA, key, packet)

    def handle_timeout(self, now: float) -> None:
        for key, at in list(self.again_at.items()):
            if at <= now:
                self.again_at[key] = now + HANDSHAKE_RETRY
                self._send(INITIATION, key)

    def receive(
        self,
        data: bytes,
        source: Address,
        local_ip: str | None = None,
        relayed: Address | None = None,
        *,
        now: float,
    ) -> list[EngineEvent]:
        kind, sender, psk, body = data[:8], data[8:40], data[40:48], data[48:]
        if self.is_dead or sender not in self.peers or psk != self._psk(sender):
            return []
        if kind == DATA:
            return [InnerReceived(sender, body)] if self.up.get(sender) else []
        self.endpoints[sender] = Endpoint(source, local_ip, relayed)
        self.up[sender] = True
        self.again_at.pop(sender, None)
        if kind == INITIATION:
            self._send(RESPONSE, sender)
        else:
            self.again_at[sender] = now + REKEY
        return [HandshakeCompleted(sender, source)]

    def deadline(self) -> Deadline | None:
        return Deadline(min(self.again_at.values()), "toy") if self.again_at else None

    def _psk(self, key: bytes) -> bytes:
        secret = self.peers[key].preshared_key
        return hashlib.sha256(secret.reveal() if secret else b"").digest()[:8]

    def _send(self, kind: bytes, key: bytes, body: bytes = b"") -> None:
        endpoint = self.endpoints.get(key)
        if endpoint is not None and not self.is_dead:
            data = (kind + self.key + self._psk(key) + body).ljust(SIZES.get(kind, 0), b"\0")
            way = (endpoint.address, endpoint.source_ip, endpoint.relayed_from)
            self.out.append(Transmit(data, *way))


class MemberCore:
    """A NodeCore and a toy engine on one port, as one core."""

    def __init__(self, node: NodeCore, engine: ToyEngine) -> None:
        self.node = node
        self.engine = engine
        self.now = 0.0

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        self.now = now
        if data[4:8] != b"TOYW":
            self.node.handle_datagram(data, source, now=now, local_ip=local_ip)
            return
        for event in self.engine.receive(data, source, local_ip, now=now):
            self.node.on_engine_event(event, now=now)

    def handle_timeout(self, *, now: float) -> None:
        self.now = now
        self.engine.handle_timeout(now)
        self.node.handle_timeout(now=now)

    def poll_transmit(self) -> Transmit | None:
        while self.engine.out:
            transmit = self.engine.out.popleft()
            if transmit.relayed_from is None:
                return transmit
            assert self.node.mesh is not None
            self.node.mesh.send_relayed(transmit, now=self.now)
        return self.node.poll_transmit()

    def poll_event(self) -> NodeEvent | None:
        event = self.node.poll_event()
        if isinstance(event, Engine):
            self.engine.apply(event.command, self.now)
        elif isinstance(event, HoldPort):
            assert self.node.mesh is not None
            self.node.mesh.relays.on_port(event.port, True, now=self.now)
        elif isinstance(event, RelayedPacket):
            for told in self.engine.receive(
                event.data, event.peer, relayed=event.relayed, now=self.now
            ):
                self.node.on_engine_event(told, now=self.now)
        return event

    def poll_deadline(self) -> Deadline | None:
        return earliest(self.engine.deadline(), self.node.poll_deadline())


@dataclass
class Member:
    """One machine of the mesh, and what it told."""

    keys: MemberKeys
    host: Host
    membership: Membership
    core: MemberCore
    port: int = HOME_PORT
    events: list[NodeEvent] = field(default_factory=list)

    @property
    def mesh(self) -> Mesh:
        assert self.core.node.mesh is not None
        return self.core.node.mesh

    def of(self, kind: type[EventT]) -> list[EventT]:
        return [event for event in self.events if isinstance(event, kind)]

    def state_of(self, other: Member) -> PeerChanged | None:
        return self.mesh.peer(other.mesh.member_id)

    def is_up_with(self, other: Member) -> bool:
        peer = self.state_of(other)
        return peer is not None and peer.stage == "connected"


class MeshWorld:
    """A world, a network of members and public nodes that are none."""

    def __init__(self, seed: int = 1, *, publics: int = 2, enabled: bool = True) -> None:
        self.world = World(seed)
        self.factory = NetworkFactory()
        self.members: dict[str, Member] = {}
        self.force_relay = False
        self.parallel_connects = MAX_CONNECTING
        self.relays: tuple[str, ...] = ()  # names of members that may relay
        self._numbers: dict[str, int] = {}
        self.nodes: list[NodeCore] = []
        self.records: list[Enr] = []
        for index in range(publics):
            self.add_node(index, enabled=enabled)

    @property
    def now(self) -> float:
        return self.world.now

    def clock(self, shift: float = 0.0) -> WallClock:
        return WallClock(NOW + shift)

    def add_node(self, index: int, *, enabled: bool = True) -> NodeCore:
        """Add a public node that is no member; it knows those before it."""
        host = self.world.add_public(f"node-{index}", f"198.51.{100 + index}.1")
        discovery = self.discovery(
            Secret(hashlib.sha256(f"node {index}".encode()).digest()), Address(host.ip, PORT)
        )
        storer = self.storer(discovery, enabled=enabled)
        node = NodeCore(discovery, clock=self.clock(), storer=storer)
        self.records.append(discovery.record)
        self.nodes.append(node)
        host.attach(node, PORT, lambda _event: None)
        node.start(now=self.now)
        return node

    def discovery(self, key: Secret, endpoint: Address | None = None) -> DiscoveryCore:
        return DiscoveryCore(
            DiscoveryConfig(protocol_id=b"ginnel", client_mode=endpoint is None),
            key,
            endpoint=endpoint,
            bootstrap=self.records,
            random_bytes=self.world.random_bytes,
            rng=self.world.rng,
            now=self.now,
        )

    def storer(self, discovery: DiscoveryCore, *, enabled: bool = True) -> Storer:
        return Storer(
            discovery.node_id,
            discovery.closest,
            tokens=Tokens(),
            now=self.now,
            enabled=enabled,
        )

    def place(self, name: str, kind: str) -> Host:
        """Make the machine: public, or behind a NAT of this kind."""
        number = len(self.world.hosts) + 1
        if kind == "public":
            return self.world.add_public(name, f"192.0.{number}.5")
        nat = self.world.add_nat(f"nat-{name}", f"203.0.{number}.7", kind)
        nat.link.delay = 0.025
        return nat.add_host(name, f"192.168.{number}.2")

    def add_member(
        self,
        name: str,
        kind: str = "port-restricted",
        *,
        knows: tuple[str, ...] = (),
        host: Host | None = None,
        shift: float = 0.0,
        is_known: bool = True,
    ) -> Member:
        """Start a member that knows these members' certificates; a shifted clock is wrong by it."""
        keys = MemberKeys(name)
        membership = self.factory.membership()
        own = [self.cert(name)] if is_known else []
        known = [self.cert(k) for k in knows]
        membership.add_objects([*own, *known], unix_now=NOW + self.now + shift)
        host = host or self.place(name, kind)
        public = kind == "public"
        port = PORT if public else HOME_PORT
        discovery = self.discovery(keys.discovery, Address(host.ip, port) if public else None)
        mesh = Mesh(
            self.config(discovery),
            MeshKeys(keys.identity, keys.wireguard, (keys.sealing,)),
            membership,
            sealer=DeterministicSealer(self.world.random_bytes),
            random_bytes=self.world.random_bytes,
            rng=self.world.rng,
        )
        node = NodeCore(
            discovery,
            clock=self.clock(shift),
            storer=self.storer(discovery) if public else None,
            mesh=mesh,
        )
        core = MemberCore(node, ToyEngine(derive.x25519_public(keys.wireguard)))
        member = Member(keys, host, membership, core, port)
        self.members[name] = member
        core.now = self.now
        node.set_host_addresses(host.ips, port, now=self.now)
        node.start(now=self.now)
        host.attach(core, port, member.events.append)
        return member

    def stop(self, member: Member) -> None:
        """Kill the process without a word."""
        attachment = member.host.attachment_at(member.port)
        assert attachment is not None
        attachment.detach()

    def config(self, discovery: DiscoveryCore) -> MeshConfig:
        overlay = (ip_network("100.80.0.0/16"), ip_network(self.overlay_prefix()))
        ice = AgentConfig(overlay=overlay, force_relay=self.force_relay)
        limit = self.parallel_connects
        return MeshConfig(discovery.node_id, ice, version="test", parallel_connects=limit)

    def overlay_prefix(self) -> str:
        return derive.overlay_prefix(self.factory.network_id)

    def cert(self, name: str) -> bytes:
        """Return a member's certificate; its address is its place in the order of mention."""
        number = self._numbers.setdefault(name, len(self._numbers) + 1)
        caps = CAP_RELAY if name in self.relays else 0
        return self.factory.cert(MemberKeys(name), number, caps=caps)

    def add_joiner(self, name: str, kind: str = "port-restricted") -> tuple[Host, NodeCore]:
        """Start a node with a courier only, as `ginnel join` does."""
        host = self.place(name, kind)
        discovery = self.discovery(MemberKeys(name).discovery)
        courier = Courier(
            discovery.node_id,
            tokens=Tokens(),
            random_bytes=self.world.random_bytes,
            rng=self.world.rng,
        )
        node = NodeCore(discovery, clock=self.clock(), courier=courier)
        node.start(now=self.now)
        return host, node

    def run_until_connected(self, *names: str, timeout: float = 60.0) -> bool:
        """Run until all these (or all) members are connected with each other."""
        members = [self.members[name] for name in names or self.members]
        pairs = [(a, b) for a in members for b in members if a is not b]
        return self.world.run(until=lambda: all(a.is_up_with(b) for a, b in pairs), timeout=timeout)
