"""One query without a network."""

from __future__ import annotations

from ginnel.base.types import NodeId
from ginnel.discv5.enr import Enr, sign_enr
from ginnel.discv5.query import Query

TARGET = NodeId(bytes(32))
LOCAL = NodeId(b"\xff" * 32)


def record(index: int, seq: int = 1) -> Enr:
    return sign_enr(index.to_bytes(32, "big"), seq, {"ip": b"\xcb\x00\x71\x01", "udp": index})


RECORDS = [record(index) for index in range(1, 12)]


def test_known_nodes_are_asked_once_and_all_found_are_returned() -> None:
    query = Query(TARGET, LOCAL, RECORDS[:4], count=4, alpha=3)
    asks = [query.next(0.0) for _ in range(4)]
    asked = [ask.record for ask in asks if ask is not None]
    assert asked == RECORDS[:3]
    assert asks[3] is None
    query.on_answer(RECORDS[0].node_id, RECORDS[4:6])
    last = query.next(0.0)
    assert last is not None
    assert last.record == RECORDS[3]
    for node in RECORDS[1:4]:
        assert not query.is_done(0.0)
        query.on_failure(node.node_id)
    assert query.next(0.0) is None
    assert query.is_done(0.0)
    assert query.wake_at(0.0) is None
    assert query.result() == tuple(RECORDS[:6])


def test_where_few_are_known_those_that_are_named_are_asked() -> None:
    query = Query(TARGET, LOCAL, RECORDS[:1], count=3)
    assert query.next(0.0) is not None
    assert query.next(0.0) is None
    query.on_answer(RECORDS[0].node_id, RECORDS[1:9])
    asks = [query.next(0.0), query.next(0.0), query.next(0.0)]
    assert [ask.record if ask else None for ask in asks] == [RECORDS[1], RECORDS[2], None]


def test_answers_that_nobody_waits_for_and_ourselves_are_ignored() -> None:
    query = Query(TARGET, RECORDS[1].node_id, RECORDS[:1])
    query.on_answer(RECORDS[5].node_id, RECORDS[6:])
    assert query.next(0.0) is not None
    query.on_answer(RECORDS[0].node_id, RECORDS[1:3])
    assert query.result() == (RECORDS[0], RECORDS[2])


def test_the_newest_record_wins() -> None:
    query = Query(TARGET, LOCAL, [record(1, 5)])
    query.add([record(1, 4), record(1, 6)])
    assert query.result() == (record(1, 6),)
    assert query.newest(record(1).node_id) == record(1, 6)
    assert query.newest(LOCAL) is None
