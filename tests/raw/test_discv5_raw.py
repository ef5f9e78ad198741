"""A discv5 peer written out by hand against a live core, in both roles of the handshake.

Nothing of `ginnel.discv5`'s codecs is used here, so that one bug on both sides is seen: only the
specification, AES, HMAC and curve primitives.
"""

from __future__ import annotations

import hashlib
import hmac

from coincurve import PrivateKey, PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sha3 import keccak_256

from ginnel.base.types import Address, NodeId
from ginnel.discv5.events import PongReceived
from ginnel.discv5.protocol import Contact
from support.discv5_net import Host, Net

KEY = PrivateKey(b"\x2a" * 32)
PUBLIC = KEY.public_key.format()
ID = keccak_256(KEY.public_key.format(compressed=False)[1:]).digest()
HERE = Address("203.0.113.77", 30303)
EPHEMERAL = PrivateKey(b"\x2b" * 32)
IV = b"\xe1" * 16


def mask(data: bytes, iv: bytes, node_id: bytes) -> bytes:
    return Cipher(algorithms.AES(node_id[:16]), modes.CTR(iv)).encryptor().update(data)


def sign(data: bytes) -> bytes:
    return KEY.sign_recoverable(data, hasher=None)[:64]


def record() -> bytes:
    """Return rlp([signature, 1, "id", "v4", "secp256k1", key]), lengths written out."""
    content = b"\x01\x82id\x82v4\x89secp256k1\xa1" + PUBLIC
    assert len(content) == 51
    signed = bytes((0xC0 + len(content),)) + content
    signature = sign(keccak_256(signed).digest())
    body = b"\xb8\x40" + signature + content
    return b"\xf8" + bytes((len(body),)) + body


def packet(dest: bytes, flag: int, nonce: bytes, authdata: bytes) -> tuple[bytes, bytes]:
    """Return the masked start of a packet and what is authenticated with its message."""
    header = (
        b"discv5\x00\x01" + bytes((flag,)) + nonce + len(authdata).to_bytes(2, "big") + authdata
    )
    return IV + mask(header, IV, dest), IV + header


def open_packet(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return header, authdata, message of a packet to us."""
    static = mask(data[16:39], data[:16], ID)
    assert static[:8] == b"discv5\x00\x01"
    size = int.from_bytes(static[21:23], "big")
    whole = mask(data[16 : 39 + size], data[:16], ID)
    return whole[:23], whole[23:], data[39 + size :]


def derive(secret: bytes, challenge: bytes, first: bytes, second: bytes) -> tuple[bytes, bytes]:
    extracted = hmac.new(challenge, secret, hashlib.sha256).digest()
    info = b"discovery v5 key agreement" + first + second
    keys = hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()
    return keys[:16], keys[16:]


def receive(host: Host) -> bytes:
    transmit = host.core.poll_transmit()
    assert transmit is not None
    assert transmit.destination == HERE
    return transmit.data


def test_we_open_a_session() -> None:
    net = Net(41)
    host = net.add(0)
    dest = host.core.node_id
    start, _ = packet(dest, 0, b"\x01" * 12, ID)
    host.core.handle_datagram(start + bytes(44), HERE, now=net.now)
    data = receive(host)
    assert len(data) == 63
    header, authdata, rest = open_packet(data)
    assert (header[8], header[9:21], rest) == (1, b"\x01" * 12, b"")
    assert authdata[16:] == bytes(8)
    challenge = data[:16] + header + authdata

    ephemeral = EPHEMERAL.public_key.format()
    digest = hashlib.sha256(b"discovery v5 identity proof" + challenge + ephemeral + dest).digest()
    secret = PublicKey(host.core.record.public_key).multiply(EPHEMERAL.secret).format()
    ours, theirs = derive(secret, challenge, ID, dest)
    auth = ID + b"\x40\x21" + sign(digest) + ephemeral + record()
    start, authenticated = packet(dest, 2, b"\x02" * 12, auth)
    ping = b"\x01\xc4\x82\x00\x09\x01"
    message = AESGCM(ours).encrypt(b"\x02" * 12, ping, authenticated)
    host.core.handle_datagram(start + message, HERE, now=net.now)

    data = receive(host)
    header, authdata, rest = open_packet(data)
    assert (header[8], authdata) == (0, dest)
    plain = AESGCM(theirs).decrypt(header[9:21], rest, data[:16] + header + authdata)
    assert plain == b"\x02\xcc\x82\x00\x09\x01\x84" + HERE.packed_ip + b"\x82\x76\x5f"


def test_the_core_opens_a_session_with_us() -> None:
    net = Net(42)
    host = net.add(0)
    dest = host.core.node_id
    number = host.core.ping(Contact(NodeId(ID), HERE, PUBLIC), now=net.now)
    data = receive(host)
    header, authdata, rest = open_packet(data)
    assert (header[8], authdata) == (0, dest)
    assert len(data) >= 63
    start, whole = packet(dest, 1, header[9:21], b"\x07" * 16 + bytes(8))
    host.core.handle_datagram(start, HERE, now=net.now)
    challenge = whole

    data = receive(host)
    header, authdata, rest = open_packet(data)
    assert header[8] == 2
    assert authdata[:34] == dest + b"\x40\x21"
    signature, ephemeral, raw = authdata[34:98], authdata[98:131], authdata[131:]
    assert raw == host.core.record.raw
    digest = hashlib.sha256(b"discovery v5 identity proof" + challenge + ephemeral + ID).digest()
    assert recovers(signature, digest, host.core.record.public_key)
    secret = PublicKey(ephemeral).multiply(KEY.secret).format()
    theirs, ours = derive(secret, challenge, dest, ID)
    plain = AESGCM(theirs).decrypt(header[9:21], rest, data[:16] + header + authdata)
    assert plain[:1] == b"\x01"
    request_id = plain[3:11]
    assert plain == b"\x01\xca\x88" + request_id + b"\x01"

    start, authenticated = packet(dest, 0, b"\x03" * 12, ID)
    pong = b"\x02\xd2\x88" + request_id + b"\x05\x84\xc6\x33\x64\x01\x82\x10\x00"
    message = AESGCM(ours).encrypt(b"\x03" * 12, pong, authenticated)
    host.core.handle_datagram(start + message, HERE, now=net.now)
    net.drain(host)
    (event,) = host.of(PongReceived)
    assert event.request == number
    assert (event.address, event.enr_seq) == (Address("198.51.100.1", 4096), 5)


def recovers(signature: bytes, digest: bytes, public_key: bytes) -> bool:
    """Say whether one of the two recovery ids gives the key: another way to verify."""
    return any(
        PublicKey.from_signature_and_message(
            signature + bytes((recovery,)), digest, hasher=None
        ).format()
        == public_key
        for recovery in (0, 1)
    )
