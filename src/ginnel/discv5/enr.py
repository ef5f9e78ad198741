"""Node records (ENR), identity scheme "v4".

A record is kept and sent as the bytes that were signed, never encoded again. Unknown keys are
kept. Verified records are cached by their bytes: checking signatures is what makes discovery slow.

Source: EIP-778.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TypeAlias, Union

from sha3 import keccak_256

from ginnel.base import rlp
from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.base.limits import BoundedLru
from ginnel.base.types import Address, NodeId, make_address
from ginnel.discv5.keys import node_id_of, public_key_of, sign_digest, verify_digest

MAX_RECORD_SIZE = 300  # bytes (EIP-778, "RLP Encoding")
TEXT_PREFIX = "enr:"
MAX_TEXT_SIZE = 410  # characters: the prefix and base64 of 300 bytes, with room for padding
RECORD_CACHE_LIMIT = 2048  # records; about 1.5 MB
MAX_KEYS = 64  # pairs; 300 bytes hold fewer useful ones

FieldValue: TypeAlias = Union[bytes, int, str, "Sequence[FieldValue]"]


@dataclass(frozen=True, slots=True)
class Enr:
    """A verified record: who a node is and, if it can be reached, where."""

    raw: bytes
    seq: int
    public_key: bytes
    node_id: NodeId
    items: tuple[tuple[str, rlp.Rlp], ...] = field(compare=False, repr=False)
    ipv4_address: Address | None = field(compare=False)
    ipv6_address: Address | None = field(compare=False)

    def get(self, key: str) -> rlp.Rlp | None:
        """Return the value of a key as bytes or list, or None."""
        for name, value in self.items:
            if name == key:
                return value
        return None

    def address(self, ipv6: bool = False) -> Address | None:
        """Return where the node takes UDP over IPv4 (or IPv6), or None."""
        return self.ipv6_address if ipv6 else self.ipv4_address

    def to_text(self) -> str:
        """Return the text form, `enr:` and URL-safe base64 without padding."""
        return TEXT_PREFIX + base64.urlsafe_b64encode(self.raw).rstrip(b"=").decode()

    @classmethod
    def from_text(cls, text: str) -> Enr:
        """Read the text form.

        Raises:
            RemoteProtocolError: another form, or not a valid record.
        """
        text = text.strip()
        if not text.startswith(TEXT_PREFIX) or len(text) > MAX_TEXT_SIZE:
            raise RemoteProtocolError("a record's text starts with enr: and is short")
        body = text[len(TEXT_PREFIX) :].rstrip("=")
        try:
            raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise RemoteProtocolError("a record's text that is not base64") from None
        return decode_enr(raw)


class RecordCache:
    """Verified records by their bytes, the least recently used go first."""

    def __init__(self, limit: int = RECORD_CACHE_LIMIT) -> None:
        self._records: BoundedLru[bytes, Enr] = BoundedLru(limit)

    def decode(self, raw: bytes) -> Enr:
        """Return the verified record of these bytes.

        Raises:
            RemoteProtocolError: as `decode_enr`.
        """
        record = self._records.get(raw)
        if record is None:
            record = decode_enr(raw)
            self._records.put(raw, record)
        return record


def decode_enr(raw: bytes) -> Enr:
    """Decode and verify a record.

    Shape: rlp([signature, seq, k, v, ...]), keys sorted and unique, at most 300 bytes.

    Raises:
        RemoteProtocolError: too long, not canonical, keys out of order, or a wrong signature.
    """
    if len(raw) > MAX_RECORD_SIZE:
        raise RemoteProtocolError(f"a record of {len(raw)} bytes")
    parts = rlp.split_list(raw)
    if len(parts) < 2 or len(parts) % 2:
        raise RemoteProtocolError("a record without signature and seq, or a key without value")
    signature = rlp.as_bytes(rlp.decode(parts[0]))
    seq = rlp.as_int(rlp.decode(parts[1]))
    items = _decode_pairs(parts[2:])
    values = dict(items)
    if values.get("id") != b"v4":
        raise RemoteProtocolError("a record of an unknown identity scheme")
    public_key = values.get("secp256k1")
    if not isinstance(public_key, bytes):
        raise RemoteProtocolError("a record without public key")
    node_id = node_id_of(public_key)
    content = rlp.encode_list_payload(b"".join(parts[1:]))
    if not verify_digest(public_key, keccak_256(content).digest(), signature):
        raise RemoteProtocolError("a record whose signature is wrong")
    return _build(bytes(raw), seq, public_key, node_id, items)


def sign_enr(private_key: bytes, seq: int, fields: Mapping[str, FieldValue]) -> Enr:
    """Sign a record with these fields (`id` and `secp256k1` are added).

    Raises:
        UsageError: the record would be too long, or seq is out of range.
    """
    if not 0 <= seq < 2**64:
        raise UsageError("a record's seq has 64 bits")
    public_key = public_key_of(private_key)
    pairs: dict[bytes, FieldValue] = {_key_bytes(key): value for key, value in fields.items()}
    pairs[b"id"] = b"v4"
    pairs[b"secp256k1"] = public_key
    encoded = [rlp.encode(seq)]
    for key in sorted(pairs):
        encoded += [rlp.encode(key), rlp.encode(pairs[key])]
    content = rlp.encode_list_payload(b"".join(encoded))
    signature = sign_digest(private_key, keccak_256(content).digest())
    raw = rlp.encode_list_payload(rlp.encode(signature) + b"".join(encoded))
    if len(raw) > MAX_RECORD_SIZE:
        raise UsageError(f"the record has {len(raw)} bytes, at most {MAX_RECORD_SIZE} are allowed")
    return _build(raw, seq, public_key, node_id_of(public_key), _decode_pairs(encoded[1:]))


def address_fields(address: Address) -> dict[str, FieldValue]:
    """Return the record's fields that publish a UDP address."""
    if address.is_ipv6:
        return {"ip6": address.packed_ip, "udp6": address.port}
    return {"ip": address.packed_ip, "udp": address.port}


