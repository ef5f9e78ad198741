"""The serving side of `ginnel-rdv`: keeps registrations, hands presences out, pushes envelopes.

Offered by any node that can be reached, for all networks alike; it learns nothing of them. It
needs no member keys and knows of the DHT only which nodes are closest to a target.

Invariant: nothing is stored before its signature is checked, nothing pushed before its MAC is,
and every table is bounded per source, per subnet and in total.

Source: docs/formats.md, "Rendezvous".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from ginnel.base.addresses import subnet_key
from ginnel.base.core import TimerTable
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.limits import BoundedLru, RateLimiter, TokenBucket
from ginnel.base.types import Address, Deadline, NodeId, Secret
from ginnel.discv5.enr import Enr
from ginnel.discv5.requests import Contact
from ginnel.mesh import derive
from ginnel.mesh.probe import Reflector
from ginnel.mesh.rendezvous import (
    CLOSEST_TO_STORE,
    Answer,
    DeliverRequest,
    LookupRequest,
    PinSession,
    PushRequest,
    RdvCommand,
    RegisterRequest,
    Request,
    RequestType,
    Status,
    TalkRequest,
    TalkResponse,
    Tokens,
    UnpinSession,
    decode_request,
    distance,
    encode_answer,
    encode_request,
    peek_type,
)

MAX_ENTRIES = 4096  # registrations; about 1 KiB each
MAX_PER_SOURCE = 64  # registrations of one IP address: a home with many members
MAX_PER_SUBNET = 256  # registrations of one /24 or /48
MIN_LIFETIME_S = 30  # seconds; a shorter life is not worth a signature check
REQUESTS_PER_S = 20.0  # of one IP address
REQUESTS_BURST = 100.0
SUBNET_PER_S = 80.0  # of one /24 or /48: an IPv6 host has more addresses than it can be counted by
SUBNET_BURST = 400.0
TOTAL_PER_S = 400.0  # of all together
TOTAL_BURST = 800.0
DELIVERS_PER_S = 5.0  # to one location: its registrant may sit on a thin line
DELIVERS_BURST = 40.0
RATE_KEYS = 8192  # sources and locations whose rates are remembered
MAX_OUTBOX = 1024  # commands waiting to be polled

Closest = Callable[[NodeId, int], Sequence[Enr]]


class StorerDrop(Enum):
    """Why a request was refused."""

    DISABLED = "disabled"
    MALFORMED = "malformed"
    UNSERVED = "type or version not served"
    RATE = "rate"
    LIFETIME = "lifetime"
    NOT_CLOSE = "not among the closest"
    SIGNATURE = "signature"
    FULL = "full"
    UNKNOWN = "unknown location"
    MAC = "mac"
    PUSH_FAILED = "push not answered"


@dataclass(slots=True)
class _Entry:
    contact: Contact
    dkey: Secret
    presence: bytes
    expires_at: float


class _Timer(Enum):
    EXPIRE = 1


class Storer:
    """Answers REGISTER, LOOKUP and DELIVER, and PROBE; commands come out of `poll_command`."""

    def __init__(
        self,
        node_id: NodeId,
        closest: Closest,
        *,
        tokens: Tokens,
        now: float,
        enabled: bool = True,
    ) -> None:
        self.enabled = enabled
        self.reflector = Reflector(node_id, closest, tokens=tokens)
        self.drops: dict[StorerDrop, int] = {}
        self.pushed = 0
        self._node_id = node_id
        self._closest = closest
        self._tokens = tokens
        self._entries: dict[NodeId, _Entry] = {}
        self._by_source: dict[str, int] = {}
        self._by_subnet: dict[str, int] = {}
        self._pins: dict[tuple[NodeId, Address], int] = {}
        self._sources: RateLimiter[str] = RateLimiter(
            REQUESTS_PER_S, REQUESTS_BURST, limit=RATE_KEYS
        )
        self._subnets: RateLimiter[str] = RateLimiter(SUBNET_PER_S, SUBNET_BURST, limit=RATE_KEYS)
        self._delivers: RateLimiter[NodeId] = RateLimiter(
            DELIVERS_PER_S, DELIVERS_BURST, limit=RATE_KEYS
        )
        self._total = TokenBucket(TOTAL_PER_S, TOTAL_BURST, now=now)
        self._pushes: BoundedLru[int, None] = BoundedLru(MAX_OUTBOX)
        self._outbox: deque[RdvCommand] = deque()
        self._timers: TimerTable[_Timer] = TimerTable()

    def __len__(self) -> int:
        return len(self._entries)

    def on_talk_received(
        self,
        talk_token: int,
        contact: Contact,
        payload: bytes,
        *,
        now: float,
        is_near: bool = False,
    ) -> None:
        """Serve one request; it is always answered, with nothing if the service is off.

        `is_near`: from our local network, which is served always and wherever its locations are.
        """
        if not self.enabled and not is_near:
            self._count(StorerDrop.DISABLED)
            self._outbox.append(TalkResponse(talk_token, b""))
            return
        if peek_type(payload) in (RequestType.PROBE, RequestType.PROBE_FOR):
            if self._has_room(contact.address.ip, now):
                answered = self.reflector.serve(contact, payload, now=now)
            else:
                answered = encode_answer(self._refuse(StorerDrop.RATE, Status.SLOW_DOWN))
        else:
            answered = encode_answer(self._serve(contact, payload, now=now, is_near=is_near))
        self._outbox.append(TalkResponse(talk_token, answered))

    def on_talk_answered(self, token: int, payload: bytes | None) -> bool:
        """Take the answer to a PUSH; return whether the token was ours."""
        if token not in self._pushes:
            return False
        self._pushes.pop(token)
        if payload is None:
            self._count(StorerDrop.PUSH_FAILED)
        return True

    def handle_timeout(self, *, now: float) -> None:
        """Forget what has expired."""
        for _ in self._timers.expire(now):
            for location in [k for k, e in self._entries.items() if e.expires_at <= now]:
                self._remove(location)
            self._arm()

    def poll_command(self) -> RdvCommand | None:
        """Return the next command; call until None."""
        return self._outbox.popleft() if self._outbox else self.reflector.poll_command()

    def poll_deadline(self) -> Deadline | None:
        """Return when the first registration expires."""
        return self._timers.deadline()

    # --- requests ------------------------------------------------------------------------------

    def _serve(self, contact: Contact, payload: bytes, *, now: float, is_near: bool) -> Answer:
        if not self._has_room(contact.address.ip, now):
            return self._refuse(StorerDrop.RATE, Status.SLOW_DOWN)
        try:
            request: Request | None = decode_request(payload)
        except RemoteProtocolError:
            return self._refuse(StorerDrop.MALFORMED)
        match request:
            case RegisterRequest():
                return self._register(contact, request, now=now, is_near=is_near)
            case LookupRequest(location):
                entry = self._live(location, now)
                if entry is None:
                    return Answer(Status.UNKNOWN)
                return Answer(Status.DONE, entry.presence)
            case DeliverRequest():
                return self._deliver(request, now=now)
            case PushRequest() | None:  # a PUSH is for registrants, not for storers
                return self._refuse(StorerDrop.UNSERVED)

    def _has_room(self, ip: str, now: float) -> bool:
        return (
            self._sources.take(ip, now=now)
            and self._subnets.take(subnet_key(ip), now=now)
            and self._total.take(now=now)
        )

    def _register(
        self, contact: Contact, request: RegisterRequest, *, now: float, is_near: bool
    ) -> Answer:
        if request.lifetime < MIN_LIFETIME_S:
            return self._refuse(StorerDrop.LIFETIME)
        location = request.location
        if not is_near and not self._is_close(location):
            return self._refuse(StorerDrop.NOT_CLOSE)
        old = self._entries.get(location)
        if (old is None or old.contact.address.ip != contact.address.ip) and self._is_full(
            contact.address.ip, adding=old is None, now=now
        ):
            return self._refuse(StorerDrop.FULL)
        if not request.is_signed(self._node_id, contact.node_id):
            return self._refuse(StorerDrop.SIGNATURE)
        self._store(
            location, _Entry(contact, request.dkey, request.presence, now + request.lifetime)
        )
        return Answer(Status.DONE)

    def _deliver(self, request: DeliverRequest, *, now: float) -> Answer:
        entry = self._live(request.location, now)
        if entry is None:
            return self._refuse(StorerDrop.UNKNOWN, Status.UNKNOWN)
        if not derive.mac_matches(entry.dkey, request.envelope, request.mac):
            return self._refuse(StorerDrop.MAC)
        if len(self._outbox) >= MAX_OUTBOX or not self._delivers.take(request.location, now=now):
            return self._refuse(StorerDrop.RATE, Status.SLOW_DOWN)
        token = self._tokens.next()
        self._pushes.put(token, None)
        push = encode_request(PushRequest(request.location, request.envelope))
        self._outbox.append(TalkRequest(token, entry.contact, push))
        self.pushed += 1
        return Answer(Status.DONE)

    def _is_close(self, location: NodeId) -> bool:
        ours = distance(self._node_id, location)
        nodes = self._closest(location, CLOSEST_TO_STORE)
        closer = sum(distance(node.node_id, location) < ours for node in nodes)
        return closer < CLOSEST_TO_STORE

    # --- the store -----------------------------------------------------------------------------

    def _is_full(self, ip: str, *, adding: bool, now: float) -> bool:
        if adding and len(self._entries) >= MAX_ENTRIES:
            self.handle_timeout(now=now)
            if len(self._entries) >= MAX_ENTRIES:
                return True
        return (
            self._by_source.get(ip, 0) >= MAX_PER_SOURCE
            or self._by_subnet.get(subnet_key(ip), 0) >= MAX_PER_SUBNET
        )

    def _live(self, location: NodeId, now: float) -> _Entry | None:
        entry = self._entries.get(location)
        return entry if entry is not None and entry.expires_at > now else None

    def _store(self, location: NodeId, entry: _Entry) -> None:
        ip = entry.contact.address.ip
        self._adjust(self._by_source, ip, 1)
        self._adjust(self._by_subnet, subnet_key(ip), 1)
        key = (entry.contact.node_id, entry.contact.address)
        self._pins[key] = self._pins.get(key, 0) + 1
        if self._pins[key] == 1:
            self._outbox.append(PinSession(entry.contact))
        self._remove(location)
        self._entries[location] = entry
        self._timers.set_earlier(_Timer.EXPIRE, entry.expires_at)

    def _remove(self, location: NodeId) -> None:
        entry = self._entries.pop(location, None)
        if entry is None:
            return
        ip = entry.contact.address.ip
        self._adjust(self._by_source, ip, -1)
        self._adjust(self._by_subnet, subnet_key(ip), -1)
        key = (entry.contact.node_id, entry.contact.address)
        self._pins[key] -= 1
        if not self._pins[key]:
            del self._pins[key]
            self._outbox.append(UnpinSession(entry.contact))

    def _adjust(self, counts: dict[str, int], key: str, by: int) -> None:
        counts[key] = counts.get(key, 0) + by
        if not counts[key]:
            del counts[key]

    def _arm(self) -> None:
        if self._entries:
            self._timers.set(_Timer.EXPIRE, min(e.expires_at for e in self._entries.values()))
        else:
            self._timers.stop(_Timer.EXPIRE)

    def _refuse(self, reason: StorerDrop, status: Status = Status.REFUSED) -> Answer:
        self._count(reason)
        return Answer(status)

    def _count(self, reason: StorerDrop) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1
