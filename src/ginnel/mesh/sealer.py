"""Sealing to a public key: HPKE in base mode behind a small Protocol.

A `Sealer` draws its own randomness, so it is passed in; simulations pass a deterministic one.
HPKE as used here has no associated data: context goes into `info`.

Source: RFC 9180, single-shot; docs/formats.md, "Ground rules".
"""

from __future__ import annotations

from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Secret

SEAL_OVERHEAD = 48  # bytes: the encapsulated key and the tag


class SealError(RemoteProtocolError):
    """The text was not sealed to this key with this context."""


class Sealer(Protocol):
    """Seals to a public key and opens with the private one; the result is enc || ct."""

    def seal(self, public_key: bytes, info: bytes, plaintext: bytes) -> bytes:
        """Return the sealed text, `SEAL_OVERHEAD` bytes longer.

        Raises:
            SealError: the key is of no use.
        """
        ...

    def open(self, private_key: Secret, info: bytes, sealed: bytes) -> bytes:
        """Return the text inside.

        Raises:
            SealError: not sealed to this key with this `info`.
        """
        ...


class HpkeSealer:
    """RFC 9180 base mode: X25519, HKDF-SHA256, ChaCha20-Poly1305."""

    def __init__(self) -> None:
        self._suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)

    def seal(self, public_key: bytes, info: bytes, plaintext: bytes) -> bytes:
        """Seal with a fresh ephemeral key of the library's own randomness."""
        try:
            key = X25519PublicKey.from_public_bytes(public_key)
            return self._suite.encrypt(plaintext, key, info)
        except ValueError as error:
            raise SealError("the recipient's key is of no use") from error

    def open(self, private_key: Secret, info: bytes, sealed: bytes) -> bytes:
        """Open what `seal` of any implementation of the RFC made."""
        key = X25519PrivateKey.from_private_bytes(private_key.reveal())
        try:
            return self._suite.decrypt(sealed, key, info)
        except (InvalidTag, ValueError) as error:
            raise SealError("not sealed to this key") from error
