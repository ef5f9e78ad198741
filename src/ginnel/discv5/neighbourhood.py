"""The nodes around us: the routing table kept alive, and the lookups under way.

Shares the request exchange and the event queue of the core (`protocol.py`), which brings it the
answers and failures.

Source: discv5-theory.md, "Node Table", "Lookup".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum, auto

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import TimerTable
from ginnel.base.limits import BoundedLru
from ginnel.base.types import Address, Deadline, NodeId
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.enr import Enr
from ginnel.discv5.events import DiscoveryEvent, LookupDone, NodeAdded, NodeRemoved
from ginnel.discv5.exchange import Exchange
from ginnel.discv5.lookup import Lookup
from ginnel.discv5.messages import FindNode, Ping, Pong
from ginnel.discv5.requests import Contact, Failure, Pending, Purpose
from ginnel.discv5.table import Added, RoutingTable, TableLimits

MAX_KNOWN_RECORDS = 1024  # records of nodes met that need not be in the table
MAX_SILENT_NODES = 512  # nodes remembered as silent
SILENT_FOR = 30.0  # seconds a silent node is left out of lookups
MAX_MET_NODES = 64  # nodes that wait for their first PING


class _Timer(Enum):
    REVALIDATE = auto()
    REFRESH = auto()
    BOOTSTRAP = auto()
    MET = auto()
    LOOKUP = auto()


class Neighbourhood:
    """Table, liveness and lookups of one node."""

    def __init__(
        self,
        node_id: NodeId,
        config: DiscoveryConfig,
        exchange: Exchange,
        *,
        bootstrap: Sequence[Enr],
        events: deque[DiscoveryEvent],
        random_bytes: RandomBytes,
        rng: Rng,
        now: float,
    ) -> None:
        self.node_id = node_id
        self._config = config
        self._exchange = exchange
        self._events = events
        self._random_bytes = random_bytes
        self._rng = rng
        self._bootstrap = tuple(bootstrap)
        self._bootstrap_wait = config.bootstrap_retry
        self._refresh_wait = config.refresh_first
        limits = TableLimits(
            config.bucket_size,
            config.replacement_limit,
            config.bits_per_hop,
            config.table_ip_limit,
            config.bucket_ip_limit,
        )
        self.table = RoutingTable(node_id, limits)
        self._met: BoundedLru[NodeId, Enr] = BoundedLru(MAX_KNOWN_RECORDS)
        self._silent_since: BoundedLru[NodeId, float] = BoundedLru(MAX_SILENT_NODES)
        self._to_ping: dict[NodeId, tuple[float, Contact]] = {}
        self._lookups: dict[int, tuple[Lookup, bool]] = {}
        self._timers: TimerTable[_Timer] = TimerTable()
        self._last_lookup_at = now
        self._is_populating = False

    def start(self, now: float) -> None:
        """Take the bootstrap nodes, populate the table by lookups, and keep it alive from now."""
        self._timers.set(_Timer.REFRESH, now + self._refresh_wait)
        self._timers.set(_Timer.REVALIDATE, now + self._rng.uniform(0, self._config.revalidate_max))
        self._join(now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        for timer in self._timers.expire(now):
            self._on_timer(timer, now)

    def deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        return self._timers.deadline()

    # nodes

    def known_record(self, node_id: NodeId) -> Enr | None:
        """Return the newest record we have of a node, in the table or not."""
        node = self.table.get(node_id)
        met = self._met.peek(node_id)
        if node is None or (met is not None and met.seq > node.record.seq):
            return met
        return node.record

    def offer(self, record: Enr, *, seen: bool = False, bootstrap: bool = False) -> Added:
        """Offer a node to the table."""
        added = self.table.add(record, seen=seen, bootstrap=bootstrap)
        if added is Added.NEW:
            self._events.append(NodeAdded(record))
        return added

    def on_met(self, record: Enr, source: Address, now: float) -> None:
        """Note a node that opened a session with us; if its record is true it is pinged soon."""
        node_id = record.node_id
        self._met.put(node_id, record)
        self._silent_since.pop(node_id)
        if record.address(source.is_ipv6) != source:
            return
        self.offer(record)
        if node_id not in self._to_ping and len(self._to_ping) < MAX_MET_NODES:
            at = now + self._rng.uniform(0, self._config.met_ping_max)
            self._to_ping[node_id] = (at, Contact(node_id, source, record.public_key))
            self._timers.set_earlier(_Timer.MET, at)

    def on_alive(self, contact: Contact) -> None:
        """Note that a node answered: it is alive and where we thought."""
        self._silent_since.pop(contact.node_id)
        record = self.known_record(contact.node_id)
        if record is not None and record.address(contact.address.is_ipv6) == contact.address:
            self.offer(record, seen=True)

    def on_seq(self, contact: Contact, message: Ping | Pong, now: float) -> None:
        """Fetch the record of a node of the table that tells of a newer one."""
        node = self.table.get(contact.node_id)
        if node is not None and message.enr_seq > node.record.seq:
            request = FindNode(self._exchange.new_request_id(), (0,))
            self._exchange.submit(contact, request, Purpose.UPDATE, now)

    def on_records(self, pending: Pending, records: Sequence[Enr], now: float) -> None:
        """Take the verified records of an answer to a request of ours."""
        awake = [record for record in records if not self._is_silent(record.node_id, now)]
        for record in awake:
            self.offer(record)
        entry = None if pending.lookup is None else self._lookups.get(pending.lookup)
        if entry is not None and pending.lookup is not None:
            entry[0].on_answer(pending.contact.node_id, awake)
            self._advance(pending.lookup, now)

    def on_failure(self, pending: Pending, reason: Failure, now: float, *, heard: bool) -> None:
        """Take a failed request; where nobody at all is heard it may be our own link."""
        node_id = pending.contact.node_id
        if reason is Failure.WRONG_ANSWER or (reason is Failure.TIMEOUT and heard):
            self._silent_since.put(node_id, now)
            self._replace(node_id)
        elif reason is Failure.TIMEOUT:
            self.table.mark_unseen(node_id)
        entry = None if pending.lookup is None else self._lookups.get(pending.lookup)
        if entry is not None and pending.lookup is not None:
            entry[0].on_failure(node_id)
            self._advance(pending.lookup, now)

    def _replace(self, node_id: NodeId) -> None:
        if self.table.get(node_id) is None:
            return
        replacement = self.table.replace(node_id)
        if self.table.get(node_id) is None:
            self._events.append(NodeRemoved(node_id))
        if replacement is not None:
            self._events.append(NodeAdded(replacement))

    def _is_silent(self, node_id: NodeId, now: float) -> bool:
        since = self._silent_since.peek(node_id)
        return since is not None and now < since + SILENT_FOR

    # lookups

    def look_up(self, target: NodeId, now: float, *, wanted: bool) -> int:
        """Start a lookup; only a wanted one ends in an event."""
        token = self._exchange.next_token()
        if len(self._lookups) >= self._config.lookup_limit:
            if wanted:
                self._events.append(LookupDone(token, target, ()))
            return token
        near = self.table.neighbours(target, self._config.bucket_size * 2)
        awake = [record for record in near if not self._is_silent(record.node_id, now)]
        lookup = Lookup(
            target,
            self.node_id,
            awake or near,
            count=self._config.bucket_size,
            alpha=self._config.alpha,
            distances=self._config.lookup_distances,
        )
        self._lookups[token] = (lookup, wanted)
        self._last_lookup_at = now
        self._advance(token, now)
        return token

    def _advance(self, token: int, now: float) -> None:
        """Ask whom a lookup wants asked; end it if it is done."""
        entry = self._lookups.get(token)
        if entry is None:
            return
        lookup, wanted = entry
        while (ask := lookup.next(now)) is not None:
            contact = Contact.from_record(ask.record) or Contact.from_record(ask.record, True)
            if contact is None:
                lookup.on_failure(ask.record.node_id)
                continue
            known = self.known_record(ask.record.node_id)
            if known is None or known.seq < ask.record.seq:
                self._met.put(ask.record.node_id, ask.record)
            message = FindNode(self._exchange.new_request_id(), ask.distances)
            self._exchange.submit(contact, message, Purpose.LOOKUP, now, lookup=token)
        if lookup.is_done(now):
            del self._lookups[token]
            if wanted:
                self._events.append(LookupDone(token, lookup.target, lookup.result()))
            else:
                self._on_populated(lookup, now)
        elif (at := lookup.wake_at(now)) is not None:
            self._timers.set_earlier(_Timer.LOOKUP, at)

    def _on_populated(self, lookup: Lookup, now: float) -> None:
        """Go on after a lookup of our own: one at random after the one for ourselves."""
        if not self._is_populating or lookup.target != self.node_id:
            return
        self._is_populating = False
        if lookup.result():
            self._bootstrap_wait = self._config.bootstrap_retry
            self.look_up(NodeId(self._random_bytes(32)), now, wanted=False)
        elif self._bootstrap:
            self._timers.set(_Timer.BOOTSTRAP, now + self._bootstrap_wait)
            longer = self._bootstrap_wait * 2
            self._bootstrap_wait = min(longer, self._config.bootstrap_retry_max)

    def _join(self, now: float) -> None:
        for record in self._bootstrap:
            self.offer(record, bootstrap=True)
        if not self._is_populating:
            self._is_populating = True
            self.look_up(self.node_id, now, wanted=False)

    # timers

    def _on_timer(self, timer: _Timer, now: float) -> None:
        match timer:
            case _Timer.LOOKUP:
                for token in list(self._lookups):
                    self._advance(token, now)
            case _Timer.REVALIDATE:
                at = now + self._rng.uniform(0, self._config.revalidate_max)
                self._timers.set(_Timer.REVALIDATE, at)
                self._revalidate(now)
            case _Timer.REFRESH:
                self._refresh(now)
            case _Timer.BOOTSTRAP:
                self._join(now)
            case _Timer.MET:
                self._ping_met(now)

    def _refresh(self, now: float) -> None:
        """Look up again: for ourselves while we know few nodes, then at random if nothing ran."""
        interval = self._config.refresh_interval
        due = self._last_lookup_at + interval
        if len(self.table) < self._config.bucket_size:
            self.look_up(self.node_id, now, wanted=False)
            self._refresh_wait = min(self._refresh_wait * 2, interval)
            due = now + self._refresh_wait
        elif now >= due:
            self.look_up(NodeId(self._random_bytes(32)), now, wanted=False)
            due = now + interval
        self._timers.set(_Timer.REFRESH, due)

    def _revalidate(self, now: float) -> None:
        record = self.table.node_to_revalidate(self._rng)
        if record is not None:
            contact = Contact.from_record(record) or Contact.from_record(record, True)
            if contact is not None:
                self._exchange.submit(contact, self._exchange.new_ping(), Purpose.REVALIDATE, now)
        lonely = not any(node.is_seen for node in self.table.nodes())
        if lonely and self._bootstrap and self._timers.get(_Timer.BOOTSTRAP) is None:
            self._timers.set(_Timer.BOOTSTRAP, now + self._bootstrap_wait)

    def _ping_met(self, now: float) -> None:
        for node_id, (at, contact) in list(self._to_ping.items()):
            if at <= now:
                del self._to_ping[node_id]
                self._exchange.submit(contact, self._exchange.new_ping(), Purpose.REVALIDATE, now)
            else:
                self._timers.set_earlier(_Timer.MET, at)
