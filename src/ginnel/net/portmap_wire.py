"""Messages of NAT-PMP and PCP for one UDP port, to bytes and back.

Both share the gateway's port; the first byte is the version (0 and 2). Only what maps one UDP port
of ours is here.

Source: RFC 6886 sections 3.2, 3.3 and 3.5; RFC 6887 sections 7.1, 7.2, 7.4, 11.1 and 14.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

SERVER_PORT = 5351  # of the gateway, both protocols (RFC 6886 section 3.1, RFC 6887 section 7)
PMP_VERSION, PCP_VERSION = 0, 2
NONCE_SIZE = 12  # bytes (RFC 6887 section 11.1)
MAX_MESSAGE = 1100  # bytes (RFC 6887 section 7)
PMP_SUCCESS = PCP_SUCCESS = 0
UNSUPPORTED_VERSION = 1  # in both protocols
_RESPONSE = 0x80  # bit of the opcode
_OP_ADDRESS, _OP_MAP_UDP = 0, 1  # NAT-PMP
_OP_ANNOUNCE, _OP_MAP = 0, 1  # PCP
_UDP = 17
_PMP_ADDRESS = struct.Struct("!BBHI4s")
_PMP_MAP = struct.Struct("!BBHIHHI")
_PMP_MAP_REQUEST = struct.Struct("!BBHHHI")
_PCP_REQUEST = struct.Struct("!BBHI16s")
_PCP_RESPONSE = struct.Struct("!BBBBII12s")
_PCP_MAP = struct.Struct(f"!{NONCE_SIZE}sB3xHH16s")
_PMP_RESULTS = (
    "success",
    "unsupported version",
    "not authorized: port mapping is switched off at the router",
    "network failure: the router has no outer address yet",
    "out of resources",
    "unsupported opcode",
)
_PCP_RESULTS = (
    "success",
    "unsupported version",
    "not authorized: port mapping is switched off at the router",
    "malformed request",
    "unsupported opcode",
    "unsupported option",
    "malformed option",
    "network failure",
    "no resources",
    "unsupported protocol",
    "user exceeded quota",
    "cannot provide external",
    "address mismatch: there is another NAT before the router",
    "excessive remote peers",
)


@dataclass(frozen=True, slots=True)
class PmpAddress:
    """NAT-PMP: the outer address, or why there is none."""

    result: int
    epoch: int
    ip: str


@dataclass(frozen=True, slots=True)
class PmpMapping:
    """NAT-PMP: a mapping of a UDP port, or why there is none."""

    result: int
    epoch: int
    internal_port: int
    external_port: int
    lifetime: int  # seconds


@dataclass(frozen=True, slots=True)
class PcpMapping:
    """PCP: a mapping, or why there is none; an error's fields are the request's."""

    result: int
    epoch: int
    lifetime: int  # seconds; of an error: don't ask again for so long
    nonce: bytes
    internal_port: int
    external_port: int
    external_ip: str


@dataclass(frozen=True, slots=True)
class PcpAnnounced:
    """PCP: the gateway is there."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Unsupported:
    """The gateway speaks another version than the request's."""

    version: int  # the one that it answered in


Response = PmpAddress | PmpMapping | PcpMapping | PcpAnnounced | Unsupported


def encode_pmp_address() -> bytes:
    """Return the request for the outer address. Shape: 2 bytes (RFC 6886 section 3.2)."""
    return bytes((PMP_VERSION, _OP_ADDRESS))


def encode_pmp_map(internal_port: int, external_port: int, lifetime: int) -> bytes:
    """Return the request for a UDP mapping; lifetime 0 removes it. Shape: 12 bytes (3.3)."""
    return _PMP_MAP_REQUEST.pack(
        PMP_VERSION, _OP_MAP_UDP, 0, internal_port, external_port, lifetime
    )