def _key_bytes(key: str) -> bytes:
    try:
        return key.encode("latin-1")
    except UnicodeEncodeError:
        raise UsageError("a record's key has characters beyond one byte") from None


def _decode_pairs(parts: Sequence[bytes]) -> tuple[tuple[str, rlp.Rlp], ...]:
    if len(parts) > 2 * MAX_KEYS:
        raise RemoteProtocolError("a record with too many keys")
    pairs: list[tuple[str, rlp.Rlp]] = []
    last: bytes | None = None
    for at in range(0, len(parts), 2):
        key = rlp.as_bytes(rlp.decode(parts[at]))
        if last is not None and key <= last:
            raise RemoteProtocolError("a record's keys are not sorted or not unique")
        last = key
        pairs.append((key.decode("latin-1"), rlp.decode(parts[at + 1])))
    return tuple(pairs)


def _build(
    raw: bytes,
    seq: int,
    public_key: bytes,
    node_id: NodeId,
    items: tuple[tuple[str, rlp.Rlp], ...],
) -> Enr:
    values = dict(items)
    return Enr(
        raw,
        seq,
        public_key,
        node_id,
        items,
        _address(values.get("ip"), 4, values.get("udp")),
        _address(values.get("ip6"), 16, values.get("udp6", values.get("udp"))),
    )


def _address(ip: rlp.Rlp | None, size: int, port: rlp.Rlp | None) -> Address | None:
    """Return the address of two values, None if one is missing or malformed, or the port is 0."""
    if not isinstance(ip, bytes) or not isinstance(port, bytes) or len(ip) != size:
        return None
    number = int.from_bytes(port, "big")
    if not 0 < number < 65536 or port[:1] == b"\x00":
        return None
    return make_address(ip_address(ip), number)
