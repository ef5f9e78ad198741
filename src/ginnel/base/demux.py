"""Tells the datagrams of the shared UDP port apart.

The Rust data plane has the same rules; `tests/vectors/demux.json` binds both. Library users of
`ginnel.ice` and `ginnel.discv5` who bring their own socket use this one, and our own senders use
it to redraw what would be taken for something else.

Source: WireGuard whitepaper 5.4; RFC 8489 sections 5, 6; RFC 8656 section 12.4; discv5-wire.
"""

from __future__ import annotations

from collections.abc import Callable

from ginnel.base.dataplane import DatagramKind

WIREGUARD_SIZES = {1: 148, 2: 92, 3: 64}  # bytes; handshake messages and cookie, whitepaper 5.4
WIREGUARD_DATA = 4  # message type of data packets
WIREGUARD_DATA_MIN = 32  # bytes; header and tag around nothing
STUN_HEADER_SIZE = 20  # bytes; RFC 8489 section 5
STUN_MAGIC_COOKIE = b"\x21\x12\xa4\x42"  # RFC 8489 section 5
CHANNEL_HEADER_SIZE = 4  # bytes; RFC 8656 section 12.4
CHANNEL_ALIGNMENT = 4  # bytes; RFC 8656 section 12.5: padding is allowed over UDP
CHANNEL_FIRST_BYTES = range(0x40, 0x50)  # RFC 8656 section 12


def classify(data: bytes, known_channel: Callable[[int], bool] | None = None) -> DatagramKind:
    """Say what a datagram is.

    Args:
        data: the datagram.
        known_channel: tells whether a channel number is bound with the datagram's source;
            None if no TURN is in use.
    """
    if _is_wireguard(data):
        return DatagramKind.WIREGUARD
    if _is_stun(data):
        return DatagramKind.STUN
    if known_channel is not None and _is_channel_data(data, known_channel):
        return DatagramKind.CHANNEL_DATA
    return DatagramKind.DISCV5


def _is_wireguard(data: bytes) -> bool:
    if len(data) < WIREGUARD_DATA_MIN or data[1:4] != b"\0\0\0":
        return False
    return data[0] == WIREGUARD_DATA or WIREGUARD_SIZES.get(data[0]) == len(data)


def _is_stun(data: bytes) -> bool:
    return (
        len(data) >= STUN_HEADER_SIZE
        and data[0] & 0xC0 == 0
        and data[4:8] == STUN_MAGIC_COOKIE
        and int.from_bytes(data[2:4], "big") == len(data) - STUN_HEADER_SIZE
    )


def _is_channel_data(data: bytes, known_channel: Callable[[int], bool]) -> bool:
    if len(data) < CHANNEL_HEADER_SIZE or data[0] not in CHANNEL_FIRST_BYTES:
        return False
    length = int.from_bytes(data[2:4], "big")
    padded = -(-length // CHANNEL_ALIGNMENT) * CHANNEL_ALIGNMENT
    if len(data) - CHANNEL_HEADER_SIZE not in (length, padded):
        return False
    return known_channel(int.from_bytes(data[:2], "big"))
