"""The five signed objects of a network: network, admin, cert, revoke, epoch.

Decodes and builds them; who may sign what and what is in force is `membership.py`'s business.
Bytes are kept, hashed and forwarded as received. The body travels as a byte string that holds an
RLP list, so that the signature covers exactly what was received.

Invariant: an object that was decoded has a known type and a body of at most 512 bytes.

Source: docs/formats.md, "Signed objects".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from ipaddress import IPv4Network

from ginnel.base import rlp
from ginnel.base.addresses import is_private_prefix
from ginnel.base.errors import UsageError
from ginnel.base.types import MemberId, Secret
from ginnel.mesh import derive

VERSION = 1
MAX_BODY = 512  # bytes of a body (Ground rules)
CAP_RELAY = 1  # bit 0 of a certificate's caps: may relay for other members (Signed objects)
MAX_OBJECT = 640  # bytes of an object: a body, a key, a signature and RLP's headers
TYPES = ("network", "admin", "cert", "revoke", "epoch")  # in the order in which they are needed
DAY_S = 86_400  # seconds
CERTIFICATE_LIFE_S = 365 * DAY_S  # seconds; the longest life of a certificate
CAP_RELAY = 1
CAP_EXIT = 2
MAX_GROUPS = 16  # groups in a certificate; the body's size allows few more
MAX_ROUTES = 16  # routes in a certificate
MAX_NAME = 63  # characters, as a label of DNS

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


class RevocationKind(IntEnum):
    """What a revocation's subject is."""

    MEMBER = 0  # a member id, 32 bytes
    SERIAL = 1  # a certificate's serial, 16 bytes
    ADMIN = 2  # an admin id, 16 bytes; signed by the root key only


_SUBJECT_SIZE = {
    RevocationKind.MEMBER: 32,
    RevocationKind.SERIAL: 16,
    RevocationKind.ADMIN: 16,
}


@dataclass(frozen=True)
class SignedObject:
    """Any signed object: its outer list, decoded, and its bytes as received."""

    raw: bytes
    type: str
    body: bytes
    signer: bytes
    signature: bytes
    version: int
    items: list[rlp.Rlp] = field(repr=False, compare=False)

    @cached_property
    def hash(self) -> bytes:
        """Return H of the bytes as received."""
        return derive.sha256(self.raw)

    def is_signed_in(self, network_id: bytes) -> bool:
        """Check the signature under the key that the object itself names."""
        return derive.verify(self.signer, network_id, self.type, self.body, self.signature)


@dataclass(frozen=True)
class Network:
    """What a network is called and which IPv4 prefix is its own."""

    object: SignedObject
    seq: int
    name: str
    root_public: bytes
    ipv4_prefix: bytes
    ipv4_len: int
    created: int


@dataclass(frozen=True)
class Admin:
    """Who may sign certificates, and the pool of IPv4 addresses that are his to give."""

    object: SignedObject
    admin_id: bytes
    public_key: bytes
    ipv4_pool: bytes
    pool_len: int
    not_before: int
    not_after: int


@dataclass(frozen=True)
class CertificateFields:
    """What a certificate says."""

    serial: bytes
    identity: bytes  # N, Ed25519
    wireguard: bytes  # W, X25519
    sealing: bytes  # S, X25519
    discovery: bytes  # D, secp256k1 compressed
    name: str
    ipv6: bytes
    ipv4: bytes  # 4 bytes or empty
    groups: tuple[str, ...]
    routes: tuple[tuple[bytes, int], ...]
    caps: int
    since: int
    not_before: int
    not_after: int


@dataclass(frozen=True)
class Certificate(CertificateFields):
    """A member's certificate; it is in force only if `Membership` says so."""

    object: SignedObject

    @cached_property
    def member_id(self) -> MemberId:
        """Return the id of the member whom it certifies."""
        return derive.member_id_of(self.identity)

    @property
    def seniority(self) -> tuple[int, bytes]:
        """Return what decides a conflict: the lower keeps the name, key or address."""
        return (self.since, self.member_id)

    @property
    def recency(self) -> tuple[int, bytes]:
        """Return what decides between two certificates of one member: the greater is current."""
        return (self.not_before, self.serial)


@dataclass(frozen=True)
class Revocation:
    """A member, certificate or admin that is no longer trusted."""

    object: SignedObject
    kind: RevocationKind
    subject: bytes
    at: int


@dataclass(frozen=True)
class Epoch:
    """The public half of an epoch: its secret travels sealed."""

    object: SignedObject
    number: int
    secret_hash: bytes
    at: int
    revocations: bytes  # digest of the revocations that it covers

    @property
    def epoch_id(self) -> bytes:
        """Return the 8 bytes that name the epoch in envelopes."""
        return self.secret_hash[: derive.EPOCH_ID_SIZE]


