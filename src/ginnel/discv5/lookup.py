"""One iterative lookup as a value: whom to ask next, and when it is done.

It asks the nodes closest to its target first, `alpha` at a time, and is done when the `k` closest
that answer have answered. A slow node soon frees its place for another one. In the end some are
asked once more, because an answer holds `k` nodes at most and those far from the target are many:
the farthest of the `k` for their own surroundings, which they know best, the closest one for the
distances that its first answer left out. Where fewer than `k` answered, the closest ones are asked
for all the other distances.

Source: discv5-theory.md, "Lookup"; Kademlia, section 2.3.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from ginnel.base.types import NodeId
from ginnel.discv5.enr import Enr
from ginnel.discv5.keys import NODE_ID_BITS, log_distance

STALLED_AFTER = 1.0  # seconds without answer until another node is asked besides
PATIENCE = 4.0  # seconds a lookup with nothing else to do waits for an answer: a request's timeout
PATIENCE_MARGIN = 0.1  # seconds more, so that the timeout itself is told first
MAX_CANDIDATES = 128  # nodes kept of one lookup; the farthest go first
WIDE_REQUESTS = 3  # nodes asked once more in the end, for other distances
WIDE_ENDS = 2  # of them the farthest wanted ones, at two distances
WIDE_DISTANCES = 16  # distances of such a request


class _State(Enum):
    NEW = 0
    WAITING = 1
    ANSWERED = 2
    FAILED = 3


@dataclass(slots=True, eq=False)
class _Candidate:
    closeness: int
    record: Enr
    state: _State = _State.NEW
    asked_at: float = 0.0
    has_answered: bool = False
    was_widened: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """Send FINDNODE with these distances to this node."""

    record: Enr
    distances: tuple[int, ...]


class Lookup:
    """The state of one lookup.

    Args:
        target: where to.
        local: our own id; never a candidate.
        nodes: the closest nodes known so far.
        count: how many nodes are wanted.
        alpha: requests under way at a time.
        distances: distances of a request.
        patience: seconds after which a request has ended, one way or the other.
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
        patience: float = PATIENCE,
    ) -> None:
        self.target = target
        self._number = int.from_bytes(target, "big")
        self._count = count
        self._alpha = alpha
        self._distances = distances
        self._patience = patience + PATIENCE_MARGIN
        self._stalled_after = min(STALLED_AFTER, patience / 4)
        self._known: dict[NodeId, _Candidate | None] = {local: None}
        self._sorted: list[_Candidate] = []
        self._waiting: dict[NodeId, _Candidate] = {}
        self.add(nodes)

    def add(self, nodes: Iterable[Enr]) -> None:
        """Add candidates; of known ones a newer record is taken, and tried if it moved."""
        for record in nodes:
            if record.node_id in self._known:
                known = self._known[record.node_id]
                if known is not None and record.seq > known.record.seq:
                    moved = record.addresses != known.record.addresses
                    if moved and known.state is _State.FAILED:
                        known.state = _State.NEW
                    known.record = record
                continue
            closeness = int.from_bytes(record.node_id, "big") ^ self._number
            candidate = _Candidate(closeness, record)
            self._known[record.node_id] = candidate
            insort(self._sorted, candidate, key=lambda c: c.closeness)
        while len(self._sorted) > MAX_CANDIDATES and self._sorted[-1].state is _State.NEW:
            self._sorted.pop()

    def next(self, now: float) -> Ask | None:
        """Return whom to ask now, or None; call until None."""
        active = sum(now < c.asked_at + self._stalled_after for c in self._waiting.values())
        if active >= self._alpha:
            return None
        window = self._window(now)
        for candidate in window:
            if candidate.state is _State.NEW:
                return self._ask(candidate, now, self._near(candidate.record.node_id))
        if any(
            now < c.asked_at + self._stalled_after
            for c in self._waiting.values()
            if not c.was_widened
        ):
            return None
        is_full = sum(c.has_answered for c in window) >= self._count
        ends = _ends_of_groups(window[1:])[:WIDE_ENDS] if is_full else []
        for candidate in (ends + window)[:WIDE_REQUESTS]:
            if candidate.has_answered and not candidate.was_widened:
                candidate.was_widened = True
                near = self._near(candidate.record.node_id)
                if not is_full:
                    distances = self._others(near)
                elif candidate in ends:
                    distances = self._around(candidate)
                else:
                    distances = self._between(near, window[-1])
                if distances:
                    return self._ask(candidate, now, distances)
        return None

    def on_answer(self, node_id: NodeId, nodes: Iterable[Enr]) -> None:
        """Take the verified records that a node answered with."""
        candidate = self._known.get(node_id)
        if candidate is not None:
            candidate.state = _State.ANSWERED
            candidate.has_answered = True
            self._waiting.pop(node_id, None)
            self.add(nodes)

    def on_failure(self, node_id: NodeId) -> None:
        """Note that a node did not answer; one that has answered before is found all the same."""
        candidate = self._known.get(node_id)
        if candidate is not None:
            candidate.state = _State.ANSWERED if candidate.has_answered else _State.FAILED
            self._waiting.pop(node_id, None)

    def is_done(self, now: float) -> bool:
        """Say whether nothing is left to ask or to wait for; ask `next` first."""
        return all(now >= c.asked_at + self._patience for c in self._waiting.values())

    def wake_at(self, now: float) -> float | None:
        """Return the next instant after `now` at which a wait becomes too long, or None."""
        instants = [
            at
            for c in self._waiting.values()
            for at in (c.asked_at + self._stalled_after, c.asked_at + self._patience)
            if at > now
        ]
        return min(instants, default=None)

    def newest(self, node_id: NodeId) -> Enr | None:
        """Return the newest record that was found of a node, answered or not, or None."""
        candidate = self._known.get(node_id)
        return None if candidate is None else candidate.record

    def result(self) -> tuple[Enr, ...]:
        """Return the nodes that answered, closest first, at most the wanted number."""
        found = [c.record for c in self._sorted if c.has_answered]
        return tuple(found[: self._count])

    def _window(self, now: float) -> list[_Candidate]:
        """Return the closest candidates that have not failed, as many as are wanted.

        Those that keep us waiting are left out: another one is asked in their place.
        """
        window: list[_Candidate] = []
        for candidate in self._sorted:
            slow = (
                candidate.state is _State.WAITING
                and now >= candidate.asked_at + self._stalled_after
            )
            if candidate.has_answered or (candidate.state is not _State.FAILED and not slow):
                window.append(candidate)
                if len(window) >= self._count:
                    break
        return window

    def _ask(self, candidate: _Candidate, now: float, distances: tuple[int, ...]) -> Ask:
        candidate.state = _State.WAITING
        candidate.asked_at = now
        self._waiting[candidate.record.node_id] = candidate
        return Ask(candidate.record, distances)

    def _near(self, node_id: NodeId) -> tuple[int, ...]:
        return lookup_distances(self.target, node_id, self._distances)

    def _around(self, farthest: _Candidate) -> tuple[int, ...]:
        """Return the distances from a farthest wanted node at which wanted ones may be missing.

        Nodes at its distance differ from the target in the same highest bit; those of them that are
        closer are no farther from it than the target with that bit changed is.
        """
        top = 1 << max(farthest.closeness.bit_length() - 1, 0)
        radius = (farthest.closeness ^ top).bit_length()
        return tuple(range(radius, max(radius - WIDE_DISTANCES, 0), -1))

    def _between(self, near: tuple[int, ...], farthest: _Candidate) -> tuple[int, ...]:
        """Return the distances beyond the near ones as far as the farthest wanted node.

        What is farther from the target than a node is as far from that node as from the target.
        """
        beyond = range(farthest.closeness.bit_length(), near[0], -1)
        return tuple([d for d in beyond if d not in near][:WIDE_DISTANCES])

    def _others(self, near: tuple[int, ...]) -> tuple[int, ...]:
        top = [d for d in range(NODE_ID_BITS, 0, -1) if d not in near]
        return tuple(sorted(top[:WIDE_DISTANCES]))


def lookup_distances(target: NodeId, node_id: NodeId, count: int = 3) -> tuple[int, ...]:
    """Return the distances from a node at which nodes near the target are, likeliest first.

    There are 256 at most.
    At the target itself the node alone is meant: distance 0 is its own record.
    """
    middle = log_distance(target, node_id)
    if middle == 0:
        return (0,)
    distances = [middle]
    step = 1
    while len(distances) < min(count, NODE_ID_BITS):
        for distance in (middle + step, middle - step):
            if 0 < distance <= NODE_ID_BITS and len(distances) < count:
                distances.append(distance)
        step += 1
    return tuple(distances)


def _ends_of_groups(window: Sequence[_Candidate]) -> list[_Candidate]:
    """Return the farthest of the candidates of each distance from the target, farthest first."""
    ends = {candidate.closeness.bit_length(): candidate for candidate in window}
    return [ends[distance] for distance in sorted(ends, reverse=True)]
