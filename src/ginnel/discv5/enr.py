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
from typing import Self, TypeAlias, Union

from ginnel.base import rlp
from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.base.limits import BoundedLru
from ginnel.base.secp256k1 import keccak
from ginnel.base.types import Address, NodeId, Secret, make_address
from ginnel.discv5.keys import node_id_of, public_key_of, sign_digest, verify_digest

MAX_RECORD_SIZE = 300  # bytes (EIP-778, "RLP Encoding")
TEXT_PREFIX = "enr:"
MAX_TEXT_SIZE = 410  # characters: the prefix and base64 of 300 bytes, with room for padding
RECORD_CACHE_LIMIT = 2048  # records; about 1.5 MB
_OWN_KEYS = ("id", "secp256k1")  # what signing adds
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

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where the node takes UDP, IPv4 first."""
        first, second = self.ipv4_address, self.ipv6_address
        if second is None:
            return () if first is None else (first,)
        return (second,) if first is None else (first, second)

    @property
    def ip(self) -> str | None:
        """IPv4 address as text, or None."""
        return self._ip("ip", 4)

    @property
    def ip6(self) -> str | None:
        """IPv6 address as text, or None."""
        return self._ip("ip6", 16)

    @property
    def udp(self) -> int | None:
        """UDP port over IPv4, or None."""
        return self._port("udp")

    @property
    def udp6(self) -> int | None:
        """UDP port over IPv6 (that of IPv4 where no other is named), or None."""
        return self._port("udp6") or self._port("udp")

    @property
    def tcp(self) -> int | None:
        """TCP port over IPv4, or None."""
        return self._port("tcp")

    @property
    def tcp6(self) -> int | None:
        """TCP port over IPv6 (that of IPv4 where no other is named), or None."""
        return self._port("tcp6") or self._port("tcp")

    def contains(self, key: str, value: bytes | None = None) -> bool:
        """Say whether the record has the key, and with this value if one is given."""
        found = self.get(key)
        return found is not None and (value is None or found == value)

    def is_newer_than(self, other: Enr) -> bool:
        """Say whether this is a fresher record of the same node."""
        return self.node_id == other.node_id and self.seq > other.seq

    def _ip(self, key: str, size: int) -> str | None:
        value = self.get(key)
        if not isinstance(value, bytes) or len(value) != size:
            return None
        return str(ip_address(value))

    def _port(self, key: str) -> int | None:
        value = self.get(key)
        if not isinstance(value, bytes) or len(value) > 2 or not value or value[0] == 0:
            return None
        return int.from_bytes(value, "big")

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


class EnrBuilder:
    """Collects fields and signs: `EnrBuilder(key).ip("192.0.2.1").udp(9000).build()`.

    Args:
        private_key: 32 bytes, secp256k1.
        seq: of the record.
    """

    def __init__(self, private_key: Secret, seq: int = 1) -> None:
        self._private_key = private_key
        self._seq = seq
        self._fields: dict[str, FieldValue] = {}

    @classmethod
    def from_record(cls, private_key: Secret, record: Enr) -> EnrBuilder:
        """Begin with the fields of a record of ours; seq is one higher.

        Raises:
            UsageError: the record is of another key.
        """
        if public_key_of(private_key.reveal()) != record.public_key:
            raise UsageError("the record is of another key")
        builder = cls(private_key, record.seq + 1)
        builder._fields = fields_of(record)
        return builder

    def set(self, key: str, value: FieldValue) -> Self:
        """Set any field; an int is written without leading zeros, a list as RLP list.

        Raises:
            UsageError: `id` and `secp256k1` follow from the private key.
        """
        if key in _OWN_KEYS:
            raise UsageError(f"the field {key} follows from the private key")
        self._fields[key] = value
        return self

    def remove(self, key: str) -> Self:
        """Leave a field out; harmless where it is not there."""
        self._fields.pop(key, None)
        return self

    def ip(self, ip: str) -> Self:
        """Set the IP address, of either version.

        Raises:
            UsageError: not an IP address.
        """
        address = make_address(ip, 0)
        return self.set("ip6" if address.is_ipv6 else "ip", address.packed_ip)

    def udp(self, port: int) -> Self:
        """Set the UDP port."""
        return self._port("udp", port)

    def udp6(self, port: int) -> Self:
        """Set the UDP port over IPv6, where it is another."""
        return self._port("udp6", port)

    def tcp(self, port: int) -> Self:
        """Set the TCP port."""
        return self._port("tcp", port)

    def tcp6(self, port: int) -> Self:
        """Set the TCP port over IPv6, where it is another."""
        return self._port("tcp6", port)

    def build(self) -> Enr:
        """Sign the record.

        Raises:
            UsageError: it would have more than 300 bytes.
        """
        return sign_enr(self._private_key.reveal(), self._seq, self._fields)

    def _port(self, key: str, port: int) -> Self:
        if not 0 < port < 65536:
            raise UsageError(f"port {port} is not in 1..65535")
        return self.set(key, port)


def _field(value: rlp.Rlp) -> FieldValue:
    return value if isinstance(value, bytes) else [_field(item) for item in value]


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
    seq = rlp.as_int(rlp.decode_bytes(parts[1]))
    items = _decode_pairs(parts[2:])
    values = dict(items)
    if values.get("id") != b"v4":
        raise RemoteProtocolError("a record of an unknown identity scheme")
    public_key = values.get("secp256k1")
    if not isinstance(public_key, bytes):
        raise RemoteProtocolError("a record without public key")
    node_id = node_id_of(public_key)
    content = rlp.encode_list_payload(b"".join(parts[1:]))
    if not verify_digest(public_key, keccak(content), signature):
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
    signature = sign_digest(private_key, keccak(content))
    raw = rlp.encode_list_payload(rlp.encode(signature) + b"".join(encoded))
    if len(raw) > MAX_RECORD_SIZE:
        raise UsageError(f"the record has {len(raw)} bytes, at most {MAX_RECORD_SIZE} are allowed")
    return _build(raw, seq, public_key, node_id_of(public_key), _decode_pairs(encoded[1:]))


def fields_of(record: Enr) -> dict[str, FieldValue]:
    """Return the fields of a record that were given to be signed."""
    return {key: _field(value) for key, value in record.items if key not in _OWN_KEYS}


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
        key = rlp.decode_bytes(parts[at])
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
    return make_address(ip, number)
