"""The searching side of `ginnel-rdv`: finds who is registered at a point and delivers to them.

`find` keeps looking, with back-off, until `forget`. What is found is a presence (its member's
signature checked by the caller's function) and the storers that gave it; `deliver` hands an
envelope to up to three of these at once and falls back to the next. Whether it arrived shows only
in the recipient's answer.

Source: docs/formats.md, "Rendezvous".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from ginnel.base.chance import Rng
from ginnel.base.core import TimerTable
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Deadline, NodeId, Secret
from ginnel.discv5.requests import Contact
from ginnel.mesh.derive import CLOCK_TOLERANCE_S, Point
from ginnel.mesh.rendezvous import (
    NO_NODE,
    Lookup,
    LookupRequest,
    Node,
    Presence,
    RdvCommand,
    Refusers,
    Status,
    TalkRequest,
    Tokens,
    decode_answer,
    encode_request,
    make_deliver,
    open_presence,
)

MAX_TARGETS = 1024  # points looked for at once: two periods of 500 members
MAX_SEARCHES = 24  # at once; discovery refuses a 33rd lookup, and others make some, too
MAX_QUEUED = 8  # envelopes that wait for one point to be found; the oldest goes
PARALLEL_DELIVERS = 3  # storers that get the same envelope
RETRY_FIRST_S = 1.0  # seconds between two searches at first
RETRY_FACTOR = 1.3
RETRY_MAX_S = 30.0  # seconds between two searches at most
FRESH_S = 240.0  # seconds a found presence is used; below the registrant's refresh
QUEUE_S = 30.0  # seconds an envelope waits for its point to be found

VerifyPresence = Callable[[Point, Presence], bool]


class FinderDrop(Enum):
    """Why a storer's answer was not used."""

    MALFORMED = "malformed"
    PRESENCE = "presence"
    SIGNATURE = "signature"
    CLOCK = "clock"


@dataclass(frozen=True, slots=True)
class Found:
    """A presence was found; `via` tells how (always `LOOKUP` here), `storers` who told."""

    location: NodeId
    presence: Presence
    storers: tuple[NodeId, ...]
    via: str = "LOOKUP"


@dataclass(frozen=True, slots=True)
class NotFound:
    """One search ended without a presence; the next comes by itself."""

    location: NodeId
    reason: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """A delivery ended: `ok` if a storer has sent the envelope on."""

    delivery: int
    location: NodeId
    ok: bool


FinderEvent: TypeAlias = Found | NotFound | Delivered


@dataclass(slots=True)
class _Queued:
    delivery: int
    envelope: bytes
    until: float


@dataclass(slots=True)
class _Delivery:
    number: int
    location: NodeId
    envelope: bytes
    left: list[tuple[Contact, Secret]]
    waiting: int = 0
    ok: bool = False


@dataclass(slots=True)
class _Target:
    point: Point
    next_at: float
    wanted: bool = True
    lookup: int | None = None
    waiting: dict[int, Contact] = field(default_factory=dict)
    storers: list[tuple[Contact, Secret]] = field(default_factory=list)
    gathered: list[tuple[Contact, Presence]] = field(default_factory=list)
    presence: Presence | None = None
    found_at: float = float("-inf")
    failures: int = 0
    reason: str = ""
    queue: deque[_Queued] = field(default_factory=deque)


class _Timer(Enum):
    SEARCH = 1


