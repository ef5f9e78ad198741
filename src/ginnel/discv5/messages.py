"""Messages inside discv5 packets: one frozen value a kind, encoded and decoded strictly.

Request ids are 0 to 8 bytes and are echoed exactly. Records stay the bytes they came as.

Source: devp2p discv5-wire.md, "Protocol Messages".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from ginnel.base import rlp
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Address, make_address
from ginnel.discv5.enr import MAX_RECORD_SIZE

MAX_REQUEST_ID_SIZE = 8  # bytes ("Protocol Messages")
MAX_DISTANCES = 257  # distances read of one FINDNODE: 0 to 256, there are no more
REMEMBERED_ADDRESSES = 1024  # encoded for PONGs
REMEMBERED_SEQS = 1024  # decoded from PINGs
REMEMBERED_DISTANCES = 256  # sets of them, decoded from FINDNODEs
REMEMBERED_RECORDS = 64  # packets of NODES, each 1.2 kB
_REST_AT = 11  # after type, list header, and a request id of 8 bytes with its header
MAX_RECORDS_PER_MESSAGE = 16  # records; more don't fit in 1280 bytes with a signature each


class UnknownMessageType(RemoteProtocolError):
    """A type of a later version (topics, for one): ignore it."""


class Ping(NamedTuple):
    """Are you there? Carries the sender's record seq."""

    request_id: bytes
    enr_seq: int


class Pong(NamedTuple):
    """Answer to PING; `address` is where the PING came from, as the sender sees it."""

    request_id: bytes
    enr_seq: int
    address: Address


class FindNode(NamedTuple):
    """Ask for records at these log2 distances; 0 is the node's own."""

    request_id: bytes
    distances: tuple[int, ...]


class Nodes(NamedTuple):
    """Answer to FINDNODE, one of `total` packets; `records` are still encoded and unverified."""

    request_id: bytes
    total: int
    records: tuple[bytes, ...]


class TalkRequest(NamedTuple):
    """A request of another protocol."""

    request_id: bytes
    protocol: bytes
    payload: bytes


class TalkResponse(NamedTuple):
    """Answer to TALKREQ; empty if the protocol is unknown."""

    request_id: bytes
    payload: bytes


Message: TypeAlias = Ping | Pong | FindNode | Nodes | TalkRequest | TalkResponse
Request: TypeAlias = Ping | FindNode | TalkRequest
Response: TypeAlias = Pong | Nodes | TalkResponse


def encode_message(message: Message) -> bytes:
    """Return the type byte and the RLP list of a message."""
    kind, encode = _ENCODERS[type(message)]
    return kind + rlp.encode_list_payload(rlp.encode_bytes(message.request_id) + encode(message))


def decode_message(data: bytes) -> Message:
    """Decode a decrypted message.

    Raises:
        UnknownMessageType: a type that v5.1 as built here does not have.
        RemoteProtocolError: not canonical, wrong shape, or a value out of range.
    """
    if not data:
        raise RemoteProtocolError("an empty message")
    if _REST_AT < len(data) < 58 and data[2] == 0x88 and data[1] == 0xBE + len(data):
        usual = _USUAL.get(data[0])  # a short list that begins with an id of 8 bytes
        if usual is not None:
            return usual[0](data[3:_REST_AT], usual[1](data[_REST_AT:]))
    decode = _DECODERS.get(data[0])
    if decode is None:
        raise UnknownMessageType(f"message type {data[0]}")
    parts = rlp.split_list(data[1:])
    if not parts:
        raise RemoteProtocolError("a message without request id")
    request_id = rlp.decode_bytes(parts[0])
    if len(request_id) > MAX_REQUEST_ID_SIZE:
        raise RemoteProtocolError("a request id too long")
    return decode(request_id, parts)


def _check_count(parts: list[bytes], count: int) -> None:
    if len(parts) != count:
        raise RemoteProtocolError(f"{len(parts)} items in a message of {count}")


def _decode_ping(request_id: bytes, parts: list[bytes]) -> Ping:
    _check_count(parts, 2)
    return Ping(request_id, _decode_seq(parts[1]))


def _decode_pong(request_id: bytes, parts: list[bytes]) -> Pong:
    _check_count(parts, 4)
    ip = rlp.decode_bytes(parts[2])
    if len(ip) not in (4, 16):
        raise RemoteProtocolError("an IP that has neither 4 nor 16 bytes")
    port = rlp.as_int(rlp.decode_bytes(parts[3]), 65535)
    return Pong(request_id, rlp.as_int(rlp.decode_bytes(parts[1])), make_address(ip, port))


