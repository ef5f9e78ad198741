"""Messages between members: sealing ours, opening theirs, and one member as we deal with it.

What is sent when is `mesh.py`'s business; the checks of what arrives are `envelope.py`'s.

Invariant: one session id a process, and per recipient a counter that only rises.

Source: docs/formats.md, "Sealed envelope", "WireGuard preshared key".
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from ginnel.base.chance import RandomBytes
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.limits import BoundedLru
from ginnel.base.servers import DEFAULT_PORTS, PortRange
from ginnel.base.types import MemberId, NodeId, Secret
from ginnel.ice.events import AgentConfig
from ginnel.mesh import derive, names
from ginnel.mesh.derive import Point
from ginnel.mesh.envelope import SESSION_SIZE, Kind, Message, Opened, Opener, seal_envelope
from ginnel.mesh.epochs import EpochKey
from ginnel.mesh.membership import Membership
from ginnel.mesh.objects import Certificate
from ginnel.mesh.rendezvous import Presence, seal_presence
from ginnel.mesh.roster import RosterSync, decode_objects
from ginnel.mesh.sealer import Sealer
from ginnel.peer.conn import ConnCore
from ginnel.peer.status import ConnStatus, Stage
from ginnel.peer.turns import MAX_CONNECTING

OFFLINE = "offline (does not answer)"
MAX_POINTS_CACHED = 4096  # points of members worked out: two signature-sized steps each
MAX_RECIPIENTS = 4096  # as many as members


@dataclass(frozen=True)
class MeshConfig:
    """Settings of one member; `ice` holds the overlay's prefixes and the one check limiter."""

    node_id: NodeId
    ice: AgentConfig = field(default_factory=AgentConfig)
    keepalive_s: int = 25
    relay: bool = True  # serve as a relay if our certificate says that we may
    relay_ports: PortRange = DEFAULT_PORTS  # of relayed addresses
    version: str = ""
    mtu: int = 1420  # bytes of the device's largest packet
    lends_consent: bool = False  # the data plane asks for consent and answers
    parallel_connects: int = MAX_CONNECTING  # members to whom an offer is out at once


