"""The handshake: id signature and key derivation, pure functions.

Source: devp2p discv5-theory.md, "Handshake Steps".
"""

from __future__ import annotations

import hashlib
import hmac

from ginnel.base.types import NodeId
from ginnel.discv5.keys import sign_digest, verify_digest

SESSION_KEY_SIZE = 16  # bytes

_ID_TEXT = b"discovery v5 identity proof"
_KDF_TEXT = b"discovery v5 key agreement"


def make_id_signature(
    private_key: bytes, challenge_data: bytes, ephemeral_key: bytes, recipient: NodeId
) -> bytes:
    """Sign a challenge: proof that we hold the key of our record. 64 bytes."""
    return sign_digest(private_key, _id_digest(challenge_data, ephemeral_key, recipient))


def verify_id_signature(
    public_key: bytes,
    signature: bytes,
    challenge_data: bytes,
    ephemeral_key: bytes,
    recipient: NodeId,
) -> bool:
    """Say whether the initiator with this public key answered our challenge."""
    digest = _id_digest(challenge_data, ephemeral_key, recipient)
    return verify_digest(public_key, digest, signature)


def derive_session_keys(
    shared_secret: bytes, challenge_data: bytes, initiator: NodeId, recipient: NodeId
) -> tuple[bytes, bytes]:
    """Return (initiator key, recipient key), 16 bytes each: who sends encrypts with its own."""
    extracted = hmac.digest(challenge_data, shared_secret, "sha256")
    info = _KDF_TEXT + initiator + recipient + b"\x01"
    keys = hmac.digest(extracted, info, "sha256")  # HKDF-Expand: 32 bytes are one block
    return keys[:SESSION_KEY_SIZE], keys[SESSION_KEY_SIZE:]


def _id_digest(challenge_data: bytes, ephemeral_key: bytes, recipient: NodeId) -> bytes:
    return hashlib.sha256(_ID_TEXT + challenge_data + ephemeral_key + recipient).digest()
