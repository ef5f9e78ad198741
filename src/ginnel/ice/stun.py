"""The STUN codec that ICE and TURN need: messages, integrity, fingerprint, XOR addresses.

Knows bytes, not meaning: who may send what is the agent's business. A decoded message keeps its
bytes, so that the integrity can be checked once the key is known.

Source: RFC 8489 sections 5, 6, 9, 14; RFC 8445 section 16.1 (ICE); RFC 8656 section 18 (TURN).
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.base.types import Address, make_address

MAGIC_COOKIE = 0x2112A442
_COOKIE = MAGIC_COOKIE.to_bytes(4, "big")
HEADER_SIZE = 20  # bytes (section 5)
TRANSACTION_ID_SIZE = 12  # bytes
INTEGRITY_SIZE = 20  # bytes of HMAC-SHA1 (section 14.5)
SHA256_SIZE = 32  # bytes of HMAC-SHA256; may be cut to 16 or more (section 14.6)
MIN_SHA256_SIZE = 16  # bytes
FINGERPRINT_XOR = 0x5354554E  # section 14.7
MAX_MESSAGE_SIZE = 1500  # bytes; ours stay below 200, TURN's below an Ethernet frame
MAX_ATTRIBUTES = 32  # a check has 7

BINDING = 0x001
ALLOCATE = 0x003  # RFC 8656 section 17, as the ones below
REFRESH = 0x004
SEND = 0x006
DATA = 0x007
CREATE_PERMISSION = 0x008
CHANNEL_BIND = 0x009


class MessageClass(IntEnum):
    """The two class bits, as they stand in the message type."""

    REQUEST = 0x000
    INDICATION = 0x010
    SUCCESS = 0x100
    ERROR = 0x110


class Attribute(IntEnum):
    """Types that ICE and TURN use; below 0x8000 an unknown one makes the message useless."""

    MAPPED_ADDRESS = 0x0001
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    CHANNEL_NUMBER = 0x000C
    LIFETIME = 0x000D
    XOR_PEER_ADDRESS = 0x0012
    DATA = 0x0013
    REALM = 0x0014
    NONCE = 0x0015
    XOR_RELAYED_ADDRESS = 0x0016
    REQUESTED_TRANSPORT = 0x0019
    MESSAGE_INTEGRITY_SHA256 = 0x001C
    PASSWORD_ALGORITHM = 0x001D
    USERHASH = 0x001E
    XOR_MAPPED_ADDRESS = 0x0020
    PRIORITY = 0x0024
    USE_CANDIDATE = 0x0025
    PASSWORD_ALGORITHMS = 0x8002
    SOFTWARE = 0x8022
    FINGERPRINT = 0x8028
    ICE_CONTROLLED = 0x8029
    ICE_CONTROLLING = 0x802A


_KNOWN = frozenset(int(attribute) for attribute in Attribute)
_SEALS = (Attribute.MESSAGE_INTEGRITY, Attribute.MESSAGE_INTEGRITY_SHA256)


class StunError(RemoteProtocolError):
    """The bytes are no well-formed STUN message."""


@dataclass(frozen=True, slots=True)
class Message:
    """One STUN message; `attributes` in their order, `raw` as received (or encoded).

    `covered` is the offset of MESSAGE-INTEGRITY, `covered_sha256` that of its successor, 0 without;
    what follows them was dropped but for the fingerprint.
    """

    method: int
    message_class: MessageClass
    transaction_id: bytes
    attributes: tuple[tuple[int, bytes], ...]
    raw: bytes = b""
    covered: int = 0
    covered_sha256: int = 0

    def get(self, attribute: Attribute) -> bytes | None:
        """Return the value of the first attribute of this type, or None."""
        for kind, value in self.attributes:
            if kind == attribute:
                return value
        return None

    def number(self, attribute: Attribute, size: int) -> int | None:
        """Return an integer attribute of `size` bytes; None if absent or of another size."""
        value = self.get(attribute)
        return int.from_bytes(value, "big") if value is not None and len(value) == size else None

    @property
    def username(self) -> str:
        """Return USERNAME as text, empty if absent or not ASCII."""
        value = self.get(Attribute.USERNAME) or b""
        return value.decode("ascii", "replace")

    def address(self, attribute: Attribute) -> Address | None:
        """Return an XOR'ed address attribute; None if absent or malformed."""
        value = self.get(attribute)
        return decode_address(value, self.transaction_id) if value is not None else None

    @property
    def local_ufrag(self) -> str:
        """Return the receiver's half of USERNAME: on a shared socket it names the agent."""
        return self.username.partition(":")[0]

    @property
    def error_code(self) -> int | None:
        """Return the code of ERROR-CODE (300 to 699), or None."""
        value = self.get(Attribute.ERROR_CODE)
        if value is None or len(value) < 4 or not 3 <= value[2] & 7 <= 6 or value[3] > 99:
            return None
        return (value[2] & 7) * 100 + value[3]

    @property
    def mapped_address(self) -> Address | None:
        """Return XOR-MAPPED-ADDRESS, else MAPPED-ADDRESS; None if absent or malformed."""
        value = self.get(Attribute.XOR_MAPPED_ADDRESS)
        if value is not None:
            return decode_address(value, self.transaction_id)
        value = self.get(Attribute.MAPPED_ADDRESS)
        return decode_address(value, None) if value is not None else None

    def unknown_required(self) -> tuple[int, ...]:
        """Return the types that we must understand and don't (section 6.3.1)."""
        return tuple(kind for kind, _ in self.attributes if kind < 0x8000 and kind not in _KNOWN)