@dataclass(frozen=True)
class MeshKeys:
    """A member's own secrets: N, W and S (the current S first, then the former)."""

    identity: Secret
    wireguard: Secret
    sealing: tuple[Secret, ...]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A sealed message, where it is delivered, and H(body) for its answer to name."""

    point: Point
    envelope: bytes
    body_hash: bytes


@dataclass(slots=True, eq=False)
class Peer:
    """One other member: its certificate, its connection, what was told and asked."""

    cert: Certificate
    name: str
    conn: ConnCore
    epoch_id: bytes
    sync: RosterSync = field(default_factory=RosterSync)
    location: NodeId | None = None  # where we look for it
    is_found: bool = False
    registered_at: int = 0  # unix seconds, of its newest presence
    is_open: bool = False
    open_at: float | None = None  # when its connection is opened at the latest
    hello: int | None = None  # the delivery of our greeting
    note: str = ""  # why it was not found
    offer_hash: bytes = b""  # of our last offer, until it is answered
    offered_at: float = float("-inf")
    is_silent: bool = False  # it has answered none of several offers
    remote_offer: bytes = b""  # H(body) of its last offer, which our answer names
    by_tunnel: bool = False  # its last offer came through the tunnel
    shown: tuple[object, ...] = ()

    @property
    def member_id(self) -> MemberId:
        """Return its member id."""
        return self.cert.member_id

    @property
    def is_up(self) -> bool:
        """Say whether WireGuard works with it."""
        return self.conn.state.status is ConnStatus.CONNECTED

    def is_back(self, sent_at: int) -> bool:
        """Say whether it registered anew while we could not reach it; remember when."""
        before, self.registered_at = self.registered_at, max(sent_at, self.registered_at)
        return 0 < before < sent_at and self.is_open and not self.is_up

    def may_stay(self, cert: Certificate, epoch_id: bytes) -> bool:
        """Say whether the connection may stay: same keys and addresses, same epoch."""
        return (
            self.cert.wireguard == cert.wireguard
            and names.allowed_ips(self.cert) == names.allowed_ips(cert)
            and self.epoch_id == epoch_id
        )

    @property
    def is_answering(self) -> bool:
        """Say whether WireGuard works with it and its path answers."""
        return self.is_up and self.conn.state.stage is not Stage.BROKEN

    def stage(self) -> str:
        """Return where the connection is, in words for a person."""
        state = self.conn.state
        if self.is_up:
            return "connected" if self.is_answering else str(state.stage.value)
        if not self.is_open:
            if self.is_found:
                return "found"
            return f"searching ({self.note})" if self.note else "searching"
        if self.is_silent:
            return OFFLINE
        if state.reason:
            return state.reason
        if state.stage is Stage.OFFERING:
            return "found, offering" if self.is_found else "searching, offering"
        return str(state.stage.value)


class Signaller:
    """Seals and opens messages with one member's keys; see the module's text."""

    def __init__(
        self,
        membership: Membership,
        keys: MeshKeys,
        *,
        sealer: Sealer,
        random_bytes: RandomBytes,
    ) -> None:
        self.member_id = derive.member_id_of(derive.ed25519_public(keys.identity))
        self.wireguard_public = derive.x25519_public(keys.wireguard)
        self._membership = membership
        self._keys = keys
        self._sealer = sealer
        self._random_bytes = random_bytes
        self._session = random_bytes(SESSION_SIZE)
        self._counters: BoundedLru[MemberId, int] = BoundedLru(MAX_RECIPIENTS)
        self._points: BoundedLru[tuple[bytes, bytes, int], Point] = BoundedLru(MAX_POINTS_CACHED)
        self._unix_now = 0.0
        self.introduced: list[bytes] = []  # certificates by which strangers introduced themselves
        self.opener = Opener(
            membership, self.member_id, keys.sealing, sealer, introduce=self._introduce
        )

    def newest_epoch(self) -> EpochKey | None:
        """Return the epoch that is used for what we send."""
        return self._membership.epochs.newest

    def point_of(
        self, member_id: bytes, period: int, epoch: EpochKey | None = None
    ) -> Point | None:
        """Return where a member is registered, or None without any epoch."""
        epoch = epoch or self.newest_epoch()
        if epoch is None:
            return None
        key = (epoch.epoch_id, member_id, period)
        point = self._points.get(key)
        if point is None:
            point = derive.member_point(
                self._membership.network_id, epoch.secret, member_id, period
            )
            self._points.put(key, point)
        return point

    def own_points(self, unix_now: float) -> list[Point]:
        """Return where we register now: this period, and its neighbour near the border."""
        points = [self.point_of(self.member_id, p) for p in derive.periods_near(unix_now)]
        return [point for point in points if point is not None]

    def preshared_key(self, cert: Certificate) -> Secret | None:
        """Return the base preshared key with a member."""
        epoch = self.newest_epoch()
        if epoch is None:
            return None
        return derive.preshared_key(
            self._membership.network_id, epoch.secret, self.wireguard_public, cert.wireguard
        )

    def seal(
        self,
        kind: Kind,
        cert: Certificate,
        payload: bytes,
        *,
        unix_now: float,
        ref: bytes = b"",
        epoch: EpochKey | None = None,
    ) -> Outgoing | None:
        """Seal a message to a member; None without any epoch."""
        epoch = epoch or self.newest_epoch()
        period = derive.period_of(unix_now)
        point = self.point_of(cert.member_id, period, epoch)
        if epoch is None or point is None:
            return None
        counter = (self._counters.get(cert.member_id) or 0) + 1
        self._counters.put(cert.member_id, counter)
        message = Message(
            kind=kind,
            sender=self.member_id,
            recipient=cert.member_id,
            epoch_id=epoch.epoch_id,
            session=self._session,
            counter=counter,
            sent_at=int(unix_now),
            payload=payload,
            ref=ref,
        )
        sealed = seal_envelope(
            message,
            network_id=self._membership.network_id,
            epoch=epoch,
            identity=self._keys.identity,
            recipient_key=cert.sealing,
            period=period,
            sealer=self._sealer,
        )
        return Outgoing(point, sealed.data, sealed.body_hash)

    def open(
        self, envelope: bytes, *, source: Hashable, now: float, unix_now: float
    ) -> Opened | None:
        """Return the message of an envelope to us if it passes all checks."""
        self._unix_now = unix_now
        return self.opener.open(envelope, source=source, now=now, unix_now=unix_now)

    def seal_presence(self, point: Point, presence: Presence) -> bytes:
        """Return our presence, signed by N and sealed for the point."""

        def sign(body: bytes) -> bytes:
            return derive.sign(self._keys.identity, self._membership.network_id, "presence", body)

        return seal_presence(point, presence, signer=sign, random_bytes=self._random_bytes)

    def is_presence_of(self, cert: Certificate, presence: Presence) -> bool:
        """Check that the presence is this member's, by its signature."""
        return presence.member_id == cert.member_id and derive.verify(
            cert.identity,
            self._membership.network_id,
            "presence",
            presence.raw_body,
            presence.signature,
        )

    def _introduce(self, message: Message) -> None:
        """Take the certificate by which an unknown sender introduces itself."""
        try:
            payload = decode_objects(message.payload)
        except RemoteProtocolError:
            return
        verdicts = self._membership.add_objects(list(payload.objects), unix_now=self._unix_now)
        self.introduced += [
            verdict.object.raw
            for verdict in verdicts
            if verdict.object is not None and verdict.refusal is None
        ]