def _decode_find_node(request_id: bytes, parts: list[bytes]) -> FindNode:
    _check_count(parts, 2)
    return FindNode(request_id, _decode_distances(parts[1]))


def _decode_nodes(request_id: bytes, parts: list[bytes]) -> Nodes:
    _check_count(parts, 3)
    records = rlp.split_list(parts[2])
    if len(records) > MAX_RECORDS_PER_MESSAGE:
        raise RemoteProtocolError("too many records in one message")
    if any(len(record) > MAX_RECORD_SIZE for record in records):
        raise RemoteProtocolError("a record too long")
    return Nodes(request_id, rlp.as_int(rlp.decode_bytes(parts[1])), tuple(records))


def _decode_talk_request(request_id: bytes, parts: list[bytes]) -> TalkRequest:
    _check_count(parts, 3)
    return TalkRequest(request_id, rlp.decode_bytes(parts[1]), rlp.decode_bytes(parts[2]))


def _decode_talk_response(request_id: bytes, parts: list[bytes]) -> TalkResponse:
    _check_count(parts, 2)
    return TalkResponse(request_id, rlp.decode_bytes(parts[1]))


def _rest_of_ping(message: Ping) -> bytes:
    return rlp.encode(message.enr_seq)


def _rest_of_pong(message: Pong) -> bytes:
    return _encode_view(message.enr_seq, message.address)


def _rest_of_find_node(message: FindNode) -> bytes:
    return rlp.encode(list(message.distances))


def _rest_of_nodes(message: Nodes) -> bytes:
    return _encode_records(message.total, message.records)


def _rest_of_talk_request(message: TalkRequest) -> bytes:
    return rlp.encode_bytes(message.protocol) + rlp.encode_bytes(message.payload)


def _rest_of_talk_response(message: TalkResponse) -> bytes:
    return rlp.encode_bytes(message.payload)


@lru_cache(maxsize=REMEMBERED_ADDRESSES)
def _encode_view(enr_seq: int, address: Address) -> bytes:
    """Return what PONG tells one node each time: our seq and its address."""
    return rlp.encode(enr_seq) + rlp.encode(address.packed_ip) + rlp.encode(address.port)


@lru_cache(maxsize=REMEMBERED_SEQS)
def _decode_seq(item: bytes) -> int:
    """Return the seq that PING tells: the same one each time."""
    return rlp.as_int(rlp.decode_bytes(item))


@lru_cache(maxsize=REMEMBERED_DISTANCES)
def _decode_distances(item: bytes) -> tuple[int, ...]:
    """Return the distances that FINDNODE asks for: of one lookup, the same each time."""
    distances = rlp.decode_list(item)
    if len(distances) > MAX_DISTANCES:
        raise RemoteProtocolError("too many distances")
    return tuple(rlp.as_int(distance) for distance in distances)


@lru_cache(maxsize=REMEMBERED_RECORDS)
def _encode_records(total: int, records: tuple[bytes, ...]) -> bytes:
    """Return what NODES tells: for the same distances the same, until the table changes."""
    return rlp.encode(total) + rlp.encode_list_payload(b"".join(records))


_ENCODERS: dict[type[Message], tuple[bytes, Callable[[Any], bytes]]] = {
    Ping: (b"\x01", _rest_of_ping),
    Pong: (b"\x02", _rest_of_pong),
    FindNode: (b"\x03", _rest_of_find_node),
    Nodes: (b"\x04", _rest_of_nodes),
    TalkRequest: (b"\x05", _rest_of_talk_request),
    TalkResponse: (b"\x06", _rest_of_talk_response),
}

# what has one item after the request id, decoded without taking the list apart: quicker
_USUAL: dict[int, tuple[Callable[[bytes, Any], Message], Callable[[bytes], Any]]] = {
    1: (Ping, _decode_seq),
    3: (FindNode, _decode_distances),
}

_DECODERS: dict[int, Callable[[bytes, list[bytes]], Message]] = {
    1: _decode_ping,
    2: _decode_pong,
    3: _decode_find_node,
    4: _decode_nodes,
    5: _decode_talk_request,
    6: _decode_talk_response,
}
