"""Labels, hashes, signatures and derived keys: the ground rules of docs/formats.md.

Everything is a pure function; chance and time come from the caller. A `Point` is where one member
(or an open invite) is registered in the DHT during one period.

Invariant: two uses of one key never share a label.

Source: docs/formats.md, "Ground rules", "Keys", "Rendezvous", "Invite and join".
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ginnel.base import rlp
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.secp256k1 import PublicKey
from ginnel.base.types import MemberId, NodeId, Secret

PERIOD_S = 3600  # seconds a location lives (Rendezvous)
BORDER_S = 600  # seconds around a border in which both periods' points are published
CLOCK_TOLERANCE_S = 600  # seconds a remote clock may differ (Ground rules)
PAD_TO = 64  # bytes; inner text is padded to a multiple of it
MAC_SIZE = 16  # bytes of a truncated HMAC-SHA256
TAG_SIZE = 16  # bytes
EPOCH_ID_SIZE = 8  # bytes
KEY_SIZE = 32  # bytes
SIGNATURE_SIZE = 64  # bytes of an Ed25519 signature
NONCE_SIZE = 12  # bytes of a ChaCha20-Poly1305 nonce

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_ORDER_8_Y = 2707385501144840649318225287225658788936804267575313519463743609750303402022
_SMALL_ORDER_Y = (0, 1, _P - 1, _ORDER_8_Y, _P - _ORDER_8_Y)
_ORDER_8_U = 325606250916557431795983626356110631294008115727848805560023387167927233504
_ORDER_8_U2 = 39382357235489614581723060781553021112529911719440698176882885853963445705823
_LOW_ORDER_U = (0, 1, _P - 1, _ORDER_8_U, _ORDER_8_U2)


class BadKey(RemoteProtocolError):
    """A public key that is malformed, not canonical or of small order."""


def label_bytes(label: str) -> bytes:
    """Return L(label): `ginnel/1 LABEL` and a zero byte."""
    return b"ginnel/1 " + label.encode() + b"\x00"


def sha256(data: bytes) -> bytes:
    """Return H(data), 32 bytes."""
    return hashlib.sha256(data).digest()


def mac(key: Secret, message: bytes) -> bytes:
    """Return MAC(key, message): the first 16 bytes of HMAC-SHA256."""
    return hmac.digest(key.reveal(), message, "sha256")[:MAC_SIZE]


def mac_matches(key: Secret, message: bytes, expected: bytes) -> bool:
    """Compare a MAC in constant time."""
    return hmac.compare_digest(mac(key, message), expected)


def kdf(
    key: Secret, network_id: bytes, label: str, context: rlp.Encodable = (), size: int = KEY_SIZE
) -> Secret:
    """Return KDF(key, label, context, size): HKDF-SHA256 with the network id as salt."""
    info = label_bytes(label) + rlp.encode(context)
    return Secret(HKDF(SHA256(), size, network_id, info).derive(key.reveal()))


# --- signatures -----------------------------------------------------------------------------


def ed25519_public(seed: Secret) -> bytes:
    """Return the public key of a 32-byte seed."""
    return Ed25519PrivateKey.from_private_bytes(seed.reveal()).public_key().public_bytes_raw()


def x25519_public(private_key: Secret) -> bytes:
    """Return the public key of 32 private bytes."""
    return X25519PrivateKey.from_private_bytes(private_key.reveal()).public_key().public_bytes_raw()


def ed25519_sign(seed: Secret, message: bytes) -> bytes:
    """Sign the very bytes given; use `sign` wherever a network is known."""
    return Ed25519PrivateKey.from_private_bytes(seed.reveal()).sign(message)


def ed25519_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Check a signature; False too for a malformed, non-canonical or small-order key."""
    try:
        check_ed25519_key(public_key)
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (BadKey, InvalidSignature, ValueError):
        return False
    return True


def sign(seed: Secret, network_id: bytes, label: str, message: bytes) -> bytes:
    """Return sign(K, label, message): Ed25519 over L(label), the network id and the message."""
    return ed25519_sign(seed, label_bytes(label) + network_id + message)


def verify(
    public_key: bytes, network_id: bytes, label: str, message: bytes, signature: bytes
) -> bool:
    """Check what `sign` made."""
    return ed25519_verify(public_key, label_bytes(label) + network_id + message, signature)