def encode_pcp_map(
    client_ip: str,
    nonce: bytes,
    internal_port: int,
    external: tuple[str, int],
    lifetime: int,
) -> bytes:
    """Return a MAP request for UDP; lifetime 0 removes it.

    Shape: 24 bytes of header, 36 of MAP (RFC 6887 sections 7.1 and 11.1).

    Args:
        client_ip: where the request is sent from; the gateway compares it.
        nonce: 12 bytes, the same for all requests of one mapping.
        internal_port: ours.
        external: address and port that are wished for; an unspecified one means any.
        lifetime: seconds.
    """
    header = _PCP_REQUEST.pack(PCP_VERSION, _OP_MAP, 0, lifetime, _packed(client_ip))
    ip, port = external
    return header + _PCP_MAP.pack(nonce, _UDP, internal_port, port, _packed(ip))


def encode_pcp_announce(client_ip: str) -> bytes:
    """Return a request that maps nothing: is PCP spoken? (RFC 6887 section 14.1.1)."""
    return _PCP_REQUEST.pack(PCP_VERSION, _OP_ANNOUNCE, 0, 0, _packed(client_ip))


def decode_response(data: bytes) -> Response | None:
    """Return what a gateway answered; None for anything malformed or not asked for by us."""
    if len(data) < 2 or len(data) > MAX_MESSAGE or not data[1] & _RESPONSE:
        return None
    if data[0] == PMP_VERSION:
        return _decode_pmp(data, data[1] & ~_RESPONSE)
    if data[0] == PCP_VERSION and len(data) >= _PCP_RESPONSE.size:
        return _decode_pcp(data)
    return None


def describe_result(result: int, *, is_pcp: bool) -> str:
    """Return a result code in words."""
    texts = _PCP_RESULTS if is_pcp else _PMP_RESULTS
    return texts[result] if result < len(texts) else f"error {result}"


def _decode_pmp(data: bytes, opcode: int) -> Response | None:
    if len(data) >= 4 and int.from_bytes(data[2:4], "big") == UNSUPPORTED_VERSION:
        return Unsupported(PMP_VERSION)
    if opcode == _OP_ADDRESS and len(data) >= _PMP_ADDRESS.size:
        _, _, result, epoch, ip = _PMP_ADDRESS.unpack_from(data)
        return PmpAddress(result, epoch, str(ip_address(ip)))
    if opcode == _OP_MAP_UDP and len(data) >= _PMP_MAP.size:
        _, _, result, epoch, internal, external, lifetime = _PMP_MAP.unpack_from(data)
        return PmpMapping(result, epoch, internal, external, lifetime)
    if opcode == _OP_MAP_UDP and len(data) >= 8:  # an error may be cut short
        _, _, result, epoch = struct.unpack_from("!BBHI", data)
        return PmpMapping(result, epoch, 0, 0, 0) if result else None
    return None


def _decode_pcp(data: bytes) -> Response | None:
    _, opcode, _, result, lifetime, epoch, _ = _PCP_RESPONSE.unpack_from(data)
    if result == UNSUPPORTED_VERSION:
        return Unsupported(PCP_VERSION)
    if opcode & ~_RESPONSE == _OP_ANNOUNCE:
        return PcpAnnounced(epoch) if result == PCP_SUCCESS else None
    if opcode & ~_RESPONSE != _OP_MAP or len(data) < _PCP_RESPONSE.size + _PCP_MAP.size:
        return None
    nonce, protocol, internal, external, ip = _PCP_MAP.unpack_from(data, _PCP_RESPONSE.size)
    if protocol != _UDP:
        return None
    return PcpMapping(result, epoch, lifetime, nonce, internal, external, _text(ip))


def _packed(ip: str) -> bytes:
    """Return 16 bytes; IPv4 as v4-mapped (RFC 6887 section 5)."""
    parsed = ip_address(ip)
    return parsed.packed if parsed.version == 6 else b"\0" * 10 + b"\xff\xff" + parsed.packed


def _text(packed: bytes) -> str:
    parsed = IPv6Address(packed)
    return str(parsed.ipv4_mapped or parsed)
