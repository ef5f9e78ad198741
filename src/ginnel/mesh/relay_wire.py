"""Bytes of the messages of kind relay.

Shape: [1, 0] (asks), [1, 1, username, password, realm, nonce, seconds] (grants) or [1, 2]
(refuses); other numbers are for later versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from ginnel.base import rlp
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Secret
from ginnel.ice.turn_server import Credentials

VERSION = 1
MAX_NAME = 64  # bytes of username, password and realm
MAX_NONCE = 128  # bytes (RFC 8489 section 14.10)
MAX_LIFE = 2**31  # seconds


class RelayWord(IntEnum):
    """What a message says."""

    ASKS = 0
    GRANTS = 1
    REFUSES = 2


@dataclass(frozen=True, slots=True)
class Grant:
    """What a member may allocate with, for `life_s` seconds."""

    username: str
    password: Secret
    realm: str
    nonce: bytes
    life_s: int


def encode_word(word: RelayWord) -> bytes:
    """Return a message that asks or refuses."""
    return rlp.encode([VERSION, int(word)])


def encode_grant(given: Credentials, *, now: float) -> bytes:
    """Return a message that grants."""
    secret, life = given.password.reveal(), round(given.expires_at - now)
    word = int(RelayWord.GRANTS)
    return rlp.encode([VERSION, word, given.username, secret, given.realm, given.nonce, life])


def decode_relay(payload: bytes) -> RelayWord | Grant | None:
    """Return what a message says; None: something of a later version.

    Raises:
        RemoteProtocolError: malformed.
    """
    items = rlp.as_list(rlp.decode(payload), at_least=2)
    if rlp.as_int(items[0], 255) != VERSION:
        raise RemoteProtocolError("a relay message of another version")
    what = rlp.as_int(items[1], 255)
    if what != RelayWord.GRANTS:
        return RelayWord(what) if what in list(RelayWord) else None
    if len(items) < 7:
        raise RemoteProtocolError("a relay's grant is cut short")
    name, password, realm, nonce = (
        rlp.as_bytes(item, maximum=limit)
        for item, limit in zip(items[2:6], (MAX_NAME, MAX_NAME, MAX_NAME, MAX_NONCE), strict=True)
    )
    life = rlp.as_int(items[6], MAX_LIFE)
    try:
        password.decode("ascii")
        return Grant(name.decode("ascii"), Secret(password), realm.decode("ascii"), nonce, life)
    except UnicodeDecodeError:
        raise RemoteProtocolError("a relay's grant is no text") from None