def request_id(data: bytes) -> bytes | None:
    """Return the transaction id of an encoded request of ours, or None if it is something else."""
    is_request = data[0] & 0xFE == 0 and data[1] & 0x10 == 0
    if len(data) < HEADER_SIZE or not is_request or data[4:8] != _COOKIE:
        return None
    return data[8:HEADER_SIZE]


def decode_message(data: bytes) -> Message:
    """Decode one STUN message; checks the fingerprint if there is one.

    Shape: type 2, length 2, cookie 4, transaction id 12, then attributes (type 2, length 2, value
    padded to 4). Of attributes after MESSAGE-INTEGRITY only MESSAGE-INTEGRITY-SHA256 and
    FINGERPRINT are taken, after MESSAGE-INTEGRITY-SHA256 only FINGERPRINT (sections 14.5, 14.6).

    Raises:
        StunError: malformed, cut short, too long or with a wrong fingerprint.
    """
    size = len(data)
    if not HEADER_SIZE <= size <= MAX_MESSAGE_SIZE or data[0] & 0xC0 or data[4:8] != _COOKIE:
        raise StunError("no STUN header")
    if int.from_bytes(data[2:4], "big") != size - HEADER_SIZE or size % 4:
        raise StunError("length field and size differ")
    kind = int.from_bytes(data[:2], "big")
    attributes: list[tuple[int, bytes]] = []
    covered = {kind: 0 for kind in _SEALS}
    at = HEADER_SIZE
    while at < size:
        attribute = int.from_bytes(data[at : at + 2], "big")
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        value = data[at + 4 : at + 4 + length]
        if len(value) != length or len(attributes) >= MAX_ATTRIBUTES:
            raise StunError("attribute cut short, or too many")
        if attribute == Attribute.FINGERPRINT:
            if at + 8 != size or value != _fingerprint(data[:at]):
                raise StunError("wrong fingerprint")
            attributes.append((attribute, value))
        elif attribute in _SEALS and not any(covered[seal] for seal in _seals_from(attribute)):
            if not _is_seal_size(attribute, length):
                raise StunError("integrity of another size")
            covered[Attribute(attribute)] = at
            attributes.append((attribute, value))
        elif not any(covered.values()):
            attributes.append((attribute, value))
        at += 4 + length + (-length % 4)
    method = (kind & 0x000F) | (kind & 0x00E0) >> 1 | (kind & 0x3E00) >> 2
    message_class = MessageClass(kind & 0x0110)
    offsets = (covered[seal] for seal in _SEALS)
    return Message(method, message_class, data[8:20], tuple(attributes), data, *offsets)


def encode_message(
    message_class: MessageClass,
    transaction_id: bytes,
    attributes: Sequence[tuple[int, bytes]],
    *,
    key: bytes | None = None,
    method: int = BINDING,
    fingerprint: bool = True,
    sha256: bool = False,
) -> bytes:
    """Encode one message; with a key MESSAGE-INTEGRITY is added, then the fingerprint.

    `sha256`: MESSAGE-INTEGRITY-SHA256 in its place.
    """
    if len(transaction_id) != TRANSACTION_ID_SIZE:
        raise UsageError(f"a transaction id of {len(transaction_id)} bytes")
    kind = (method & 0xF) | (method & 0x70) << 1 | (method & 0xF80) << 2 | message_class
    body = encode_attributes(attributes)

    def header(size: int) -> bytes:
        return kind.to_bytes(2, "big") + size.to_bytes(2, "big") + _COOKIE + transaction_id

    if key is not None:
        seal, size, method_of = _SHA256 if sha256 else _SHA1
        covered = header(len(body) + 4 + size) + body
        body += _attribute(seal, hmac.digest(key, covered, method_of))
    if fingerprint:
        value = _fingerprint(header(len(body) + 8) + body)
        body += _attribute(Attribute.FINGERPRINT, value)
    return header(len(body)) + body


