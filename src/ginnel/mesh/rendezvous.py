"""Wire format of `ginnel-rdv`, the presence, and the commands of its three sides.

`storer.py` keeps and hands out registrations, `registrar.py` keeps ours alive, `finder.py` looks
others up. They know of discv5 only `Contact` and `Enr`; whoever owns the DHT core carries the
commands below to it and their results back by token.

Shape: requests are [1, type, ...], answers [1, status, ...]; more trailing items are ignored.

Source: docs/formats.md, "Rendezvous".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, TypeAlias

from ginnel.base import rlp
from ginnel.base.addresses import subnet_key
from ginnel.base.chance import RandomBytes
from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.base.limits import BoundedLru
from ginnel.base.types import Address, MemberId, NodeId, Secret, make_address
from ginnel.discv5.enr import Enr
from ginnel.discv5.requests import Contact
from ginnel.mesh import derive
from ginnel.mesh.derive import Point

PROTOCOL = b"ginnel-rdv"  # the TALKREQ protocol (Rendezvous)
VERSION = 1
MAX_LIFETIME_S = 600  # seconds a registration lives at most (Rendezvous)
STORERS = 8  # nodes closest to a location that store it (Rendezvous)
STORERS_PER_SUBNET = 2  # of one /24 or /48 among them (Rendezvous)
MIN_STORERS = 3  # as many as a small network can offer, whatever their subnets
CLOSEST_TO_STORE = 16  # a storer refuses what is none of its 16 closest's business (Rendezvous)
DKEY_SIZE = 16  # bytes
MAX_ENVELOPE = 1088  # bytes (Ground rules)
MAX_REQUEST = 1166  # bytes of a TALKREQ inside a session (Ground rules)
MAX_PRESENCE = 512  # bytes; ids, 4 addresses and a signature take 400
MAX_ADDRESSES = 4  # addresses told in a presence
REFUSER_S = 300.0  # seconds a node that doesn't speak ginnel-rdv is passed over
MAX_REFUSERS = 256  # such nodes remembered
NEIGHBOURS = 3  # nodes of the local network asked besides: it may be without Internet
NO_NODE = "no reachable node found"  # why a search or a registration got nowhere


class RequestType(IntEnum):
    """What a request wants."""

    REGISTER = 1
    LOOKUP = 2
    DELIVER = 3
    PROBE = 4
    PROBE_FOR = 5
    PUSH = 6


class Status(IntEnum):
    """How a request was answered."""

    DONE = 0
    UNKNOWN = 1
    REFUSED = 2
    SLOW_DOWN = 3


# --- requests ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RegisterRequest:
    """Store this presence at the location of `loc_pub`; PUSH what proves to know `dkey`."""

    loc_pub: bytes
    dkey: Secret
    lifetime: int
    presence: bytes
    signature: bytes

    @property
    def location(self) -> NodeId:
        """Return the location that the key names."""
        return NodeId(derive.sha256(self.loc_pub))

    def is_signed(self, storer: NodeId, registrant: NodeId) -> bool:
        """Check the signature by the location's key for these two nodes."""
        signed = _register_bytes(storer, registrant, self)
        return derive.ed25519_verify(self.loc_pub, signed, self.signature)


@dataclass(frozen=True, slots=True)
class LookupRequest:
    """Who is registered at this location?"""

    location: NodeId


@dataclass(frozen=True, slots=True)
class DeliverRequest:
    """Send the envelope on to who is registered there; `mac` proves knowledge of the dkey."""

    location: NodeId
    mac: bytes
    envelope: bytes


@dataclass(frozen=True, slots=True)
class PushRequest:
    """Storer to registrant: an envelope for this location."""

    location: NodeId
    envelope: bytes


Request: TypeAlias = RegisterRequest | LookupRequest | DeliverRequest | PushRequest


