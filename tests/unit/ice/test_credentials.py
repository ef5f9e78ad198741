"""Challenges of RFC 8489 section 9.2, weaker and stronger ones."""

import base64
import hashlib

import pytest

from ginnel.base.types import Secret
from ginnel.ice import stun
from ginnel.ice.credentials import MD5, NONCE_COOKIE, SHA256, LongTermCredentials
from ginnel.ice.stun import Attribute, Message, MessageClass

BOTH, ALGORITHMS_ONLY, ANONYMOUS_ONLY = 0b11 << 22, 1 << 23, 1 << 22
OFFER = b"".join(n.to_bytes(2, "big") + b"\0\0" for n in (MD5, SHA256))


def nonce(features: int) -> bytes:
    return NONCE_COOKIE + base64.b64encode(features.to_bytes(3, "big")) + b"rest"


def challenge(nonce_value: bytes, *more: tuple[int, bytes]) -> Message:
    attributes = [(Attribute.REALM, b"example.org"), (Attribute.NONCE, nonce_value), *more]
    return stun.decode_message(stun.encode_message(MessageClass.ERROR, bytes(12), attributes))


def make() -> LongTermCredentials:
    return LongTermCredentials("user", Secret(b"pass"))


def test_an_old_server_gets_md5() -> None:
    credentials = make()
    assert credentials.attributes() == []
    assert credentials.take_challenge(challenge(b"n"))
    assert credentials.key == hashlib.md5(b"user:example.org:pass").digest()
    assert not credentials.uses_sha256
    assert dict(credentials.attributes())[Attribute.USERNAME] == b"user"
    assert not credentials.take_challenge(challenge(b"n"))  # nothing new: it refuses us
    assert credentials.take_challenge(challenge(b"m"))


def test_a_new_server_gets_sha256_and_the_hash_of_the_name() -> None:
    credentials = make()
    offer = (Attribute.PASSWORD_ALGORITHMS, OFFER)
    assert credentials.take_challenge(challenge(nonce(BOTH), offer))
    assert credentials.key == hashlib.sha256(b"user:example.org:pass").digest()
    assert credentials.uses_sha256
    found = dict(credentials.attributes())
    assert Attribute.USERNAME not in found
    assert found[Attribute.USERHASH] == hashlib.sha256(b"user:example.org").digest()
    assert found[Attribute.PASSWORD_ALGORITHMS] == OFFER
    assert found[Attribute.PASSWORD_ALGORITHM] == b"\0\2\0\0"


def test_md5_alone_may_be_offered_and_is_sealed_by_sha256() -> None:
    credentials = make()
    offer = (Attribute.PASSWORD_ALGORITHMS, b"\0\1\0\0")
    assert credentials.take_challenge(challenge(nonce(ALGORITHMS_ONLY), offer))
    assert credentials.key == hashlib.md5(b"user:example.org:pass").digest()
    assert credentials.uses_sha256


@pytest.mark.parametrize(
    ("nonce_value", "more"),
    [
        (nonce(BOTH), ()),  # somebody took the algorithms out
        (b"plain", ((Attribute.PASSWORD_ALGORITHMS, OFFER),)),  # or put them in
        (nonce(ALGORITHMS_ONLY), ((Attribute.PASSWORD_ALGORITHMS, b"\0\x99\0\0"),)),
        (b"x" * 764, ()),
    ],
)
def test_a_challenge_that_was_tampered_with_is_refused(
    nonce_value: bytes, more: tuple[tuple[int, bytes], ...]
) -> None:
    credentials = make()
    assert not credentials.take_challenge(challenge(nonce_value, *more))
    assert credentials.key == b""


def test_a_cookie_with_garbage_promises_nothing() -> None:
    assert make().take_challenge(challenge(NONCE_COOKIE + b"\xff\xff\xff\xff"))
    assert make().take_challenge(challenge(NONCE_COOKIE + b"AA"))
