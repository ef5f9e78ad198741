"""The specification's packets, and hostile ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ginnel.base import ciphers
from ginnel.base.dataplane import DatagramKind
from ginnel.base.demux import classify
from ginnel.base.types import NodeId
from ginnel.discv5.handshake import derive_session_keys, make_id_signature, verify_id_signature
from ginnel.discv5.keys import agree, node_id_of, public_key_of
from ginnel.discv5.messages import Ping, decode_message, encode_message
from ginnel.discv5.packet import (
    Flag,
    HandshakePacket,
    OrdinaryPacket,
    PacketCodec,
    PacketError,
    PacketFault,
    WhoAreYouPacket,
    looks_foreign,
)
from ginnel.discv5.session import Session

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/discv5-vectors.json").read_text())
KEY_A = bytes.fromhex(VECTORS["keys"]["node_a"])
KEY_B = bytes.fromhex(VECTORS["keys"]["node_b"])
NODE_A = node_id_of(public_key_of(KEY_A))
NODE_B = node_id_of(public_key_of(KEY_B))


def zeros(count: int) -> bytes:
    return bytes(count)


def codec(node_id: NodeId) -> PacketCodec:
    return PacketCodec(node_id, b"discv5", os.urandom)


@pytest.mark.parametrize("vector", VECTORS["packets"], ids=lambda v: v["name"])
def test_decodes_the_vectors(vector: dict[str, object]) -> None:
    raw = bytes.fromhex(str(vector["packet"]))
    packet = codec(NODE_B).decode(raw)
    if isinstance(packet, WhoAreYouPacket):
        assert packet.request_nonce.hex() == vector["request_nonce"]
        assert packet.id_nonce.hex() == vector["id_nonce"]
        assert packet.enr_seq == vector["enr_seq"]
        assert packet.challenge_data.hex() == vector["challenge_data"]
        return
    assert packet.node_id == NODE_A
    assert packet.nonce.hex() == vector["nonce"]
    read_key = bytes.fromhex(str(vector["read_key"]))
    session = Session(NODE_A, b"", read_key, read_key)
    message = session.decrypt(packet.nonce, packet.ciphertext, packet.authenticated)
    assert message is not None
    assert decode_message(message) == Ping(
        bytes.fromhex(str(vector["request_id"])), int(str(vector["enr_seq"]))
    )
    if isinstance(packet, HandshakePacket):
        assert packet.ephemeral_key.hex() == vector["ephemeral_pubkey"]
        challenge = bytes.fromhex(str(vector["challenge_data"]))
        assert verify_id_signature(
            public_key_of(KEY_A), packet.id_signature, challenge, packet.ephemeral_key, NODE_B
        )
        secret = agree(packet.ephemeral_key, KEY_B)
        assert derive_session_keys(secret, challenge, NODE_A, NODE_B)[0] == read_key


@pytest.mark.parametrize("vector", VECTORS["packets"], ids=lambda v: v["name"])
def test_encodes_the_vectors(vector: dict[str, object]) -> None:
    writer = PacketCodec(NODE_A, b"discv5", zeros)
    raw = bytes.fromhex(str(vector["packet"]))
    if vector["flag"] == 1:
        nonce, id_nonce = (bytes.fromhex(str(vector[k])) for k in ("request_nonce", "id_nonce"))
        made, challenge_data = writer.encode_whoareyou(NODE_B, nonce, id_nonce, 0)
        assert made == raw
        assert challenge_data.hex() == vector["challenge_data"]
        return
    packet = codec(NODE_B).decode(raw)
    nonce = bytes.fromhex(str(vector["nonce"]))
    key = bytes.fromhex(str(vector["read_key"]))
    ping = encode_message(
        Ping(bytes.fromhex(str(vector["request_id"])), int(str(vector["enr_seq"])))
    )
    if isinstance(packet, HandshakePacket):
        ephemeral = bytes.fromhex(str(vector["ephemeral_key"]))
        challenge = bytes.fromhex(str(vector["challenge_data"]))
        signature = make_id_signature(KEY_A, challenge, public_key_of(ephemeral), NODE_B)
        authdata = writer.handshake_authdata(signature, public_key_of(ephemeral), packet.record)
        header = writer.header(Flag.HANDSHAKE, nonce, authdata)
        own_key, _ = derive_session_keys(
            agree(public_key_of(KEY_B), ephemeral), challenge, NODE_A, NODE_B
        )
        assert own_key == key
    else:
        header = writer.header(Flag.ORDINARY, nonce, NODE_A)
    assert Session(NODE_B, b"", key, key).seal(bytes(16) + header, nonce, ping) == raw


def test_faults_are_told_apart() -> None:
    whoareyou, _ = codec(NODE_A).encode_whoareyou(NODE_B, bytes(12), bytes(16), 0)
    cases = [
        (bytes(62), PacketFault.SIZE),
        (bytes(1281), PacketFault.SIZE),
        (bytes(100), PacketFault.PROTOCOL),
        (whoareyou + b"x", PacketFault.AUTHDATA),
    ]
    for at, fault in ((16 + 7, PacketFault.VERSION), (16 + 8, PacketFault.FLAG)):
        broken = bytearray(whoareyou)
        broken[at] ^= 0x40
        cases.append((bytes(broken), fault))
    for data, fault in cases:
        with pytest.raises(PacketError) as caught:
            codec(NODE_B).decode(data)
        assert caught.value.fault is fault


@pytest.mark.parametrize(
    ("flag", "authdata", "message"),
    [
        (Flag.ORDINARY, NODE_A[:31], bytes(60)),
        (Flag.ORDINARY, NODE_A, bytes(15)),
        (Flag.WHOAREYOU, bytes(25), b""),
        (Flag.WHOAREYOU, bytes(24), b"\x00"),
        (Flag.HANDSHAKE, NODE_A + b"\x40", bytes(60)),
        (Flag.HANDSHAKE, NODE_A + b"\x40\x21" + bytes(97), bytes(15)),
        (Flag.HANDSHAKE, NODE_A + b"\x40\x20" + bytes(97), bytes(60)),
        (Flag.HANDSHAKE, NODE_A + b"\x3f\x21" + bytes(97), bytes(60)),
        (Flag.HANDSHAKE, NODE_A + b"\x40\x21" + bytes(96), bytes(60)),
    ],
)
def test_authdata_has_its_size(flag: Flag, authdata: bytes, message: bytes) -> None:
    header = codec(NODE_A).header(flag, bytes(12), authdata)
    data = ciphers.mask(NODE_B, b"\xff" * 16 + header) + message
    with pytest.raises(PacketError) as caught:
        codec(NODE_B).decode(data)
    assert caught.value.fault is PacketFault.AUTHDATA


def test_authdata_does_not_reach_beyond_the_packet() -> None:
    header = codec(NODE_A).header(Flag.HANDSHAKE, bytes(12), bytes(500))
    data = ciphers.mask(NODE_B, b"\xff" * 16 + header)
    with pytest.raises(PacketError) as caught:
        codec(NODE_B).decode(data[:400])
    assert caught.value.fault is PacketFault.AUTHDATA


def test_another_protocol_id_is_not_ours() -> None:
    other = PacketCodec(NODE_A, b"ginnel", os.urandom)
    data, _ = other.encode_whoareyou(NODE_B, bytes(12), bytes(16), 0)
    with pytest.raises(PacketError):
        codec(NODE_B).decode(data)
    assert PacketCodec(NODE_B, b"ginnel", os.urandom).decode(data)


def test_ivs_that_look_foreign_are_drawn_again() -> None:
    size = 119
    stun = bytes((0, 1)) + (size - 20).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + bytes(8)
    channel = b"\x40\x01" + (size - 4).to_bytes(2, "big") + bytes(12)
    wireguard = b"\x04" + bytes(15)
    draws = [stun, channel, wireguard, b"\xff" * 16]
    writer = PacketCodec(NODE_A, b"discv5", lambda count: draws.pop(0))
    for iv in draws[:3]:
        assert looks_foreign(iv + bytes(size - 16))
    assert writer.make_iv(size) == b"\xff" * 16
    data = b"\xff" * 16 + bytes(size - 16)
    assert classify(data, lambda _: True) is DatagramKind.DISCV5


def test_random_packet_is_an_ordinary_one() -> None:
    data = codec(NODE_A).encode_random(NODE_B, bytes(12))
    assert isinstance(codec(NODE_B).decode(data), OrdinaryPacket)
