"""Nodes as text."""

from __future__ import annotations

from ginnel.discv5.enr import sign_enr
from ginnel.discv5.saved import format_nodes, parse_nodes

NODES = [sign_enr(bytes([index]) * 32, 1, {}) for index in range(1, 6)]


def test_nodes_come_back_and_other_lines_are_left_out() -> None:
    text = "# nodes\n\nenr:nonsense\n" + format_nodes(NODES).replace("\n", "  # x\n", 1)
    assert parse_nodes(text, 10) == NODES
    assert parse_nodes(text, 2) == NODES[:2]
    assert parse_nodes("", 10) == []
