"""Formats of invite and join: the invite's text, request, answer and the code on both screens.

`invite_book.py` is the admin's side, `join_attempt.py` the joiner's.

Invariant: a text that parses as an invite was copied whole.

Source: docs/formats.md, "Invite and join".
"""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum

from ginnel.base import rlp, secp256k1
from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.base.types import MemberId, Secret
from ginnel.discv5.enr import Enr, decode_enr
from ginnel.mesh import derive
from ginnel.mesh.envelope import Kind, Outer, build_envelope, seal_info
from ginnel.mesh.objects import MAX_NAME, MAX_OBJECT, check_name
from ginnel.mesh.sealer import Sealer

INVITE_PREFIX = "ginnel1"
INVITE_ID_SIZE = 8  # bytes
INVITE_SECRET_SIZE = 16  # bytes
ADMIN_ID_SIZE = 16  # bytes
NONCE_SIZE = 16  # bytes
MAX_RECORDS = 3  # records in an invite (Invite and join)
MAX_INVITE_TEXT = 2048  # characters; three records of 300 bytes and 200 bytes besides take 1770
CHECK_SIZE = 4  # bytes of the hash behind an invite
CODE_SIZE = 8  # characters
MAX_REASON = 80  # characters of a refusal
VERSION = 1


class InviteError(UsageError):
    """The text is no invite that can be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """A node's four private keys: N (Ed25519 seed), W and S (X25519), D (secp256k1)."""

    identity: Secret
    wireguard: Secret
    sealing: Secret
    discovery: Secret

    @property
    def member_id(self) -> MemberId:
        """Return the id of the member that N names."""
        return derive.member_id_of(derive.ed25519_public(self.identity))

    @property
    def public(self) -> tuple[bytes, bytes, bytes, bytes]:
        """Return the public keys in the order N, W, S, D."""
        return (
            derive.ed25519_public(self.identity),
            derive.x25519_public(self.wireguard),
            derive.x25519_public(self.sealing),
            secp256k1.public_key_of(self.discovery.reveal()),
        )


@dataclass(frozen=True, slots=True)
class Invite:
    """What an invite says; `records` are nodes to start from."""

    network_id: bytes
    invite_id: bytes
    secret: Secret
    expires: int
    admin_id: bytes
    sealing_key: bytes  # J, X25519
    records: tuple[Enr, ...]
    network_name: str = ""  # so that a name in use is noticed before anything is asked


def format_invite(invite: Invite) -> str:
    """Return the invite as one word, lower case."""
    items: list[rlp.Encodable] = [VERSION, invite.network_id, invite.invite_id]
    items += [invite.secret.reveal(), invite.expires, invite.admin_id, invite.sealing_key]
    items.append([record.raw for record in invite.records[:MAX_RECORDS]])
    if invite.network_name:
        items.append(invite.network_name)
    data = rlp.encode(items)
    text = base64.b32encode(data + derive.sha256(data)[:CHECK_SIZE]).decode()
    return INVITE_PREFIX + text.rstrip("=").lower()


def parse_invite(text: str, *, unix_now: float) -> Invite:
    """Parse an invite; spaces, line breaks and case don't matter.

    Raises:
        InviteError: not an invite, damaged, of a newer version, or expired.
    """
    word = "".join(text.split()).lower()
    if not word.startswith(INVITE_PREFIX):
        raise InviteError(f"this is no invite: one starts with {INVITE_PREFIX}")
    damaged = InviteError("the invite is damaged: copy the whole of it again")
    if len(word) > MAX_INVITE_TEXT:
        raise damaged
    word = word[len(INVITE_PREFIX) :].upper()
    try:
        data = base64.b32decode(word + "=" * (-len(word) % 8))
    except (binascii.Error, ValueError):
        raise damaged from None
    body, check = data[:-CHECK_SIZE], data[-CHECK_SIZE:]
    if derive.sha256(body)[:CHECK_SIZE] != check:
        raise damaged
    try:
        invite = _decode_invite(body)
    except RemoteProtocolError as error:
        raise InviteError(f"the invite can't be used: {error}") from None
    if unix_now > invite.expires:
        raise InviteError(
            f"the invite expired at {_utc(invite.expires)}; this machine's clock says "
            f"{_utc(unix_now)}. If the clock is right, ask for a new invite"
        )
    return invite