# --- public keys ----------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def check_ed25519_key(public_key: bytes) -> None:
    """Refuse a key that is not a canonical point of large order (OpenSSL accepts some).

    Raises:
        BadKey: refuse the object that holds the key.
    """
    if len(public_key) != KEY_SIZE:
        raise BadKey(f"an Ed25519 key of {len(public_key)} bytes")
    y = int.from_bytes(public_key, "little") & (2**255 - 1)
    if y >= _P:
        raise BadKey("an Ed25519 key that is not canonical")
    if y in _SMALL_ORDER_Y:
        raise BadKey("an Ed25519 key of small order")
    x_squared = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    if pow(x_squared, (_P - 1) // 2, _P) != 1:
        raise BadKey("an Ed25519 key that is no point of the curve")


def check_x25519_key(public_key: bytes) -> None:
    """Refuse a key of low order or with a second encoding (which would hide a reused key).

    Raises:
        BadKey: refuse the object that holds the key.
    """
    if len(public_key) != KEY_SIZE:
        raise BadKey(f"an X25519 key of {len(public_key)} bytes")
    u = int.from_bytes(public_key, "little")
    if (u & (2**255 - 1)) % _P in _LOW_ORDER_U:
        raise BadKey("an X25519 key of low order")
    if u >= _P:
        raise BadKey("an X25519 key that is not canonical")


def check_secp256k1_key(public_key: bytes) -> None:
    """Refuse anything but a compressed point of the curve, 33 bytes.

    Raises:
        BadKey: refuse the object that holds the key.
    """
    if len(public_key) != 33 or public_key[0] not in (2, 3):
        raise BadKey("not a compressed secp256k1 key")
    try:
        PublicKey(public_key)
    except ValueError:
        raise BadKey("a secp256k1 key that is no point of the curve") from None


# --- names of networks and members ----------------------------------------------------------


def network_id_of(root_public: bytes) -> bytes:
    """Return the network id, 32 bytes, that a root key names."""
    return sha256(label_bytes("network") + root_public)


def member_id_of(identity_public: bytes) -> MemberId:
    """Return the member id, 32 bytes, that an identity key (N) names."""
    return MemberId(sha256(label_bytes("member") + identity_public))


def overlay_prefix(network_id: bytes) -> str:
    """Return the network's ULA /48 as text."""
    return str(IPv6Address(b"\xfd" + network_id[:5] + bytes(10))) + "/48"


def overlay_ipv6(network_id: bytes, member_id: bytes) -> bytes:
    """Return a member's overlay address, 16 bytes: fd, network, 0000, member."""
    host = sha256(label_bytes("ipv6") + network_id + member_id)[:8]
    return b"\xfd" + network_id[:5] + b"\x00\x00" + host


def epoch_hash(secret: Secret) -> bytes:
    """Return H(L("epoch") || secret); its first 8 bytes are the epoch id."""
    return sha256(label_bytes("epoch") + secret.reveal())


# --- padding --------------------------------------------------------------------------------


def pad(text: bytes) -> bytes:
    """Return length (2 bytes, big-endian), text and zeros up to a multiple of 64."""
    size = 2 + len(text)
    return len(text).to_bytes(2, "big") + text + bytes(-size % PAD_TO)


def unpad(padded: bytes) -> bytes:
    """Return the text inside.

    Raises:
        RemoteProtocolError: not what `pad` makes; drop the message.
    """
    if len(padded) < PAD_TO or len(padded) % PAD_TO:
        raise RemoteProtocolError(f"{len(padded)} bytes are no padded text")
    end = 2 + int.from_bytes(padded[:2], "big")
    if end > len(padded) or len(padded) - end >= PAD_TO or any(padded[end:]):
        raise RemoteProtocolError("wrong padding")
    return padded[2:end]


# --- points ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Point:
    """Where one member or one open invite is found in one period.

    `loc_seed` is None for who only looks the point up; `dkey` of the registration is not here:
    the registrant draws it and the presence tells it.
    """

    location: NodeId
    loc_pub: bytes
    loc_seed: Secret | None
    presence_key: Secret
    tag: bytes
    period: int


def period_of(unix_now: float) -> int:
    """Return the period that the wall time lies in."""
    return int(unix_now) // PERIOD_S


def periods_near(unix_now: float) -> tuple[int, ...]:
    """Return the current period, and its neighbour if the border is within 600 s."""
    period = period_of(unix_now)
    within = int(unix_now) - period * PERIOD_S
    if within < BORDER_S:
        return (period, period - 1)
    if within >= PERIOD_S - BORDER_S:
        return (period, period + 1)
    return (period,)


def member_point(
    network_id: bytes, epoch_secret: Secret, member_id: bytes, period: int, replica: int = 0
) -> Point:
    """Return a member's point under one epoch."""
    return _point(
        kdf(epoch_secret, network_id, "rdv", [member_id, period, replica]),
        kdf(epoch_secret, network_id, "presence", [member_id, period]),
        kdf(epoch_secret, network_id, "tag", [member_id, period], TAG_SIZE),
        period,
    )


def invite_point(
    network_id: bytes, invite_secret: Secret, period: int, *, reply: bool = False
) -> Point:
    """Return the point of an open invite (the admin's node), or of the joiner's `reply`."""
    label = "join reply" if reply else "join"
    return _point(
        kdf(invite_secret, network_id, f"{label} rdv", [period, 0]),
        kdf(invite_secret, network_id, f"{label} presence", [period]),
        kdf(invite_secret, network_id, f"{label} tag", [period], TAG_SIZE),
        period,
    )


def envelope_mac_key(network_id: bytes, epoch_secret: Secret, recipient: bytes) -> Secret:
    """Return the key of the outer MAC of envelopes to one member."""
    return kdf(epoch_secret, network_id, "mac", [recipient])


def preshared_key(network_id: bytes, epoch_secret: Secret, first: bytes, second: bytes) -> Secret:
    """Return the base WireGuard preshared key of two members' W keys, in either order."""
    return kdf(epoch_secret, network_id, "psk", sorted((first, second)))


def seal_presence(point: Point, nonce: bytes, text: bytes) -> bytes:
    """Return nonce and ChaCha20-Poly1305 of the padded text, bound to the location."""
    cipher = ChaCha20Poly1305(point.presence_key.reveal())
    return nonce + cipher.encrypt(nonce, pad(text), point.location)


def open_presence(point: Point, presence: bytes) -> bytes:
    """Return the text of a presence.

    Raises:
        RemoteProtocolError: not sealed for this point; drop it.
    """
    if len(presence) < NONCE_SIZE + 16:
        raise RemoteProtocolError("a presence cut short")
    cipher = ChaCha20Poly1305(point.presence_key.reveal())
    try:
        padded = cipher.decrypt(presence[:NONCE_SIZE], presence[NONCE_SIZE:], point.location)
    except InvalidTag as error:
        raise RemoteProtocolError("a presence that does not open") from error
    return unpad(padded)


def _point(seed: Secret, presence_key: Secret, tag: Secret, period: int) -> Point:
    loc_pub = ed25519_public(seed)
    return Point(NodeId(sha256(loc_pub)), loc_pub, seed, presence_key, tag.reveal(), period)
