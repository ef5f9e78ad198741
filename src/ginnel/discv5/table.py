"""The routing table: Kademlia with split buckets, replacement caches and address limits.

Buckets cover ranges of the id space. A full bucket splits if it holds our own id, or while its
depth is no multiple of `bits_per_hop`, which shortens lookups. Public addresses are limited per /24
or /48, among replacements too; loopback and private networks are exempt.

Source: Maymounkov and Mazieres, Kademlia; discv5-theory.md, "Node Table".
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ginnel.base.addresses import Scope, scope_of, subnet_key
from ginnel.base.chance import Rng
from ginnel.base.types import Address, NodeId
from ginnel.discv5.enr import Enr
from ginnel.discv5.keys import NODE_ID_BITS

_UNREACHABLE = (Scope.MULTICAST, Scope.UNSPECIFIED)


class Added(Enum):
    """What became of a node offered to the table."""

    NEW = "new"
    KNOWN = "known"  # here already; a newer record is taken
    REPLACEMENT = "replacement"  # the bucket is full
    REFUSED = "refused"  # our own id, no address, or too many of its network


@dataclass(slots=True, eq=False)
class TableNode:
    """One node of the table."""

    record: Enr
    number: int  # the node id as an integer
    distance: int  # log2 distance from us
    subnets: tuple[str, ...]  # public /24 and /48 it counts for
    is_seen: bool = False  # it has answered
    is_doubted: bool = False  # it did not answer, which may have been our own link's fault
    is_bootstrap: bool = False


@dataclass(slots=True, eq=False)
class _Bucket:
    start: int
    end: int  # inclusive
    depth: int
    nodes: list[TableNode] = field(default_factory=list)  # most recently seen first
    replacements: list[TableNode] = field(default_factory=list)  # most recent first
    subnets: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TableLimits:
    """Sizes of the table; see `DiscoveryConfig`."""

    bucket_size: int = 16
    replacements: int = 8
    bits_per_hop: int = 5
    table_ip: int = 10
    bucket_ip: int = 2


class RoutingTable:
    """Known nodes around our own id."""

    def __init__(self, node_id: NodeId, limits: TableLimits) -> None:
        self._own = int.from_bytes(node_id, "big")
        self._limits = limits
        self._buckets = [_Bucket(0, 2**NODE_ID_BITS - 1, 0)]
        self._starts = [0]
        self._nodes: dict[NodeId, TableNode] = {}
        self._by_distance: dict[int, list[TableNode]] = {}
        self._subnets: dict[str, int] = {}
        self._waiting: dict[str, int] = {}  # the same of replacements
        self.version = 0  # rises whenever other nodes or records may be handed out
        self.removed: deque[NodeId] = deque()  # who left since somebody looked; take them out

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, node_id: NodeId) -> TableNode | None:
        """Return the node, or None."""
        return self._nodes.get(node_id)

    def nodes(self) -> list[TableNode]:
        """Return all nodes, those that answered first."""
        return sorted(self._nodes.values(), key=lambda node: not node.is_seen)

    def add(self, record: Enr, *, seen: bool = False, bootstrap: bool = False) -> Added:
        """Offer a node; a known one only gets a newer record."""
        known = self._nodes.get(record.node_id)
        if known is not None:
            known.is_bootstrap |= bootstrap
            if record.seq > known.record.seq:
                self._renew(known, record)
            if seen and known.record.node_id in self._nodes:
                self.mark_seen(record.node_id)
            return Added.KNOWN
        node = self._make(record)
        if node is None:
            return Added.REFUSED
        node.is_seen = seen
        node.is_bootstrap = bootstrap
        return self._insert(node)

    def mark_seen(self, node_id: NodeId) -> None:
        """Note that the node answered: it moves to the front of its bucket."""
        node = self._nodes.get(node_id)
        if node is None:
            return
        self._set_seen(node, True)
        node.is_doubted = False
        bucket = self._bucket(node.number)
        if bucket.nodes[0] is not node:
            bucket.nodes.remove(node)
            bucket.nodes.insert(0, node)

    def mark_unseen(self, node_id: NodeId) -> None:
        """Note that the node did not answer but stays: it is not handed out for now."""
        node = self._nodes.get(node_id)
        if node is not None:
            self._set_seen(node, False)
            node.is_doubted = True

    def replace(self, node_id: NodeId) -> Enr | None:
        """Remove a node that did not answer; return the replacement that took its place, if any.

        A bootstrap node stays; it goes to the front, so that others of its bucket have their turn.
        """
        node = self._nodes.get(node_id)
        if node is None:
            return None
        bucket = self._bucket(node.number)
        if node.is_bootstrap:
            self._set_seen(node, False)
            bucket.nodes.remove(node)
            bucket.nodes.insert(0, node)
            return None
        self._remove(bucket, node)
        for candidate in list(bucket.replacements):
            self._drop_replacement(bucket, candidate)
            if self._fits(bucket, candidate):
                self._place(bucket, candidate)
                return candidate.record
        return None

    def neighbours(self, target: NodeId, count: int, *, seen_only: bool = False) -> list[Enr]:
        """Return the `count` nodes closest to the target, closest first."""
        number = int.from_bytes(target, "big")
        nodes: Iterable[TableNode] = self._nodes.values()
        if seen_only:
            nodes = [node for node in nodes if node.is_seen]
        ordered = sorted(nodes, key=lambda node: node.number ^ number)
        return [node.record for node in ordered[:count]]

    def at_distances(
        self,
        distances: Sequence[int],
        count: int,
        *,
        seen_only: bool = True,
        accept: Callable[[Enr], bool] | None = None,
    ) -> list[Enr]:
        """Return up to `count` nodes at these log2 distances from us, each distance served fairly.

        Only nodes that are accepted; distances are taken in turns, the most recently added nodes
        of each first.
        """
        wanted = dict.fromkeys(distances)
        columns: list[Iterator[Enr]] = [self._column(distance, seen_only) for distance in wanted]
        if accept is not None:
            columns = [filter(accept, column) for column in columns]
        found: list[Enr] = []
        while columns and len(found) < count:
            row = [(column, next(column, None)) for column in columns]
            columns = [column for column, record in row if record is not None]
            found += [record for _, record in row if record is not None]
        return found[:count]

    def random_nodes(
        self,
        count: int,
        rng: Rng,
        accept: Callable[[Enr], bool] | None = None,
        *,
        seen_only: bool = False,
    ) -> list[Enr]:
        """Return up to `count` nodes at random, only those that are accepted."""
        nodes = [node.record for node in self._nodes.values() if node.is_seen or not seen_only]
        nodes = [record for record in nodes if accept is None or accept(record)]
        rng.shuffle(nodes)
        return nodes[:count]

    @property
    def seen_count(self) -> int:
        """How many nodes have answered and not failed since."""
        return sum(node.is_seen for node in self._nodes.values())

    def node_to_revalidate(self, rng: Rng) -> Enr | None:
        """Return the least recently seen node of a random bucket that has any, or None."""
        filled = [bucket for bucket in self._buckets if bucket.nodes]
        if not filled:
            return None
        return filled[rng.randrange(0, len(filled))].nodes[-1].record

    def _column(self, distance: int, seen_only: bool) -> Iterator[Enr]:
        nodes = reversed(self._by_distance.get(distance, ()))
        return (node.record for node in nodes if node.is_seen or not seen_only)

    def _make(self, record: Enr) -> TableNode | None:
        number = int.from_bytes(record.node_id, "big")
        if number == self._own:
            return None
        addresses = [a for a in (record.address(), record.address(ipv6=True)) if a is not None]
        if not addresses or any(not is_usable(address) for address in addresses):
            return None
        return TableNode(record, number, (number ^ self._own).bit_length(), _subnets(addresses))

    def _insert(self, node: TableNode) -> Added:
        bucket = self._bucket(node.number)
        while len(bucket.nodes) >= self._limits.bucket_size and self._may_split(bucket):
            self._split(bucket)
            bucket = self._bucket(node.number)
        if not self._fits(bucket, node):
            return Added.REFUSED
        has_room = len(bucket.nodes) < self._limits.bucket_size or self._make_room(bucket, node)
        same = [n for n in bucket.replacements if n.number == node.number]
        for old in same:
            self._drop_replacement(bucket, old)
            if not has_room and old.record.seq > node.record.seq:
                node = old
        if has_room:
            self._place(bucket, node)
            return Added.NEW
        return self._wait(bucket, node)

    def _wait(self, bucket: _Bucket, node: TableNode) -> Added:
        """Make a node a replacement, unless it would be one too many of its network.

        Nodes with a place and replacements count together here; a place is never refused because
        of replacements, which nobody has seen alive.
        """
        limits = self._limits
        for subnet in node.subnets:
            beside = sum(subnet in other.subnets for other in bucket.replacements)
            in_table = self._subnets.get(subnet, 0) + self._waiting.get(subnet, 0)
            in_bucket = bucket.subnets.get(subnet, 0) + beside
            if in_table >= limits.table_ip or in_bucket >= limits.bucket_ip:
                return Added.REFUSED
        bucket.replacements.insert(0, node)
        for subnet in node.subnets:
            self._waiting[subnet] = self._waiting.get(subnet, 0) + 1
        for oldest in bucket.replacements[limits.replacements :]:
            self._drop_replacement(bucket, oldest)
        return Added.REPLACEMENT

    def _drop_replacement(self, bucket: _Bucket, node: TableNode) -> None:
        bucket.replacements.remove(node)
        for subnet in node.subnets:
            _count_down(self._waiting, subnet)

    def _make_room(self, bucket: _Bucket, node: TableNode) -> bool:
        """Let a node that answered push out one of a full bucket that never did."""
        if not node.is_seen:
            return False
        for other in reversed(bucket.nodes):
            if not other.is_seen and not other.is_bootstrap:
                self._remove(bucket, other)
                return True
        return False

    def _renew(self, node: TableNode, record: Enr) -> None:
        """Take a newer record.

        A node whose new address does not fit leaves; one with another address has not been seen
        there yet, so it is not handed out until it answers.
        """
        bucket = self._bucket(node.number)
        fresh = self._make(record)
        if fresh is None and node.is_bootstrap:
            return  # it has no address any more: what we knew is all there is to try
        if fresh is not None and record.addresses == node.record.addresses:
            node.record = record
            self.version += 1
            return
        self._take_out(bucket, node)
        if fresh is not None and (node.is_bootstrap or self._fits(bucket, fresh)):
            fresh.is_bootstrap = node.is_bootstrap
            self._place(bucket, fresh)
        else:
            self.removed.append(record.node_id)

    def _fits(self, bucket: _Bucket, node: TableNode) -> bool:
        return all(
            self._subnets.get(subnet, 0) < self._limits.table_ip
            and bucket.subnets.get(subnet, 0) < self._limits.bucket_ip
            for subnet in node.subnets
        )

    def _set_seen(self, node: TableNode, is_seen: bool) -> None:
        if node.is_seen is not is_seen:
            node.is_seen = is_seen
            self.version += 1

    def _place(self, bucket: _Bucket, node: TableNode) -> None:
        if node.is_seen:
            bucket.nodes.insert(0, node)
        else:
            bucket.nodes.append(node)
        self.version += 1
        self._nodes[node.record.node_id] = node
        self._by_distance.setdefault(node.distance, []).append(node)
        for subnet in node.subnets:
            self._subnets[subnet] = self._subnets.get(subnet, 0) + 1
            bucket.subnets[subnet] = bucket.subnets.get(subnet, 0) + 1

    def _remove(self, bucket: _Bucket, node: TableNode) -> None:
        self._take_out(bucket, node)
        self.removed.append(node.record.node_id)

    def _take_out(self, bucket: _Bucket, node: TableNode) -> None:
        self.version += 1
        bucket.nodes.remove(node)
        del self._nodes[node.record.node_id]
        self._by_distance[node.distance].remove(node)
        if not self._by_distance[node.distance]:
            del self._by_distance[node.distance]
        for subnet in node.subnets:
            _count_down(self._subnets, subnet)
            _count_down(bucket.subnets, subnet)

    def _bucket(self, number: int) -> _Bucket:
        return self._buckets[bisect_right(self._starts, number) - 1]

    def _may_split(self, bucket: _Bucket) -> bool:
        if bucket.depth >= NODE_ID_BITS - 1:
            return False
        holds_own = bucket.start <= self._own <= bucket.end
        return holds_own or bucket.depth % self._limits.bits_per_hop != 0

    def _split(self, bucket: _Bucket) -> None:
        middle = (bucket.start + bucket.end) // 2
        halves = (
            _Bucket(bucket.start, middle, bucket.depth + 1),
            _Bucket(middle + 1, bucket.end, bucket.depth + 1),
        )
        for node in bucket.nodes:
            half = halves[node.number > middle]
            half.nodes.append(node)
            for subnet in node.subnets:
                half.subnets[subnet] = half.subnets.get(subnet, 0) + 1
        for node in bucket.replacements:
            halves[node.number > middle].replacements.append(node)
        at = self._buckets.index(bucket)
        self._buckets[at : at + 1] = halves
        self._starts[at : at + 1] = [half.start for half in halves]


def is_usable(address: Address) -> bool:
    """Say whether a datagram can be sent to this address and be meant for one node."""
    return address.port > 0 and scope_of(address.ip) not in _UNREACHABLE


def may_relay(sender: Address, address: Address) -> bool:
    """Say whether it makes sense that `sender` names this address to us (or we name it to them).

    Nobody on the Internet knows hosts of our private network, and none but this host our loopback.
    """
    scope = scope_of(address.ip)
    if scope is Scope.PUBLIC:
        return True
    if scope is Scope.LOOPBACK:
        return scope_of(sender.ip) is Scope.LOOPBACK
    return scope_of(sender.ip) is not Scope.PUBLIC


def _subnets(addresses: Iterable[Address]) -> tuple[str, ...]:
    public = [address.ip for address in addresses if scope_of(address.ip) is Scope.PUBLIC]
    return tuple(dict.fromkeys(subnet_key(ip) for ip in public))


def _count_down(counts: dict[str, int], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
