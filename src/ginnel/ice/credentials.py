"""Long-term credentials of one client at one server: what a challenge asks for, and the key.

A server that offers password algorithms gets SHA-256 and nothing weaker; one that also wants the
user's name hidden gets its hash. A nonce that promises what the message lacks was tampered with.

Source: RFC 8489 sections 9.2 and 18.5 (algorithms), 18.1 (security features).
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from ginnel.base.types import Secret
from ginnel.ice import stun
from ginnel.ice.stun import Attribute, Message

MD5, SHA256 = 1, 2  # section 18.5
NONCE_COOKIE = b"obMatJos2"  # section 9.2
MAX_NONCE = 763  # bytes (section 14.10)
MAX_REALM = 763  # bytes (section 14.9)
_HAS_ALGORITHMS, _HAS_ANONYMITY = 1 << 23, 1 << 22  # of the 24 bits of features


class LongTermCredentials:
    """What one client knows of one server's challenge."""

    def __init__(
        self, username: str, password: Secret, *, realm: str = "", nonce: bytes = b""
    ) -> None:
        self.key = b""  # empty until there was a challenge, or the realm was given
        self.uses_sha256 = False
        self._username = username
        self._password = password
        self._realm = realm
        self._nonce = nonce
        self._algorithms = b""  # as the server wrote them
        self._chosen = 0
        self._is_anonymous = False
        if realm:
            self._make_key()

    def take_challenge(self, message: Message) -> bool:
        """Take realm and nonce of an error; False if it tells nothing that we don't know."""
        realm, nonce = message.get(Attribute.REALM), message.get(Attribute.NONCE)
        if nonce is None or len(nonce) > MAX_NONCE or len(realm or b"") > MAX_REALM:
            return False
        before = (self._realm, self._nonce, self._algorithms, bool(self.key))
        features = _features_of(nonce)
        algorithms = message.get(Attribute.PASSWORD_ALGORITHMS) or b""
        if bool(features & _HAS_ALGORITHMS) != bool(algorithms):
            return False  # somebody on the way wants us to use less (section 9.2.5)
        chosen = _choose(algorithms) if algorithms else 0
        if chosen is None:
            return False
        if realm is not None:
            self._realm = realm.decode("utf-8", "replace")
        self._nonce, self._algorithms, self._chosen = nonce, algorithms, chosen
        self._is_anonymous = bool(features & _HAS_ANONYMITY)
        self.uses_sha256 = bool(algorithms)
        self._make_key()
        return (self._realm, self._nonce, self._algorithms, True) != before

    def attributes(self) -> list[tuple[int, bytes]]:
        """Return what a request carries besides its own; empty before a challenge."""
        if not self.key:
            return []
        user = (int(Attribute.USERNAME), self._username.encode())
        if self._is_anonymous:
            user = (int(Attribute.USERHASH), stun.user_hash(self._username, self._realm))
        found = [
            user,
            (int(Attribute.REALM), self._realm.encode()),
            (int(Attribute.NONCE), self._nonce),
        ]
        if self._algorithms:
            chosen = self._chosen.to_bytes(2, "big") + bytes(2)
            found += [
                (int(Attribute.PASSWORD_ALGORITHMS), self._algorithms),
                (int(Attribute.PASSWORD_ALGORITHM), chosen),
            ]
        return found

    def _make_key(self) -> None:
        password = self._password.reveal().decode()
        if self._chosen == SHA256:
            text = f"{self._username}:{self._realm}:{password}".encode()
            self.key = hashlib.sha256(text).digest()
        else:
            self.key = stun.long_term_key(self._username, self._realm, password)


def _features_of(nonce: bytes) -> int:
    """Return the 24 bits of security features in a nonce, 0 without."""
    if not nonce.startswith(NONCE_COOKIE):
        return 0
    text = nonce[len(NONCE_COOKIE) : len(NONCE_COOKIE) + 4]
    try:
        return int.from_bytes(base64.b64decode(text, validate=True), "big") if len(text) == 4 else 0
    except binascii.Error:
        return 0


def _choose(algorithms: bytes) -> int | None:
    """Return the best algorithm of PASSWORD-ALGORITHMS that we know, or None."""
    found: list[int] = []
    at = 0
    while at + 4 <= len(algorithms):
        found.append(int.from_bytes(algorithms[at : at + 2], "big"))
        length = int.from_bytes(algorithms[at + 2 : at + 4], "big")
        at += 4 + length + -length % 4
    known = [number for number in (SHA256, MD5) if number in found]
    return known[0] if known else None
