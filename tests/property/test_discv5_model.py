"""The routing table and the lookup against simple models."""

from __future__ import annotations

import random
from collections import Counter
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
LIMITS = TableLimits(bucket_size=8, bits_per_hop=3, table_ip=5)  # so that each is met
KINDS = ["add", "add", "add", "seen", "replace", "renew"]  # mostly adding, so that buckets fill
STEPS = st.lists(  # as many as fill buckets: without a least size, Hypothesis makes lists of five
    st.tuples(st.sampled_from(KINDS), st.integers(0, COUNT - 1)), min_size=150, max_size=300
)


@cache
def record(index: int, seq: int = 1) -> Enr:
    """Return a node; 15 of them share each /24."""
    ip = bytes((50, 0, index // 15, 1 + index % 15))
    return sign_enr((index + 1).to_bytes(32, "big"), seq, {"ip": ip, "udp": 9})


def number_of(enr: Enr) -> int:
    return int.from_bytes(enr.node_id, "big")


class Buckets:
    """Ranges of the id space, split as the paper says."""

    def __init__(self) -> None:
        self.depths = {(0, 2**256): 0}

    def expect(self, enr: Enr, nodes: list[Enr]) -> tuple[Added, ...]:
        """Split as adding a new node does; return what may become of it."""
        while True:
            bucket = next(one for one in self.depths if number_of(enr) in range(*one))
            inside = [one for one in nodes if number_of(one) in range(*bucket)]
            depth = self.depths[bucket]
            has_room = len(inside) < LIMITS.bucket_size
            if has_room or (bucket[0] != 0 and depth % LIMITS.bits_per_hop == 0):  # our id is 0
                break
            middle = sum(bucket) // 2
            del self.depths[bucket]
            self.depths |= {(bucket[0], middle): depth + 1, (middle, bucket[1]): depth + 1}
        beside = [subnet_of(one) for one in inside].count(subnet_of(enr))
        in_table = [subnet_of(one) for one in nodes].count(subnet_of(enr))
        if beside >= LIMITS.bucket_ip or in_table >= LIMITS.table_ip:
            return (Added.REFUSED,)
        return (Added.NEW,) if has_room else (Added.REPLACEMENT, Added.REFUSED)

    def check(self, nodes: list[Enr]) -> None:
        """Count every bucket anew."""
        for bucket in self.depths:
            inside = [one for one in nodes if number_of(one) in range(*bucket)]
            counts = Counter(subnet_of(one) for one in inside)
            assert len(inside) <= LIMITS.bucket_size
            assert max(counts.values(), default=0) <= LIMITS.bucket_ip


def subnet_of(enr: Enr) -> str:
    return str(enr.ip).rpartition(".")[0]


def xor(target: NodeId, enr: Enr) -> int:
    return int.from_bytes(enr.node_id, "big") ^ int.from_bytes(target, "big")


@SETTINGS
@given(STEPS, st.binary(min_size=32, max_size=32))
def test_table(steps: list[tuple[str, int]], raw_target: bytes) -> None:
    table = RoutingTable(OWN, LIMITS)
    model: dict[NodeId, tuple[Enr, bool]] = {}
    buckets = Buckets()
    for step, index in steps:
        enr = record(index)
        known = enr.node_id in model
        if step == "add":
            nodes = [here for here, _ in model.values()]
            expected = (Added.KNOWN,) if known else buckets.expect(enr, nodes)
            added = table.add(enr)
            assert added in expected
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
    known_nodes = {node.record.node_id: (node.record, node.is_seen) for node in table.nodes()}
    assert known_nodes == model
    ordered = sorted((enr for enr, _ in model.values()), key=lambda enr: xor(target, enr))
    assert table.neighbours(target, 16) == ordered[:16]
    seen = [enr for enr in ordered if model[enr.node_id][1]]
    assert table.neighbours(target, 16, seen_only=True) == seen[:16]
    of_subnets = Counter(subnet_of(enr) for enr, _ in model.values())
    assert max(of_subnets.values(), default=0) <= LIMITS.table_ip
    buckets.check([here for here, _ in model.values()])
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
