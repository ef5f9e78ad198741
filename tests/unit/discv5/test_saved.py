"""Nodes as text."""

from __future__ import annotations

import random

from ginnel.base.types import NodeId
from ginnel.discv5.enr import Enr, sign_enr
from ginnel.discv5.saved import choose_nodes, format_nodes, parse_nodes
from ginnel.discv5.table import RoutingTable, TableLimits

NODES = [sign_enr(bytes([index]) * 32, 1, {}) for index in range(1, 6)]


def node(index: int, seq: int = 1) -> Enr:
    return sign_enr(bytes([index + 1]) * 32, seq, {"ip": bytes([203, 0, index, 1]), "udp": 9})


def test_nodes_come_back_and_other_lines_are_left_out() -> None:
    text = "# nodes\n\nenr:nonsense\n" + format_nodes(NODES).replace("\n", "  # x\n", 1)
    assert parse_nodes(text, 10) == NODES
    assert parse_nodes(text, 2) == NODES[:2]
    assert parse_nodes("", 10) == []


def test_nodes_that_answered_are_kept_then_loaded_ones_that_have_a_place() -> None:
    old = [node(index) for index in range(6)]
    new = [node(index) for index in range(6, 9)]
    table = RoutingTable(NodeId(bytes(32)), TableLimits())
    for record in (*old, *new):
        table.add(record)
    rng = random.Random(1)
    assert choose_nodes(table, old, 4, rng) is None
    for record in (old[5], *new[:2]):
        table.mark_seen(record.node_id)
    table.replace(old[0].node_id)
    newer = node(1, seq=2)
    table.add(newer)
    chosen = choose_nodes(table, old, 5, rng)
    assert chosen is not None
    assert set(chosen[:3]) == {old[5], *new[:2]}
    assert chosen[3:] == [newer, old[2]]
    fewest = choose_nodes(table, old, 2, rng)
    assert fewest is not None
    assert len(fewest) == 2
