"""CORE: all members of one network, from the roster to the connections.

For every other certified member it keeps one `ConnCore`, finds it by rendezvous, carries signals
sealed through the DHT or through the tunnel where that is up, spreads the roster and answers on
the control port. It knows of the DHT only commands and their results.

Besides the five verbs (which take `unix_now` too) results come in by `on_lookup_done`,
`on_talk_answered`, `on_pong`, `on_push` and `on_engine_event`.

Invariant: one connection a member; none for who has no current certificate.

Source: DESIGN, "Layers", "Finding a member"; docs/formats.md.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import TimerTable, earliest
from ginnel.base.dataplane import EngineEvent, InnerReceived, SendInner
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Address, Deadline, MemberId, NodeId, Secret, Transmit
from ginnel.discv5.enr import Enr
from ginnel.discv5.requests import Contact
from ginnel.ice import stun
from ginnel.ice.candidate import Candidate
from ginnel.ice.events import AgentConfig
from ginnel.mesh import derive, names
from ginnel.mesh.control_port import BodyArrived, ControlPort
from ginnel.mesh.courier import Courier, CourierEvent, MemberEnvelope
from ginnel.mesh.derive import Point
from ginnel.mesh.envelope import EnvelopeDrop, Kind, Opened
from ginnel.mesh.events import (
    Engine,
    MemberFound,
    MeshEvent,
    Notice,
    NoticeKind,
    PeerChanged,
    PingResult,
    RosterChanged,
)
from ginnel.mesh.finder import Delivered, FinderDrop, Found, NotFound
from ginnel.mesh.membership import Member, Membership, Status
from ginnel.mesh.objects import Certificate
from ginnel.mesh.rendezvous import Presence, RdvCommand, Tokens
from ginnel.mesh.roster import (
    ObjectsPayload,
    decode_fetch,
    decode_grant,
    decode_objects,
    encode_grant,
    encode_objects,
    find_object,
)
from ginnel.mesh.sealer import Sealer
from ginnel.mesh.signalling import MeshKeys, Peer, Signaller
from ginnel.peer.conn import ConnCore
from ginnel.peer.events import (
    ConnConfig,
    PeerStateChanged,
    SendAnswer,
    SendCandidates,
    SendOffer,
)
from ginnel.peer.events import Engine as ConnEngine
from ginnel.peer.signal import (
    decode_candidates,
    decode_offer,
    encode_candidates,
    encode_offer,
)

TICK_S = 20.0  # seconds between looks at the clock, the periods and the roster
GREETING_S = 1.5  # seconds that the greeting of a member gets before we offer all the same
SPREAD_S = 0.3  # seconds that news are gathered before they are spread
DISTRUST_S = 8.0  # seconds without answer to an offer until the presence is looked up anew
MAX_FRESH = 4  # newest certificates that a greeting may hold whole
MAX_GREETED = 3  # members asked about a sender whom we don't know

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeshConfig:
    """Settings of one member; `ice` holds the overlay's prefixes and the one check limiter."""

    node_id: NodeId
    ice: AgentConfig = field(default_factory=AgentConfig)
    keepalive_s: int = 25
    version: str = ""


class MeshDrop(Enum):
    """Why a message that passed all checks of the envelope was dropped, or a datagram was."""

    STUN = "stun for no connection"
    PAYLOAD = "payload"
    NO_PEER = "no such peer"
    KIND = "kind not served"


class _Timer(Enum):
    TICK = 1
    SPREAD = 2
    OPEN = 3


