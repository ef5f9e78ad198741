"""A lookup as a value, played against an ideal network."""

from __future__ import annotations

import random
from functools import partial

from ginnel.base.types import Address, NodeId
from ginnel.discv5.enr import Enr, address_fields, sign_enr
from ginnel.discv5.keys import log_distance, new_private_key
from ginnel.discv5.lookup import (
    MAX_CANDIDATES,
    PATIENCE,
    PATIENCE_MARGIN,
    STALLED_AFTER,
    Ask,
    Lookup,
    lookup_distances,
)

RNG = random.Random(5)
RECORDS = [
    sign_enr(new_private_key(RNG.randbytes), 1, address_fields(Address(f"203.0.{n}.1", 9)))
    for n in range(100)
]
OWN = NodeId(bytes(32))
TARGET = NodeId(RNG.randbytes(32))


def closest(records: list[Enr], count: int = 16) -> list[Enr]:
    number = int.from_bytes(TARGET, "big")
    return sorted(records, key=lambda enr: int.from_bytes(enr.node_id, "big") ^ number)[:count]


def answer(ask: Ask) -> list[Enr]:
    return [
        record
        for record in RECORDS
        if log_distance(record.node_id, ask.record.node_id) in ask.distances
    ][:16]


def test_finds_the_closest_of_an_ideal_network() -> None:
    lookup = Lookup(TARGET, OWN, RECORDS[:3])
    asked = 0
    while asks := list(iter(lambda: lookup.next(0.0), None)):
        assert len(asks) <= 3
        for ask in asks:
            asked += 1
            lookup.on_answer(ask.record.node_id, answer(ask))
    assert lookup.is_done(0.0)
    assert list(lookup.result()) == closest(RECORDS)
    assert asked < 60


def test_failed_nodes_are_no_result_and_others_take_their_place() -> None:
    lookup = Lookup(TARGET, OWN, RECORDS)
    dead = {enr.node_id for enr in closest(RECORDS, 5)}
    while (ask := lookup.next(0.0)) is not None:
        if ask.record.node_id in dead:
            lookup.on_failure(ask.record.node_id)
        else:
            lookup.on_answer(ask.record.node_id, [])
    assert lookup.is_done(0.0)
    assert list(lookup.result()) == closest([r for r in RECORDS if r.node_id not in dead])


def test_slow_nodes_free_their_place_and_end_the_wait() -> None:
    lookup = Lookup(TARGET, OWN, RECORDS[:4])
    for _ in range(3):
        assert lookup.next(0.0) is not None
    assert lookup.next(0.0) is None
    assert lookup.wake_at(0.0) == STALLED_AFTER
    assert lookup.next(STALLED_AFTER) is not None
    assert not lookup.is_done(PATIENCE)
    assert lookup.is_done(STALLED_AFTER + PATIENCE + PATIENCE_MARGIN)
    assert lookup.result() == ()


def test_patience_follows_the_timeout_of_requests() -> None:
    for patience, stalled_after in ((0.4, 0.1), (60.0, STALLED_AFTER)):
        lookup = Lookup(TARGET, OWN, RECORDS[:1], patience=patience)
        assert lookup.next(0.0) is not None
        assert lookup.wake_at(0.0) == stalled_after
        assert lookup.wake_at(stalled_after) == patience + PATIENCE_MARGIN
        assert not lookup.is_done(patience)
        assert lookup.is_done(patience + PATIENCE_MARGIN)


def test_our_own_id_is_never_asked() -> None:
    lookup = Lookup(TARGET, RECORDS[0].node_id, RECORDS[:1])
    assert lookup.next(0.0) is None
    assert lookup.is_done(0.0)