class Finder:
    """Finds points and delivers envelopes to them; see the module's text."""

    def __init__(self, verify: VerifyPresence, *, tokens: Tokens, rng: Rng) -> None:
        self.drops: dict[FinderDrop, int] = {}
        self._verify = verify
        self._tokens = tokens
        self._rng = rng
        self.refusers = Refusers()
        self._targets: dict[NodeId, _Target] = {}
        self._lookups: dict[int, NodeId] = {}
        self._requests: dict[int, NodeId] = {}
        self._delivers: dict[int, tuple[_Delivery, Contact]] = {}
        self._outbox: deque[RdvCommand] = deque()
        self._events: deque[FinderEvent] = deque()
        self._timers: TimerTable[_Timer] = TimerTable()

    # --- commands ------------------------------------------------------------------------------

    def find(self, point: Point, *, now: float) -> bool:
        """Look for the point until `forget`; False if too many are looked for already."""
        target = self._targets.get(point.location)
        if target is not None:
            target.wanted = True
        elif len(self._targets) >= MAX_TARGETS:
            return False
        else:
            self._targets[point.location] = _Target(point, next_at=now)
        self._arm(now)
        return True

    def search_again(self, location: NodeId, *, now: float) -> None:
        """Distrust what was found (nothing came back from there) and search at once."""
        target = self._targets.get(location)
        if target is not None:
            target.presence = None
            target.failures = 0
            if target.lookup is None and not target.waiting:
                target.next_at = now
            self._arm(now)

    def search_now(self, *, now: float) -> None:
        """Search for all that was not found at once: a node that may know came to the table."""
        for target in self._targets.values():
            if target.failures:
                target.failures = 0
                target.next_at = min(target.next_at, now)
        self._arm(now)

    def forget(self, location: NodeId) -> None:
        """Stop looking for the point; envelopes that wait for it are dropped."""
        target = self._targets.pop(location, None)
        if target is None:
            return
        for queued in target.queue:
            self._events.append(Delivered(queued.delivery, location, ok=False))
        for token in target.waiting:
            self._requests.pop(token, None)
        if target.lookup is not None:
            self._lookups.pop(target.lookup, None)

    def presence_of(self, location: NodeId, *, now: float) -> Presence | None:
        """Return what was found and is still fresh."""
        target = self._targets.get(location)
        if target is None or target.presence is None or now - target.found_at > FRESH_S:
            return None
        return target.presence

    def deliver(self, point: Point, envelope: bytes, *, now: float) -> int:
        """Send the envelope to who is at the point, after finding it where needed.

        Ends in one `Delivered` event under the number returned.
        """
        number = self._tokens.next()
        target = self._targets.get(point.location)
        if target is None and len(self._targets) >= MAX_TARGETS:
            self._events.append(Delivered(number, point.location, ok=False))
            return number
        if target is None:
            target = self._targets[point.location] = _Target(point, next_at=now, wanted=False)
        queued = _Queued(number, envelope, now + QUEUE_S)
        if self.presence_of(point.location, now=now) is not None and target.storers:
            self._send(target, queued)
            return number
        if len(target.queue) >= MAX_QUEUED:
            oldest = target.queue.popleft()
            self._events.append(Delivered(oldest.delivery, point.location, ok=False))
        target.queue.append(queued)
        if target.lookup is None and not target.waiting:
            target.next_at = now  # who has something to say doesn't wait for the next search
        self._arm(now)
        return number

    # --- results -------------------------------------------------------------------------------

    def on_lookup_done(self, token: int, nodes: Sequence[Node], *, now: float) -> bool:
        """Take the result of a lookup; return whether it was ours."""
        location = self._lookups.pop(token, None)
        if location is None:
            return False
        target = self._targets.get(location)
        if target is None or target.lookup != token:
            return True
        target.lookup = None
        target.gathered = []
        contacts = self.refusers.choose(nodes, now=now)
        target.reason = "nobody registered there" if contacts else NO_NODE
        payload = encode_request(LookupRequest(location))
        for contact in contacts:
            request = self._tokens.next()
            target.waiting[request] = contact
            self._requests[request] = location
            self._outbox.append(TalkRequest(request, contact, payload))
        if not contacts:
            self._end_search(target, now)
        self._arm(now)
        return True

    def on_talk_answered(
        self, token: int, payload: bytes | None, *, now: float, unix_now: float
    ) -> bool:
        """Take the answer to a LOOKUP or DELIVER (None: no answer); return whether it was ours."""
        delivering = self._delivers.pop(token, None)
        if delivering is not None:
            self._on_delivered(*delivering, payload, now=now)
            return True
        location = self._requests.pop(token, None)
        if location is None:
            return False
        target = self._targets.get(location)
        contact = target.waiting.pop(token, None) if target is not None else None
        if target is None or contact is None:
            return True
        presence = self._open(target, contact, payload, now=now, unix_now=unix_now)
        if presence is not None:
            target.gathered.append((contact, presence))
            self._on_found(target, now)
        if not target.waiting:
            self._end_search(target, now)
        self._arm(now)
        return True

    def handle_timeout(self, *, now: float) -> None:
        """Start the searches that are due and drop envelopes that waited too long."""
        for _ in self._timers.expire(now):
            pass
        for location, target in list(self._targets.items()):
            while target.queue and target.queue[0].until <= now:
                queued = target.queue.popleft()
                self._events.append(Delivered(queued.delivery, location, ok=False))
            if target.lookup is not None or target.waiting:
                continue
            if not target.wanted and not target.queue and now - target.found_at > FRESH_S:
                del self._targets[location]
        self._start_searches(now)
        self._arm(now)

    def poll_command(self) -> RdvCommand | None:
        """Return the next command; call until None."""
        return self._outbox.popleft() if self._outbox else None

    def poll_event(self) -> FinderEvent | None:
        """Return the next event; call until None."""
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        return self._timers.deadline()

    # --- searching -----------------------------------------------------------------------------

    def _start_searches(self, now: float) -> None:
        """Start the searches that are due, those for whom something waits first, then by turn."""
        idle = [t for t in self._targets.values() if t.lookup is None and not t.waiting]
        due = sorted((t for t in idle if t.next_at <= now), key=lambda t: (not t.queue, t.next_at))
        for target in due[: MAX_SEARCHES - (len(self._targets) - len(idle))]:
            location, token = target.point.location, self._tokens.next()
            target.lookup = token
            target.next_at = now + RETRY_MAX_S
            self._lookups[token] = location
            self._outbox.append(Lookup(token, location))

    def _open(
        self,
        target: _Target,
        contact: Contact,
        payload: bytes | None,
        *,
        now: float,
        unix_now: float,
    ) -> Presence | None:
        if payload is None:
            target.reason = "the nodes found don't answer"
            return None
        try:
            answer = decode_answer(payload)
        except RemoteProtocolError:
            target.reason = "the nodes found don't offer rendezvous"
            self.refusers.add(contact.node_id, now=now)
            self._drop(FinderDrop.MALFORMED)
            return None
        if answer.status is not Status.DONE or answer.presence is None:
            return None
        try:
            presence = open_presence(target.point, answer.presence)
        except RemoteProtocolError:
            self._drop(FinderDrop.PRESENCE)
            return None
        if not self._verify(target.point, presence):
            self._drop(FinderDrop.SIGNATURE)
            return None
        if abs(presence.sent_at - unix_now) > 2 * CLOCK_TOLERANCE_S:
            self._drop(FinderDrop.CLOCK)  # stored for at most 600 s, clocks 600 s apart
            return None
        return presence

    def _on_found(self, target: _Target, now: float) -> None:
        newest = max(presence.sent_at for _, presence in target.gathered)
        fresh = [(c, p) for c, p in target.gathered if p.sent_at == newest]
        stale = [(c, p) for c, p in target.gathered if p.sent_at != newest]
        changed = target.presence is None
        target.presence = fresh[0][1]
        target.storers = [(c, p.dkey) for c, p in fresh + stale]
        target.found_at = now
        if changed:
            self._events.append(
                Found(
                    target.point.location,
                    target.presence,
                    tuple(c.node_id for c, _ in target.storers),
                )
            )

    def _end_search(self, target: _Target, now: float) -> None:
        if target.gathered:
            target.failures = 0
            target.next_at = float("inf")  # until something is to be delivered and it's stale
            while target.queue:
                self._send(target, target.queue.popleft())
            return
        target.presence = None
        target.storers = []
        wait = min(RETRY_MAX_S, RETRY_FIRST_S * RETRY_FACTOR ** min(target.failures, 12))
        target.failures += 1
        target.next_at = now + wait * self._rng.uniform(0.9, 1.1)
        self._events.append(NotFound(target.point.location, target.reason))

    # --- delivering ----------------------------------------------------------------------------

    def _send(self, target: _Target, queued: _Queued) -> None:
        dkey = None if target.presence is None else target.presence.dkey
        fresh = [(c, d) for c, d in target.storers if d == dkey]
        self._rng.shuffle(fresh)  # else the same three could swallow everything
        left = fresh + [(c, d) for c, d in target.storers if d != dkey]
        delivery = _Delivery(queued.delivery, target.point.location, queued.envelope, left)
        for _ in range(PARALLEL_DELIVERS):
            self._send_next(delivery)

    def _send_next(self, delivery: _Delivery) -> None:
        if not delivery.left:
            return
        contact, dkey = delivery.left.pop(0)
        token = self._tokens.next()
        delivery.waiting += 1
        self._delivers[token] = (delivery, contact)
        payload = make_deliver(delivery.location, dkey, delivery.envelope)
        self._outbox.append(TalkRequest(token, contact, payload))

    def _on_delivered(
        self, delivery: _Delivery, contact: Contact, payload: bytes | None, *, now: float
    ) -> None:
        delivery.waiting -= 1
        status: Status | None = None
        if payload is not None:
            try:
                status = decode_answer(payload).status
            except RemoteProtocolError:
                self._drop(FinderDrop.MALFORMED)
        if status is Status.DONE:
            if not delivery.ok:
                delivery.ok = True
                self._events.append(Delivered(delivery.number, delivery.location, ok=True))
            return
        target = self._targets.get(delivery.location)
        if target is not None and status is not Status.SLOW_DOWN:
            target.storers = [(c, d) for c, d in target.storers if c != contact]
            if not target.storers:
                self.search_again(delivery.location, now=now)
        if not delivery.ok:
            self._send_next(delivery)
            if not delivery.waiting:
                self._events.append(Delivered(delivery.number, delivery.location, ok=False))

    def _arm(self, now: float) -> None:
        idle = [t for t in self._targets.values() if t.lookup is None and not t.waiting]
        has_room = len(self._targets) - len(idle) < MAX_SEARCHES
        due = [t.next_at for t in idle] if has_room else []
        due += [t.queue[0].until for t in self._targets.values() if t.queue]
        if due and min(due) != float("inf"):
            self._timers.set(_Timer.SEARCH, max(now, min(due)))
        else:
            self._timers.stop(_Timer.SEARCH)

    def _drop(self, reason: FinderDrop) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1
