"""Counts what a message holds before it is parsed, since small bytes can make large objects.

An empty agent takes two bytes of a frame and some two hundred of memory: a frame of 16 MiB that is
full of them would take gigabytes. The walk follows the descriptor, so that a text that looks like a
message counts as one value.

Source: protobuf, "Encoding"; the limit is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from google.protobuf.descriptor import FieldDescriptor

if TYPE_CHECKING:
    from google._upb._message import Descriptor as UpbDescriptor
    from google.protobuf.descriptor import Descriptor

    Kind: TypeAlias = Descriptor | UpbDescriptor

MAX_VALUES = 128 * 1024  # of one message: 4096 agents and workspaces take 80,000
LIGHT_SIZE = 16 * 1024  # bytes; what is no larger can't hold enough to matter

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_STRINGS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


def is_light(body: bytes, kind: Kind, most: int = MAX_VALUES) -> bool:
    """Say whether a message has at most so many values, those of its submessages among them.

    What is malformed ends the count: the parser refuses it.
    """
    if len(body) <= min(LIGHT_SIZE, most):
        return True
    at, end, parts = 0, len(body), _parts(kind)
    above: list[tuple[int, Mapping[int, Kind | None]]] = []  # ends and parts of what holds us
    values = 0
    try:
        while values <= most:
            while at >= end:
                if not above:
                    return True
                end, parts = above.pop()
            tag, at = _read_varint(body, at)
            values += 1
            wire_type = tag & 7
            if wire_type != _LENGTH:
                at = _skip(body, at, wire_type)
                continue
            size, at = _read_varint(body, at)
            if tag >> 3 not in parts:
                at += size
            elif (part := parts[tag >> 3]) is None:  # packed numbers: each has at least a byte
                values += size
                at += size
            else:
                above.append((end, parts))
                end, parts = min(at + size, end), _parts(part)
    except IndexError:
        return True
    return False


@cache
def _parts(kind: Kind) -> Mapping[int, Kind | None]:
    """Return the numbers of the fields that hold more than one value: messages, packed numbers."""
    return {field.number: field.message_type for field in kind.fields if field.type not in _STRINGS}


def _skip(body: bytes, at: int, wire_type: int) -> int:
    if wire_type == _VARINT:
        return _read_varint(body, at)[1]
    return at + {_FIXED64: 8, _FIXED32: 4}.get(wire_type, 0)  # a group's ends hold nothing


def _read_varint(body: bytes, at: int) -> tuple[int, int]:
    byte = body[at]
    at += 1
    if byte < 0x80:
        return byte, at
    value, shift = byte & 0x7F, 7
    while True:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 or shift > 63:
            return value, at
        shift += 7