def encode_attributes(attributes: Sequence[tuple[int, bytes]]) -> bytes:
    """Encode attributes as a message has them, padded."""
    return b"".join(_attribute(number, value) for number, value in attributes)


def check_integrity(message: Message, key: bytes) -> bool:
    """Say whether MESSAGE-INTEGRITY is there and right (short-term credentials, section 9.1)."""
    return _check_seal(message, key, message.covered, "sha1")


def check_integrity_sha256(message: Message, key: bytes) -> bool:
    """Say whether MESSAGE-INTEGRITY-SHA256 is there and right, be it cut (section 14.6)."""
    return _check_seal(message, key, message.covered_sha256, "sha256")


def user_hash(username: str, realm: str) -> bytes:
    """Return the value of USERHASH (section 14.4)."""
    return hashlib.sha256(f"{username}:{realm}".encode()).digest()


def long_term_key(username: str, realm: str, password: str) -> bytes:
    """Return the key of MESSAGE-INTEGRITY under long-term credentials (section 9.2.2)."""
    text = f"{username}:{realm}:{password}".encode()
    return hashlib.md5(text, usedforsecurity=False).digest()  # the protocol's choice


def encode_address(address: Address, transaction_id: bytes) -> bytes:
    """Return the value of XOR-MAPPED-ADDRESS (section 14.2)."""
    ip = address.packed_ip
    mask = _COOKIE + transaction_id
    xored = bytes(a ^ b for a, b in zip(ip, mask, strict=False))
    port = address.port ^ (MAGIC_COOKIE >> 16)
    return bytes((0, 2 if len(ip) == 16 else 1)) + port.to_bytes(2, "big") + xored


def decode_address(value: bytes, transaction_id: bytes | None) -> Address | None:
    """Return the address of an (XOR-)MAPPED-ADDRESS value, None if malformed; no id: no XOR."""
    if len(value) < 4 or len(value) != {1: 8, 2: 20}.get(value[1]):
        return None
    port = int.from_bytes(value[2:4], "big")
    ip = value[4:]
    if transaction_id is not None:
        port ^= MAGIC_COOKIE >> 16
        ip = bytes(a ^ b for a, b in zip(ip, _COOKIE + transaction_id, strict=False))
    return make_address(ip, port)


def encode_error(code: int, reason: str) -> bytes:
    """Return the value of ERROR-CODE (section 14.8)."""
    return bytes((0, 0, code // 100, code % 100)) + reason.encode()


_SHA1 = (Attribute.MESSAGE_INTEGRITY, INTEGRITY_SIZE, "sha1")
_SHA256 = (Attribute.MESSAGE_INTEGRITY_SHA256, SHA256_SIZE, "sha256")


def _check_seal(message: Message, key: bytes, at: int, method: str) -> bool:
    if not at:
        return False
    raw = message.raw
    size = int.from_bytes(raw[at + 2 : at + 4], "big")
    length = at + 4 + size - HEADER_SIZE
    covered = raw[:2] + length.to_bytes(2, "big") + raw[4:at]
    value = raw[at + 4 : at + 4 + size]
    return hmac.compare_digest(hmac.digest(key, covered, method)[:size], value)


def _seals_from(kind: int) -> tuple[Attribute, ...]:
    """Return the seals after which this one is ignored: itself and stronger ones."""
    return _SEALS if kind == Attribute.MESSAGE_INTEGRITY else _SEALS[1:]


def _is_seal_size(kind: int, length: int) -> bool:
    if kind == Attribute.MESSAGE_INTEGRITY:
        return length == INTEGRITY_SIZE
    return MIN_SHA256_SIZE <= length <= SHA256_SIZE and length % 4 == 0


def _attribute(kind: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + padding


def _fingerprint(data: bytes) -> bytes:
    return (zlib.crc32(data) ^ FINGERPRINT_XOR).to_bytes(4, "big")
