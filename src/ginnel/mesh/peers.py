"""The members of one network as peers: one connection each, found, greeted and signalled to.

The lower half of the mesh: keeps the peers to the certificates, looks for them, seals and sends,
carries what their connections tell. What arrives is `mesh.py`'s business.

Invariant: one connection a member; none for who has no current certificate.

Source: DESIGN, "Finding a member", "Peer connection"; docs/formats.md.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace
from enum import Enum

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import TimerTable
from ginnel.base.dataplane import DatagramKind
from ginnel.base.demux import classify
from ginnel.base.types import Address, MemberId, NodeId, Secret, Transmit
from ginnel.ice import stun
from ginnel.ice.candidate import Candidate
from ginnel.mesh import certcheck, derive, names
from ginnel.mesh.claims import Member
from ginnel.mesh.control_port import ControlPort
from ginnel.mesh.courier import Courier
from ginnel.mesh.derive import Point
from ginnel.mesh.envelope import Kind
from ginnel.mesh.events import (
    Engine,
    MemberFound,
    MeshEvent,
    Notice,
    NoticeKind,
    PeerChanged,
    RelayedPacket,
)
from ginnel.mesh.finder import Found
from ginnel.mesh.membership import Membership
from ginnel.mesh.objects import CAP_RELAY, Certificate
from ginnel.mesh.path_mtu import PathMtus
from ginnel.mesh.relay_events import (
    AddressesChanged,
    Arrived,
    Refused,
    RelayPath,
    SendMessage,
)
from ginnel.mesh.relays import Relays
from ginnel.mesh.rendezvous import Presence, Tokens
from ginnel.mesh.sealer import Sealer
from ginnel.mesh.signalling import MeshConfig, MeshKeys, Peer, Signaller
from ginnel.peer.conn import ConnCore
from ginnel.peer.events import (
    ConnConfig,
    PathSuspected,
    PeerStateChanged,
    SendAnswer,
    SendCandidates,
    SendOffer,
)
from ginnel.peer.events import Engine as ConnEngine
from ginnel.peer.signal import encode_candidates, encode_offer
from ginnel.peer.table import ConnTable
from ginnel.peer.turns import Turns

GREETING_S = 1.5  # seconds that the greeting of a member gets before we offer all the same
SPREAD_S = 0.3  # seconds that news are gathered before they are spread
SILENT_S = 12.0  # seconds of offers without an answer until a member counts as offline
DISTRUST_S = 8.0  # seconds without answer to an offer until the presence is looked up anew
SUSPECT_GAP_S = 5.0  # seconds between two looks at our own address because a path is suspect
MAX_FRESH = 4  # newest certificates that a greeting may hold whole

log = logging.getLogger(__name__)


class Timer(Enum):
    """The timers of a mesh."""

    TICK = 1
    SPREAD = 2
    OPEN = 3
    CLOCK = 4


class PeerTable:
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
        tokens: Tokens,
    ) -> None:
        self.membership = membership
        self.signaller = Signaller(membership, keys, sealer=sealer, random_bytes=random_bytes)
        self.member_id = self.signaller.member_id
        self._config = config
        self._random_bytes = random_bytes
        self._rng = rng
        self._tokens = tokens
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
        self.turns = Turns(config.parallel_connects)
        self._conns: ConnTable[MemberId] = ConnTable(self.turns)
        self.relays = Relays(random_bytes=random_bytes, rng=rng, ports=config.relay_ports)
        self._control: ControlPort | None = None
        self.path_mtus = PathMtus(config.mtu, tokens=tokens)
        self._candidates: tuple[Candidate, ...] = ()
        self._symmetric = False  # our NAT takes another port for each destination
        self._restricted = False  # it lets in only addresses and ports that were written to
        self._public: tuple[Address, ...] = ()
        self._suspected_at = float("-inf")
        self._fresh: deque[bytes] = deque(maxlen=MAX_FRESH)
        self._notices: dict[NoticeKind, str] = {}
        self._out: deque[Transmit] = deque()
        self._events: deque[MeshEvent] = deque()
        self._timers: TimerTable[Timer] = TimerTable()

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

    # --- relays --------------------------------------------------------------------------------

    def _serve_as_relay(self, now: float) -> None:
        own = self.membership.certificate_of(self.member_id)
        may_relay = own is not None and bool(own.caps & CAP_RELAY)
        self.relays.serve(may_relay and self._config.relay, now=now)

    def _local_for(self, peer: Peer) -> tuple[Candidate, ...]:
        """Return what we offer a peer: to a relay its own service is of no use."""
        return (*self._candidates, *self.relays.candidates(besides=peer.member_id))

    def _update_relays(self, now: float) -> None:
        """Tell the relaying part which relays are connected directly."""
        paths = []
        for peer in self._peers.values():
            path, state = peer.conn.path, peer.conn.state
            if not (peer.cert.caps & CAP_RELAY and peer.is_up and path and state.remote_address):
                continue
            if not any(candidate.is_relayed for candidate in path):
                ends = (state.remote_address, path[0].base.ip)
                is_upper = peer.conn.config.is_controlling
                paths.append(RelayPath(peer.member_id, *ends, peer.conn.left_working, is_upper))
        self.relays.set_paths(paths, now=now)

    def _tell_candidates(self, now: float, unix_now: float) -> None:
        for peer in list(self._peers.values()):
            self._set_candidates(peer, now)
            self._drain_conn(peer, now, unix_now)

    def _set_candidates(self, peer: Peer, now: float) -> None:
        peer.conn.set_local_candidates(
            self._local_for(peer),
            now=now,
            symmetric=self._symmetric,
            restricted=self._restricted,
        )

    def _drain_relays(self, now: float, unix_now: float) -> bool:
        """Take what the relaying part tells; return whether there was anything."""
        any_event = False
        while (command := self.relays.poll_command()) is not None:
            self._events.append(Engine(command))
        while (event := self.relays.poll_event()) is not None:
            any_event = True
            match event:
                case Arrived():
                    self._on_relayed(event, now, unix_now)
                case Refused(relayed, address, reason):
                    for peer in self._peers.values():
                        peer.conn.on_relay_refused(relayed, address, reason, now=now)
                        self._drain_conn(peer, now, unix_now)
                case AddressesChanged():
                    self._tell_candidates(now, unix_now)
                case SendMessage(member_id, payload):
                    known = self._peers.get(member_id)
                    if known is not None:
                        self._send(known, Kind.RELAY, payload, now=now, unix_now=unix_now)
        return any_event

    def _on_relayed(self, event: Arrived, now: float, unix_now: float) -> None:
        kind = classify(event.data)
        if kind is DatagramKind.DISCV5:
            self.relays.keep_foreign(event)
            return
        if kind is not DatagramKind.STUN:
            self._events.append(RelayedPacket(event.relayed, event.peer, event.data))
            return
        try:
            message = stun.decode_message(event.data)
        except stun.StunError:
            return
        owner = self._conns.find(message, event.peer)
        if owner is not None:
            peer = self._peers[owner]
            peer.conn.handle_message(message, event.peer, now=now, relayed=event.relayed)
            self._drain_conn(peer, now, unix_now)

    # --- members -------------------------------------------------------------------------------

    def _reconcile(self, now: float, unix_now: float) -> None:
        """Bring the peers in line with the certificates, and look for who is not connected."""
        own = self.membership.certificate_of(self.member_id)
        self._serve_as_relay(now)
        epoch = self.signaller.newest_epoch()
        if own is None or epoch is None:
            why = certcheck.describe_own(self.membership.refusal_of(self.member_id))
            self._notify(NoticeKind.CERTIFICATE, why or "no epoch of the network is known")
            members: dict[MemberId, Member] = {}
        else:
            self._notify(NoticeKind.CERTIFICATE, "")
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
            if peer is not None and not peer.may_stay(member.cert, epoch.epoch_id):
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
        ice = self._config.ice
        own = self.membership.certificate_of(self.member_id)
        caps = cert.caps | (own.caps if own is not None else 0)
        if caps & CAP_RELAY:  # without a direct path to the relay nothing can be relayed
            ice = replace(ice, force_relay=False)
        config = ConnConfig(
            key=cert.wireguard,
            local_key=self.signaller.wireguard_public,
            allowed_ips=names.allowed_ips(cert),
            preshared_key=self.signaller.preshared_key(cert),
            keepalive_s=self._config.keepalive_s,
            version=self._config.version,
            ice=ice,
            lends_consent=self._config.lends_consent,
            turns=self.turns,
        )
        return ConnCore(config, random_bytes=self._random_bytes, rng=self._rng)

    def _add(self, member: Member, epoch_id: bytes, now: float, unix_now: float) -> None:
        peer = Peer(member.cert, member.name, self._make_conn(member.cert), epoch_id)
        self._peers[peer.member_id] = peer
        self._conns.put(peer.member_id, peer.conn)
        self._by_key[member.cert.wireguard] = peer
        self._seek(peer, now, unix_now)
        self._show(peer)

    def _remove(self, peer: Peer, now: float, unix_now: float) -> None:
        peer.conn.close(now)
        self._drain_conn(peer, now, unix_now)
        self._forget(peer)
        self._conns.remove(peer.member_id)
        del self._peers[peer.member_id]
        del self._by_key[peer.cert.wireguard]
        self.relays.revoke(peer.member_id)
        self._events.append(self._peer_changed(peer, is_gone=True))

    def _restart(self, peer: Peer, now: float, unix_now: float) -> None:
        """Begin anew with a peer that has said goodbye."""
        peer.conn.close(now)
        self._drain_conn(peer, now, unix_now)
        self._forget(peer)
        peer.conn = self._make_conn(peer.cert)
        self._conns.put(peer.member_id, peer.conn)
        peer.is_open = peer.is_found = peer.is_silent = False
        peer.open_at = peer.hello = None
        self._seek(peer, now, unix_now)
        self._show(peer)

    # --- finding -------------------------------------------------------------------------------

    def _seek(self, peer: Peer, now: float, unix_now: float) -> None:
        """Look for a peer that is not connected, where it is registered in this period."""
        if peer.is_answering:
            self._forget(peer)
        else:
            self._look_for(peer, now, unix_now)

    def _look_for(self, peer: Peer, now: float, unix_now: float) -> None:
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
        told = (peer.member_id, peer.name, found.via, found.storers, found.presence.addresses)
        self._events.append(MemberFound(*told))
        if peer.sync.is_due(self.membership, now=now):
            peer.hello = self._greet(peer, now, unix_now)
        if peer.is_back(found.presence.sent_at):
            peer.conn.retry_now(now=now)
            self._drain_conn(peer, now, unix_now)
        if not peer.is_open:
            peer.open_at = now if peer.hello is None else now + GREETING_S
            self._timers.set_earlier(Timer.OPEN, peer.open_at)
        self._show(peer)

    def _open_greeted(self, now: float, unix_now: float) -> None:
        """Open the connections of those who had time to read our greeting."""
        for peer in list(self._peers.values()):
            if peer.open_at is None or peer.is_open:
                continue
            if peer.open_at <= now:
                self._open(peer, now, unix_now)
            else:
                self._timers.set_earlier(Timer.OPEN, peer.open_at)

    def _open(self, peer: Peer, now: float, unix_now: float) -> None:
        peer.open_at, peer.is_open = None, True
        self._set_candidates(peer, now)
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
        by_tunnel, by_dht = peer.is_up, not peer.is_answering
        if kind is Kind.OFFER:
            by_dht = by_dht or bool(peer.offer_hash)  # the last one got no answer
            self._note_offer(peer, sealed.body_hash, now)
        elif kind in (Kind.ANSWER, Kind.CANDIDATES):
            # It may have restarted: then only the way that its offer came is open.
            by_tunnel = by_tunnel and peer.by_tunnel
            by_dht = by_dht or not by_tunnel
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
            if now - peer.offered_at >= SILENT_S and not peer.is_silent:
                peer.is_silent = True
                self._show(peer)
        else:
            peer.offered_at = now
        peer.offer_hash = body_hash
        self.signaller.opener.expect_answer(body_hash, peer.member_id)

    def _drain_conn(self, peer: Peer, now: float, unix_now: float) -> None:
        conn = peer.conn
        while (transmit := conn.poll_transmit()) is not None:
            self._conns.note_sent(peer.member_id, transmit)
            if transmit.relayed_from is None:
                self._out.append(transmit)
            else:
                self.relays.send(transmit, now=now)

        def send(kind: Kind, payload: bytes, ref: bytes = b"") -> None:
            self._send(peer, kind, payload, now=now, unix_now=unix_now, ref=ref)

        while (event := conn.poll_event()) is not None:
            match event:
                case SendOffer(offer):
                    send(Kind.OFFER, encode_offer(offer))
                case SendAnswer(answer):
                    send(Kind.ANSWER, encode_offer(answer), peer.remote_offer)
                case SendCandidates(session, candidates, nat):
                    send(Kind.CANDIDATES, encode_candidates(session, candidates, nat))
                case ConnEngine(command):
                    self._events.append(Engine(command))
                case PeerStateChanged():
                    self._on_state(peer, now, unix_now)
                case PathSuspected():
                    self._on_suspected(peer, now, unix_now)
                case _:
                    log.debug("a connection tells %s", type(event).__name__)
        self._conns.touch(peer.member_id)

    def _on_suspected(self, peer: Peer, now: float, unix_now: float) -> None:
        """Its path may be dead: be ready to signal by the DHT, and see whether we have moved."""
        self._look_for(peer, now, unix_now)
        if now - self._suspected_at >= SUSPECT_GAP_S:
            self._suspected_at = now
            self.courier.registrar.ping_now(now=now)

    def _on_state(self, peer: Peer, now: float, unix_now: float) -> None:
        if peer.cert.caps & CAP_RELAY:
            self._update_relays(now)
        self.path_mtus.follow(peer.conn.state, peer.cert, is_up=peer.is_up, now=now)
        if peer.is_answering:
            peer.offer_hash, peer.is_silent = b"", False
            self._timers.set_earlier(Timer.SPREAD, now + SPREAD_S)
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

    def _notify(self, kind: NoticeKind, text: str) -> None:
        if self._notices.get(kind, "") != text:
            self._notices[kind] = text
            self._events.append(Notice(kind, text))
