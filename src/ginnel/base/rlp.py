"""Strict and bounded RLP, shared by ENR, discv5 messages and Ginnel's signed objects.

Only the canonical encoding is accepted: shortest lengths, single bytes below 0x80 bare, no bytes
left over. Depth and size are bounded before anything is built.

Source: Ethereum Yellow Paper, appendix B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, Union

from ginnel.base.errors import RemoteProtocolError

MAX_DEPTH = 8  # nested lists; the deepest format (a join answer) has 5
MAX_SIZE = 65_536  # bytes; a datagram carries less

_SHORT = tuple(bytes((0x80 + size,)) for size in range(56))  # headers of short byte strings
_SHORT_LIST = tuple(bytes((0xC0 + size,)) for size in range(56))

Rlp: TypeAlias = Union[bytes, "list[Rlp]"]
Encodable: TypeAlias = Union[bytes, int, str, "Sequence[Encodable]"]


class RlpError(RemoteProtocolError):
    """The bytes are no canonical RLP, or not of the expected shape."""


def encode(item: Encodable) -> bytes:
    """Encode bytes, non-negative ints (big-endian, no leading zero), text (UTF-8) and sequences."""
    if isinstance(item, int):
        item = encode_int(item)
    elif isinstance(item, str):
        item = item.encode()
    if isinstance(item, bytes | bytearray | memoryview):
        data = bytes(item)
        if len(data) == 1 and data[0] < 0x80:
            return data
        return _header(0x80, len(data)) + data
    payload = b"".join([encode(part) for part in item])
    return _header(0xC0, len(payload)) + payload


def encode_bytes(data: bytes) -> bytes:
    """Encode one byte string; quicker than `encode`."""
    size = len(data)
    if size == 1 and data[0] < 0x80:
        return data
    return (_SHORT[size] if size < 56 else _header(0x80, size)) + data


def encode_list_payload(payload: bytes) -> bytes:
    """Wrap already encoded items into one list."""
    size = len(payload)
    return (_SHORT_LIST[size] if size < 56 else _header(0xC0, size)) + payload


def decode(data: bytes) -> Rlp:
    """Decode exactly one item.

    Raises:
        RlpError: not canonical, too deep, too long, cut short or followed by more bytes.
    """
    if len(data) > MAX_SIZE:
        raise RlpError(f"{len(data)} bytes of RLP")
    item, end = _decode_at(data, 0, len(data), 0)
    if end != len(data):
        raise RlpError("bytes after the item")
    return item


def decode_bytes(data: bytes) -> bytes:
    """Decode exactly one item that must be a byte string; quicker than `decode` for a short one."""
    if data:
        first = data[0]
        size = len(data) - 1
        if first < 0x80:
            if not size:
                return data
        elif first - 0x80 == size < 56 and not (size == 1 and data[1] < 0x80):
            return data[1:]
    return as_bytes(decode(data))


def decode_list(data: bytes) -> list[Rlp]:
    """Decode exactly one item that must be a list."""
    return as_list(decode(data))


def split_list(data: bytes) -> list[bytes]:
    """Return the items of exactly one list, each still encoded; what is in them is not checked.

    Raises:
        RlpError: not one list, a length that is not the shortest, cut short, or more bytes follow.
    """
    if not data or data[0] < 0xC0:
        raise RlpError("bytes where a list belongs")
    at, end = _span(data, 0, len(data), data[0] - 0xC0)
    if end != len(data):
        raise RlpError("bytes after the item")
    items: list[bytes] = []
    while at < end:
        first = data[at]
        if first < 0x80:
            stop = at + 1
        elif first < 0xB8 and at + first - 0x7F <= end:
            stop = at + first - 0x7F
        elif first == 0xF8 and at + 1 < end and 56 <= data[at + 1] <= end - at - 2:
            stop = at + 2 + data[at + 1]
        else:
            stop = _span(data, at, end, first - (0x80 if first < 0xC0 else 0xC0))[1]
        items.append(data[at:stop])
        at = stop
    return items


def encode_int(value: int) -> bytes:
    """Return the shortest big-endian form; 0 is empty."""
    if value < 0:
        raise ValueError("RLP has no negative integers")
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def as_bytes(item: Rlp, size: int | None = None, *, maximum: int | None = None) -> bytes:
    """Return the item if it is a byte string of the given (or at most the maximum) size."""
    if not isinstance(item, bytes):
        raise RlpError("a list where bytes belong")
    if size is not None and len(item) != size:
        raise RlpError(f"{len(item)} bytes where {size} belong")
    if maximum is not None and len(item) > maximum:
        raise RlpError(f"{len(item)} bytes where at most {maximum} belong")
    return item


def as_int(item: Rlp, maximum: int = 2**64 - 1) -> int:
    """Return the item as an integer from 0 to the maximum, no leading zeros."""
    data = as_bytes(item)
    if data[:1] == b"\x00":
        raise RlpError("an integer with a leading zero")
    if len(data) > 32:
        raise RlpError("an integer too large")
    value = int.from_bytes(data, "big")
    if value > maximum:
        raise RlpError("an integer too large")
    return value


def as_text(item: Rlp, maximum: int) -> str:
    """Return the item as printable UTF-8 text of at most `maximum` bytes: it goes to terminals."""
    try:
        text = as_bytes(item, maximum=maximum).decode()
    except UnicodeDecodeError:
        raise RlpError("text that is not UTF-8") from None
    if not text.isprintable():
        raise RlpError("text with control characters")
    return text


def as_list(item: Rlp, size: int | None = None, *, at_least: int | None = None) -> list[Rlp]:
    """Return the item if it is a list of the given (or at least the given) number of items."""
    if isinstance(item, bytes):
        raise RlpError("bytes where a list belongs")
    if size is not None and len(item) != size:
        raise RlpError(f"{len(item)} items where {size} belong")
    if at_least is not None and len(item) < at_least:
        raise RlpError(f"{len(item)} items where at least {at_least} belong")
    return item


def _header(base: int, size: int) -> bytes:
    if size < 56:
        return bytes((base + size,))
    length = encode_int(size)
    return bytes((base + 55 + len(length),)) + length


def _decode_at(data: bytes, at: int, end: int, depth: int) -> tuple[Rlp, int]:
    if at >= end:
        raise RlpError("cut short")
    first = data[at]
    if first < 0x80:
        return data[at : at + 1], at + 1
    if first < 0xC0:
        start, stop = _span(data, at, end, first - 0x80)
        if stop - start == 1 and data[start] < 0x80:
            raise RlpError("a single byte with a header")
        return data[start:stop], stop
    if depth >= MAX_DEPTH:
        raise RlpError("too deep")
    start, stop = _span(data, at, end, first - 0xC0)
    items: list[Rlp] = []
    while start < stop:
        item, start = _decode_at(data, start, stop, depth + 1)
        items.append(item)
    return items, stop


def _span(data: bytes, at: int, end: int, code: int) -> tuple[int, int]:
    start = at + 1
    size = code
    if code > 55:
        width = code - 55
        if start + width > end:
            raise RlpError("cut short")
        size = int.from_bytes(data[start : start + width], "big")
        if size < 56 or data[start] == 0:
            raise RlpError("a length that is not the shortest")
        start += width
    if start + size > end:
        raise RlpError("cut short")
    return start, start + size
