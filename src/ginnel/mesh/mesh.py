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

from collections.abc import Sequence

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import TimerTable, earliest
from ginnel.base.dataplane import EngineEvent, InnerReceived, SendInner, SendProbe
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.links import LinkEvent
from ginnel.base.types import Address, Deadline, MemberId, Secret, Transmit
from ginnel.discv5.requests import Contact
from ginnel.ice import stun
from ginnel.ice.candidate import Candidate
from ginnel.mesh import names
from ginnel.mesh.clock_watch import ClockWatch
from ginnel.mesh.control_port import BodyArrived
from ginnel.mesh.courier import CourierEvent, MemberEnvelope
from ginnel.mesh.derive import Point
from ginnel.mesh.envelope import EnvelopeDrop, Kind, Opened
from ginnel.mesh.events import (
    Engine,
    MeshDrop,
    MeshEvent,
    NoticeKind,
    PeerChanged,
    PingResult,
    RosterChanged,
)
from ginnel.mesh.finder import Delivered, FinderDrop, Found, NotFound
from ginnel.mesh.membership import Membership, Status
from ginnel.mesh.peers import SPREAD_S, PeerTable, Timer
from ginnel.mesh.rendezvous import Node, RdvCommand, Tokens
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
from ginnel.mesh.signalling import MeshConfig, MeshKeys, Peer
from ginnel.peer.signal import decode_candidates, decode_offer

__all__ = ["Mesh", "MeshConfig", "MeshDrop", "MeshKeys"]

TICK_S = 20.0  # seconds between looks at the clock, the periods and the roster
MAX_GREETED = 3  # members asked about a sender whom we don't know