def make_register(
    point: Point, *, storer: NodeId, registrant: NodeId, dkey: Secret, presence: bytes
) -> bytes:
    """Return the bytes of a REGISTER of our point for one storer.

    Raises:
        UsageError: the point holds no seed; only its owner registers it.
    """
    if point.loc_seed is None:
        raise UsageError("a point without its seed can't be registered")
    request = RegisterRequest(point.loc_pub, dkey, MAX_LIFETIME_S, presence, b"")
    signature = derive.ed25519_sign(point.loc_seed, _register_bytes(storer, registrant, request))
    return encode_request(RegisterRequest(point.loc_pub, dkey, MAX_LIFETIME_S, presence, signature))


def make_deliver(location: NodeId, dkey: Secret, envelope: bytes) -> bytes:
    """Return the bytes of a DELIVER."""
    return encode_request(DeliverRequest(location, derive.mac(dkey, envelope), envelope))


def encode_request(request: Request) -> bytes:
    """Encode a request."""
    match request:
        case RegisterRequest():
            fields: list[rlp.Encodable] = [
                RequestType.REGISTER,
                request.loc_pub,
                request.dkey.reveal(),
                request.lifetime,
                request.presence,
                request.signature,
            ]
        case LookupRequest():
            fields = [RequestType.LOOKUP, request.location]
        case DeliverRequest():
            fields = [RequestType.DELIVER, request.location, request.mac, request.envelope]
        case PushRequest():
            fields = [RequestType.PUSH, request.location, request.envelope]
    return rlp.encode([VERSION, *fields])


def decode_request(data: bytes) -> Request | None:
    """Decode a request; None for a version or a type that isn't served here.

    Raises:
        RemoteProtocolError: malformed; refuse it.
    """
    if len(data) > MAX_REQUEST:
        raise RemoteProtocolError(f"a request of {len(data)} bytes")
    items = rlp.as_list(rlp.decode(data), at_least=2)
    version, kind = rlp.as_int(items[0]), rlp.as_int(items[1])
    fields = items[2:]
    if version != VERSION:
        return None
    match kind:
        case RequestType.REGISTER:
            return _decode_register(fields)
        case RequestType.LOOKUP:
            return LookupRequest(_location(fields, 1))
        case RequestType.DELIVER:
            location = _location(fields, 3)
            mac = rlp.as_bytes(fields[1], derive.MAC_SIZE)
            return DeliverRequest(location, mac, _envelope(fields[2]))
        case RequestType.PUSH:
            return PushRequest(_location(fields, 2), _envelope(fields[1]))
    return None


def peek_type(data: bytes) -> RequestType | None:
    """Return the type that a request claims, without decoding the rest; None if it has none."""
    start = 1 if data[:1] < b"\xf8" else data[0] - 0xF7 + 1
    kind = data[start + 1 : start + 2]
    if data[start : start + 1] != b"\x01" or not kind or kind[0] not in tuple(RequestType):
        return None
    return RequestType(kind[0])


def _decode_register(fields: list[rlp.Rlp]) -> RegisterRequest:
    rlp.as_list(fields, at_least=5)
    return RegisterRequest(
        loc_pub=rlp.as_bytes(fields[0], derive.KEY_SIZE),
        dkey=Secret(rlp.as_bytes(fields[1], DKEY_SIZE)),
        lifetime=rlp.as_int(fields[2], MAX_LIFETIME_S),
        presence=rlp.as_bytes(fields[3], maximum=MAX_PRESENCE),
        signature=rlp.as_bytes(fields[4], derive.SIGNATURE_SIZE),
    )


def _register_bytes(storer: NodeId, registrant: NodeId, request: RegisterRequest) -> bytes:
    signed: list[rlp.Encodable] = [
        VERSION,
        storer,
        registrant,
        request.loc_pub,
        request.dkey.reveal(),
        request.lifetime,
        derive.sha256(request.presence),
    ]
    return derive.label_bytes("register") + rlp.encode(signed)


def _location(fields: list[rlp.Rlp], size: int) -> NodeId:
    return NodeId(rlp.as_bytes(rlp.as_list(fields, at_least=size)[0], 32))


def _envelope(item: rlp.Rlp) -> bytes:
    return rlp.as_bytes(item, maximum=MAX_ENVELOPE)


