"""The routing table and the lookup against simple models."""

from __future__ import annotations

import random
from functools import cache

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ginnel.base.types import NodeId
from ginnel.discv5.enr import Enr, sign_enr
from ginnel.discv5.keys import log_distance
from ginnel.discv5.lookup import Lookup
from ginnel.discv5.query import Query
from ginnel.discv5.table import Added, RoutingTable, TableLimits

SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
COUNT = 150
OWN = NodeId(bytes(32))
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "seen", "replace", "renew"]), st.integers(0, COUNT - 1)),
    max_size=300,
)


@cache
def record(index: int, seq: int = 1) -> Enr:
    """Return a node; 25 of them share each /24."""
    ip = bytes((50, 0, index // 25, 1 + index % 25))
    return sign_enr((index + 1).to_bytes(32, "big"), seq, {"ip": ip, "udp": 9})


def xor(target: NodeId, enr: Enr) -> int:
    return int.from_bytes(enr.node_id, "big") ^ int.from_bytes(target, "big")


@SETTINGS
@given(STEPS, st.binary(min_size=32, max_size=32))
def test_table(steps: list[tuple[str, int]], raw_target: bytes) -> None:
    table = RoutingTable(OWN, TableLimits())
    model: dict[NodeId, tuple[Enr, bool]] = {}
    for step, index in steps:
        enr = record(index)
        known = enr.node_id in model
        if step == "add":
            added = table.add(enr)
            assert (added is Added.KNOWN) is known
            if added is Added.NEW:
                model[enr.node_id] = (enr, False)
        elif step == "seen":
            table.mark_seen(enr.node_id)
            if known:
                model[enr.node_id] = (model[enr.node_id][0], True)
        elif step == "renew" and known:
            newer = record(index, 2)
            table.add(newer)
            model[enr.node_id] = (newer, model[enr.node_id][1])
        elif step == "replace":
            replacement = table.replace(enr.node_id)
            model.pop(enr.node_id, None)
            if replacement is not None:
                assert replacement.node_id not in model
                model[replacement.node_id] = (replacement, False)
    target = NodeId(raw_target)
    nodes = {node.record.node_id: (node.record, node.is_seen) for node in table.nodes()}
    assert nodes == model
    ordered = sorted((enr for enr, _ in model.values()), key=lambda enr: xor(target, enr))
    assert table.neighbours(target, 16) == ordered[:16]
    seen = [enr for enr in ordered if model[enr.node_id][1]]
    assert table.neighbours(target, 16, seen_only=True) == seen[:16]
    for subnet in range(COUNT // 25):
        inside = [enr for enr, _ in model.values() if str(enr.ip).startswith(f"50.0.{subnet}.")]
        assert len(inside) <= 10
    for distance in (254, 255, 256):
        here = [
            enr for enr, is_seen in model.values() if log_distance(OWN, enr.node_id) == distance
        ]
        found = table.at_distances([distance], 1000, seen_only=False)
        assert sorted(enr.raw for enr in found) == sorted(enr.raw for enr in here)


def answer(network: list[Enr], asked: Enr, distances: tuple[int, ...]) -> list[Enr]:
    """Return what a node that knows everybody answers."""
    return [enr for enr in network if log_distance(asked.node_id, enr.node_id) in distances][:16]


@SETTINGS
@given(st.integers(0, 2**32), st.integers(1, COUNT), st.floats(0, 0.4))
@example(112, 112, 0.375)  # most distances hold more nodes than one answer
@example(106, 121, 0.375)
def test_lookup(seed: int, count: int, dead_share: float) -> None:
    rng = random.Random(seed)
    network = [record(index) for index in rng.sample(range(COUNT), count)]
    dead = {enr.node_id for enr in network[1:] if rng.random() < dead_share}
    target = NodeId(rng.randbytes(32))
    lookup = Lookup(target, OWN, network[:1])
    now, asked, waiting = 0.0, [], []
    while True:
        while (ask := lookup.next(now)) is not None:
            waiting.append(ask)
            asked.append((ask.record.node_id, ask.distances))
        if not waiting:
            break
        ask = waiting.pop(rng.randrange(len(waiting)))
        now += 0.01
        if ask.record.node_id in dead:
            lookup.on_failure(ask.record.node_id)
        else:
            shuffled = rng.sample(network, len(network))
            lookup.on_answer(ask.record.node_id, answer(shuffled, ask.record, ask.distances))
    assert lookup.is_done(now)
    alive = [enr for enr in network if enr.node_id not in dead]
    true = sorted(alive, key=lambda enr: xor(target, enr))[:16]
    result = list(lookup.result())
    assert len(asked) == len(set(asked))
    assert result == sorted(result, key=lambda enr: xor(target, enr))
    assert {enr.node_id for enr in result} <= {enr.node_id for enr in alive}
    assert len(set(result) & set(true)) >= 0.9 * len(true)


@SETTINGS
@given(st.integers(0, 2**32), st.integers(1, COUNT))
def test_query(seed: int, count: int) -> None:
    rng = random.Random(seed)
    network = [record(index) for index in rng.sample(range(COUNT), count)]
    target = NodeId(rng.randbytes(32))
    query = Query(target, OWN, network[:5])
    asked: list[NodeId] = []
    named = {enr.node_id for enr in network[:5]}
    while (ask := query.next(0.0)) is not None:
        asked.append(ask.record.node_id)
        found = answer(network, ask.record, ask.distances)
        named |= {enr.node_id for enr in found}
        query.on_answer(ask.record.node_id, found)
    assert query.is_done(0.0)
    assert len(asked) == len(set(asked)) <= 16
    assert {enr.node_id for enr in query.result()} == named
