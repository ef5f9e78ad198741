"""Sessions and their cache."""

from __future__ import annotations

import json
from pathlib import Path

from ginnel.base.types import Address, NodeId
from ginnel.discv5.session import Session, SessionCache, WarmPool

NODE = NodeId(bytes(32))


def make() -> Session:
    return Session(NODE, b"", bytes(16), bytes(16))


def key(port: int) -> tuple[NodeId, Address]:
    return (NODE, Address("192.0.2.1", port))


def test_nonces_count_up_even_if_chance_repeats() -> None:
    session = make()
    nonces = [session.next_nonce(bytes) for _ in range(3)]
    assert nonces == [n.to_bytes(4, "big") + bytes(8) for n in range(3)]


def test_least_recently_used_goes_and_pinned_stays() -> None:
    cache = SessionCache(4)
    assert cache.pin(key(1))
    for port in range(1, 8):
        cache.put(key(port), make())
    assert cache.get(key(1)) is not None
    assert [port for port in range(1, 8) if cache.get(key(port))] == [1, 5, 6, 7]
    cache.drop(key(1))
    cache.put(key(1), make())
    for port in range(10, 20):
        cache.put(key(port), make())
    assert cache.get(key(1)) is not None
    cache.unpin(key(1))
    for port in range(10, 20):
        cache.put(key(port), make())
    assert cache.get(key(1)) is None
    assert len(cache) == 4


def test_at_most_half_can_be_pinned() -> None:
    cache = SessionCache(4)
    assert [cache.pin(key(port)) for port in range(4)] == [True, True, False, False]
    assert cache.pin(key(0))


def test_one_earlier_session_is_kept_for_reading() -> None:
    cache = SessionCache(4)
    first, second, third = make(), make(), make()
    for session in (first, second, third):
        cache.put(key(1), session)
    assert cache.get(key(1)) is third
    assert third.previous is second
    assert second.previous is None


def test_contexts_of_the_least_recently_used_go_and_come_back() -> None:
    pool = WarmPool(2)
    pairs = []
    for number in range(4):
        keys = bytes([number]) * 16, bytes([number + 9]) * 16
        one = Session(NODE, b"", keys[0], keys[1], pool=pool)
        other = Session(NODE, b"", keys[1], keys[0], pool=pool)
        pairs.append((one, other))
    for count in range(6):
        nonce = bytes(11) + bytes([count])
        for one, other in pairs:
            assert other.decrypt(nonce, one.encrypt(nonce, b"hello", b"a"), b"a") == b"hello"
            assert len(pool) <= 2


def test_the_aes_gcm_vector() -> None:
    vector = json.loads((Path(__file__).parents[2] / "vectors/discv5-vectors.json").read_text())
    values = {key: bytes.fromhex(value) for key, value in vector["aes_gcm"].items()}
    session = Session(NODE, b"", values["key"], values["key"])
    sealed = session.encrypt(values["nonce"], values["plaintext"], values["aad"])
    assert sealed == values["ciphertext"]
