"""CORE: one node on one UDP port: the DHT, what it stores for others, and its mesh.

Moves commands and results between discovery, storer and mesh (or, while joining, a courier), and
tells datagrams apart. It has the five verbs, so one driver or a simulation runs it. Used by the
tunnel, by `ginnel node` (no mesh) and by tests.

A node that stores for others also stores for itself: it may be the only one that can be reached.
So its own record takes part in lookups, and requests to itself are answered without any packet.

Invariant: each request handed to discovery is reported back to who asked for it exactly once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import TypeAlias

from ginnel.base.addresses import is_public
from ginnel.base.core import earliest
from ginnel.base.dataplane import DatagramKind, EngineEvent
from ginnel.base.demux import classify
from ginnel.base.errors import UsageError
from ginnel.base.links import LinkEvent
from ginnel.base.types import Address, Deadline, NodeId, Transmit
from ginnel.daemon.blocked_udp import BlockedUdp
from ginnel.daemon.own_addresses import OwnAddresses
from ginnel.daemon.party import Party
from ginnel.daemon.wall_clock import WallClock
from ginnel.discv5.events import (
    DiscoveryEvent,
    LookupDone,
    NodeAdded,
    NodeRemoved,
    NodesReceived,
    PongReceived,
    ReflexiveChanged,
    RequestFailed,
    TalkAnswered,
    TalkReceived,
)
from ginnel.discv5.protocol import DiscoveryCore
from ginnel.discv5.requests import Contact
from ginnel.mesh.courier import Courier, CourierEvent
from ginnel.mesh.events import MeshEvent
from ginnel.mesh.lan import GROUP4, GROUP6, LanCore, LanEvent, Link, NeighbourFound, NeighbourLost
from ginnel.mesh.mesh import Mesh
from ginnel.mesh.relay_events import Arrived
from ginnel.mesh.relays import Relays
from ginnel.mesh.rendezvous import (
    NEIGHBOURS,
    PROTOCOL,
    DoubtAddress,
    Lookup,
    Node,
    Ping,
    PinSession,
    RdvCommand,
    RequestType,
    TalkRequest,
    TalkResponse,
    UnpinSession,
    contact_of,
    distance,
    peek_type,
)
from ginnel.mesh.storer import Storer

GINNEL_VERSION = 1  # of what a record's key `ginnel` tells: [version, services]
SERVICE_RENDEZVOUS = 1  # bit 0 of the services
SERVICES = [GINNEL_VERSION, SERVICE_RENDEZVOUS]  # to everybody, nothing of networks
MAX_LOOKUP_NODES = 16  # closest nodes of a lookup that are handed on
NEIGHBOURS_DISTANCES = (256, 255, 254)  # most of a small table
FEW_NODES = 8  # while the table holds no more, each new node is reason to try again at once
MAX_STEPS = 100_000  # moves between the cores after one change; more is an endless loop

NodeEvent: TypeAlias = (
    MeshEvent | CourierEvent | ReflexiveChanged | NodeAdded | NodeRemoved | LanEvent
)


class NodeDrop(Enum):
    """Why a datagram went nowhere."""

    WIREGUARD = "wireguard outside the data plane"


class _Asker(Enum):
    MESH = 1
    STORER = 2


class NodeCore:
    """Discovery, storer and mesh as one core; see the module's text.

    Args:
        discovery: not started yet.
        storer: None where nothing is ever stored for others.
        mesh: the member's, or None.
        courier: while joining, instead of a mesh.
        relays: then, for TURN servers over TCP and TLS.
        lan: nodes of the local networks, or None.
        clock: wall time; `set_clock` keeps it right.
    """

    def __init__(
        self,
        discovery: DiscoveryCore,
        *,
        clock: WallClock,
        storer: Storer | None = None,
        mesh: Mesh | None = None,
        courier: Courier | None = None,
        relays: Relays | None = None,
        lan: LanCore | None = None,
    ) -> None:
        if mesh is not None and courier is not None:
            raise UsageError("a mesh has a courier of its own")
        self.discovery = discovery
        self.storer = storer
        self.mesh = mesh
        self.courier = courier if mesh is None else mesh.courier
        self.relays = relays if mesh is None else mesh.relays
        self.lan = lan
        self.drops: dict[NodeDrop, int] = {}
        self.own = OwnAddresses()
        self._party: Party | None = mesh or courier
        self._clock = clock
        self._asked: dict[int, tuple[_Asker, int]] = {}  # by discovery's number
        self._looked_up: dict[int, int] = {}
        self._local: dict[int, tuple[_Asker, int]] = {}  # talks with ourselves, below zero
        self._last_local = 0
        self._blocked = BlockedUdp()
        self._out: deque[Transmit] = deque()
        self._events: deque[NodeEvent] = deque()

    # --- commands ------------------------------------------------------------------------------

    def start(self, *, now: float) -> None:
        """Join the DHT and look for the members."""
        self.discovery.start(now)
        if self.mesh is not None:
            endpoint = self.discovery.record.address() or self.discovery.record.address(ipv6=True)
            if endpoint is not None:
                self.mesh.set_public_addresses([endpoint], now=now)
            self.mesh.start(now=now, unix_now=self._clock.unix(now))
        self._settle(now)

    def close(self, *, now: float) -> None:
        """Say goodbye; what is to be sent comes out of the polls."""
        if self.mesh is not None:
            self.mesh.close(now=now, unix_now=self._clock.unix(now))
        self._settle(now)
        if self.lan is not None:
            self.lan.close(now=now)

    def set_clock(self, clock: WallClock) -> None:
        """Take a wall clock that was set anew."""
        self._clock = clock

    def unix_at(self, now: float) -> float:
        """Return the wall time at `now`."""
        return self._clock.unix(now)

    def set_host_addresses(self, ips: Sequence[str], port: int, *, now: float) -> None:
        """Tell this machine's addresses (the default route's first) and the shared port."""
        changed = self.own.set_host(ips, port, now=now)
        if self.courier is not None:
            self.courier.set_ipv6_only(bool(ips) and all(":" in ip for ip in ips))
        self._offer_candidates(now)
        if changed and self.mesh is not None:
            self.mesh.on_network_changed(now=now, unix_now=self._clock.unix(now))
        self._settle(now)

    def set_outside(self, address: Address | None, *, now: float) -> None:
        """Tell under which address anybody reaches us: it is published, and we serve; or none."""
        record = self.discovery.record
        published = record.address() or record.address(ipv6=True)
        if address == published:
            return
        if published is not None and (address is None or address.is_ipv6 != published.is_ipv6):
            self.discovery.set_endpoint(None, now=now, ipv6=published.is_ipv6)
        if address is not None:
            self.discovery.set_endpoint(address, now=now)
        if self.storer is not None:
            self.storer.enabled = address is not None
        services = SERVICES if address is not None else None
        self.discovery.update_record({"ginnel": services}, now=now)
        if self.mesh is not None:
            self.mesh.set_public_addresses([] if address is None else [address], now=now)
        self._settle(now)

    def set_links(self, links: Sequence[Link], *, now: float) -> None:
        """Tell the addresses whose local networks are listened to."""
        if self.lan is not None:
            self.lan.set_links(links, now=now)
        self._settle(now)

    def set_nat(self, mapped: Address | None, restricted: bool, *, now: float) -> None:
        """Tell the outer address that a port mapping holds, and how the NAT filters.

        `restricted`: only addresses and ports that we wrote to get in; offers say so.
        """
        if (mapped, restricted) != (self.own.mapped, self.own.restricted):
            self.own.mapped, self.own.restricted = mapped, restricted
            self._offer_candidates(now)
            self._settle(now)

    def on_engine_event(self, event: EngineEvent, *, now: float) -> None:
        """Take what the data plane tells."""
        if self.mesh is not None:
            self.mesh.on_engine_event(event, now=now, unix_now=self._clock.unix(now))
        self._settle(now)

    def on_link(self, event: LinkEvent, *, now: float) -> None:
        """Take what became of a connection to a TURN server."""
        if self.mesh is not None:
            self.mesh.on_link(event, now=now, unix_now=self._clock.unix(now))
        elif self.relays is not None:
            self.relays.on_link(event, now=now)
            while (told := self.relays.poll_event()) is not None:
                if isinstance(told, Arrived):  # all else is of interest to peers only
                    self.relays.keep_foreign(told)
        self._settle(now)

    def settle(self, *, now: float) -> None:
        """Carry on after a command was given to `mesh`, `courier` or `discovery` directly."""
        self._settle(now)

    # --- the five verbs ------------------------------------------------------------------------

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Take one datagram of the shared port, or one that was sent to a group."""
        if local_ip in (GROUP4, GROUP6):
            if self.lan is not None:
                self.lan.handle_datagram(data, source, now=now)
            self._settle(now)
            return
        relays = self.relays
        known = None if relays is None else lambda number: relays.knows_channel(source, number)
        match classify(data, known):
            case DatagramKind.WIREGUARD:
                self._count(NodeDrop.WIREGUARD)
                return
            case DatagramKind.CHANNEL_DATA if self.mesh is not None:
                unix_now = self._clock.unix(now)
                self.mesh.handle_channel_data(data, source, now=now, unix_now=unix_now)
                return
            case DatagramKind.STUN if self.own.handle_datagram(data, source, now=now):
                owned = True
            case DatagramKind.STUN if self.mesh is not None:
                owned = self.mesh.handle_datagram(
                    data, source, now=now, unix_now=self._clock.unix(now), local_ip=local_ip
                )
            case _:
                owned = False
        if not owned:
            if is_public(source.ip):
                self._blocked.heard()
            self.discovery.handle_datagram(data, source, now=now, local_ip=local_ip)
        self._settle(now)

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due."""
        self.discovery.handle_timeout(now=now)
        self.own.handle_timeout(now=now)
        if self.storer is not None:
            self.storer.handle_timeout(now=now)
        if self.lan is not None:
            self.lan.handle_timeout(now=now)
        if self._party is not None:
            self._party.handle_timeout(now=now, unix_now=self._clock.unix(now))
        if self.mesh is None and self.relays is not None:
            self.relays.handle_timeout(now=now)
        self._settle(now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send."""
        if self._out:
            return self._out.popleft()
        transmit = self.mesh.poll_transmit() if self.mesh is not None else None
        transmit = transmit or self.discovery.poll_transmit() or self.own.poll_transmit()
        if transmit is None and self.lan is not None:
            transmit = self.lan.poll_transmit()
        return transmit

    def poll_event(self) -> NodeEvent | None:
        """Return the next event."""
        if self.mesh is not None:
            event: NodeEvent | None = self.mesh.poll_event()
        else:
            event = self.courier.poll_event() if self.courier is not None else None
            if event is None and self.relays is not None:
                event = self.relays.poll_link()
        if event is not None:
            return event
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        return earliest(
            self.discovery.poll_deadline(),
            self.own.poll_deadline(),
            self.storer.poll_deadline() if self.storer is not None else None,
            self._party.poll_deadline() if self._party is not None else None,
            self.relays.poll_deadline() if self.relays is not None else None,
            self.lan.poll_deadline() if self.lan is not None else None,
        )

    # --- moving --------------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        if self.own.take_change():
            self._offer_candidates(now)
        for _ in range(MAX_STEPS):
            if not self._move_one(now):
                if self.lan is not None:
                    self.lan.set_record(self.discovery.record, now=now)
                sent, notices = self._blocked.act(self.discovery, self.relays, now=now)
                self._out.extend(sent)
                self._events.extend(notices)
                return
        raise AssertionError("the cores of this node never come to rest")

    def _move_one(self, now: float) -> bool:
        event = self.discovery.poll_event()
        if event is not None:
            self._on_discovery(event, now)
            return True
        foreign = self.relays.poll_foreign() if self.relays is not None else None
        if foreign is not None:
            self.discovery.handle_datagram(*foreign, now=now)
            return True
        command = self._party.poll_command() if self._party is not None else None
        if command is not None:
            self._run(_Asker.MESH, command, now)
            return True
        command = self.storer.poll_command() if self.storer is not None else None
        if command is not None:
            self._run(_Asker.STORER, command, now)
            return True
        neighbour = self.lan.poll_event() if self.lan is not None else None
        if neighbour is not None:
            self._on_neighbour(neighbour, now)
            return True
        return False

    def _on_neighbour(self, event: LanEvent, now: float) -> None:
        if isinstance(event, NeighbourFound):
            self.discovery.add_node(event.record, now)  # if its record has an address
            if len(self.discovery.nodes()) <= FEW_NODES:  # it may know the DHT
                self.discovery.find_node(event.contact, NEIGHBOURS_DISTANCES, now=now)
        if self.courier is not None and not isinstance(event, NeighbourLost):
            self.courier.on_neighbour(now=now)
        self._events.append(event)

    def _on_discovery(self, event: DiscoveryEvent, now: float) -> None:
        match event:
            case TalkReceived():
                self._serve(event.token, event.contact, event.protocol, event.payload, now)
            case TalkAnswered():
                self._answered(self._asked.pop(event.request, None), event.payload, None, now)
            case PongReceived():
                self._answered(self._asked.pop(event.request, None), None, event.address, now)
            case RequestFailed():
                self._answered(self._asked.pop(event.request, None), None, None, now)
                self._looked(event.request, None, now)
            case LookupDone():
                self._looked(event.lookup, event, now)
            case ReflexiveChanged():
                self.own.reflexive[event.ipv6] = event
                self._offer_candidates(now)
                self._events.append(event)
            case NodesReceived() | NodeAdded() | NodeRemoved():
                self._on_nodes(event, now)
            case _:
                pass  # what discovery asked for itself

    def _on_nodes(self, event: NodesReceived | NodeAdded | NodeRemoved, now: float) -> None:
        if isinstance(event, NodesReceived):  # a hint's own record: nobody here asks for others
            for record in event.records:
                self.discovery.add_node(record, now)
            return
        few = isinstance(event, NodeAdded) and len(self.discovery.nodes()) <= FEW_NODES
        if few and self.courier is not None:
            self.courier.on_node_added(now=now)
        self._events.append(event)

    def _looked(self, number: int, done: LookupDone | None, now: float) -> None:
        """Tell the mesh that a lookup of its own ended; one that was refused found nobody."""
        token = self._looked_up.pop(number, None)
        if token is not None and self._party is not None:
            nodes = [] if done is None else self._nodes_for(done)
            unix_now = self._clock.unix(now)
            self._party.on_lookup_done(token, nodes, now=now, unix_now=unix_now)

    def _nodes_for(self, event: LookupDone) -> list[Node]:
        """Return the nodes of a lookup with ourselves, then those of the local network."""
        own = self.discovery.record
        near = self._nearby(event.target)
        near_ids = [contact.node_id for contact in near]
        nodes = [enr for enr in event.nodes if enr.node_id not in near_ids]
        is_open = self.storer is not None and self.storer.enabled and contact_of(own) is not None
        if is_open and own.node_id not in near_ids:
            nodes.append(own)
            nodes.sort(key=lambda enr: distance(enr.node_id, event.target))
        return [*nodes[:MAX_LOOKUP_NODES], *near]

    def _nearby(self, target: NodeId) -> list[Contact]:
        """Return the closest of the local network, and of ourselves where there are any."""
        near = self.lan.neighbours() if self.lan is not None else []
        if self.lan is not None and self.storer is not None and self.lan.has_company:
            own_ip, own = self.lan.own_ip(), self.discovery.record
            if own_ip is not None:
                near.append(Contact(own.node_id, Address(own_ip, self.own.port), own.public_key))
        return sorted(near, key=lambda contact: distance(contact.node_id, target))[:NEIGHBOURS]

    def _run(self, asker: _Asker, command: RdvCommand, now: float) -> None:
        discovery = self.discovery
        match command:
            case Lookup():
                self._looked_up[discovery.lookup(command.target, now=now)] = command.token
            case TalkRequest() if command.contact.node_id == discovery.node_id:
                self._last_local -= 1
                self._local[self._last_local] = (asker, command.token)
                own = contact_of(discovery.record) or command.contact
                self._serve(self._last_local, own, PROTOCOL, command.payload, now)
            case TalkRequest():
                number = discovery.talk_request(command.contact, PROTOCOL, command.payload, now=now)
                self._asked[number] = (asker, command.token)
            case TalkResponse() if command.talk_token < 0:
                pending = self._local.pop(command.talk_token, None)
                self._answered(pending, command.payload, None, now)
            case TalkResponse():
                discovery.respond_talk(command.talk_token, command.payload, now=now)
            case Ping() if command.contact.node_id == discovery.node_id:
                self._answered((asker, command.token), None, command.contact.address, now)
            case Ping():
                self._asked[discovery.ping(command.contact, now=now)] = (asker, command.token)
            case PinSession():
                discovery.pin_session(command.contact.node_id, command.contact.address)
            case DoubtAddress():
                discovery.doubt_address(now)
            case UnpinSession():
                discovery.unpin_session(command.contact.node_id, command.contact.address)

    def _serve(
        self, token: int, contact: Contact, protocol: bytes, payload: bytes, now: float
    ) -> None:
        """Hand a request to the mesh (a PUSH) or the storer (all else)."""
        is_rdv = protocol == PROTOCOL
        if is_rdv and self._party is not None and peek_type(payload) is RequestType.PUSH:
            unix_now = self._clock.unix(now)
            self._party.on_push(token, contact, payload, now=now, unix_now=unix_now)
        elif is_rdv and self.storer is not None:
            is_near = self.lan is not None and self.lan.is_near(contact.address.ip)
            self.storer.on_talk_received(
                token, contact, payload, now=now, is_near=is_near or token < 0
            )
        elif token < 0:
            self._answered(self._local.pop(token, None), b"", None, now)
        else:
            self.discovery.respond_talk(token, b"", now=now)

    def _answered(
        self,
        asked: tuple[_Asker, int] | None,
        payload: bytes | None,
        address: Address | None,
        now: float,
    ) -> None:
        if asked is None:
            return
        asker, token = asked
        if asker is _Asker.STORER:
            if self.storer is not None:
                self.storer.on_talk_answered(token, payload)
        elif self._party is not None:
            unix_now = self._clock.unix(now)
            self._party.on_pong(token, address, now=now)
            self._party.on_talk_answered(token, payload, now=now, unix_now=unix_now)

    def _offer_candidates(self, now: float) -> None:
        if self.mesh is None or not self.own.port:
            return
        self.mesh.set_local_candidates(
            self.own.candidates(self.mesh.relays.candidates()),
            symmetric=self.own.symmetric,
            restricted=self.own.mapped is None and self.own.restricted,
            now=now,
            unix_now=self._clock.unix(now),
        )

    def _count(self, reason: NodeDrop) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1
