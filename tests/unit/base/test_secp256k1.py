"""Keys and signatures beside another binding of libsecp256k1."""

from __future__ import annotations

import coincurve
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sha3 import keccak_256

from ginnel.base.secp256k1 import PublicKey, keccak, public_key_of, sign

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
KEYS = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32, "big"))
DIGESTS = st.binary(min_size=32, max_size=32)
BAD_PRIVATE = (bytes(32), ORDER.to_bytes(32, "big"), b"\xff" * 32, bytes(31), bytes(33), b"")


@given(KEYS, KEYS, DIGESTS)
def test_agrees_with_coincurve(one: bytes, other: bytes, digest: bytes) -> None:
    theirs = coincurve.PrivateKey(one)
    compressed = public_key_of(one)
    assert compressed == theirs.public_key.format()
    point = PublicKey(compressed)
    uncompressed = theirs.public_key.format(compressed=False)
    assert point.node_id() == keccak_256(uncompressed[1:]).digest()
    signature = sign(one, digest)
    assert signature == theirs.sign_recoverable(digest, hasher=None)[:64]
    assert point.verify(digest, signature)
    assert point.agree(other) == theirs.public_key.multiply(other).format()
    assert PublicKey(public_key_of(other)).agree(one) == point.agree(other)


@given(KEYS, DIGESTS, st.integers(0, 511))
def test_a_changed_or_high_signature_is_refused(key: bytes, digest: bytes, bit: int) -> None:
    point, signature = PublicKey(public_key_of(key)), bytearray(sign(key, digest))
    s = int.from_bytes(signature[32:], "big")
    assert not point.verify(digest, bytes(signature[:32]) + (ORDER - s).to_bytes(32, "big"))
    signature[bit // 8] ^= 1 << (bit % 8)
    assert not point.verify(digest, bytes(signature))


def test_other_sizes_sign_nothing() -> None:
    key = b"\x01" * 32
    point, signature = PublicKey(public_key_of(key)), sign(key, bytes(32))
    assert not point.verify(bytes(32), signature + b"\x00")
    assert not point.verify(bytes(32), signature[:63])
    assert not point.verify(bytes(31), signature)
    with pytest.raises(ValueError, match="bytes"):
        sign(key, bytes(31))


@pytest.mark.parametrize("key", BAD_PRIVATE)
def test_bad_private_keys_are_refused(key: bytes) -> None:
    with pytest.raises(ValueError, match=r"valid|bytes"):
        public_key_of(key)
    with pytest.raises(ValueError, match=r"valid|bytes"):
        sign(key, bytes(32))
    with pytest.raises(ValueError, match=r"valid|bytes"):
        PublicKey(public_key_of(b"\x01" * 32)).agree(key)


def test_bad_points_are_refused() -> None:
    good = public_key_of(b"\x01" * 32)
    uncompressed = coincurve.PublicKey(good).format(compressed=False)
    off = b"\x02" + b"\xff" * 32
    for bad in (b"", good[:32], good + b"\x00", b"\x05" + good[1:], uncompressed, off):
        with pytest.raises(ValueError, match="valid"):
            PublicKey(bad)


def test_keccak() -> None:
    assert keccak(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