class Mesh(PeerTable):
    """A member's whole mesh; see the module's text."""

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
        super().__init__(
            config,
            keys,
            membership,
            sealer=sealer,
            random_bytes=random_bytes,
            rng=rng,
            tokens=tokens or Tokens(),
        )
        self.drops: dict[MeshDrop, int] = {}
        self._clock_watch = ClockWatch()

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
        self.relays.close(now=now)
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
        self,
        candidates: Sequence[Candidate],
        *,
        symmetric: bool,
        restricted: bool = False,
        now: float,
        unix_now: float,
    ) -> None:
        """Tell our addresses as they are now; all connections use them.

        `symmetric` and `restricted` say how our NAT maps and filters, as observed.
        """
        before = (self._candidates, self._symmetric, self._restricted)
        if (tuple(candidates), symmetric, restricted) == before:
            return
        self._candidates, self._symmetric = tuple(candidates), symmetric
        self._restricted = restricted
        self.relays.set_own_addresses(self._candidates)
        self._serve_as_relay(now)  # it begins with our first address
        self._tell_candidates(now, unix_now)
        self._drain(now, unix_now)

    def set_public_addresses(self, addresses: Sequence[Address], *, now: float) -> None:
        """Tell the addresses under which anybody reaches us: our presence holds them."""
        if tuple(addresses) != self._public:
            self._public = tuple(addresses)
            self.courier.registrar.register_again(now=now)

    def on_network_changed(self, *, now: float, unix_now: float) -> None:
        """Register again and look at all paths: the machine slept, or its network changed."""
        self.courier.registrar.register_again(now=now)
        self.courier.registrar.ping_now(now=now)  # shows what our address is outside
        for peer in list(self._peers.values()):
            peer.conn.on_network_changed(now=now)
            self._drain_conn(peer, now, unix_now)
        self._drain(now, unix_now)

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

    def send_relayed(self, transmit: Transmit, *, now: float) -> None:
        """Send a WireGuard packet from our address at a relay (`relayed_from`)."""
        self.relays.send(transmit, now=now)

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

    def describe_pairs(self, member_id: MemberId) -> tuple[str, ...]:
        """Return each candidate pair with a member, with its last result in words."""
        peer = self._peers.get(member_id)
        return () if peer is None else peer.conn.describe_pairs()

    # --- results and datagrams -----------------------------------------------------------------

    def on_lookup_done(
        self, token: int, nodes: Sequence[Node], *, now: float, unix_now: float
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
        if self.relays.handle_message(message, source, now=now, local_ip=local_ip):
            self._drain(now, unix_now)
            return True
        owner = self._conns.find(message, source)
        if owner is None:
            self._count(MeshDrop.STUN)
            return False
        peer = self._peers[owner]
        peer.conn.handle_message(message, source, now=now, local_ip=local_ip)
        self._drain_conn(peer, now, unix_now)
        self._drain(now, unix_now)
        return True

    def handle_channel_data(
        self, data: bytes, source: Address, *, now: float, unix_now: float
    ) -> None:
        """Take ChannelData that `relays.knows_channel` said is ours."""
        self.relays.handle_channel_data(data, source, now=now)
        self._drain(now, unix_now)

    def on_link(self, event: LinkEvent, *, now: float, unix_now: float) -> None:
        """Take what became of a connection to a TURN server."""
        self.relays.on_link(event, now=now)
        self._drain(now, unix_now)

    def handle_timeout(self, *, now: float, unix_now: float) -> None:
        """Do what is due."""
        self.relays.handle_timeout(now=now)
        for timer in self._timers.expire(now):
            if timer is Timer.TICK:
                self._tick(now, unix_now)
            elif timer is Timer.SPREAD:
                self._spread(now, unix_now)
            elif timer is Timer.CLOCK:
                self._watch_clock(now, unix_now)
            else:
                self._open_greeted(now, unix_now)
        for member_id in self._conns.take_due(now):
            if (peer := self._peers.get(member_id)) is not None:
                peer.conn.handle_timeout(now=now)
                self._drain_conn(peer, now, unix_now)
        if self._control is not None:
            self._control.handle_timeout(now=now)
        self.path_mtus.handle_timeout(now=now)
        self.courier.handle_timeout(now=now, unix_now=unix_now)
        self._drain(now, unix_now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram (STUN) to send; call until None."""
        return self._out.popleft() if self._out else self.relays.poll_transmit()

    def poll_command(self) -> RdvCommand | None:
        """Return the next command for the DHT; call until None."""
        return self.courier.poll_command()

    def poll_event(self) -> MeshEvent | None:
        """Return the next event; call until None."""
        return self._events.popleft() if self._events else self.relays.poll_link()

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        control = self._control.poll_deadline() if self._control is not None else None
        own = (self._timers.deadline(), self.courier.poll_deadline(), self.relays.poll_deadline())
        conns = self._conns.poll_deadline()
        return earliest(*own, control, self.path_mtus.poll_deadline(), conns)

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
        peer.is_silent = False
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
                peer.conn.on_remote_offer(offer, now=now)
                if not peer.is_open:  # it answers then, without an offer of its own
                    self._open(peer, now, unix_now)
            case Kind.ANSWER:
                peer.offer_hash = b""
                peer.conn.on_remote_answer(decode_offer(payload), now=now)
            case Kind.CANDIDATES:
                session, candidates, nat = decode_candidates(payload)
                peer.conn.on_remote_candidates(session, candidates, now=now, nat=nat)
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
            case Kind.RELAY:
                self.relays.on_message(peer.member_id, payload, now=now)
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
        self._timers.set_earlier(Timer.SPREAD, now + SPREAD_S)

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
        while self._drain_relays(now, unix_now):
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
            elif not self.path_mtus.on_answer(arrived.token, arrived.seconds, now=now):
                result = PingResult(arrived.token, peer.member_id, arrived.seconds)
                self._events.append(result)
        self._events.extend(map(Engine, self.path_mtus.drain(self._control, now=now)))
        while (inner := self._control.poll_packet()) is not None:
            make = SendProbe if inner.is_probe else SendInner
            self._events.append(Engine(make(inner.peer, inner.packet)))

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

    # --- now and then --------------------------------------------------------------------------

    def _tick(self, now: float, unix_now: float) -> None:
        self._timers.set(Timer.TICK, now + TICK_S)
        self.membership.refresh(unix_now=unix_now)
        self._reconcile(now, unix_now)
        self.courier.set_own_points(self.signaller.own_points(unix_now), now=now, unix_now=unix_now)
        self._watch_clock(now, unix_now)
        self._timers.set_earlier(Timer.SPREAD, now + SPREAD_S)
        self._drain(now, unix_now)

    def _spread(self, now: float, unix_now: float) -> None:
        """Tell our digest to all whom we reach and who don't know it."""
        for peer in self._peers.values():
            if (peer.is_up or peer.is_found) and peer.sync.is_due(self.membership, now=now):
                self._greet(peer, now, unix_now)
        self._drain(now, unix_now)

    def _watch_clock(self, now: float, unix_now: float) -> None:
        """Say what points at a wrong clock: that members don't meet is its only other sign."""
        late = self.signaller.opener.drops.get(EnvelopeDrop.CLOCK, 0)
        late += self.courier.finder.drops.get(FinderDrop.CLOCK, 0)
        is_lonely = bool(self._peers) and not any(
            p.is_found or p.is_open for p in self._peers.values()
        )
        own = self.signaller.own_points(unix_now)
        text = self._clock_watch.look(
            is_lonely=is_lonely,
            is_registered=any(self.courier.registrar.storer_count(p.location) for p in own),
            is_late=late > 0,
            now=now,
            unix_now=unix_now,
        )
        if is_lonely and not text:
            self._timers.set(Timer.CLOCK, self._clock_watch.next_look(now))
        else:
            self._timers.stop(Timer.CLOCK)
        self._notify(NoticeKind.CLOCK, text)

    def _count(self, reason: MeshDrop) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1
