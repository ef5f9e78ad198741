"""STUN messages and ChannelData on a stream: where each begins and ends.

Nothing but these two may come, so that a byte of another kind is the end of the connection.

Invariant: what is kept is shorter than one whole item.

Source: RFC 8656 section 12.5; RFC 8489 section 6.2.2; RFC 4571 is not used by TURN.
"""

from __future__ import annotations

from ginnel.base.errors import RemoteProtocolError
from ginnel.ice import stun
from ginnel.ice.channels import ALIGNMENT, FIRST_CHANNEL, LAST_CHANNEL
from ginnel.ice.channels import HEADER_SIZE as CHANNEL_HEADER

MAX_ITEM = 4096  # bytes; a datagram is below 2048, coturn's longest answers are below 1024


class FramingError(RemoteProtocolError):
    """Bytes that belong to no item: close the connection."""


class StreamSplitter:
    """Cuts a stream into items; feed it what came."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the items that are complete now; ChannelData comes without its padding.

        Raises:
            FramingError: close the connection.
        """
        data = self._rest + data
        items: list[bytes] = []
        at = 0
        while len(data) - at >= CHANNEL_HEADER:
            size = _size_of(data, at)
            padded = size + -size % ALIGNMENT
            if padded > MAX_ITEM:
                raise FramingError(f"an item of {size} bytes")
            if len(data) - at < padded:
                break
            items.append(data[at : at + size])
            at += padded
        self._rest = data[at:]
        return items


def frame(item: bytes) -> bytes:
    """Return a STUN message or ChannelData as it goes into a stream: padded."""
    return item + bytes(-len(item) % ALIGNMENT)


def _size_of(data: bytes, at: int) -> int:
    length = int.from_bytes(data[at + 2 : at + 4], "big")
    if FIRST_CHANNEL >> 8 <= data[at] <= LAST_CHANNEL >> 8:
        return CHANNEL_HEADER + length
    if data[at] & 0xC0 or length % 4:
        raise FramingError("neither STUN nor ChannelData")
    return stun.HEADER_SIZE + length
