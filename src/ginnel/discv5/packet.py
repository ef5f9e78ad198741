"""Packets on the wire: masking, the three headers, and what is authenticated.

Knows bytes only: keys of sessions and the meaning of messages are elsewhere. A masking IV that
would make a packet look like another protocol on the shared port is drawn again.

Shape: masking-iv (16) || masked(static header (23) || authdata) || message.
Source: devp2p discv5-wire.md, "Packet Encoding".
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import NamedTuple, TypeAlias

from ginnel.base import ciphers
from ginnel.base.chance import RandomBytes
from ginnel.base.dataplane import DatagramKind
from ginnel.base.demux import classify
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import NodeId
from ginnel.discv5.keys import NODE_ID_SIZE, PUBLIC_KEY_SIZE, SIGNATURE_SIZE

MIN_PACKET_SIZE = 63  # bytes ("UDP Communication")
MAX_PACKET_SIZE = 1280  # bytes ("UDP Communication")
VERSION = 1
IV_SIZE = 16  # bytes
NONCE_SIZE = 12  # bytes
ID_NONCE_SIZE = 16  # bytes
TAG_SIZE = 16  # bytes of AES-GCM
PROTOCOL_ID_SIZE = 6  # bytes
DEFAULT_PROTOCOL_ID = b"discv5"
MAX_IV_DRAWS = 64  # draws; each is refused with a chance below 1/16
FIRST_FREE_BYTE = 0x50  # IVs from here on are neither WireGuard, STUN nor ChannelData (DESIGN)

_STATIC = struct.Struct(">6sHB12sH")
_AUTH_HEAD = struct.Struct(">32sBB")
STATIC_SIZE = _STATIC.size  # 23 bytes
_ORDINARY = 0  # the flag as it is on the wire
ORDINARY_OVERHEAD = IV_SIZE + STATIC_SIZE + 32 + TAG_SIZE  # bytes of a packet besides the message
HANDSHAKE_OVERHEAD = (  # bytes besides message and record
    IV_SIZE + STATIC_SIZE + _AUTH_HEAD.size + SIGNATURE_SIZE + PUBLIC_KEY_SIZE + TAG_SIZE
)
MAX_MESSAGE_SIZE = MAX_PACKET_SIZE - ORDINARY_OVERHEAD  # 1193 bytes inside a session
RANDOM_MESSAGE_SIZE = 44  # bytes after the header of a packet that only asks for a challenge


class Flag(int, Enum):
    """Kinds of packets."""

    ORDINARY = 0
    WHOAREYOU = 1
    HANDSHAKE = 2


class PacketFault(Enum):
    """Why bytes are no packet for us."""

    SIZE = "packet size"
    PROTOCOL = "protocol id"
    VERSION = "version"
    FLAG = "flag"
    AUTHDATA = "authdata"


class PacketError(RemoteProtocolError):
    """The bytes are no packet for us."""

    def __init__(self, fault: PacketFault) -> None:
        super().__init__(fault.value)
        self.fault = fault


class OrdinaryPacket(NamedTuple):
    """A message under session keys, or random bytes of somebody who has none."""

    node_id: NodeId
    nonce: bytes
    authenticated: bytes  # masking-iv || header
    ciphertext: bytes


class WhoAreYouPacket(NamedTuple):
    """A challenge; `request_nonce` names the packet that caused it."""

    request_nonce: bytes
    id_nonce: bytes
    enr_seq: int
    challenge_data: bytes  # masking-iv || header


class HandshakePacket(NamedTuple):
    """The answer to a challenge, with the first message under the new keys."""

    node_id: NodeId
    nonce: bytes
    id_signature: bytes
    ephemeral_key: bytes
    record: bytes  # still encoded, empty if left out
    authenticated: bytes
    ciphertext: bytes


Packet: TypeAlias = OrdinaryPacket | WhoAreYouPacket | HandshakePacket


class PacketCodec:
    """Packets from and to one local node.

    Args:
        node_id: the local node's.
        protocol_id: 6 bytes that both sides must agree on.
        random_bytes: cryptographic source of masking IVs.
    """

    def __init__(self, node_id: NodeId, protocol_id: bytes, random_bytes: RandomBytes) -> None:
        self.node_id = node_id
        self._protocol_id = protocol_id
        self._random_bytes = random_bytes
        self.ordinary_header = self.header(Flag.ORDINARY, bytes(NONCE_SIZE), node_id)  # no nonce

    def decode(self, data: bytes) -> Packet:
        """Unmask a packet that was sent to the local node.

        Raises:
            PacketError: not a packet for us.
        """
        unmasked = ciphers.unmask(self.node_id, data)
        if unmasked is None or not MIN_PACKET_SIZE <= len(data) <= MAX_PACKET_SIZE:
            raise PacketError(PacketFault.SIZE)
        protocol_id, version, flag, nonce, authdata, start, message = unmasked
        if protocol_id != self._protocol_id:
            raise PacketError(PacketFault.PROTOCOL)
        if version != VERSION:
            raise PacketError(PacketFault.VERSION)
        if authdata is None:
            raise PacketError(PacketFault.AUTHDATA)
        if flag == _ORDINARY:
            if len(authdata) != NODE_ID_SIZE or len(message) < TAG_SIZE:
                raise PacketError(PacketFault.AUTHDATA)
            return OrdinaryPacket(NodeId(authdata), nonce, start, message)
        if flag == Flag.WHOAREYOU:
            if len(authdata) != ID_NONCE_SIZE + 8 or message:
                raise PacketError(PacketFault.AUTHDATA)
            enr_seq = int.from_bytes(authdata[ID_NONCE_SIZE:], "big")
            return WhoAreYouPacket(nonce, authdata[:ID_NONCE_SIZE], enr_seq, start)
        if flag == Flag.HANDSHAKE:
            return _handshake(nonce, authdata, start, message)
        raise PacketError(PacketFault.FLAG)

    def header(self, flag: Flag, nonce: bytes, authdata: bytes) -> bytes:
        """Return the unmasked header."""
        return _STATIC.pack(self._protocol_id, VERSION, flag, nonce, len(authdata)) + authdata

    def make_iv(self, size: int) -> bytes:
        """Return a fresh masking IV for a packet of `size` bytes that looks like nothing else.

        First bytes of 0x50 and more belong to no other protocol, so most draws need no look.
        """
        for _ in range(MAX_IV_DRAWS):
            iv = self._random_bytes(IV_SIZE)
            if iv[0] >= FIRST_FREE_BYTE or not looks_foreign(iv + bytes(size - IV_SIZE)):
                break
        return iv

    def encode_random(self, node_id: NodeId, nonce: bytes) -> bytes:
        """Return a packet to a node that nobody can decrypt: it asks for a challenge."""
        header = self.header(Flag.ORDINARY, nonce, self.node_id)
        message = self._random_bytes(RANDOM_MESSAGE_SIZE)
        iv = self.make_iv(IV_SIZE + len(header) + len(message))
        return ciphers.mask(node_id, iv + header) + message

    def encode_whoareyou(
        self, node_id: NodeId, request_nonce: bytes, id_nonce: bytes, enr_seq: int
    ) -> tuple[bytes, bytes]:
        """Return a challenge to a node, and its challenge data."""
        iv = self.make_iv(MIN_PACKET_SIZE)
        header = self.header(Flag.WHOAREYOU, request_nonce, id_nonce + enr_seq.to_bytes(8, "big"))
        return ciphers.mask(node_id, iv + header), iv + header

    def handshake_authdata(self, id_signature: bytes, ephemeral_key: bytes, record: bytes) -> bytes:
        """Return the authdata of a handshake packet from the local node."""
        head = _AUTH_HEAD.pack(self.node_id, len(id_signature), len(ephemeral_key))
        return head + id_signature + ephemeral_key + record


def looks_foreign(packet: bytes) -> bool:
    """Say whether the shared port would take the packet for another protocol."""
    return classify(packet, lambda *_: True) is not DatagramKind.DISCV5


def _handshake(
    nonce: bytes, authdata: bytes, authenticated: bytes, message: bytes
) -> HandshakePacket:
    if len(authdata) < _AUTH_HEAD.size or len(message) < TAG_SIZE:
        raise PacketError(PacketFault.AUTHDATA)
    node_id, signature_size, key_size = _AUTH_HEAD.unpack_from(authdata)
    if signature_size != SIGNATURE_SIZE or key_size != PUBLIC_KEY_SIZE:
        raise PacketError(PacketFault.AUTHDATA)
    at = _AUTH_HEAD.size
    key_at = at + SIGNATURE_SIZE
    record_at = key_at + PUBLIC_KEY_SIZE
    if len(authdata) < record_at:
        raise PacketError(PacketFault.AUTHDATA)
    return HandshakePacket(
        NodeId(node_id),
        nonce,
        authdata[at:key_at],
        authdata[key_at:record_at],
        authdata[record_at:],
        authenticated,
        message,
    )
