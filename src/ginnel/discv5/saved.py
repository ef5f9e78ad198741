"""Nodes as text, one record a line: what is kept on disk between two runs.

A line that is no record is left out: the file may be old, or edited by hand.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ginnel.base.chance import Rng
from ginnel.base.errors import RemoteProtocolError
from ginnel.discv5.enr import Enr
from ginnel.discv5.table import RoutingTable

log = logging.getLogger(__name__)


def choose_nodes(
    table: RoutingTable, loaded: Iterable[Enr], limit: int, rng: Rng
) -> list[Enr] | None:
    """Return at most `limit` nodes to keep: those that answered, then loaded ones not given up.

    None if nobody answered: what was kept is worth more then than what is known now.
    """
    chosen = table.random_nodes(limit, rng, seen_only=True)
    if not chosen:
        return None
    for record in loaded:
        node = table.get(record.node_id)
        if node is not None and not node.is_seen:
            chosen.append(node.record)
    return chosen[:limit]


def format_nodes(nodes: Iterable[Enr]) -> str:
    """Return the text of the nodes."""
    return "".join(f"{node.to_text()}\n" for node in nodes)


def parse_nodes(text: str, limit: int) -> list[Enr]:
    """Return the nodes of a text, at most `limit`; `#` begins a comment."""
    nodes: list[Enr] = []
    for line in text.splitlines():
        word = line.partition("#")[0].strip()
        if not word or len(nodes) >= limit:
            continue
        try:
            nodes.append(Enr.from_text(word))
        except RemoteProtocolError:
            log.warning("a line of the saved nodes is no record")
    return nodes
