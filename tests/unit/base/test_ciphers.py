"""The ciphers of packets beside another library's."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from ginnel.base import ciphers

STATIC = 23  # bytes of the static header
IVS = st.binary(min_size=16, max_size=16)
IDS = st.binary(min_size=32, max_size=32)
KEYS = st.binary(min_size=16, max_size=16)
NONCES = st.binary(min_size=12, max_size=12)
AUTHDATA = st.binary(max_size=400)
MESSAGES = st.binary(max_size=400)


def masked(node_id: bytes, iv: bytes, header: bytes) -> bytes:
    return iv + Cipher(algorithms.AES(node_id[:16]), modes.CTR(iv)).encryptor().update(header)


def head(nonce: bytes, authdata: bytes, claimed: int | None = None) -> bytes:
    size = len(authdata) if claimed is None else claimed
    return b"discv5\x00\x01\x02" + nonce + size.to_bytes(2, "big") + authdata


@given(IDS, IVS, KEYS, NONCES, AUTHDATA, MESSAGES)
def test_a_packet_is_what_the_specification_says(
    node_id: bytes, iv: bytes, key: bytes, nonce: bytes, authdata: bytes, message: bytes
) -> None:
    header = head(nonce, authdata)
    sealed = AESGCM(key).encrypt(nonce, message, iv + header)
    packet = ciphers.seal(node_id, iv + header, key, nonce, message)
    assert packet == masked(node_id, iv, header) + sealed
    parts = (b"discv5", 1, 2, nonce, authdata, iv + header, sealed)
    assert ciphers.unmask(node_id, packet) == parts
    assert ciphers.open(key, nonce, sealed, iv + header) == message
    assert ciphers.mask(node_id, iv + header) == masked(node_id, iv, header)


@given(IDS, IVS, KEYS, st.integers(0, 2**32 - 1), st.binary(min_size=8, max_size=8), MESSAGES)
def test_the_next_ordinary_packet_has_its_count_in_its_nonce(
    node_id: bytes, iv: bytes, key: bytes, count: int, rest: bytes, message: bytes
) -> None:
    nonce = count.to_bytes(4, "big") + rest
    empty, header = (head(one, node_id) for one in (bytes(12), nonce))
    sealed = ciphers.seal_next(node_id, empty, key, count, iv + rest, message)
    assert sealed == (ciphers.seal(node_id, iv + header, key, nonce, message), nonce)


@given(IDS, IVS, NONCES, AUTHDATA, st.integers(0, 65_535))
def test_authdata_beyond_the_packet_is_told(
    node_id: bytes, iv: bytes, nonce: bytes, authdata: bytes, claimed: int
) -> None:
    header = head(nonce, authdata, claimed)
    found = ciphers.unmask(node_id, masked(node_id, iv, header))
    assert found is not None
    if claimed > len(authdata):
        assert found[4:] == (None, iv + header[:STATIC], b"")
    else:
        split = STATIC + claimed
        assert found[4:6] == (authdata[:claimed], iv + header[:split])
        assert found[6] == masked(node_id, iv, header)[16 + split :]


@given(IDS, st.binary(max_size=1400))
def test_any_bytes_are_taken_apart(node_id: bytes, data: bytes) -> None:
    assert (ciphers.unmask(node_id, data) is None) == (len(data) < 16 + STATIC)


@given(KEYS, NONCES, MESSAGES, AUTHDATA, st.integers(0, 2**32))
def test_a_changed_bit_is_found(
    key: bytes, nonce: bytes, message: bytes, authenticated: bytes, at: int
) -> None:
    sealed = bytearray(AESGCM(key).encrypt(nonce, message, authenticated))
    sealed[at % len(sealed)] ^= 1 << (at % 8)
    assert ciphers.open(key, nonce, bytes(sealed), authenticated) is None
    assert ciphers.open(key, nonce, bytes(sealed[:15]), authenticated) is None


def test_keys_and_nonces_have_their_sizes() -> None:
    start = bytes(16 + STATIC)
    for node_id, key, nonce in (
        (bytes(15), bytes(16), bytes(12)),
        (bytes(32), bytes(15), bytes(12)),
        (bytes(32), bytes(16), bytes(13)),
    ):
        with pytest.raises(ValueError, match=r"bytes|shorter"):
            ciphers.seal(node_id, start, key, nonce, b"")
    with pytest.raises(ValueError, match="short"):
        ciphers.seal(bytes(32), bytes(15), bytes(16), bytes(12), b"")
    with pytest.raises(ValueError, match="bytes"):
        ciphers.open(bytes(17), bytes(12), bytes(16), b"")
    with pytest.raises(ValueError, match="shorter"):
        ciphers.unmask(bytes(3), bytes(100))
    with pytest.raises(ValueError, match="short"):
        ciphers.mask(bytes(32), bytes(15))
