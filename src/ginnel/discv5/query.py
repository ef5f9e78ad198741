"""One query as a value: ask the known nodes closest to a target once, and gather all they name.

Where fewer than the wanted number are known, nodes that the first answers name are asked too. A
query finds many nodes cheaply; a lookup (`lookup.py`) finds the closest.

Source: seed 001, `query`.
"""

from __future__ import annotations

from collections.abc import Iterable

from ginnel.base.types import NodeId
from ginnel.discv5.enr import Enr
from ginnel.discv5.lookup import Ask, lookup_distances

MAX_FOUND = 1024  # nodes of one query; k answers hold at most 16 each


class Query:
    """The state of one query.

    Args:
        target: where to.
        local: our own id; never asked and never found.
        nodes: the closest nodes known, closest first.
        count: how many nodes are asked.
        alpha: requests under way at a time.
        distances: distances of a request.
    """

    def __init__(
        self,
        target: NodeId,
        local: NodeId,
        nodes: Iterable[Enr],
        *,
        count: int = 16,
        alpha: int = 3,
        distances: int = 3,
    ) -> None:
        self.target = target
        self._local = local
        self._count = count
        self._alpha = alpha
        self._distances = distances
        self._found: dict[NodeId, Enr] = {}
        self._asked = 0
        self._waiting: dict[NodeId, None] = {}
        self.add(nodes)

    def add(self, nodes: Iterable[Enr]) -> None:
        """Add nodes that were found; a newer record of a known one is taken."""
        for record in nodes:
            known = self._found.get(record.node_id)
            if record.node_id == self._local:
                continue
            if record.seq > known.seq if known is not None else len(self._found) < MAX_FOUND:
                self._found[record.node_id] = record

    def next(self, now: float) -> Ask | None:
        """Return whom to ask now, or None; call until None."""
        is_over = self._asked >= min(len(self._found), self._count)
        if is_over or len(self._waiting) >= self._alpha:
            return None
        record = list(self._found.values())[self._asked]
        self._asked += 1
        self._waiting[record.node_id] = None
        return Ask(record, lookup_distances(self.target, record.node_id, self._distances))

    def on_answer(self, node_id: NodeId, nodes: Iterable[Enr]) -> None:
        """Take the verified records that a node answered with."""
        if node_id in self._waiting:
            del self._waiting[node_id]
            self.add(nodes)

    def on_failure(self, node_id: NodeId) -> None:
        """Note that a node did not answer."""
        self._waiting.pop(node_id, None)

    def is_done(self, now: float) -> bool:
        """Say whether nothing is left to ask or to wait for; ask `next` first."""
        return not self._waiting

    def wake_at(self, now: float) -> float | None:
        """Return None: a query waits for answers and failures only."""
        return None

    def newest(self, node_id: NodeId) -> Enr | None:
        """Return the newest record that was found of a node, or None."""
        return self._found.get(node_id)

    def result(self) -> tuple[Enr, ...]:
        """Return all nodes found, those that were known first, whether they answered or not."""
        return tuple(self._found.values())