class Mesh:
    """All peers of one network; see the module's text."""

    def __init__(
        self,
        config: MeshConfig,
        keys: MeshKeys,
        membership: Membership,
        *,
        sealer: Sealer,
        random_bytes: RandomBytes,
        rng: Rng,
        tokens: Tokens | None = None,
    ) -> None:
        self.membership = membership
        self.drops: dict[MeshDrop, int] = {}
        self.signaller = Signaller(membership, keys, sealer=sealer, random_bytes=random_bytes)
        self.member_id = self.signaller.member_id
        self._config = config
        self._random_bytes = random_bytes
        self._rng = rng
        self._tokens = tokens or Tokens()
        self.courier = Courier(
            config.node_id,
            tokens=self._tokens,
            random_bytes=random_bytes,
            rng=rng,
            member_side=self,
        )
        self._peers: dict[MemberId, Peer] = {}
        self._by_key: dict[bytes, Peer] = {}
        self._by_location: dict[NodeId, Peer] = {}
        self._control: ControlPort | None = None
        self._candidates: tuple[Candidate, ...] = ()
        self._symmetric = False
        self._public: tuple[Address, ...] = ()
        self._fresh: deque[bytes] = deque(maxlen=MAX_FRESH)
        self._notices: dict[NoticeKind, str] = {}
        self._out: deque[Transmit] = deque()
        self._events: deque[MeshEvent] = deque()
        self._timers: TimerTable[_Timer] = TimerTable()

    # --- commands ------------------------------------------------------------------------------

    def start(self, *, now: float, unix_now: float) -> None:
        """Register ourselves and look for all members."""
        self._tick(now, unix_now)

    def close(self, *, now: float, unix_now: float) -> None:
        """Say goodbye to connected peers and end all connections."""
        for peer in self._peers.values():
            if peer.is_up:
                self._send(peer, Kind.BYE, b"", now=now, unix_now=unix_now)
        self._drain_control(now, unix_now)  # before the data plane forgets the peers
        for peer in self._peers.values():
            peer.conn.close(now)
            self._drain_conn(peer, now, unix_now)
        self.courier.set_own_points([], now=now, unix_now=unix_now)
        self._timers = TimerTable()
        self._drain(now, unix_now)

    def add_objects(self, raws: Sequence[bytes], *, now: float, unix_now: float) -> None:
        """Take new objects (of the signer, say) and tell them to all members."""
        verdicts = self.membership.add_objects(list(raws), unix_now=unix_now)
        accepted = [
            verdict.object.raw
            for verdict in verdicts
            if verdict.status is Status.NEW and verdict.object is not None
        ]
        self._on_accepted(accepted, now, unix_now)
        self._drain(now, unix_now)

    def set_local_candidates(
        self, candidates: Sequence[Candidate], *, symmetric: bool, now: float, unix_now: float
    ) -> None:
        """Tell our addresses as they are now; all connections use them."""
        if (tuple(candidates), symmetric) == (self._candidates, self._symmetric):
            return
        self._candidates, self._symmetric = tuple(candidates), symmetric
        for peer in self._peers.values():
            peer.conn.set_local_candidates(self._candidates, now=now, symmetric=symmetric)
            self._drain_conn(peer, now, unix_now)
        self._drain(now, unix_now)

    def set_public_addresses(self, addresses: Sequence[Address], *, now: float) -> None:
        """Tell the addresses under which anybody reaches us: our presence holds them."""
        if tuple(addresses) != self._public:
            self._public = tuple(addresses)
            self.courier.registrar.register_again(now=now)

    def on_network_changed(self, *, now: float) -> None:
        """Register again at once: this machine's addresses or routes changed."""
        self.courier.registrar.register_again(now=now)

    def ping(self, member_id: MemberId, *, now: float) -> int:
        """Ping a member through the tunnel; ends in one `PingResult` with the number returned."""
        token = self._tokens.next()
        peer = self._peers.get(member_id)
        if peer is None or not peer.is_up or self._control is None:
            self._events.append(PingResult(token, member_id, None))
            return token
        ips = names.overlay_addresses(peer.cert)
        self._control.ping(token, peer.cert.wireguard, ips, now=now)
        self._drain_control(now, 0.0)
        return token

    def add_points(self, points: Sequence[Point], *, now: float, unix_now: float) -> None:
        """Register points of an invite; envelopes come out as `EnvelopeReceived`."""
        self.courier.add_points(points, now=now, unix_now=unix_now)

    def deliver(self, point: Point, envelope: bytes, *, now: float) -> int:
        """Deliver an envelope to a point of an invite; ends in one `EnvelopeDelivered`."""
        return self.courier.deliver(point, envelope, now=now)

    def peers(self) -> list[PeerChanged]:
        """Return all other members and their connections, by member id."""
        return [self._peer_changed(self._peers[key]) for key in sorted(self._peers)]

    def peer(self, member_id: MemberId) -> PeerChanged | None:
        """Return one other member and its connection."""
        peer = self._peers.get(member_id)
        return None if peer is None else self._peer_changed(peer)

    # --- results and datagrams -----------------------------------------------------------------

    def on_lookup_done(
        self, token: int, nodes: Sequence[Enr], *, now: float, unix_now: float
    ) -> None:
        """Take the nodes that a lookup found."""
        self.courier.on_lookup_done(token, nodes, now=now, unix_now=unix_now)
        self._drain(now, unix_now)

    def on_talk_answered(
        self, token: int, payload: bytes | None, *, now: float, unix_now: float
    ) -> None:
        """Take the answer to a request of ours; None: there was none."""
        self.courier.on_talk_answered(token, payload, now=now, unix_now=unix_now)
        self._drain(now, unix_now)

    def on_pong(self, token: int, address: Address | None, *, now: float) -> None:
        """Take how a storer sees us; None: it did not answer."""
        self.courier.on_pong(token, address, now=now)

    def on_push(
        self, talk_token: int, contact: Contact, payload: bytes, *, now: float, unix_now: float
    ) -> None:
        """Take what a storer pushes."""
        self.courier.on_push(talk_token, contact, payload, now=now, unix_now=unix_now)
        self._drain(now, unix_now)

    def on_engine_event(self, event: EngineEvent, *, now: float, unix_now: float) -> None:
        """Take what the data plane tells."""
        peer = self._by_key.get(event.public_key)
        if peer is None:
            self._count(MeshDrop.NO_PEER)
        elif not isinstance(event, InnerReceived):
            peer.conn.on_engine_event(event, now=now)
            self._drain_conn(peer, now, unix_now)
        elif self._control is not None:
            self._control.on_packet(event.public_key, event.packet, now=now)
        self._drain(now, unix_now)

    def handle_datagram(
        self,
        data: bytes,
        source: Address,
        *,
        now: float,
        unix_now: float,
        local_ip: str | None = None,
    ) -> bool:
        """Take a STUN datagram; return whether a connection owned it."""
        try:
            message = stun.decode_message(data)
        except stun.StunError:
            self._count(MeshDrop.STUN)
            return False
        for peer in self._peers.values():
            if peer.conn.owns(message, source):
                peer.conn.handle_message(message, source, now=now, local_ip=local_ip)
                self._drain_conn(peer, now, unix_now)
                self._drain(now, unix_now)
                return True
        self._count(MeshDrop.STUN)
        return False

    def handle_timeout(self, *, now: float, unix_now: float) -> None:
        """Do what is due."""
        for timer in self._timers.expire(now):
            if timer is _Timer.TICK:
                self._tick(now, unix_now)
            elif timer is _Timer.SPREAD:
                self._spread(now, unix_now)
            else:
                self._open_greeted(now, unix_now)
        for peer in list(self._peers.values()):
            deadline = peer.conn.poll_deadline()
            if deadline is not None and deadline.at <= now:
                peer.conn.handle_timeout(now=now)
                self._drain_conn(peer, now, unix_now)
        if self._control is not None:
            self._control.handle_timeout(now=now)
        self.courier.handle_timeout(now=now, unix_now=unix_now)
        self._drain(now, unix_now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram (STUN) to send; call until None."""
        return self._out.popleft() if self._out else None

    def poll_command(self) -> RdvCommand | None:
        """Return the next command for the DHT; call until None."""
        return self.courier.poll_command()

    def poll_event(self) -> MeshEvent | None:
        """Return the next event; call until None."""
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        conns = [peer.conn.poll_deadline() for peer in self._peers.values()]
        control = self._control.poll_deadline() if self._control is not None else None
        return earliest(self._timers.deadline(), self.courier.poll_deadline(), control, *conns)

    # --- what the courier asks (MemberSide) ----------------------------------------------------

    def seal_presence(self, point: Point, dkey: Secret, unix_now: float) -> bytes:
        """Return our presence for a point of ours."""
        presence = Presence(
            self.member_id,
            point.period,
            int(unix_now),
            dkey,
            self._public,
            self.membership.revocation_digest(),
        )
        return self.signaller.seal_presence(point, presence)

    def verify_presence(self, point: Point, presence: Presence) -> bool:
        """Say whether the presence is signed by the member whom we look for at the point."""
        peer = self._by_location.get(point.location)
        return peer is not None and self.signaller.is_presence_of(peer.cert, presence)

    # --- members -------------------------------------------------------------------------------

    def _tick(self, now: float, unix_now: float) -> None:
        self._timers.set(_Timer.TICK, now + TICK_S)
        self.membership.refresh(unix_now=unix_now)
        self._reconcile(now, unix_now)
        self.courier.set_own_points(self.signaller.own_points(unix_now), now=now, unix_now=unix_now)
        self._watch_clock()
        self._timers.set_earlier(_Timer.SPREAD, now + SPREAD_S)
        self._drain(now, unix_now)

    def _reconcile(self, now: float, unix_now: float) -> None:
        """Bring the peers in line with the certificates, and look for who is not connected."""
        own = self.membership.certificate_of(self.member_id)
        epoch = self.signaller.newest_epoch()
        if own is None or epoch is None:
            self._notify(NoticeKind.CERTIFICATE, "no certificate in force: is the clock right?")
            members: dict[MemberId, Member] = {}
        else:
            self._notices.pop(NoticeKind.CERTIFICATE, None)
            current = self.membership.members()
            members = {m.cert.member_id: m for m in current if m.cert.member_id != self.member_id}
        if own is not None and self._control is None:
            self._control = ControlPort(
                names.overlay_addresses(own), random_bytes=self._random_bytes
            )
        for member_id in [m for m in self._peers if m not in members]:
            self._remove(self._peers[member_id], now, unix_now)
        for member_id, member in members.items():
            peer = self._peers.get(member_id)
            assert epoch is not None
            if peer is not None and not _is_same(peer, member.cert, epoch.epoch_id):
                self._remove(peer, now, unix_now)
                peer = None
            if peer is None:
                self._add(member, epoch.epoch_id, now, unix_now)
            else:
                peer.cert, peer.name = member.cert, member.name
                self._seek(peer, now, unix_now)
        while (alarm := self.membership.poll_alarm()) is not None:
            self._notify(NoticeKind.CONFLICT, f"{alarm.kind.value}: {alarm.name}, {alarm.detail}")

    def _make_conn(self, cert: Certificate) -> ConnCore:
        config = ConnConfig(
            key=cert.wireguard,
            local_key=self.signaller.wireguard_public,
            allowed_ips=names.allowed_ips(cert),
            preshared_key=self.signaller.preshared_key(cert),
            keepalive_s=self._config.keepalive_s,
            version=self._config.version,
            ice=self._config.ice,
        )
        return ConnCore(config, random_bytes=self._random_bytes, rng=self._rng)

    def _add(self, member: Member, epoch_id: bytes, now: float, unix_now: float) -> None:
        peer = Peer(member.cert, member.name, self._make_conn(member.cert), epoch_id)
        self._peers[member.cert.member_id] = peer
        self._by_key[member.cert.wireguard] = peer
        self._seek(peer, now, unix_now)
        self._show(peer)

    def _remove(self, peer: Peer, now: float, unix_now: float) -> None:
        peer.conn.close(now)
        self._drain_conn(peer, now, unix_now)
        self._forget(peer)
        del self._peers[peer.member_id]
        del self._by_key[peer.cert.wireguard]
        self._events.append(self._peer_changed(peer, is_gone=True))

    def _restart(self, peer: Peer, now: float, unix_now: float) -> None:
        """Begin anew with a peer that has said goodbye."""
        peer.conn.close(now)
        self._drain_conn(peer, now, unix_now)
        self._forget(peer)
        peer.conn = self._make_conn(peer.cert)
        peer.is_open = peer.is_found = False
        peer.open_at = peer.hello = None
        self._seek(peer, now, unix_now)
        self._show(peer)

    # --- finding -------------------------------------------------------------------------------

    def _seek(self, peer: Peer, now: float, unix_now: float) -> None:
        """Look for a peer that is not connected, where it is registered in this period."""
        if peer.is_up:
            self._forget(peer)
            return
        point = self.signaller.point_of(peer.member_id, derive.period_of(unix_now))
        if point is None or point.location == peer.location:
            return
        self._forget(peer)
        peer.location = point.location
        self._by_location[point.location] = peer
        self.courier.finder.find(point, now=now)

    def _forget(self, peer: Peer) -> None:
        if peer.location is not None:
            self._by_location.pop(peer.location, None)
            self.courier.finder.forget(peer.location)
            peer.location = None

    def _on_found(self, peer: Peer, found: Found, now: float, unix_now: float) -> None:
        peer.is_found, peer.note = True, ""
        self._events.append(
            MemberFound(
                peer.member_id, peer.name, found.via, found.storers, found.presence.addresses
            )
        )
        if peer.sync.is_due(self.membership, now=now):
            peer.hello = self._greet(peer, now, unix_now)
        if not peer.is_open:
            peer.open_at = now if peer.hello is None else now + GREETING_S
            self._timers.set_earlier(_Timer.OPEN, peer.open_at)
        self._show(peer)

    def _open_greeted(self, now: float, unix_now: float) -> None:
        """Open the connections of those who had time to read our greeting."""
        for peer in list(self._peers.values()):
            if peer.open_at is None or peer.is_open:
                continue
            if peer.open_at <= now:
                self._open(peer, now, unix_now)
            else:
                self._timers.set_earlier(_Timer.OPEN, peer.open_at)

    def _open(self, peer: Peer, now: float, unix_now: float) -> None:
        peer.open_at, peer.is_open = None, True
        peer.conn.set_local_candidates(self._candidates, now=now, symmetric=self._symmetric)
        peer.conn.open(now)
        self._drain_conn(peer, now, unix_now)

    # --- sending -------------------------------------------------------------------------------

    def _greet(self, peer: Peer, now: float, unix_now: float) -> int | None:
        """Tell our digest, our certificate and the newest ones to a peer."""
        payload = peer.sync.hello(self.membership, self._inline(), now=now)
        return self._send(peer, Kind.OBJECTS, payload, now=now, unix_now=unix_now)

    def _inline(self) -> list[bytes]:
        own = self.membership.certificate_of(self.member_id)
        head = [own.object.raw] if own is not None else []
        return head + [raw for raw in self._fresh if raw not in head]

    def _send(
        self,
        peer: Peer,
        kind: Kind,
        payload: bytes,
        *,
        now: float,
        unix_now: float,
        ref: bytes = b"",
        epoch_id: bytes = b"",
    ) -> int | None:
        """Seal and send by the tunnel or the DHT; return the delivery's number if by the DHT."""
        epoch = self.membership.epochs.get(epoch_id) if epoch_id else None
        sealed = self.signaller.seal(
            kind, peer.cert, payload, unix_now=unix_now, ref=ref, epoch=epoch
        )
        if sealed is None:
            return None
        by_tunnel, by_dht = peer.is_up, not peer.is_up
        if kind is Kind.OFFER:
            by_dht = by_dht or bool(peer.offer_hash)  # the last one got no answer
            self._note_offer(peer, sealed.body_hash, now)
        elif kind in (Kind.ANSWER, Kind.CANDIDATES):
            # It may have restarted: then only the way that its offer came is open.
            by_tunnel = by_tunnel and peer.by_tunnel
            by_dht = not by_tunnel
        if by_tunnel and self._control is not None:
            ips = names.overlay_addresses(peer.cert)
            self._control.send_body(peer.cert.wireguard, ips, sealed.envelope)
        if not by_dht:
            return None
        if peer.location is None:
            peer.location = sealed.point.location
            self._by_location[sealed.point.location] = peer
        return self.courier.finder.deliver(sealed.point, sealed.envelope, now=now)

    def _note_offer(self, peer: Peer, body_hash: bytes, now: float) -> None:
        if peer.offer_hash:
            if now - peer.offered_at > DISTRUST_S and peer.location is not None:
                self.courier.finder.search_again(peer.location, now=now)
        else:
            peer.offered_at = now
        peer.offer_hash = body_hash
        self.signaller.opener.expect_answer(body_hash, peer.member_id)

    def _spread(self, now: float, unix_now: float) -> None:
        """Tell our digest to all whom we reach and who don't know it."""
        for peer in self._peers.values():
            if (peer.is_up or peer.is_found) and peer.sync.is_due(self.membership, now=now):
                self._greet(peer, now, unix_now)
        self._drain(now, unix_now)

    # --- receiving -----------------------------------------------------------------------------

    def _on_envelope(
        self, envelope: bytes, source: bytes, now: float, unix_now: float, *, by_tunnel: bool
    ) -> None:
        opened = self.signaller.open(envelope, source=source, now=now, unix_now=unix_now)
        introduced, self.signaller.introduced = self.signaller.introduced, []
        if introduced:
            self._on_accepted(introduced, now, unix_now)
        if opened is None:
            self._ask_about_strangers(now, unix_now)
            return
        peer = self._peers.get(opened.message.sender)
        if peer is None:
            self._count(MeshDrop.NO_PEER)
            return
        newest = self.signaller.newest_epoch()
        if newest is not None and newest.epoch_id != opened.message.epoch_id:
            grant = encode_grant(newest.epoch.object.raw, newest.secret)
            old = opened.message.epoch_id
            self._send(peer, Kind.GRANT, grant, now=now, unix_now=unix_now, epoch_id=old)
        try:
            self._on_message(peer, opened, now, unix_now, by_tunnel=by_tunnel)
        except RemoteProtocolError:
            self._count(MeshDrop.PAYLOAD)
        self._drain_conn(peer, now, unix_now)

    def _on_message(
        self, peer: Peer, opened: Opened, now: float, unix_now: float, *, by_tunnel: bool
    ) -> None:
        payload = opened.message.payload
        match opened.message.kind:
            case Kind.OFFER:
                offer = decode_offer(payload)
                peer.remote_offer, peer.by_tunnel = opened.body_hash, by_tunnel
                if not peer.is_open:
                    self._open(peer, now, unix_now)
                peer.conn.on_remote_offer(offer, now=now)
            case Kind.ANSWER:
                peer.offer_hash = b""
                peer.conn.on_remote_answer(decode_offer(payload), now=now)
            case Kind.CANDIDATES:
                session, candidates = decode_candidates(payload)
                peer.conn.on_remote_candidates(session, candidates, now=now)
            case Kind.BYE:
                self._restart(peer, now, unix_now)
            case Kind.GRANT:
                self._on_grant(*decode_grant(payload), now, unix_now)
            case Kind.FETCH:
                raw = find_object(self.membership, decode_fetch(payload))
                if raw is not None:
                    objects = ObjectsPayload(self.membership.roster_digest(), (), (raw,))
                    answer = encode_objects(objects)
                    self._send(peer, Kind.OBJECTS, answer, now=now, unix_now=unix_now)
            case Kind.OBJECTS:
                self._on_objects(peer, decode_objects(payload), now, unix_now)
            case _:
                self._count(MeshDrop.KIND)

    def _on_objects(self, peer: Peer, payload: ObjectsPayload, now: float, unix_now: float) -> None:
        if payload.objects:
            self.add_objects(payload.objects, now=now, unix_now=unix_now)
        answers = peer.sync.on_objects(payload, self.membership, self._inline(), now=now)
        for name, data in answers:
            self._send(peer, Kind[name.upper()], data, now=now, unix_now=unix_now)

    def _on_grant(self, raw: bytes, secret: Secret, now: float, unix_now: float) -> None:
        self.membership.add_object(raw, unix_now=unix_now)
        if self.membership.add_epoch_secret(secret):
            self._events.append(RosterChanged((raw,)))
            self._tick(now, unix_now)

    def _on_accepted(self, raws: Sequence[bytes], now: float, unix_now: float) -> None:
        if not raws:
            return
        self._fresh.extend(raws)
        self._events.append(RosterChanged(tuple(raws)))
        self._reconcile(now, unix_now)
        self._timers.set_earlier(_Timer.SPREAD, now + SPREAD_S)

    def _ask_about_strangers(self, now: float, unix_now: float) -> None:
        """A sender is unknown to us: compare rosters with members who may know it."""
        while self.signaller.opener.wanted() is not None:
            for peer in [p for p in self._peers.values() if p.is_up][:MAX_GREETED]:
                self._greet(peer, now, unix_now)

    # --- draining ------------------------------------------------------------------------------

    def _drain(self, now: float, unix_now: float) -> None:
        while (event := self.courier.poll_event()) is not None:
            self._on_courier_event(event, now, unix_now)
        self._drain_control(now, unix_now)

    def _drain_control(self, now: float, unix_now: float) -> None:
        if self._control is None:
            return
        while (arrived := self._control.poll_event()) is not None:
            peer = self._by_key.get(arrived.peer)
            if peer is None:
                continue
            if isinstance(arrived, BodyArrived):
                self._on_envelope(arrived.body, arrived.peer, now, unix_now, by_tunnel=True)
            else:
                result = PingResult(arrived.token, peer.member_id, arrived.seconds)
                self._events.append(result)
        while (inner := self._control.poll_packet()) is not None:
            self._events.append(Engine(SendInner(inner.peer, inner.packet)))

    def _on_courier_event(self, event: CourierEvent, now: float, unix_now: float) -> None:
        match event:
            case MemberEnvelope():
                self._on_envelope(event.envelope, event.storer, now, unix_now, by_tunnel=False)
            case Found():
                peer = self._by_location.get(event.location)
                if peer is not None:
                    self._on_found(peer, event, now, unix_now)
            case NotFound():
                peer = self._by_location.get(event.location)
                if peer is not None and not peer.is_found:
                    peer.note = event.reason
                    self._show(peer)
                self._watch_clock()
            case Delivered():
                self._on_delivered(event, now, unix_now)
            case _:
                self._events.append(event)

    def _on_delivered(self, event: Delivered, now: float, unix_now: float) -> None:
        peer = self._by_location.get(event.location)
        if peer is not None and peer.hello == event.delivery:
            peer.hello = None
            if not peer.is_open:
                self._open(peer, now, unix_now)

    def _drain_conn(self, peer: Peer, now: float, unix_now: float) -> None:
        conn = peer.conn
        while (transmit := conn.poll_transmit()) is not None:
            self._out.append(transmit)

        def send(kind: Kind, payload: bytes, ref: bytes = b"") -> None:
            self._send(peer, kind, payload, now=now, unix_now=unix_now, ref=ref)

        while (event := conn.poll_event()) is not None:
            match event:
                case SendOffer(offer):
                    send(Kind.OFFER, encode_offer(offer))
                case SendAnswer(answer):
                    send(Kind.ANSWER, encode_offer(answer), peer.remote_offer)
                case SendCandidates(session, candidates):
                    send(Kind.CANDIDATES, encode_candidates(session, candidates))
                case ConnEngine(command):
                    self._events.append(Engine(command))
                case PeerStateChanged():
                    self._on_state(peer, now, unix_now)
                case _:
                    log.debug("a connection tells %s", type(event).__name__)

    def _on_state(self, peer: Peer, now: float, unix_now: float) -> None:
        if peer.is_up:
            peer.offer_hash = b""
            self._timers.set_earlier(_Timer.SPREAD, now + SPREAD_S)
        elif peer.is_open and peer.member_id in self._peers:
            self._seek(peer, now, unix_now)
        self._show(peer)

    # --- for people ----------------------------------------------------------------------------

    def _show(self, peer: Peer) -> None:
        shown = (peer.conn.state, peer.stage(), peer.name)
        if shown != peer.shown:
            peer.shown = shown
            self._events.append(self._peer_changed(peer))

    def _peer_changed(self, peer: Peer, *, is_gone: bool = False) -> PeerChanged:
        network = self.membership.network.name if self.membership.network is not None else ""
        return PeerChanged(
            member_id=peer.member_id,
            name=peer.name,
            full_name=names.full_name(peer.name, network),
            addresses=names.overlay_addresses(peer.cert),
            state=peer.conn.state,
            stage="gone" if is_gone else peer.stage(),
            is_gone=is_gone,
        )

    def _watch_clock(self) -> None:
        late = self.signaller.opener.drops.get(EnvelopeDrop.CLOCK, 0)
        late += self.courier.finder.drops.get(FinderDrop.CLOCK, 0)
        if late:
            text = "another member's clock differs from this machine's by more than 10 minutes"
            self._notify(NoticeKind.CLOCK, text)

    def _notify(self, kind: NoticeKind, text: str) -> None:
        if self._notices.get(kind) != text:
            self._notices[kind] = text
            self._events.append(Notice(kind, text))

    def _count(self, reason: MeshDrop) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1


def _is_same(peer: Peer, cert: Certificate, epoch_id: bytes) -> bool:
    """Say whether the connection may stay: same keys and addresses, same epoch."""
    return (
        peer.cert.wireguard == cert.wireguard
        and names.allowed_ips(peer.cert) == names.allowed_ips(cert)
        and peer.epoch_id == epoch_id
    )
