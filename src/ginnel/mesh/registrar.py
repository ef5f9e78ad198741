"""The registering side of `ginnel-rdv`: keeps our points stored and our NAT mappings open.

For each point: a lookup of its location, REGISTER at the closest nodes, again at half of the
lifetime. Three storers of each point are pinged every 25 s; a PONG that tells another address, or
two that don't come, start it all again at once, as does a storer that has forgotten us.

Source: docs/formats.md, "Rendezvous".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import TimerTable
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Address, Deadline, NodeId, Secret
from ginnel.discv5.requests import Contact
from ginnel.mesh.derive import Point
from ginnel.mesh.rendezvous import (
    DKEY_SIZE,
    MAX_LIFETIME_S,
    NO_NODE,
    DoubtAddress,
    Lookup,
    LookupRequest,
    Node,
    Ping,
    PinSession,
    RdvCommand,
    Refusers,
    Status,
    TalkRequest,
    Tokens,
    UnpinSession,
    decode_answer,
    encode_request,
    make_register,
)

MAX_POINTS = 64  # points registered at once: two periods, kept epochs, open invites
REFRESH_S = MAX_LIFETIME_S / 2  # seconds (Rendezvous: at half of the lifetime)
GROW_S = (3.0, 15.0, 60.0)  # seconds to the first refreshes: a table just filled finds closer nodes
RETRY_FIRST_S = 1.0  # seconds after a round in which nobody accepted
RETRY_MAX_S = 60.0  # seconds between such rounds at most
PING_S = 25.0  # seconds; below the 30 s that the shortest NAT mappings live
CHECK_EVERY = 2  # rounds of PINGs until the storers are asked whether they still know us
PINGED_PER_POINT = 3  # storers whose mapping is kept open
PINGS_MISSED = 2  # unanswered PINGs before registering again

SealPresence = Callable[[Point, Secret, float], bytes]  # point, dkey, unix_now


@dataclass(frozen=True, slots=True)
class Registered:
    """A round of REGISTERs for a point has ended; `storers` hold it now (0: none accepted)."""

    location: NodeId
    storers: int
    reason: str = ""


@dataclass(slots=True)
class _Storer:
    contact: Contact
    until: float = 0.0  # when the registration there ends; 0: never accepted


@dataclass(slots=True)
class _Place:
    point: Point
    dkey: Secret
    next_at: float
    storers: dict[NodeId, _Storer] = field(default_factory=dict)
    order: list[NodeId] = field(default_factory=list)  # of the last round, closest first
    lookup: int | None = None
    waiting: dict[int, NodeId] = field(default_factory=dict)
    round: int = 0
    successes: int = 0
    failures: int = 0
    again: bool = False
    last_reason: str = ""


@dataclass(slots=True)
class _Watch:
    contact: Contact
    address: Address | None = None
    missed: int = 0
    is_doubted: bool = False  # we may have moved before it first told our address


class _Timer(Enum):
    ROUND = 1
    PING = 2


class Registrar:
    """Keeps a changing list of points registered; see the module's text."""

    def __init__(
        self,
        node_id: NodeId,
        seal: SealPresence,
        *,
        tokens: Tokens,
        random_bytes: RandomBytes,
        rng: Rng,
    ) -> None:
        self._node_id = node_id
        self._seal = seal
        self._tokens = tokens
        self._random_bytes = random_bytes
        self._rng = rng
        self._places: dict[NodeId, _Place] = {}
        self._lookups: dict[int, NodeId] = {}
        self._requests: dict[int, NodeId] = {}  # token of a REGISTER -> location
        self._checks: dict[int, NodeId] = {}  # token of a LOOKUP of our own -> location
        self._ping_rounds = 0
        self._pings: dict[int, NodeId] = {}  # token of a PING -> node
        self._watched: dict[NodeId, _Watch] = {}
        self.refusers = Refusers()
        self._outbox: deque[RdvCommand] = deque()
        self._events: deque[Registered] = deque()
        self._timers: TimerTable[_Timer] = TimerTable()

    # --- commands ------------------------------------------------------------------------------

    def set_points(self, points: Sequence[Point], *, now: float) -> None:
        """Register exactly these points (at most 64) from now on."""
        wanted = {point.location: point for point in points[:MAX_POINTS]}
        for location in [k for k in self._places if k not in wanted]:
            self._forget(location)
        for location, point in wanted.items():
            if location not in self._places:
                dkey = Secret(self._random_bytes(DKEY_SIZE))
                self._places[location] = _Place(point, dkey, next_at=now)
        self._update_watched(now)
        self._arm(now)

    def register_again(self, *, now: float) -> None:
        """Start a round for every point at once: our address, presence or network changed."""
        for place in self._places.values():
            place.failures = 0
            place.successes = 0
            if place.lookup is not None or place.waiting:
                place.again = True
            else:
                place.next_at = now
        self._arm(now)

    def ping_now(self, *, now: float) -> None:
        """Ask at once how the watched storers see us: our outer address may have changed."""
        self._outbox.append(DoubtAddress())
        for watch in self._watched.values():
            watch.is_doubted = watch.address is None
        self._ping_all(now)

    def try_now(self, *, now: float) -> None:
        """Start a round for all that nobody stores at once: a node came to the table."""
        for place in self._places.values():
            if place.failures:
                place.failures = 0
                place.next_at = min(place.next_at, now)
        self._arm(now)

    def is_storer(self, location: NodeId, contact: Contact) -> bool:
        """Say whether this node holds our registration of the location (and so may PUSH)."""
        place = self._places.get(location)
        return place is not None and contact.node_id in place.storers

    def storer_count(self, location: NodeId) -> int:
        """Return how many nodes hold our registration of the location."""
        place = self._places.get(location)
        return 0 if place is None else sum(s.until > 0 for s in place.storers.values())

    # --- results -------------------------------------------------------------------------------

    def on_lookup_done(
        self, token: int, nodes: Sequence[Node], *, now: float, unix_now: float
    ) -> bool:
        """Take the result of a lookup; return whether it was ours."""
        location = self._lookups.pop(token, None)
        if location is None:
            return False
        place = self._places.get(location)
        if place is None or place.lookup != token:
            return True
        place.lookup = None
        place.round += 1
        chosen = self.refusers.choose(nodes, now=now)
        place.order = [c.node_id for c in chosen]
        place.last_reason = "" if chosen else NO_NODE
        if chosen:
            presence = self._seal(place.point, place.dkey, unix_now)
            for contact in chosen:
                self._register(place, contact, presence)
        else:
            self._end_round(place, now)
        self._arm(now)
        return True

    def on_talk_answered(self, token: int, payload: bytes | None, *, now: float) -> bool:
        """Take the answer to a REGISTER (None: no answer); return whether it was ours."""
        checked = self._checks.pop(token, None)
        if checked is not None:
            self._on_checked(checked, payload, now)
            return True
        location = self._requests.pop(token, None)
        if location is None:
            return False
        place = self._places.get(location)
        node_id = place.waiting.pop(token, None) if place is not None else None
        if place is None or node_id is None:
            return True
        self._take_answer(place, node_id, payload, now)
        if not place.waiting:
            self._end_round(place, now)
        self._arm(now)
        return True

    def on_pong(self, token: int, address: Address | None, *, now: float) -> bool:
        """Take how a storer sees us (None: no PONG); return whether it was ours."""
        node_id = self._pings.pop(token, None)
        if node_id is None:
            return False
        watch = self._watched.get(node_id)
        if watch is None:
            return True
        if address is None:
            watch.missed += 1
            if watch.missed == PINGS_MISSED:
                self.register_again(now=now)
            return True
        moved = watch.is_doubted if watch.address is None else watch.address != address
        watch.address, watch.missed, watch.is_doubted = address, 0, False
        if moved:
            self.register_again(now=now)
        return True

    def handle_timeout(self, *, now: float) -> None:
        """Start the rounds and PINGs that are due."""
        for timer in self._timers.expire(now):
            if timer is _Timer.PING:
                self._ping_all(now)
        for place in list(self._places.values()):
            if place.next_at <= now and place.lookup is None and not place.waiting:
                self._start_round(place, now)
        self._arm(now)

    def poll_command(self) -> RdvCommand | None:
        """Return the next command; call until None."""
        return self._outbox.popleft() if self._outbox else None

    def poll_event(self) -> Registered | None:
        """Return the next event; call until None."""
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        return self._timers.deadline()

    # --- rounds --------------------------------------------------------------------------------

    def _start_round(self, place: _Place, now: float) -> None:
        token = self._tokens.next()
        place.lookup = token
        place.again = False
        place.next_at = now + REFRESH_S
        self._lookups[token] = place.point.location
        self._outbox.append(Lookup(token, place.point.location))

    def _register(self, place: _Place, contact: Contact, presence: bytes) -> None:
        token = self._tokens.next()
        payload = make_register(
            place.point,
            storer=contact.node_id,
            registrant=self._node_id,
            dkey=place.dkey,
            presence=presence,
        )
        # It may PUSH as soon as it has stored, so before its answer is here.
        place.storers.setdefault(contact.node_id, _Storer(contact)).contact = contact
        place.waiting[token] = contact.node_id
        self._requests[token] = place.point.location
        self._outbox.append(TalkRequest(token, contact, payload))

    def _take_answer(
        self, place: _Place, node_id: NodeId, payload: bytes | None, now: float
    ) -> None:
        storer = place.storers[node_id]
        if payload is None:
            place.last_reason = "no answer"
            return
        try:
            status: Status | None = decode_answer(payload).status
        except RemoteProtocolError:
            status = None
        if status is Status.DONE:
            storer.until = now + MAX_LIFETIME_S
            return
        if status is None:
            self.refusers.add(node_id, now=now)
            place.last_reason = "the nodes found don't offer rendezvous"
        else:
            place.last_reason = f"refused ({status.name.lower()})"

    def _end_round(self, place: _Place, now: float) -> None:
        for node_id in [k for k, s in place.storers.items() if s.until <= now]:
            del place.storers[node_id]
        accepted = sum(s.until >= now + MAX_LIFETIME_S - REFRESH_S for s in place.storers.values())
        if place.again:
            place.next_at = now
        elif accepted:
            wait = GROW_S[place.successes] if place.successes < len(GROW_S) else REFRESH_S
            place.successes += 1
            place.failures = 0
            place.next_at = now + wait * self._rng.uniform(0.9, 1.0)
        else:
            wait = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(place.failures, 6))
            place.failures += 1
            place.next_at = now + wait * self._rng.uniform(0.9, 1.1)
        self._update_watched(now)
        self._events.append(
            Registered(place.point.location, accepted, "" if accepted else place.last_reason)
        )

    def _forget(self, location: NodeId) -> None:
        place = self._places.pop(location)
        for token in place.waiting:
            self._requests.pop(token, None)
        if place.lookup is not None:
            self._lookups.pop(place.lookup, None)

    # --- NAT mappings --------------------------------------------------------------------------

    def _update_watched(self, now: float) -> None:
        wanted: dict[NodeId, Contact] = {}
        for place in self._places.values():
            live = [n for n in place.order if n in place.storers and place.storers[n].until > now]
            for node_id in live[:PINGED_PER_POINT]:
                wanted[node_id] = place.storers[node_id].contact
        for node_id in [n for n in self._watched if n not in wanted]:
            self._outbox.append(UnpinSession(self._watched.pop(node_id).contact))
        for node_id, contact in wanted.items():
            watch = self._watched.get(node_id)
            if watch is None or watch.contact != contact:
                if watch is not None:
                    self._outbox.append(UnpinSession(watch.contact))
                self._watched[node_id] = _Watch(contact)
                self._outbox.append(PinSession(contact))
            else:
                watch.missed = 0
        if self._watched:
            self._timers.set_earlier(_Timer.PING, now + PING_S)
        else:
            self._timers.stop(_Timer.PING)

    def _ping_all(self, now: float) -> None:
        self._pings.clear()  # what has not come in 25 s won't come
        for node_id, watch in self._watched.items():
            token = self._tokens.next()
            self._pings[token] = node_id
            self._outbox.append(Ping(token, watch.contact))
        self._ping_rounds += 1
        if self._ping_rounds % CHECK_EVERY == 0:
            self._check_all()
        if self._watched:
            self._timers.set(_Timer.PING, now + PING_S)

    def _check_all(self) -> None:
        """Ask the watched storers for our own points: one that restarted has forgotten them."""
        self._checks.clear()
        for location, place in self._places.items():
            for node_id in [n for n in place.order if n in self._watched][:PINGED_PER_POINT]:
                token = self._tokens.next()
                self._checks[token] = location
                payload = encode_request(LookupRequest(location))
                self._outbox.append(TalkRequest(token, self._watched[node_id].contact, payload))

    def _on_checked(self, location: NodeId, payload: bytes | None, now: float) -> None:
        place = self._places.get(location)
        try:
            status = decode_answer(payload).status if payload else None
        except RemoteProtocolError:
            status = None
        if place is not None and status is Status.UNKNOWN:
            place.next_at = min(place.next_at, now)
            self._arm(now)

    def _arm(self, now: float) -> None:
        idle = [p.next_at for p in self._places.values() if p.lookup is None and not p.waiting]
        if idle:
            self._timers.set(_Timer.ROUND, max(now, min(idle)))
        else:
            self._timers.stop(_Timer.ROUND)