# --- answers -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, and the presence where a LOOKUP found one."""

    status: Status
    presence: bytes | None = None


def encode_answer(answer: Answer) -> bytes:
    """Encode an answer."""
    if answer.presence is None:
        return rlp.encode([VERSION, answer.status])
    return rlp.encode([VERSION, answer.status, answer.presence])


def decode_answer(data: bytes) -> Answer:
    """Decode an answer.

    Raises:
        RemoteProtocolError: malformed, empty (the node doesn't speak ginnel-rdv), or unknown.
    """
    if len(data) > MAX_REQUEST:
        raise RemoteProtocolError(f"an answer of {len(data)} bytes")
    items = rlp.as_list(rlp.decode(data), at_least=2)
    if rlp.as_int(items[0]) != VERSION:
        raise RemoteProtocolError("an answer of another version")
    status = rlp.as_int(items[1])
    if status not in tuple(Status):
        raise RemoteProtocolError(f"status {status}")
    presence = rlp.as_bytes(items[2], maximum=MAX_PRESENCE) if len(items) > 2 else None
    return Answer(Status(status), presence)


# --- presence ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Presence:
    """What a registration tells to those who know the point's key.

    An invite's point has no member: `member_id` and `signature` are empty, and its key
    authenticates. `raw_body` is what was signed.
    """

    member_id: MemberId
    period: int
    sent_at: int
    dkey: Secret
    addresses: tuple[Address, ...]
    revocation_digest: bytes
    raw_body: bytes = b""
    signature: bytes = b""


class PresenceSigner(Protocol):
    """Signs the body of a member's presence."""

    def __call__(self, body: bytes) -> bytes:
        """Return the signature by N over the body (label `presence`)."""
        ...


def seal_presence(
    point: Point, presence: Presence, *, signer: PresenceSigner | None, random_bytes: RandomBytes
) -> bytes:
    """Sign and seal a presence for its point; without a signer it is an invite's."""
    body = rlp.encode(
        [
            VERSION,
            presence.member_id,
            presence.period,
            presence.sent_at,
            presence.dkey.reveal(),
            [[a.packed_ip, a.port] for a in presence.addresses[:MAX_ADDRESSES]],
            presence.revocation_digest,
        ]
    )
    signature = b"" if signer is None else signer(body)
    text = rlp.encode_list_payload(body + rlp.encode(signature))
    return derive.seal_presence(point, random_bytes(derive.NONCE_SIZE), text)


def open_presence(point: Point, sealed: bytes) -> Presence:
    """Open a presence of the point; who holds the member's certificate checks the signature.

    Raises:
        RemoteProtocolError: not sealed for this point, malformed or of another period.
    """
    items = rlp.as_list(rlp.decode(derive.open_presence(point, sealed)), at_least=2)
    body = rlp.as_list(items[0], at_least=7)
    if rlp.as_int(body[0]) != VERSION:
        raise RemoteProtocolError("a presence of another version")
    member_id = rlp.as_bytes(body[1], maximum=32)
    if len(member_id) not in (0, 32):
        raise RemoteProtocolError("a member id that is none")
    period = rlp.as_int(body[2])
    if period != point.period:
        raise RemoteProtocolError("a presence of another period")
    return Presence(
        member_id=MemberId(member_id),
        period=period,
        sent_at=rlp.as_int(body[3]),
        dkey=Secret(rlp.as_bytes(body[4], DKEY_SIZE)),
        addresses=tuple(_address(item) for item in rlp.as_list(body[5])[:MAX_ADDRESSES]),
        revocation_digest=rlp.as_bytes(body[6], maximum=32),
        raw_body=rlp.encode(body),
        signature=rlp.as_bytes(items[1], maximum=derive.SIGNATURE_SIZE),
    )


def _address(item: rlp.Rlp) -> Address:
    fields = rlp.as_list(item, at_least=2)
    ip = rlp.as_bytes(fields[0])
    if len(ip) not in (4, 16):
        raise RemoteProtocolError("an IP address of a wrong size")
    return make_address(ip, rlp.as_int(fields[1], 65535))


