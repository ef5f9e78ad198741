"""Identity scheme "v4": secp256k1 keys, node ids, signatures, key agreement.

Keys come in from the caller; nothing here draws chance.

Source: EIP-778, "v4" Identity Scheme; discv5-theory.md, "Identity-Specific Cryptography".
"""

from __future__ import annotations

from functools import lru_cache

from ginnel.base import secp256k1
from ginnel.base.chance import RandomBytes
from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.base.secp256k1 import PublicKey
from ginnel.base.types import NodeId

PRIVATE_KEY_SIZE = 32  # bytes
PUBLIC_KEY_SIZE = 33  # bytes, compressed
SIGNATURE_SIZE = 64  # bytes, r || s
NODE_ID_SIZE = 32  # bytes
PARSED_KEYS = 64  # points kept: a new node's key is needed three times in a row
NODE_ID_BITS = 256  # the greatest log2 distance

_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_BAD_PRIVATE_KEY = "not a valid secp256k1 private key"


def public_key_of(private_key: bytes) -> bytes:
    """Return the compressed public key of a private key.

    Raises:
        UsageError: 0, the group's order or more, or not 32 bytes.
    """
    try:
        return secp256k1.public_key_of(private_key)
    except ValueError:
        raise UsageError(_BAD_PRIVATE_KEY) from None


def node_id_of(public_key: bytes) -> NodeId:
    """Return the node id: keccak256 of the uncompressed point without its first byte.

    Raises:
        RemoteProtocolError: no valid point.
    """
    return NodeId(_public(public_key).node_id())


def new_private_key(random_bytes: RandomBytes) -> bytes:
    """Return a private key drawn from `random_bytes` (asked again for the rare invalid value)."""
    while True:
        value = random_bytes(PRIVATE_KEY_SIZE)
        if 0 < int.from_bytes(value, "big") < _ORDER:
            return value


def sign_digest(private_key: bytes, digest: bytes) -> bytes:
    """Return the deterministic 64-byte signature r || s of a 32-byte digest.

    Raises:
        UsageError: not a private key, or not a digest.
    """
    try:
        return secp256k1.sign(private_key, digest)
    except ValueError:
        raise UsageError(_BAD_PRIVATE_KEY) from None


def verify_digest(public_key: bytes, digest: bytes, signature: bytes) -> bool:
    """Say whether r || s signs the digest; a high s is refused."""
    try:
        return _public(public_key).verify(digest, signature)
    except RemoteProtocolError:
        return False


def agree(public_key: bytes, private_key: bytes) -> bytes:
    """Return the shared secret: the compressed product point, 33 bytes.

    Raises:
        RemoteProtocolError: the public key is no valid point.
    """
    return _public(public_key).agree(private_key)


def log_distance(left: bytes, right: bytes) -> int:
    """Return the log2 distance of two node ids, 0 (equal) to 256."""
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).bit_length()


@lru_cache(maxsize=PARSED_KEYS)
def _public(public_key: bytes) -> PublicKey:
    try:
        return PublicKey(public_key)
    except ValueError:
        raise RemoteProtocolError("not a point of secp256k1") from None
