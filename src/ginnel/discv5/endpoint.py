"""How others see us: votes on our own address, counted once for each /24 (or /48) of observers.

Observers at public addresses decide. Others don't vote on a public address; where there are only
such, they decide among themselves (a network without Internet). One vote suffices for a candidate;
observers that see different ports mean a symmetric NAT.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from ginnel.base.addresses import Scope, is_public, scope_of, subnet_key
from ginnel.base.limits import BoundedLru
from ginnel.base.types import Address

MAX_VOTERS = 64  # observers whose view is kept
SAME_TIME = 120.0  # seconds: older views that differ are of a mapping that is gone
_NO_ADDRESS = (Scope.LOOPBACK, Scope.MULTICAST, Scope.UNSPECIFIED, Scope.LINK_LOCAL)


@dataclass(frozen=True, slots=True)
class View:
    """What observers agree on for one IP version."""

    address: Address | None
    symmetric: bool  # observers see different addresses or ports
    observers: int
    has_majority: bool = field(default=False, compare=False)  # more than half see `address`


@dataclass(frozen=True, slots=True)
class _Vote:
    address: Address
    subnet: str
    at: float


class EndpointVotes:
    """The votes of one IP version."""

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._votes: dict[bool, BoundedLru[str, _Vote]] = {
            True: BoundedLru(MAX_VOTERS),
            False: BoundedLru(MAX_VOTERS),
        }
        self._doubted_at = float("-inf")
        self.view = View(None, False, 0)

    def doubt(self, now: float) -> None:
        """Let votes from before now give way to the first one that tells a new address."""
        self._doubted_at = now

    def vote(self, observer: Address, seen: Address, now: float) -> bool:
        """Take an observer's view of us; return whether the common view changed."""
        public = is_public(observer.ip)
        if not _may_vote(observer, seen, public):
            return False
        # on a private network each host observes for itself: it has no more than one /24
        subnet = subnet_key(observer.ip) if public else observer.ip
        self._votes[public].put(observer.ip, _Vote(seen, subnet, now))
        return self.expire(now)

    def expire(self, now: float) -> bool:
        """Drop old votes; return whether the common view changed."""
        votes = self._fresh(True, now) or self._fresh(False, now)
        believed = self._believed(votes)
        view = _count(believed)
        if self.view.symmetric and view.observers < 2 and len(believed) < len(votes):
            view = replace(view, symmetric=True)  # it takes two to see that it isn't any more
        changed = view != self.view
        self.view = view
        return changed

    def has_voted(self, observer: Address, now: float) -> bool:
        """Say whether the observer has a vote that is not about to be too old."""
        vote = self._votes[is_public(observer.ip)].peek(observer.ip)
        return vote is not None and now - vote.at < self._lifetime / 2

    def next_at(self) -> float | None:
        """Return when the oldest vote ends, or None."""
        oldest = [vote.at for box in self._votes.values() if (vote := box.oldest()) is not None]
        return min(oldest) + self._lifetime if oldest else None

    def _believed(self, votes: list[_Vote]) -> list[_Vote]:
        """Leave out votes from before a doubt if one from after it tells an address unknown then.

        With a symmetric NAT each observer sees its own port: known ones, as long as nothing moved.
        """
        before = {vote.address for vote in votes if vote.at < self._doubted_at}
        after = [vote for vote in votes if vote.at >= self._doubted_at]
        return after if any(vote.address not in before for vote in after) else votes

    def _fresh(self, public: bool, now: float) -> list[_Vote]:
        box = self._votes[public]
        votes = []
        for observer in box:
            vote = box.peek(observer)
            if vote is not None and now < vote.at + self._lifetime:
                votes.append(vote)
            else:
                box.pop(observer)
        return votes


def _may_vote(observer: Address, seen: Address, public: bool) -> bool:
    if seen.port == 0 or seen.is_ipv6 != observer.is_ipv6:
        return False
    scope = scope_of(seen.ip)
    if scope is Scope.LOOPBACK:
        return scope_of(observer.ip) is Scope.LOOPBACK
    if scope in _NO_ADDRESS:
        return False
    return public == (scope is Scope.PUBLIC)


def _count(votes: list[_Vote]) -> View:
    if not votes:
        return View(None, False, 0)
    newest = max(votes, key=lambda vote: vote.at)
    current = [
        vote for vote in votes if vote.address == newest.address or newest.at - vote.at <= SAME_TIME
    ]
    ballots = dict.fromkeys((vote.address, vote.subnet) for vote in current)
    counts = Counter(address for address, _ in ballots)
    latest = {vote.address: vote.at for vote in sorted(current, key=lambda vote: vote.at)}
    address = max(counts, key=lambda a: (counts[a], latest[a]))
    observers = len(dict.fromkeys(vote.subnet for vote in current))
    return View(address, len(counts) > 1, observers, counts[address] * 2 > len(ballots))