Parsed = Network | Admin | Certificate | Revocation | Epoch


def check_name(name: str) -> str:
    """Return the name of a network, member or group if it can be a label of DNS.

    Raises:
        RlpError: letters, digits and inner hyphens, lower case, 1 to 63.
    """
    if not _NAME.fullmatch(name):
        raise rlp.RlpError("a name that is not 1 to 63 of a-z, 0-9 and inner hyphens")
    return name


def decode_object(raw: bytes) -> SignedObject:
    """Decode the outer list and the body's version.

    Raises:
        RlpError: not a signed object; refuse it.
    """
    if len(raw) > MAX_OBJECT:
        raise rlp.RlpError(f"an object of {len(raw)} bytes")
    outer = rlp.as_list(rlp.decode(raw), at_least=4)
    kind = rlp.as_text(outer[0], 16)
    if kind not in TYPES:
        raise rlp.RlpError("an object of an unknown type")
    body = rlp.as_bytes(outer[1], maximum=MAX_BODY)
    items = rlp.as_list(rlp.decode(body), at_least=1)
    version = rlp.as_int(items[0], 255)
    if version < VERSION:
        raise rlp.RlpError("an object of version 0")
    return SignedObject(
        raw=raw,
        type=kind,
        body=body,
        signer=rlp.as_bytes(outer[2], derive.KEY_SIZE),
        signature=rlp.as_bytes(outer[3], derive.SIGNATURE_SIZE),
        version=version,
        items=items,
    )


def parse_object(signed: SignedObject) -> Parsed:
    """Decode the body of an object of version 1.

    Raises:
        RlpError: fields are missing or mistyped; refuse the object.
    """
    if signed.version != VERSION:
        raise rlp.RlpError(f"version {signed.version} is not known here")
    return _PARSERS[signed.type](signed)


def parse_network(signed: SignedObject) -> Network:
    """Decode a network object; its signer must be the root key it names."""
    items = _items(signed, "network", 7)
    root_public = rlp.as_bytes(items[3], derive.KEY_SIZE)
    if root_public != signed.signer:
        raise rlp.RlpError("a network object that another key signed")
    ipv4_len = rlp.as_int(items[5], 30)
    ipv4_prefix = _prefix(rlp.as_bytes(items[4], 4), ipv4_len)
    if not is_private_prefix(IPv4Network((ipv4_prefix, ipv4_len))):
        raise rlp.RlpError("a network that claims addresses of others")
    return Network(
        object=signed,
        seq=rlp.as_int(items[1]),
        name=check_name(rlp.as_text(items[2], MAX_NAME)),
        root_public=root_public,
        ipv4_prefix=ipv4_prefix,
        ipv4_len=ipv4_len,
        created=rlp.as_int(items[6]),
    )


def parse_admin(signed: SignedObject) -> Admin:
    """Decode an admin object."""
    items = _items(signed, "admin", 7)
    pool_len = rlp.as_int(items[4], 30)
    return Admin(
        object=signed,
        admin_id=rlp.as_bytes(items[1], 16),
        public_key=rlp.as_bytes(items[2], derive.KEY_SIZE),
        ipv4_pool=_prefix(rlp.as_bytes(items[3], 4), pool_len),
        pool_len=pool_len,
        not_before=rlp.as_int(items[5]),
        not_after=rlp.as_int(items[6]),
    )


def parse_certificate(signed: SignedObject) -> Certificate:
    """Decode a certificate; sizes only, the rest is `certcheck.py`."""
    items = _items(signed, "cert", 15)
    ipv4 = rlp.as_bytes(items[8])
    if len(ipv4) not in (0, 4):
        raise rlp.RlpError("an IPv4 address that has neither 4 bytes nor none")
    groups = rlp.as_list(items[9])
    routes = rlp.as_list(items[10])
    if len(groups) > MAX_GROUPS or len(routes) > MAX_ROUTES:
        raise rlp.RlpError("too many groups or routes")
    return Certificate(
        object=signed,
        serial=rlp.as_bytes(items[1], 16),
        identity=rlp.as_bytes(items[2], derive.KEY_SIZE),
        wireguard=rlp.as_bytes(items[3], derive.KEY_SIZE),
        sealing=rlp.as_bytes(items[4], derive.KEY_SIZE),
        discovery=rlp.as_bytes(items[5], 33),
        name=rlp.as_text(items[6], MAX_NAME),
        ipv6=rlp.as_bytes(items[7], 16),
        ipv4=ipv4,
        groups=tuple(rlp.as_text(group, MAX_NAME) for group in groups),
        routes=tuple(_route(route) for route in routes),
        caps=rlp.as_int(items[11]),
        since=rlp.as_int(items[12]),
        not_before=rlp.as_int(items[13]),
        not_after=rlp.as_int(items[14]),
    )


