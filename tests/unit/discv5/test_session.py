"""Sessions and their cache."""

from __future__ import annotations

from ginnel.base.types import Address, NodeId
from ginnel.discv5.session import Session, SessionCache

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
