"""RFC 9180 base mode by hand, with an ephemeral key from the outside: deterministic, and a second
implementation against which the library's is checked.
"""

import hmac
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ginnel.base.types import Secret
from ginnel.mesh.sealer import SealError

KEM_SUITE = b"KEM" + bytes.fromhex("0020")
SUITE = b"HPKE" + bytes.fromhex("002000010003")


def extract(salt: bytes, suite: bytes, label: bytes, key: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + key, "sha256")


def expand(key: bytes, suite: bytes, label: bytes, info: bytes, size: int) -> bytes:
    text = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(key, text + b"\x01", "sha256")[:size]


def schedule(dh: bytes, enc: bytes, public: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Return key and base nonce (RFC 9180 4.1, 5.1)."""
    prk = extract(b"", KEM_SUITE, b"eae_prk", dh)
    shared = expand(prk, KEM_SUITE, b"shared_secret", enc + public, 32)
    context = b"\x00" + extract(b"", SUITE, b"psk_id_hash", b"")
    context += extract(b"", SUITE, b"info_hash", info)
    secret = extract(shared, SUITE, b"secret", b"")
    key = expand(secret, SUITE, b"key", context, 32)
    return key, expand(secret, SUITE, b"base_nonce", context, 12)


def seal(ephemeral: bytes, public: bytes, info: bytes, text: bytes) -> bytes:
    private = X25519PrivateKey.from_private_bytes(ephemeral)
    enc = private.public_key().public_bytes_raw()
    dh = private.exchange(X25519PublicKey.from_public_bytes(public))
    key, nonce = schedule(dh, enc, public, info)
    return enc + ChaCha20Poly1305(key).encrypt(nonce, text, b"")


def unseal(private_key: bytes, info: bytes, sealed: bytes) -> bytes:
    private = X25519PrivateKey.from_private_bytes(private_key)
    enc = sealed[:32]
    dh = private.exchange(X25519PublicKey.from_public_bytes(enc))
    key, nonce = schedule(dh, enc, private.public_key().public_bytes_raw(), info)
    return ChaCha20Poly1305(key).decrypt(nonce, sealed[32:], b"")


class DeterministicSealer:
    """A `Sealer` whose ephemeral keys come from `random_bytes`."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes

    def seal(self, public_key: bytes, info: bytes, plaintext: bytes) -> bytes:
        try:
            return seal(self._random_bytes(32), public_key, info, plaintext)
        except ValueError as error:
            raise SealError("the recipient's key is of no use") from error

    def open(self, private_key: Secret, info: bytes, sealed: bytes) -> bytes:
        try:
            return unseal(private_key.reveal(), info, sealed)
        except (InvalidTag, ValueError) as error:
            raise SealError("not sealed to this key") from error
