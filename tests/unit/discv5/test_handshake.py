"""Key derivation and id signature against the specification's vectors."""

from __future__ import annotations

import json
from pathlib import Path

from ginnel.base.types import NodeId
from ginnel.discv5.handshake import derive_session_keys, make_id_signature, verify_id_signature
from ginnel.discv5.keys import agree, public_key_of
from ginnel.discv5.session import Session

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/discv5-vectors.json").read_text())


def of(name: str) -> dict[str, bytes]:
    return {key: bytes.fromhex(value) for key, value in VECTORS[name].items()}


def test_key_derivation() -> None:
    v = of("key_derivation")
    secret = agree(v["dest_pubkey"], v["ephemeral_key"])
    keys = derive_session_keys(
        secret, v["challenge_data"], NodeId(v["node_id_a"]), NodeId(v["node_id_b"])
    )
    assert keys == (v["initiator_key"], v["recipient_key"])


def test_id_signature() -> None:
    v = of("id_signature")
    rest = (v["challenge_data"], v["ephemeral_pubkey"], NodeId(v["node_id_b"]))
    assert make_id_signature(v["static_key"], *rest) == v["signature"]
    key = public_key_of(v["static_key"])
    assert verify_id_signature(key, v["signature"], *rest)
    assert not verify_id_signature(key, v["signature"], b"x", *rest[1:])


def test_aes_gcm() -> None:
    v = of("aes_gcm")
    session = Session(NodeId(bytes(32)), b"", v["key"], v["key"])
    assert session.seal(v["aad"], v["nonce"], v["plaintext"])[len(v["aad"]) :] == v["ciphertext"]
    assert session.decrypt(v["nonce"], v["ciphertext"], v["aad"]) == v["plaintext"]