def _decode_invite(body: bytes) -> Invite:
    items = rlp.decode_list(body)
    if items and rlp.as_int(items[0]) > VERSION:
        raise RemoteProtocolError("it is of a newer version; update Ginnel")
    rlp.as_list(items, at_least=8)
    sealing_key = rlp.as_bytes(items[6], derive.KEY_SIZE)
    derive.check_x25519_key(sealing_key)
    records = rlp.as_list(items[7])
    if len(records) > MAX_RECORDS:
        raise RemoteProtocolError("too many records")
    return Invite(
        network_id=rlp.as_bytes(items[1], 32),
        invite_id=rlp.as_bytes(items[2], INVITE_ID_SIZE),
        secret=Secret(rlp.as_bytes(items[3], INVITE_SECRET_SIZE)),
        expires=rlp.as_int(items[4], 2**40),
        admin_id=rlp.as_bytes(items[5], ADMIN_ID_SIZE),
        sealing_key=sealing_key,
        records=tuple(decode_enr(rlp.as_bytes(record)) for record in records),
        network_name=check_name(rlp.as_text(items[8], MAX_NAME)) if len(items) > 8 else "",
    )


def _utc(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M UTC")


# --- request --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """What a joiner asks for; `body` are its signed bytes."""

    body: bytes
    invite_id: bytes
    identity: bytes
    wireguard: bytes
    sealing: bytes
    discovery: bytes
    name: str
    sent_at: int

    @property
    def hash(self) -> bytes:
        """Return H(body), by which answer and code refer to it."""
        return derive.sha256(self.body)

    @property
    def member_id(self) -> MemberId:
        """Return the id that the joiner will have."""
        return derive.member_id_of(self.identity)


def make_request(
    invite: Invite, keys: NodeKeys, name: str, *, nonce: bytes, sent_at: int
) -> tuple[JoinRequest, bytes]:
    """Return a request and its text: the body with the signatures of N and D."""
    check_name(name)
    body = rlp.encode([VERSION, invite.invite_id, *keys.public, name, nonce, sent_at])
    signature = derive.sign(keys.identity, invite.network_id, "join", body)
    digest = derive.sha256(derive.label_bytes("join") + invite.network_id + body)
    compact = secp256k1.sign(keys.discovery.reveal(), digest)
    return decode_request(body), rlp.encode([body, signature, compact])


def decode_request(body: bytes) -> JoinRequest:
    """Decode a request's body.

    Raises:
        RlpError: malformed; drop it.
    """
    items = rlp.as_list(rlp.decode(body), at_least=9)
    if rlp.as_int(items[0], 255) != VERSION:
        raise rlp.RlpError("a request of another version")
    rlp.as_bytes(items[7], NONCE_SIZE)
    return JoinRequest(
        body=body,
        invite_id=rlp.as_bytes(items[1], INVITE_ID_SIZE),
        identity=rlp.as_bytes(items[2], derive.KEY_SIZE),
        wireguard=rlp.as_bytes(items[3], derive.KEY_SIZE),
        sealing=rlp.as_bytes(items[4], derive.KEY_SIZE),
        discovery=rlp.as_bytes(items[5], 33),
        name=check_name(rlp.as_text(items[6], MAX_NAME)),
        sent_at=rlp.as_int(items[8]),
    )


def decode_signed_request(text: bytes, network_id: bytes) -> JoinRequest | None:
    """Decode a request with its signatures; None if one of these is wrong.

    Raises:
        RlpError: malformed; drop it.
    """
    items = rlp.as_list(rlp.decode(text), at_least=3)
    body = rlp.as_bytes(items[0])
    request = decode_request(body)
    signature = rlp.as_bytes(items[1], derive.SIGNATURE_SIZE)
    compact = rlp.as_bytes(items[2], 64)
    if not derive.verify(request.identity, network_id, "join", body, signature):
        return None
    digest = derive.sha256(derive.label_bytes("join") + network_id + body)
    return request if _verify_ecdsa(request.discovery, digest, compact) else None


def _verify_ecdsa(public_key: bytes, digest: bytes, compact: bytes) -> bool:
    try:
        return secp256k1.PublicKey(public_key).verify(digest, compact)
    except ValueError:
        return False


def join_code(network_id: bytes, secret: Secret, request_hash: bytes) -> str:
    """Return the 8 characters that both screens show, to be compared by a person."""
    key = derive.kdf(secret, network_id, "code")
    digest = hmac.digest(key.reveal(), request_hash, "sha256")
    return base64.b32encode(digest).decode()[:CODE_SIZE]


def format_code(code: str) -> str:
    """Return the code as K7QF-2M9X."""
    return f"{code[:4]}-{code[4:]}"


def parse_code(text: str) -> str:
    """Return the code that a person typed, with or without hyphen, in any case."""
    return "".join(text.replace("-", " ").split()).upper()


# --- answer ---------------------------------------------------------------------------------


class AnswerStatus(IntEnum):
    """How a request stands; the numbers are on the wire."""

    PENDING = 0
    GRANTED = 1
    REFUSED = 2
    USED = 3


@dataclass(frozen=True, slots=True)
class JoinAnswer:
    """One part of an answer: 0 is network and admin, 1 certificate and epoch object."""

    request_hash: bytes
    status: AnswerStatus
    part: int
    objects: tuple[bytes, ...]
    epoch_secret: Secret | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SignedAnswer:
    """An answer with what its signature is over; check it before acting."""

    answer: JoinAnswer
    body: bytes = field(repr=False)  # holds the epoch's secret
    signature: bytes

    def is_signed(self, network_id: bytes, admin_public: bytes) -> bool:
        """Check the admin's signature."""
        return derive.verify(admin_public, network_id, "join answer", self.body, self.signature)


def encode_answer(answer: JoinAnswer, *, admin: Secret, network_id: bytes) -> bytes:
    """Return a signed part of an answer."""
    secret = b"" if answer.epoch_secret is None else answer.epoch_secret.reveal()
    items: list[rlp.Encodable] = [VERSION, answer.request_hash, int(answer.status), answer.part]
    items += [list(answer.objects), secret, answer.reason]
    body = rlp.encode(items)
    return rlp.encode([body, derive.sign(admin, network_id, "join answer", body)])


def decode_answer(text: bytes) -> SignedAnswer:
    """Decode a part of an answer; its signature is not checked yet.

    Raises:
        RlpError: malformed; drop it.
    """
    outer = rlp.as_list(rlp.decode(text), at_least=2)
    body = rlp.as_bytes(outer[0])
    items = rlp.as_list(rlp.decode(body), at_least=7)
    if rlp.as_int(items[0], 255) != VERSION:
        raise rlp.RlpError("an answer of another version")
    secret = rlp.as_bytes(items[5], maximum=32)
    answer = JoinAnswer(
        request_hash=rlp.as_bytes(items[1], 32),
        status=AnswerStatus(rlp.as_int(items[2], max(AnswerStatus))),
        part=rlp.as_int(items[3], 1),
        objects=tuple(
            rlp.as_bytes(item, maximum=MAX_OBJECT) for item in rlp.as_list(items[4], size=2)
        ),
        epoch_secret=Secret(secret) if len(secret) == 32 else None,
        reason=rlp.as_text(items[6], MAX_REASON),
    )
    return SignedAnswer(answer, body, rlp.as_bytes(outer[1], derive.SIGNATURE_SIZE))


# --- envelopes of joins -----------------------------------------------------------------------


def seal_join(
    text: bytes,
    *,
    network_id: bytes,
    invite_id: bytes,
    secret: Secret,
    tag: bytes,
    recipient: bytes,
    recipient_key: bytes,
    sealer: Sealer,
) -> bytes:
    """Seal a request (recipient: the admin id) or a part of an answer (the joiner's member id)."""
    return build_envelope(
        text,
        kind=Kind.JOIN,
        epoch_id=invite_id,
        tag=tag,
        recipient=recipient,
        recipient_key=recipient_key,
        mac_key=derive.kdf(secret, network_id, "join mac"),
        network_id=network_id,
        sealer=sealer,
    )


def has_join_mac(outer: Outer, network_id: bytes, secret: Secret) -> bool:
    """Check the MAC of an envelope of kind join."""
    key = derive.kdf(secret, network_id, "join mac")
    return derive.mac_matches(key, outer.authenticated, outer.mac)


def unseal_join(
    outer: Outer, *, network_id: bytes, recipient: bytes, key: Secret, sealer: Sealer
) -> bytes:
    """Return the text inside.

    Raises:
        RemoteProtocolError: it does not open, or its padding is wrong; drop it.
    """
    info = seal_info(network_id, recipient, outer.header)
    return derive.unpad(sealer.open(key, info, outer.sealed))
