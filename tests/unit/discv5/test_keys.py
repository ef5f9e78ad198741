"""Identity scheme v4 against the specification's vectors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.discv5.keys import (
    agree,
    log_distance,
    new_private_key,
    node_id_of,
    public_key_of,
    sign_digest,
    verify_digest,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/discv5-vectors.json").read_text())


def test_ecdh_vector() -> None:
    vector = {key: bytes.fromhex(value) for key, value in VECTORS["ecdh"].items()}
    assert agree(vector["public_key"], vector["secret_key"]) == vector["shared_secret"]


def test_node_ids_of_the_packet_vectors() -> None:
    ids = VECTORS["packets"][0]
    for name, expected in (("node_a", "src_node_id"), ("node_b", "dest_node_id")):
        key = public_key_of(bytes.fromhex(VECTORS["keys"][name]))
        assert node_id_of(key).hex() == ids[expected]


def test_signature_is_bound_to_key_and_digest() -> None:
    key, other = b"\x01" * 32, b"\x02" * 32
    signature = sign_digest(key, b"d" * 32)
    assert verify_digest(public_key_of(key), b"d" * 32, signature)
    assert not verify_digest(public_key_of(other), b"d" * 32, signature)
    assert not verify_digest(public_key_of(key), b"e" * 32, signature)
    assert not verify_digest(public_key_of(key), b"d" * 32, signature[:63])
    assert not verify_digest(public_key_of(key), b"d" * 32, bytes(64))


def test_the_high_s_twin_is_refused() -> None:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    signature = sign_digest(b"\x01" * 32, b"d" * 32)
    twin = order - int.from_bytes(signature[32:], "big")
    assert not verify_digest(
        public_key_of(b"\x01" * 32), b"d" * 32, signature[:32] + twin.to_bytes(32, "big")
    )


@pytest.mark.parametrize("point", [b"", bytes(33), b"\x02" + b"\xff" * 32, b"\x04" + bytes(64)])
def test_invalid_points_are_refused(point: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        node_id_of(point)
    with pytest.raises(RemoteProtocolError):
        agree(point, b"\x01" * 32)


@pytest.mark.parametrize("key", [b"", bytes(32), b"\xff" * 32, b"\x01" * 33])
def test_invalid_private_keys_are_refused(key: bytes) -> None:
    with pytest.raises(UsageError):
        public_key_of(key)


def test_invalid_draws_are_drawn_again() -> None:
    draws = [bytes(32), b"\xff" * 32, b"\x07" * 32]
    assert new_private_key(lambda count: draws.pop(0)) == b"\x07" * 32


def test_distances() -> None:
    assert log_distance(bytes(32), bytes(32)) == 0
    assert log_distance(bytes(32), bytes(31) + b"\x01") == 1
    assert log_distance(bytes(32), b"\x80" + bytes(31)) == 256
