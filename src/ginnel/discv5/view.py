"""What one can ask of a node without waiting: its record, its table, its counters.

The base of `questions.py` and the facade (`aio.py`); nothing here needs a loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence

from ginnel.base.chance import Rng
from ginnel.base.errors import UsageError
from ginnel.base.types import Address, NodeId, Secret
from ginnel.discv5.enr import Enr
from ginnel.discv5.events import Drop
from ginnel.discv5.metrics import Collector, Sample, make_collector, prometheus_text
from ginnel.discv5.protocol import DiscoveryCore

TalkHandler = Callable[[NodeId, Address, bytes], bytes | Awaitable[bytes]]
"""Answers a TALKREQ, at once or later: the asker's node id and address, and the request."""


class NodeView(ABC):
    """Questions to a core.

    Args:
        private_key: of the record.
        rng: chooses random nodes.
    """

    def __init__(self, private_key: Secret, rng: Rng) -> None:
        self._private_key = private_key
        self._rng = rng
        self._handlers: dict[bytes, TalkHandler] = {}

    @property
    @abstractmethod
    def core(self) -> DiscoveryCore:
        """The core; raises UsageError where the node is not open."""

    @property
    def private_key(self) -> Secret:
        """The key of our record; it is not shown in logs."""
        return self._private_key

    @property
    def record(self) -> Enr:
        """Our own record."""
        return self.core.record

    @property
    def local_node(self) -> Enr:
        """Our own record; a node is its record here."""
        return self.core.record

    @property
    def node_id(self) -> NodeId:
        """Our node id."""
        return self.core.node_id

    @property
    def drops(self) -> Counter[Drop]:
        """Packets and messages dropped, by reason."""
        return self.core.drops

    def metrics_text(self) -> str:
        """Return all metrics in Prometheus' text format."""
        return prometheus_text(self._samples())

    def _samples(self) -> Iterator[Sample]:
        """Yield every metric."""
        yield from self.core.samples()

    @property
    def nodes_discovered(self) -> int:
        """How many nodes are in the table."""
        return len(self.core.table)

    def nodes(self) -> list[Enr]:
        """Return the nodes of the table, those that answered first."""
        return self.core.nodes()

    def get_node(self, node_id: NodeId) -> Enr | None:
        """Return the record of a node of the table, or None."""
        node = self.core.table.get(node_id)
        return None if node is None else node.record

    def random_nodes(
        self,
        count: int,
        accept: Callable[[Enr], bool] | None = None,
        *,
        enr_field: tuple[str, bytes] | None = None,
        seen_only: bool = False,
    ) -> list[Enr]:
        """Return up to `count` nodes of the table at random.

        Args:
            accept: says which nodes are wanted.
            enr_field: key and value that a record must have.
            seen_only: only nodes that have answered.
        """

        def is_wanted(record: Enr) -> bool:
            has_field = enr_field is None or record.contains(*enr_field)
            return has_field and (accept is None or accept(record))

        return self.core.table.random_nodes(count, self._rng, is_wanted, seen_only=seen_only)

    def neighbours(self, target: NodeId, k: int = 16, *, seen_only: bool = False) -> list[Enr]:
        """Return the `k` nodes of the table closest to the target, closest first."""
        return self.core.table.neighbours(target, k, seen_only=seen_only)

    def neighbours_at_distances(
        self, distances: Sequence[int], k: int = 16, *, seen_only: bool = False
    ) -> list[Enr]:
        """Return up to `k` nodes of the table at these log2 distances, each served fairly."""
        return self.core.table.at_distances(distances, k, seen_only=seen_only)

    @property
    def bootstrap_records(self) -> tuple[Enr, ...]:
        """The nodes to begin with; they are never removed from the table."""
        return self.core.bootstrap

    @property
    def talk_protocols(self) -> tuple[bytes, ...]:
        """The talk protocols that have a handler."""
        return tuple(self._handlers)

    def metrics_collector(self) -> Collector:
        """Return a collector for `prometheus_client`'s `REGISTRY.register`.

        Raises:
            UsageError: `prometheus_client` is not installed.
        """
        return make_collector(self._samples)

    def register_talk_protocol(self, protocol: bytes, handler: TalkHandler) -> None:
        """Answer TALKREQs of this protocol by the handler.

        It must not block. An asynchronous one has the response timeout to answer in; of those at
        most `talk_handlers` are at work, and requests beyond get no answer.

        Raises:
            UsageError: the protocol has a handler.
        """
        if protocol in self._handlers:
            raise UsageError(f"the talk protocol {protocol!r} has a handler already")
        self._handlers[protocol] = handler
