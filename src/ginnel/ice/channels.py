"""ChannelData: what a TURN client and server exchange once a channel is bound.

Source: RFC 8656 sections 12 and 12.4.
"""

from __future__ import annotations

FIRST_CHANNEL, LAST_CHANNEL = 0x4000, 0x4FFF  # section 12
LOWER_CHANNELS = range(0x4000, 0x4800)  # of two that relay for each other, one takes these ...
UPPER_CHANNELS = range(0x4800, 0x5000)  # ... one these: what comes tells whose channel it is
HEADER_SIZE = 4  # bytes: channel number, length
ALIGNMENT = 4  # bytes; over UDP padding is allowed, not needed (section 12.5)


def wrap_channel_data(number: int, data: bytes) -> bytes:
    """Return ChannelData; not padded, as over UDP."""
    return number.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data


def split_channel_data(data: bytes) -> tuple[int, bytes] | None:
    """Return channel number and data, or None if it is no ChannelData."""
    size = len(data) - HEADER_SIZE
    if size < 0 or not FIRST_CHANNEL >> 8 <= data[0] <= LAST_CHANNEL >> 8:
        return None
    length = int.from_bytes(data[2:4], "big")
    if not length <= size < length + ALIGNMENT:
        return None
    return int.from_bytes(data[:2], "big"), data[HEADER_SIZE : HEADER_SIZE + length]