def test_few_answers_widen_the_search() -> None:
    lookup = Lookup(TARGET, OWN, RECORDS[:1])
    first = lookup.next(0.0)
    assert first is not None
    lookup.on_answer(first.record.node_id, [])
    wide = lookup.next(0.0)
    assert wide is not None
    assert not set(wide.distances) & set(first.distances)
    lookup.on_answer(wide.record.node_id, [])
    assert lookup.next(0.0) is None
    assert lookup.is_done(0.0)


def test_distances() -> None:
    node = NodeId(b"\x10" + bytes(31))
    assert lookup_distances(OWN, node, 3) == (253, 254, 252)
    assert lookup_distances(OWN, NodeId(b"\x80" + bytes(31)), 3) == (256, 255, 254)
    assert lookup_distances(OWN, NodeId(bytes(31) + b"\x01"), 3) == (1, 2, 3)
    assert lookup_distances(OWN, OWN, 3) == (0,)
    assert sorted(lookup_distances(OWN, node, 1000)) == list(range(1, 257))


def test_a_node_that_failed_is_asked_again_where_it_has_moved() -> None:
    key = b"\x07" * 32
    old, same, moved = (
        sign_enr(key, seq, address_fields(Address(ip, 9)))
        for seq, ip in ((1, "203.0.113.1"), (2, "203.0.113.1"), (3, "203.0.114.1"))
    )
    lookup = Lookup(TARGET, OWN, [old])
    ask = lookup.next(0.0)
    assert ask is not None
    lookup.on_failure(old.node_id)
    lookup.add([same])
    assert lookup.next(0.0) is None
    lookup.add([moved])
    again = lookup.next(0.0)
    assert again is not None
    assert again.record == moved


def fair_answer(rng: random.Random, known: list[Enr], ask: Ask) -> list[Enr]:
    """Return what a node answers: at most 16 of those it knows, of each distance in turns."""
    columns = [
        [r for r in known if log_distance(r.node_id, ask.record.node_id) == distance]
        for distance in ask.distances
    ]
    for column in columns:
        rng.shuffle(column)
    rows = max(map(len, columns))
    turns = [column[row] for row in range(rows) for column in columns if row < len(column)]
    return turns[:16]


def test_the_farthest_of_the_closest_are_found_too() -> None:
    rng = random.Random(1)
    half = {record.node_id: rng.sample(RECORDS, 50) for record in RECORDS}  # what each one knows
    for _ in range(60):
        target = NodeId(rng.randbytes(32))
        number = int.from_bytes(target, "big")
        lookup = Lookup(target, OWN, rng.sample(RECORDS, 1))
        while asks := list(iter(partial(lookup.next, 0.0), None)):
            for ask in asks:
                known = half[ask.record.node_id]
                lookup.on_answer(ask.record.node_id, fair_answer(rng, known, ask))
        true = sorted(RECORDS, key=lambda enr: int.from_bytes(enr.node_id, "big") ^ number)[:16]
        assert list(lookup.result()) == true


def test_who_answered_once_is_found_even_if_silent_then() -> None:
    lookup = Lookup(TARGET, OWN, RECORDS[:20])
    asked: dict[bytes, int] = {}
    while asks := list(iter(lambda: lookup.next(0.0), None)):
        for ask in asks:
            node_id = ask.record.node_id
            asked[node_id] = asked.get(node_id, 0) + 1
            if asked[node_id] == 1:
                lookup.on_answer(node_id, [])
            else:
                lookup.on_failure(node_id)
    assert max(asked.values()) == 2
    assert list(lookup.result()) == closest(RECORDS[:20])


def test_candidates_are_bounded() -> None:
    rng = random.Random(9)
    many = [sign_enr(new_private_key(rng.randbytes), 1, {}) for _ in range(MAX_CANDIDATES * 2)]
    lookup = Lookup(TARGET, OWN, many, count=1000)
    asked = []
    while (ask := lookup.next(0.0)) is not None:
        asked.append(ask.record)
        lookup.on_failure(ask.record.node_id)
    assert asked == closest(many, MAX_CANDIDATES)
