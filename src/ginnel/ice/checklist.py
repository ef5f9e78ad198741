"""The checklist: forms pairs, prunes and orders them, and says which is checked next.

Deviation from RFC 8445 section 6.1.4.2: when no pair is waiting, frozen ones are thawed even while
one of their foundation is in progress. With one component freezing saves nothing and only delays.

Source: RFC 8445 sections 6.1.2 and 6.1.4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from ginnel.base.addresses import is_public
from ginnel.base.types import Address
from ginnel.ice.candidate import Candidate, CandidateKind
from ginnel.ice.pair import CandidatePair, PairState, pair_priority

MAX_PAIRS = 100  # section 6.1.2.5


class Checklist:
    """The pairs of one agent, best first, and the queue of triggered checks."""

    def __init__(self, *, controlling: bool) -> None:
        self.controlling = controlling
        self.past: list[CandidatePair] = []  # checked no more since a pair was selected
        self._pairs: list[CandidatePair] = []
        self._triggered: deque[CandidatePair] = deque()

    def __iter__(self) -> Iterator[CandidatePair]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def find(self, base: Address, remote: Address) -> CandidatePair | None:
        """Return the pair of this base and this remote address, or None."""
        for pair in self._pairs:
            if pair.remote.address == remote and pair.local.base == base:
                return pair
        return None

    def add(self, local: Candidate, remote: Candidate) -> CandidatePair | None:
        """Add a pair, or return the one there is; None if it can't work or was pruned."""
        if local.base.is_ipv6 != remote.address.is_ipv6 or _is_vain(local, remote):
            return None
        pair = self.find(local.base, remote.address)
        if pair is not None:
            return pair
        pair = CandidatePair(local, remote)
        same = [p for p in self._pairs if p.foundation == pair.foundation]
        if not any(p.state in (PairState.WAITING, PairState.IN_PROGRESS) for p in same):
            pair.state = PairState.WAITING
        self._pairs.append(pair)
        self._order()
        while len(self._pairs) > MAX_PAIRS:
            worst = next((p for p in reversed(self._pairs) if not p.is_valid), self._pairs[-1])
            self._pairs.remove(worst)
        return pair if pair in self._pairs else None

    def set_controlling(self, controlling: bool) -> None:
        """Take the other role and order anew (section 7.3.1.1)."""
        self.controlling = controlling
        self._order()

    def replace_remote(self, old: Candidate, new: Candidate) -> None:
        """Put a signalled candidate in the place of the peer-reflexive one at its address."""
        for pair in self._pairs:
            if pair.remote is old:
                pair.remote = new
        self._order()

    def trigger(self, pair: CandidatePair) -> None:
        """Queue a triggered check (section 7.3.1.4); a pair is queued once."""
        if pair not in self._triggered:
            self._triggered.append(pair)
        if not pair.is_valid:
            pair.state = PairState.WAITING

    def thaw(self, foundation: tuple[str, str]) -> None:
        """A check succeeded: let frozen pairs of its foundation go (section 7.2.5.3.3)."""
        for pair in self._pairs:
            if pair.state is PairState.FROZEN and pair.foundation == foundation:
                pair.state = PairState.WAITING

    def next_check(self) -> CandidatePair | None:
        """Return the pair to check now: triggered ones first, then the best that waits."""
        while self._triggered:
            pair = self._triggered.popleft()
            if pair in self._pairs and pair.state is PairState.WAITING:
                return pair
        for state in (PairState.WAITING, PairState.FROZEN):
            for pair in self._pairs:
                if pair.state is state:
                    return pair
        return None

    def has_checks(self) -> bool:
        """Say whether `next_check` would return a pair."""
        return any(p.state in (PairState.WAITING, PairState.FROZEN) for p in self._pairs)

    def count_running(self) -> int:
        """Return how many pairs wait or are in progress (for the RTO, section 14.3)."""
        running = (PairState.WAITING, PairState.IN_PROGRESS)
        return sum(1 for p in self._pairs if p.state in running)

    def stop_all_but(self, selected: CandidatePair) -> None:
        """A pair was selected: the others are checked no more (section 8.1.1)."""
        self._triggered.clear()
        kept = [p for p in self._pairs if p is selected or p.is_valid]
        self.past = [p for p in self._pairs if p not in kept]
        self._pairs = kept
        for pair in self.past:
            if pair.state is not PairState.FAILED:
                asked = pair.first_sent_at is not None
                pair.failure = "no answer before a path was chosen" if asked else "not needed"
                pair.state = PairState.FAILED

    def _order(self) -> None:
        for pair in self._pairs:
            mine, theirs = pair.local.priority, pair.remote.priority
            both = (mine, theirs) if self.controlling else (theirs, mine)
            pair.priority = pair_priority(*both)
        self._pairs.sort(key=lambda p: -p.priority)


def _is_vain(local: Candidate, remote: Candidate) -> bool:
    """Say whether a public relay is to reach a private address that nobody was seen at through it.

    It could not, and some end the whole allocation for it (coturn 4.6 without a route).
    """
    is_seen = remote.kind is CandidateKind.PRFLX
    is_public_relay = local.is_relayed and is_public(local.base.ip)
    return is_public_relay and not is_seen and not is_public(remote.address.ip)