# --- commands and their results ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lookup:
    """Look for the nodes closest to `target`; the result comes back under `token`."""

    token: int
    target: NodeId


@dataclass(frozen=True, slots=True)
class TalkRequest:
    """Send a ginnel-rdv request inside an established session; answered under `token`."""

    token: int
    contact: Contact
    payload: bytes


@dataclass(frozen=True, slots=True)
class TalkResponse:
    """Answer the request that discv5 named `talk_token`."""

    talk_token: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    """PING a node; the PONG's address comes back under `token`."""

    token: int
    contact: Contact


@dataclass(frozen=True, slots=True)
class PinSession:
    """Keep the session with this node in the cache."""

    contact: Contact


@dataclass(frozen=True, slots=True)
class UnpinSession:
    """The session with this node may go."""

    contact: Contact


@dataclass(frozen=True, slots=True)
class DoubtAddress:
    """A path broke: our outer address may be another one; older views of it count less."""


RdvCommand: TypeAlias = (
    Lookup | TalkRequest | TalkResponse | Ping | PinSession | UnpinSession | DoubtAddress
)


class Tokens:
    """Numbers the commands of several parts, so that each result finds its asker."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        """Return a number never given before."""
        self._last += 1
        return self._last


Node: TypeAlias = Enr | Contact  # of the DHT, or (a contact) of our local network


class Refusers:
    """Nodes that don't speak ginnel-rdv, passed over for a while by registrar and finder alike."""

    def __init__(self) -> None:
        self.is_ipv6_only = False  # this machine: nodes that have both are asked over IPv6
        self._until: BoundedLru[NodeId, float] = BoundedLru(MAX_REFUSERS)

    def add(self, node_id: NodeId, *, now: float) -> None:
        """Pass this node over from now on."""
        self._until.put(node_id, now + REFUSER_S)

    def choose(self, nodes: Sequence[Node], *, now: float) -> list[Contact]:
        """Return the nodes to ask about a location, of those closest to it.

        Who looks asks where the owner has registered: both choose in this one way. Where all
        are to be passed over they are asked again. Those of the local network come besides.
        """
        records = {node.node_id: node for node in nodes if isinstance(node, Enr)}
        contacts = [c for c in map(contact_of, records.values()) if c is not None]
        near = [node for node in nodes if isinstance(node, Contact)][:NEIGHBOURS]
        willing = [c for c in contacts if self._is_willing(c, now)]
        willing_near = [c for c in near if self._is_willing(c, now)]
        if not willing and not willing_near:
            willing, willing_near = contacts, near
        chosen = spread(willing)
        if self.is_ipv6_only:  # only now: all count subnets in the same way
            chosen = [Contact.from_record(records[c.node_id], ipv6=True) or c for c in chosen]
        return chosen + willing_near

    def _is_willing(self, contact: Contact, now: float) -> bool:
        return (self._until.peek(contact.node_id) or now) <= now


def contact_of(node: Enr) -> Contact | None:
    """Return how to reach the node (IPv4 first), or None if its record has no address."""
    return Contact.from_record(node) or Contact.from_record(node, ipv6=True)


def distance(a: bytes, b: bytes) -> int:
    """Return the xor distance of two ids of the DHT."""
    return int.from_bytes(a, "big") ^ int.from_bytes(b, "big")


def spread(contacts: Sequence[Contact], count: int = STORERS) -> list[Contact]:
    """Return up to `count` of the contacts in order, at most 2 of one /24 or /48.

    A small network may offer fewer than `MIN_STORERS` that way: then nodes passed over fill up.
    """
    seen: dict[str, int] = {}
    chosen: list[Contact] = []
    passed_over: list[Contact] = []
    for contact in contacts:
        key = subnet_key(contact.address.ip)
        seen[key] = seen.get(key, 0) + 1
        (chosen if seen[key] <= STORERS_PER_SUBNET else passed_over).append(contact)
    missing = max(0, min(count, MIN_STORERS) - len(chosen))
    return (chosen + passed_over[:missing])[:count]