def parse_revocation(signed: SignedObject) -> Revocation:
    """Decode a revocation."""
    items = _items(signed, "revoke", 4)
    kind = RevocationKind(rlp.as_int(items[1], 2))
    return Revocation(
        object=signed,
        kind=kind,
        subject=rlp.as_bytes(items[2], _SUBJECT_SIZE[kind]),
        at=rlp.as_int(items[3]),
    )


def parse_epoch(signed: SignedObject) -> Epoch:
    """Decode an epoch."""
    items = _items(signed, "epoch", 5)
    return Epoch(
        object=signed,
        number=rlp.as_int(items[1]),
        secret_hash=rlp.as_bytes(items[2], 32),
        at=rlp.as_int(items[3]),
        revocations=rlp.as_bytes(items[4], 32),
    )


_PARSERS: dict[str, Callable[[SignedObject], Parsed]] = {
    "network": parse_network,
    "admin": parse_admin,
    "cert": parse_certificate,
    "revoke": parse_revocation,
    "epoch": parse_epoch,
}


# --- building -------------------------------------------------------------------------------


def make_object(
    kind: str, fields: Sequence[rlp.Encodable], *, seed: Secret, network_id: bytes
) -> bytes:
    """Sign an object; `fields` come after the version.

    Raises:
        UsageError: the body would be larger than 512 bytes.
    """
    body = rlp.encode([VERSION, *fields])
    if len(body) > MAX_BODY:
        raise UsageError(f"the {kind} object would have {len(body)} bytes, {MAX_BODY} is the limit")
    signature = derive.sign(seed, network_id, kind, body)
    return rlp.encode([kind, body, derive.ed25519_public(seed), signature])


def make_certificate(fields: CertificateFields, *, seed: Secret, network_id: bytes) -> bytes:
    """Sign a certificate with an admin's key."""
    items: list[rlp.Encodable] = [
        fields.serial,
        fields.identity,
        fields.wireguard,
        fields.sealing,
        fields.discovery,
        fields.name,
        fields.ipv6,
        fields.ipv4,
        list(fields.groups),
        [[prefix, length] for prefix, length in fields.routes],
        fields.caps,
        fields.since,
        fields.not_before,
        fields.not_after,
    ]
    return make_object("cert", items, seed=seed, network_id=network_id)


def make_epoch(
    secret: Secret, number: int, at: int, revocations: bytes, *, seed: Secret, network_id: bytes
) -> bytes:
    """Sign the object of an epoch secret with an admin's key."""
    fields: list[rlp.Encodable] = [number, derive.epoch_hash(secret), at, revocations]
    return make_object("epoch", fields, seed=seed, network_id=network_id)


def revocations_digest(pairs: Sequence[tuple[int, bytes]]) -> bytes:
    """Return H of the RLP of the sorted, distinct [kind, subject]."""
    return derive.sha256(rlp.encode([list(pair) for pair in sorted(dict.fromkeys(pairs))]))


def contains(prefix: bytes, length: int, address: bytes) -> bool:
    """Say whether an address (4 or 16 bytes) lies inside a prefix of the same family."""
    if len(prefix) != len(address):
        return False
    shift = len(prefix) * 8 - length
    return int.from_bytes(prefix, "big") >> shift == int.from_bytes(address, "big") >> shift


def _items(signed: SignedObject, kind: str, at_least: int) -> list[rlp.Rlp]:
    if signed.type != kind:
        raise rlp.RlpError(f"not a {kind} object")
    return rlp.as_list(signed.items, at_least=at_least)


def _prefix(prefix: bytes, length: int) -> bytes:
    host_bits = len(prefix) * 8 - length
    if int.from_bytes(prefix, "big") & ((1 << host_bits) - 1):
        raise rlp.RlpError("a prefix with host bits")
    return prefix


def _route(item: rlp.Rlp) -> tuple[bytes, int]:
    pair = rlp.as_list(item, at_least=2)
    prefix = rlp.as_bytes(pair[0])
    if len(prefix) not in (4, 16):
        raise rlp.RlpError("a route that is neither IPv4 nor IPv6")
    length = rlp.as_int(pair[1], len(prefix) * 8)
    return _prefix(prefix, length), length
