"""Registers points, finds points, takes what is pushed to us: rendezvous without membership.

The mesh owns one; a machine that is joining runs one alone. Points of invites are added from
outside (their secret stays with the signer or the joining parent): envelopes for them come out as
they are, and their presences hold no member and no signature.

Source: docs/formats.md, "Rendezvous", "Invite and join".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import earliest
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.limits import BoundedLru, RateLimiter
from ginnel.base.types import Address, Deadline, MemberId, NodeId, Secret
from ginnel.discv5.requests import Contact
from ginnel.mesh.derive import Point, period_of, sha256
from ginnel.mesh.events import (
    EnvelopeDelivered,
    EnvelopeReceived,
    PointRegistered,
    PointSearched,
)
from ginnel.mesh.finder import Delivered, Finder, FinderEvent, Found, NotFound
from ginnel.mesh.registrar import Registrar
from ginnel.mesh.rendezvous import (
    Answer,
    Node,
    Presence,
    PushRequest,
    RdvCommand,
    Status,
    TalkResponse,
    Tokens,
    decode_request,
    encode_answer,
    seal_presence,
)

MAX_ADDED = 48  # points added from outside: three periods of 16 open invites
NEW_NODE_INTERVAL_S = 0.5  # seconds between two tries because of new nodes
NEIGHBOUR_INTERVAL_S = 5.0  # seconds between two rounds because of new neighbours
MAX_SEEN = 512  # envelopes remembered: each comes by up to three storers at once
PUSHES_PER_S = 20.0  # of one storer
PUSHES_BURST = 200.0
JOINS_PER_S = 0.5  # of one storer to invites: the signer takes one a second of all
JOINS_BURST = 16.0
MAX_STORERS = 1024  # storers whose rates are remembered
MAX_STRANGERS = 64  # points added from outside that we look for


class CourierDrop(Enum):
    """Why a pushed request was not acted on."""

    MALFORMED = "malformed"
    NOT_OURS = "not from a storer of ours"
    DUPLICATE = "came by another storer already"
    RATE = "too many of one storer"


class MemberSide(Protocol):
    """What a courier asks of the mesh that owns it."""

    def seal_presence(self, point: Point, dkey: Secret, unix_now: float) -> bytes:
        """Return our signed and sealed presence for a point of ours."""
        ...

    def verify_presence(self, point: Point, presence: Presence) -> bool:
        """Say whether the presence is signed by the member whose point it is."""
        ...


@dataclass(frozen=True, slots=True)
class MemberEnvelope:
    """An envelope was pushed to a point of ours as a member, by this storer."""

    envelope: bytes
    storer: NodeId


CourierEvent: TypeAlias = (
    MemberEnvelope
    | Found
    | NotFound
    | Delivered
    | EnvelopeReceived
    | EnvelopeDelivered
    | PointRegistered
    | PointSearched
)


class Courier:
    """See the module's text; all results of commands go in here by their token."""

    def __init__(
        self,
        node_id: NodeId,
        *,
        tokens: Tokens,
        random_bytes: RandomBytes,
        rng: Rng,
        member_side: MemberSide | None = None,
    ) -> None:
        self.drops: dict[CourierDrop, int] = {}
        self._member_side = member_side
        self._random_bytes = random_bytes
        self._added: dict[NodeId, Point] = {}
        self._own: tuple[Point, ...] = ()
        self._tried_at = float("-inf")
        self._neighbours_at = float("-inf")
        self._neighbours_due: float | None = None
        self._seen: BoundedLru[bytes, bool] = BoundedLru(MAX_SEEN)
        self._pushes: RateLimiter[NodeId] = RateLimiter(
            PUSHES_PER_S, PUSHES_BURST, limit=MAX_STORERS
        )
        self._joins: RateLimiter[NodeId] = RateLimiter(JOINS_PER_S, JOINS_BURST, limit=MAX_STORERS)
        self._strangers: BoundedLru[NodeId, Point] = BoundedLru(MAX_STRANGERS)
        self.registrar = Registrar(
            node_id, self._seal, tokens=tokens, random_bytes=random_bytes, rng=rng
        )
        self.finder = Finder(self._verify, tokens=tokens, rng=rng)
        self._events: deque[CourierEvent] = deque()
        self._outbox: deque[RdvCommand] = deque()

    # --- commands ------------------------------------------------------------------------------

    def set_ipv6_only(self, is_so: bool) -> None:
        """Tell whether this machine has no IPv4: nodes that have both are asked over IPv6."""
        for part in (self.registrar, self.finder):
            part.refusers.is_ipv6_only = is_so

    def add_points(self, points: Sequence[Point], *, now: float, unix_now: float) -> None:
        """Register these too (an invite's); points of past periods are dropped."""
        for point in points:
            self._added[point.location] = point
        self._drop_old(unix_now)
        self._register(now)

    def remove_points(self, points: Sequence[Point], *, now: float) -> None:
        """Register these no longer."""
        for point in points:
            self._added.pop(point.location, None)
        self._register(now)

    def set_own_points(self, points: Sequence[Point], *, now: float, unix_now: float) -> None:
        """Register exactly these as a member, beside those added."""
        self._own = tuple(points)
        self._drop_old(unix_now)
        self._register(now)

    def deliver(self, point: Point, envelope: bytes, *, now: float) -> int:
        """Find an invite's point and deliver; ends in one `EnvelopeDelivered`."""
        self._strangers.put(point.location, point)
        return self.finder.deliver(point, envelope, now=now)

    def on_node_added(self, *, now: float) -> None:
        """A node came to the DHT's table: what failed for want of nodes is tried at once."""
        if now - self._tried_at >= NEW_NODE_INTERVAL_S:
            self._tried_at = now
            self.registrar.try_now(now=now)
            self.finder.search_now(now=now)

    def on_neighbour(self, *, now: float) -> None:
        """A node came to the local network: register there too, and search what was not found."""
        self._neighbours_due = max(now, self._neighbours_at + NEIGHBOUR_INTERVAL_S)
        self._greet_neighbours(now)

    # --- results -------------------------------------------------------------------------------

    def on_lookup_done(
        self, token: int, nodes: Sequence[Node], *, now: float, unix_now: float
    ) -> None:
        """Take the nodes that a lookup found."""
        if not self.finder.on_lookup_done(token, nodes, now=now):
            self.registrar.on_lookup_done(token, nodes, now=now, unix_now=unix_now)

    def on_talk_answered(
        self, token: int, payload: bytes | None, *, now: float, unix_now: float
    ) -> None:
        """Take the answer to a request of ours; None: there was none."""
        if not self.finder.on_talk_answered(token, payload, now=now, unix_now=unix_now):
            self.registrar.on_talk_answered(token, payload, now=now)

    def on_pong(self, token: int, address: Address | None, *, now: float) -> None:
        """Take how a storer sees us; None: it did not answer."""
        self.registrar.on_pong(token, address, now=now)

    def on_push(
        self, talk_token: int, contact: Contact, payload: bytes, *, now: float, unix_now: float
    ) -> None:
        """Take what a storer pushes; anybody else gets `unknown here`."""
        status = self._take_push(contact, payload, now)
        self._outbox.append(TalkResponse(talk_token, encode_answer(Answer(status))))

    def handle_timeout(self, *, now: float, unix_now: float) -> None:
        """Do what is due."""
        self._drop_old(unix_now)
        self._greet_neighbours(now)
        self.registrar.handle_timeout(now=now)
        self.finder.handle_timeout(now=now)

    def poll_command(self) -> RdvCommand | None:
        """Return the next command for the DHT; call until None."""
        if self._outbox:
            return self._outbox.popleft()
        return self.registrar.poll_command() or self.finder.poll_command()

    def poll_event(self) -> CourierEvent | None:
        """Return the next event; call until None."""
        while (registered := self.registrar.poll_event()) is not None:
            self._events.append(
                PointRegistered(registered.location, registered.storers, registered.reason)
            )
        while (found := self.finder.poll_event()) is not None:
            self._events.append(self._translate(found))
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        due = self._neighbours_due
        own = None if due is None else Deadline(due, "NEIGHBOUR")
        return earliest(own, self.registrar.poll_deadline(), self.finder.poll_deadline())

    # --- inside --------------------------------------------------------------------------------

    def _greet_neighbours(self, now: float) -> None:
        if self._neighbours_due is not None and self._neighbours_due <= now:
            self._neighbours_at, self._neighbours_due = now, None
            self.registrar.register_again(now=now)
            self.finder.search_now(now=now)

    def _take_push(self, contact: Contact, payload: bytes, now: float) -> Status:
        try:
            request = decode_request(payload)
        except RemoteProtocolError:
            request = None
        if not isinstance(request, PushRequest):
            self._drop(CourierDrop.MALFORMED)
            return Status.REFUSED
        if not self.registrar.is_storer(request.location, contact):
            self._drop(CourierDrop.NOT_OURS)
            return Status.UNKNOWN
        if not self._pushes.take(contact.node_id, now=now):
            self._drop(CourierDrop.RATE)
            return Status.SLOW_DOWN
        digest = sha256(request.envelope)
        if digest in self._seen:
            self._drop(CourierDrop.DUPLICATE)
            return Status.DONE
        added = self._added.get(request.location)
        if added is not None and not self._joins.take(contact.node_id, now=now):
            self._drop(CourierDrop.RATE)
            return Status.SLOW_DOWN
        self._seen.put(digest, True)
        if added is not None:
            self._events.append(EnvelopeReceived(added.tag, request.envelope))
        else:
            self._events.append(MemberEnvelope(request.envelope, contact.node_id))
        return Status.DONE

    def _translate(self, event: FinderEvent) -> CourierEvent:
        if event.location in self._strangers:
            if isinstance(event, Delivered):
                return EnvelopeDelivered(event.delivery, event.ok)
            if isinstance(event, NotFound):
                return PointSearched(event.location, event.reason)
        return event

    def _register(self, now: float) -> None:
        self.registrar.set_points([*self._own, *self._added.values()], now=now)

    def _drop_old(self, unix_now: float) -> None:
        period = period_of(unix_now)
        live = {k: p for k, p in self._added.items() if abs(p.period - period) <= 1}
        self._added = dict(list(live.items())[-MAX_ADDED:])

    def _seal(self, point: Point, dkey: Secret, unix_now: float) -> bytes:
        if point.location not in self._added and self._member_side is not None:
            return self._member_side.seal_presence(point, dkey, unix_now)
        presence = Presence(MemberId(b""), point.period, int(unix_now), dkey, (), b"")
        return seal_presence(point, presence, signer=None, random_bytes=self._random_bytes)

    def _verify(self, point: Point, presence: Presence) -> bool:
        if point.location in self._strangers:
            return not presence.member_id and not presence.signature
        return self._member_side is not None and self._member_side.verify_presence(point, presence)

    def _drop(self, reason: CourierDrop) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1
