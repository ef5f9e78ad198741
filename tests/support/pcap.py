"""Reads the captures of a lab's links, and tells WireGuard's data packets from all else.

Source: draft-ietf-opsawg-pcap (the classic format); WireGuard's paper, 5.4.6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_HEADER_SIZE, _RECORD_SIZE, _ETHERNET_SIZE, _UDP_SIZE = 24, 16, 14, 8
_IPV4, _IPV6, _UDP = 0x0800, 0x86DD, 17
_WIREGUARD_DATA = b"\x04\x00\x00\x00"
_WIREGUARD_LEAST = 32  # bytes of a keepalive
_IPV6_SIZE = 40
_FRAGMENT = 0x1FFF  # bits of an IPv4 fragment's offset


def read_frames(path: Path) -> Iterator[bytes]:
    """Yield the frames of a file."""
    data = path.read_bytes()
    at = _HEADER_SIZE
    while at + _RECORD_SIZE <= len(data):
        size: int = struct.unpack_from("<I", data, at + 8)[0]
        at += _RECORD_SIZE
        yield data[at : at + size]
        at += size
    assert at == len(data), f"{path}: cut off"


def udp_payload(frame: bytes) -> bytes | None:
    """Return what an Ethernet frame's UDP datagram carries, or None if it has none."""
    if len(frame) < _ETHERNET_SIZE + 20:
        return None
    kind: int = struct.unpack_from("!H", frame, 12)[0]
    packet = frame[_ETHERNET_SIZE:]
    if kind == _IPV4:
        protocol, start = packet[9], (packet[0] & 15) * 4
        if struct.unpack_from("!H", packet, 6)[0] & _FRAGMENT:
            return None
    elif kind == _IPV6 and len(packet) >= _IPV6_SIZE:
        protocol, start = packet[6], _IPV6_SIZE
    else:
        return None
    return packet[start + _UDP_SIZE :] if protocol == _UDP else None


def is_wireguard_data(frame: bytes) -> bool:
    """Say whether a frame is a train of WireGuard's data packets, whose content is random to us.

    Full ones are not padded to 16 bytes beyond the MTU.
    """
    payload = udp_payload(frame)
    if payload is None or len(payload) < _WIREGUARD_LEAST:
        return False
    return payload.startswith(_WIREGUARD_DATA)
