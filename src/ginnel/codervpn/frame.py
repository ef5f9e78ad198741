"""Length-prefixed frames: 4 bytes big-endian length, then that many bytes of protobuf.

A frame of length 0 is legal (an empty message). A length over the limit is fatal, before any of
its bytes are kept.

Source: seed 002.
"""

from __future__ import annotations

from ginnel.base.errors import RemoteProtocolError, UsageError

PREFIX_SIZE = 4  # bytes
MAX_FRAME_SIZE = 16 * 1024 * 1024  # bytes without the prefix; 0x1000000 itself is allowed


def encode_frame(body: bytes) -> bytes:
    """Return the body with its length in front.

    Raises:
        UsageError: the body is larger than MAX_FRAME_SIZE.
    """
    if len(body) > MAX_FRAME_SIZE:
        raise UsageError(f"a frame of {len(body)} bytes; the limit is {MAX_FRAME_SIZE}")
    return len(body).to_bytes(PREFIX_SIZE, "big") + body


class FrameReader:
    """Takes bytes as they come and gives whole frames; holds at most one frame's worth and a read.

    Invariant: what is buffered is less than one whole frame after `next_frame` returned None.
    """

    def __init__(self, limit: int = MAX_FRAME_SIZE) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add bytes that were read."""
        self._buffer += data

    def next_frame(self) -> bytes | None:
        """Return the next frame's body, or None if more bytes are needed.

        Raises:
            RemoteProtocolError: the next length is over the limit; close the stream.
        """
        if len(self._buffer) < PREFIX_SIZE:
            return None
        size = int.from_bytes(self._buffer[:PREFIX_SIZE], "big")
        if size > self.limit:
            raise RemoteProtocolError(f"a frame of {size} bytes; the limit is {self.limit}")
        end = PREFIX_SIZE + size
        if len(self._buffer) < end:
            return None
        body = bytes(memoryview(self._buffer)[PREFIX_SIZE:end])
        del self._buffer[:end]
        return body

    def clear(self) -> None:
        """Let go of what is buffered: nothing more will be read."""
        self._buffer = bytearray()

    @property
    def is_partial(self) -> bool:
        """Say whether the stream stands in the middle of a frame."""
        return bool(self._buffer)
