"""Messages between the tunnel and whoever holds the secrets of a join: the signer, or `join`.

One RLP list a message on a SEQPACKET channel. The tunnel learns points (where to register, whose
presences to open) and passes whole envelopes; invite secrets and admin keys never enter it.

Source: DESIGN, "Processes"; docs/formats.md, "Invite and join".
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ginnel.base import rlp
from ginnel.base.errors import SystemFailure, UsageError
from ginnel.base.types import NodeId, Secret
from ginnel.mesh.derive import Point
from ginnel.mesh.envelope import MAX_ENVELOPE
from ginnel.mesh.objects import MAX_OBJECT

MAX_MESSAGE = 4096  # bytes of one message
MAX_POINTS = 20  # points in one message; each takes about 190 bytes
MAX_RECORDS = 8  # records in one message, each of at most 300 bytes
MAX_RECORD = 300  # bytes (EIP-778)
MAX_OBJECTS = 4  # objects in one message
MAX_STAGE = 200  # characters


@dataclass(frozen=True, slots=True)
class Points:
    """To the tunnel: register at these; all messages up to `is_last` make the whole set."""

    points: tuple[Point, ...]
    is_last: bool = True


@dataclass(frozen=True, slots=True)
class DeliverTo:
    """To the tunnel: find the point and deliver the envelope there."""

    point: Point
    envelope: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """From the tunnel: an envelope of kind join arrived at a registered point."""

    tag: bytes
    envelope: bytes


@dataclass(frozen=True, slots=True)
class Nodes:
    """Records of nodes: to a tunnel in join mode to start from, to the signer for invites."""

    records: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """From the tunnel: what it is doing, for people."""

    text: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """From the tunnel: whether a storing node took the envelope for this location."""

    location: NodeId
    is_ok: bool


@dataclass(frozen=True, slots=True)
class NewObjects:
    """From the signer: signed objects for the roster."""

    objects: tuple[bytes, ...]


ChannelMessage: TypeAlias = Points | DeliverTo | Envelope | Nodes | Stage | Delivered | NewObjects


def encode_message(message: ChannelMessage) -> bytes:
    """Return the bytes of a message.

    Raises:
        UsageError: it would be longer than `MAX_MESSAGE`.
    """
    data = rlp.encode(_items(message))
    if len(data) > MAX_MESSAGE:
        raise UsageError(f"a message of {len(data)} bytes on the channel")
    return data


def _items(message: ChannelMessage) -> list[rlp.Encodable]:
    match message:
        case Points(points, is_last):
            return [1, [_encode_point(point) for point in points], int(is_last)]
        case DeliverTo(point, envelope):
            return [2, _encode_point(point), envelope]
        case Envelope(tag, envelope):
            return [3, tag, envelope]
        case Nodes(records):
            return [4, list(records)]
        case Stage(text):
            return [5, text[:MAX_STAGE]]
        case Delivered(location, is_ok):
            return [6, location, int(is_ok)]
        case NewObjects(objects):
            return [7, list(objects)]


def decode_message(data: bytes) -> ChannelMessage:
    """Decode a message.

    Raises:
        RlpError: malformed; drop it.
    """
    if len(data) > MAX_MESSAGE:
        raise rlp.RlpError(f"a message of {len(data)} bytes")
    items = rlp.as_list(rlp.decode(data), at_least=2)
    kind, rest = rlp.as_int(items[0], 7), items[1:]
    if kind in (1, 2, 3, 6):
        rlp.as_list(rest, at_least=2)
    match kind:
        case 1:
            points = [_decode_point(item) for item in _bounded(rest[0], MAX_POINTS)]
            return Points(tuple(points), bool(rlp.as_int(rest[1], 1)))
        case 2:
            return DeliverTo(_decode_point(rest[0]), rlp.as_bytes(rest[1], maximum=MAX_ENVELOPE))
        case 3:
            return Envelope(rlp.as_bytes(rest[0], 16), rlp.as_bytes(rest[1], maximum=MAX_ENVELOPE))
        case 4:
            records = _bounded(rest[0], MAX_RECORDS)
            return Nodes(tuple(rlp.as_bytes(item, maximum=MAX_RECORD) for item in records))
        case 5:
            return Stage(rlp.as_text(rest[0], 4 * MAX_STAGE))
        case 6:
            return Delivered(NodeId(rlp.as_bytes(rest[0], 32)), bool(rlp.as_int(rest[1], 1)))
        case 7:
            objects = _bounded(rest[0], MAX_OBJECTS)
            return NewObjects(tuple(rlp.as_bytes(item, maximum=MAX_OBJECT) for item in objects))
    raise rlp.RlpError("a message of an unknown type")


def split_points(points: Sequence[Point]) -> list[Points]:
    """Return the messages that carry a whole set of points."""
    starts = range(0, max(1, len(points)), MAX_POINTS)
    return [
        Points(tuple(points[start : start + MAX_POINTS]), start + MAX_POINTS >= len(points))
        for start in starts
    ]


class Channel:
    """One end of a channel, on asyncio."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._sending = asyncio.Lock()  # a loop has room for one writer per descriptor

    @classmethod
    def from_fd(cls, descriptor: int) -> Channel:
        """Take over a descriptor that was handed to this process.

        Raises:
            SystemFailure: it is no socket.
        """
        try:
            return cls(socket.socket(fileno=descriptor))
        except OSError as error:
            raise SystemFailure(f"descriptor {descriptor} is no socket: {error.strerror}") from None

    async def send(self, message: ChannelMessage) -> None:
        """Send a message.

        Raises:
            SystemFailure: the other end is gone.
        """
        data = encode_message(message)
        try:
            async with self._sending:
                await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError as error:
            raise SystemFailure(f"the other process is gone: {error.strerror}") from None

    async def receive(self) -> ChannelMessage:
        """Wait for the next message.

        Raises:
            RemoteProtocolError: it is malformed; go on with the next.
            SystemFailure: the other end is gone.
        """
        loop = asyncio.get_running_loop()
        try:
            data = await loop.sock_recv(self._socket, MAX_MESSAGE + 1)
        except OSError as error:
            raise SystemFailure(f"the other process is gone: {error.strerror}") from None
        if not data:
            raise SystemFailure("the other process is gone")
        return decode_message(data)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def _encode_point(point: Point) -> list[rlp.Encodable]:
    seed = b"" if point.loc_seed is None else point.loc_seed.reveal()
    key = point.presence_key.reveal()
    return [point.location, point.loc_pub, seed, key, point.tag, point.period]


def _decode_point(item: rlp.Rlp) -> Point:
    parts = rlp.as_list(item, at_least=6)
    seed = rlp.as_bytes(parts[2], maximum=32)
    if len(seed) not in (0, 32):
        raise rlp.RlpError("a seed of another size")
    return Point(
        location=NodeId(rlp.as_bytes(parts[0], 32)),
        loc_pub=rlp.as_bytes(parts[1], 32),
        loc_seed=Secret(seed) if seed else None,
        presence_key=Secret(rlp.as_bytes(parts[3], 32)),
        tag=rlp.as_bytes(parts[4], 16),
        period=rlp.as_int(parts[5]),
    )


def _bounded(item: rlp.Rlp, maximum: int) -> list[rlp.Rlp]:
    items = rlp.as_list(item)
    if len(items) > maximum:
        raise rlp.RlpError(f"{len(items)} items where at most {maximum} belong")
    return items
