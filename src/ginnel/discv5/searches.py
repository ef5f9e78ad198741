"""Lookups, queries and resolves under way, each a value that says whom to ask next.

The routing table and what is known of nodes belong to the neighbourhood, which passes itself in.

Source: discv5-theory.md, "Lookup"; seed 001.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ginnel.base.types import NodeId
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.enr import Enr
from ginnel.discv5.events import (
    DiscoveryEvent,
    LookupDone,
    QueryDone,
    RequestFailed,
    Resolved,
)
from ginnel.discv5.exchange import Exchange
from ginnel.discv5.lookup import Lookup
from ginnel.discv5.messages import FindNode
from ginnel.discv5.query import Query
from ginnel.discv5.requests import Contact, Failure, Pending, Purpose


class Want(Enum):
    """What a search is for, and so how it ends."""

    LOOKUP = "lookup"  # LookupDone
    QUERY = "query"  # QueryDone
    RESOLVE = "resolve"  # Resolved
    OWN = "own"  # none: it fills the table


class Surroundings(Protocol):
    """What a search needs of the neighbourhood."""

    @property
    def own_record(self) -> Enr:
        """Return the local record."""
        ...

    def nearest(self, target: NodeId, count: int, now: float) -> list[Enr]:
        """Return the nodes to begin with, closest first."""
        ...

    def contact_for(self, record: Enr) -> Contact | None:
        """Return how to reach a node, or None."""
        ...

    def known_record(self, node_id: NodeId) -> Enr | None:
        """Return the newest record we have of a node."""
        ...

    def note_record(self, record: Enr) -> None:
        """Remember a record that a handshake with its node may need."""
        ...

    def on_own_search(self, target: NodeId, found: Sequence[Enr], now: float) -> None:
        """Take the end of a search of our own."""
        ...


@dataclass(slots=True, eq=False)
class _Search:
    value: Lookup | Query
    want: Want
    known: Enr | None = None  # of a resolve: the record we had


class Searches:
    """All searches of one node; more than `lookup_limit` end in RequestFailed."""

    def __init__(
        self,
        config: DiscoveryConfig,
        exchange: Exchange,
        around: Surroundings,
        events: deque[DiscoveryEvent],
    ) -> None:
        self._config = config
        self._exchange = exchange
        self._around = around
        self._events = events
        self._searches: dict[int, _Search] = {}
        self._resolving: dict[int, tuple[NodeId, Enr]] = {}  # the node is asked itself first

    def begin(self, target: NodeId, want: Want, now: float, *, count: int | None = None) -> int:
        """Start a lookup or query; return its number."""
        token = self._exchange.next_token()
        self._begin(token, target, want, now, count=count)
        return token

    def resolve(self, node_id: NodeId, now: float) -> int:
        """Find the newest record of a node: ask it, and if it is silent look it up."""
        token = self._exchange.next_token()
        own = self._around.own_record
        known = self._around.known_record(node_id)
        contact = None if known is None else self._around.contact_for(known)
        if node_id == own.node_id:
            self._events.append(Resolved(token, own))
        elif known is None or contact is None:
            self._begin(token, node_id, Want.RESOLVE, now, known=known)
        elif len(self._resolving) >= self._config.lookup_limit:
            self._refuse(token, node_id, Want.RESOLVE, now)
        else:
            self._resolving[token] = (node_id, known)
            message = FindNode(self._exchange.new_request_id(), (0,))
            self._exchange.submit(contact, message, Purpose.RESOLVE, now, lookup=token)
        return token

    def is_under_way(self, token: int) -> bool:
        """Say whether a lookup or query of this number goes on."""
        return token in self._searches

    def on_named(self, token: int, records: Sequence[Enr]) -> None:
        """Take what an answer says of the node to resolve, even if that node is silent."""
        search = self._searches.get(token)
        if search is not None and search.want is Want.RESOLVE:
            for record in records:
                if record.node_id == search.value.target:
                    search.known = newer(search.known, record)

    def on_records(self, pending: Pending, records: Sequence[Enr], now: float) -> None:
        """Take the verified records of an answer to a request of a search."""
        token = pending.lookup
        if token is None:
            return
        search = self._searches.get(token)
        if pending.purpose is Purpose.RESOLVE:
            node_id, known = self._resolving.pop(token)
            live = [record for record in records if record.node_id == node_id]
            if live:
                self._events.append(Resolved(token, newer(live[0], known)))
            else:
                self._begin(token, node_id, Want.RESOLVE, now, known=known)
        elif search is not None:
            search.value.on_answer(pending.contact.node_id, records)
            self._advance(token, now)

    def on_failure(self, pending: Pending, now: float) -> None:
        """Take a failed request of a search."""
        token = pending.lookup
        if token is None:
            return
        search = self._searches.get(token)
        if pending.purpose is Purpose.RESOLVE:
            node_id, known = self._resolving.pop(token)
            self._begin(token, node_id, Want.RESOLVE, now, known=known)
        elif search is not None:
            search.value.on_failure(pending.contact.node_id)
            self._advance(token, now)

    def advance_all(self, now: float) -> None:
        """Go on with every search: somebody kept one waiting too long."""
        for token in list(self._searches):
            self._advance(token, now)

    def wake_at(self, now: float) -> float | None:
        """Return when `advance_all` is wanted, or None."""
        instants = [search.value.wake_at(now) for search in self._searches.values()]
        return min((at for at in instants if at is not None), default=None)

    def _begin(
        self,
        token: int,
        target: NodeId,
        want: Want,
        now: float,
        *,
        known: Enr | None = None,
        count: int | None = None,
    ) -> None:
        config = self._config
        if len(self._searches) >= config.lookup_limit:
            self._refuse(token, target, want, now)
            return
        count = config.bucket_size if count is None else count
        local = self._around.own_record.node_id
        alpha, distances = config.alpha, config.lookup_distances
        value: Lookup | Query
        if want is Want.QUERY:
            near = self._around.nearest(target, count, now)
            value = Query(target, local, near, count=count, alpha=alpha, distances=distances)
        else:
            near = self._around.nearest(target, count * 2, now)
            value = Lookup(
                target,
                local,
                near,
                count=count,
                alpha=alpha,
                distances=distances,
                patience=config.response_timeout,
            )
        self._searches[token] = _Search(value, want, known)
        self._advance(token, now)

    def _advance(self, token: int, now: float) -> None:
        """Ask whom a search wants asked; end it if it is done."""
        search = self._searches.get(token)
        if search is None:
            return
        value = search.value
        while (ask := value.next(now)) is not None:
            contact = self._around.contact_for(ask.record)
            if contact is None:
                value.on_failure(ask.record.node_id)
                continue
            self._around.note_record(ask.record)
            message = FindNode(self._exchange.new_request_id(), ask.distances)
            self._exchange.submit(contact, message, Purpose.LOOKUP, now, lookup=token)
        if value.is_done(now):
            del self._searches[token]
            self._end(token, search, now)

    def _refuse(self, token: int, target: NodeId, want: Want, now: float) -> None:
        """End a search that is one too many."""
        if want is Want.OWN:
            self._around.on_own_search(target, (), now)
        else:
            self._events.append(RequestFailed(token, Failure.TOO_MANY))

    def _end(self, token: int, search: _Search, now: float) -> None:
        value = search.value
        match search.want:
            case Want.LOOKUP:
                self._events.append(LookupDone(token, value.target, value.result()))
            case Want.QUERY:
                self._events.append(QueryDone(token, value.target, value.result()))
            case Want.RESOLVE:
                found = newer(value.newest(value.target), search.known)
                self._events.append(Resolved(token, found))
            case Want.OWN:
                self._around.on_own_search(value.target, value.result(), now)


def newer(one: Enr | None, other: Enr | None) -> Enr | None:
    """Return the record with the higher seq, the first of equals."""
    if one is None or other is None:
        return one or other
    return other if other.seq > one.seq else one
