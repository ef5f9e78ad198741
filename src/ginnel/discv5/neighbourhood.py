"""The nodes around us: the routing table filled and kept alive.

Shares the request exchange and the event queue of the core (`protocol.py`), which brings it the
answers and failures; `searches.py` runs the lookups.

Source: discv5-theory.md, "Node Table", "Lookup".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import TimerTable
from ginnel.base.limits import BoundedLru
from ginnel.base.types import Address, Deadline, NodeId
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.enr import Enr
from ginnel.discv5.events import (
    DiscoveryEvent,
    NodeAdded,
    NodeRemoved,
    PopulateDone,
    RequestFailed,
    Revalidated,
)
from ginnel.discv5.exchange import Exchange
from ginnel.discv5.guard import Guard
from ginnel.discv5.messages import FindNode
from ginnel.discv5.requests import Contact, Failure, Pending, Purpose
from ginnel.discv5.searches import Searches, Want
from ginnel.discv5.session import SessionKey
from ginnel.discv5.table import Added, RoutingTable, TableLimits, may_relay

MAX_KNOWN_RECORDS = 1024  # records of nodes met that need not be in the table
MAX_SILENT_NODES = 512  # nodes remembered as silent, each at one address
SILENT_FOR = 30.0  # seconds a silent node is left out of lookups while it tells no other address
HEARD_GAP = 60.0  # seconds between two offers of a node that asks us but has no place in the table
MAX_MET_NODES = 64  # nodes that wait for their first PING


class _Timer(Enum):
    REVALIDATE = auto()
    REFRESH = auto()
    BOOTSTRAP = auto()
    MET = auto()
    LOOKUP = auto()


class Neighbourhood:
    """Table, liveness and searches of one node.

    Args:
        own_record: returns the local record.
        bootstrap: nodes to begin with; they are never removed.
        saved: nodes of an earlier run, to begin with as well.
    """

    def __init__(
        self,
        node_id: NodeId,
        config: DiscoveryConfig,
        exchange: Exchange,
        guard: Guard,
        *,
        own_record: Callable[[], Enr],
        bootstrap: Sequence[Enr],
        saved: Sequence[Enr],
        events: deque[DiscoveryEvent],
        random_bytes: RandomBytes,
        rng: Rng,
        now: float,
    ) -> None:
        self.node_id = node_id
        self._config = config
        self._exchange = exchange
        self._guard = guard
        self._own_record = own_record
        self._events = events
        self._random_bytes = random_bytes
        self._rng = rng
        self.bootstrap = tuple(bootstrap)
        self._saved = tuple(saved)
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
        self._fetched_at: BoundedLru[NodeId, float] = BoundedLru(MAX_KNOWN_RECORDS)
        self._heard_at: BoundedLru[NodeId, float] = BoundedLru(MAX_SILENT_NODES)
        self._silent_since: BoundedLru[SessionKey, float] = BoundedLru(MAX_SILENT_NODES)
        self._to_ping: dict[NodeId, tuple[float, Contact]] = {}
        self.searches = Searches(config, exchange, self, events)
        self._is_started = False
        self._timers: TimerTable[_Timer] = TimerTable()
        self._last_lookup_at = now
        self._populating: NodeId | None = None  # what is looked up for it
        self._populates: list[int] = []  # callers' that end with it

    def start(self, now: float) -> None:
        """Seed the table, populate it by lookups, and keep it alive from now; once is enough."""
        if self._is_started:
            return
        self._is_started = True
        self._timers.set(_Timer.REFRESH, now + self._refresh_wait)
        self._timers.set(_Timer.REVALIDATE, now + self._rng.uniform(0, self._config.revalidate_max))
        self._join(now)

    def seed(self) -> int:
        """Offer the bootstrap nodes and the saved ones to the table; return how many are new."""
        new = [self.offer(record, bootstrap=True) for record in self.bootstrap]
        new += [self.offer(record) for record in self._saved]
        return new.count(Added.NEW)

    def populate(self, now: float) -> None:
        """Look up ourselves, then a random target, unless that is under way."""
        if self._populating is None:
            self._populating = self.node_id
            self.search(self.node_id, Want.OWN, now)

    def populate_for(self, now: float) -> int:
        """Populate; it ends in PopulateDone with the returned number."""
        number = self._exchange.next_token()
        self._populates.append(number)
        self.populate(now)
        return number

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

    @property
    def own_record(self) -> Enr:
        """The local record."""
        return self._own_record()

    def note_record(self, record: Enr) -> None:
        """Remember a record that a handshake with its node may need."""
        known = self.known_record(record.node_id)
        if known is None or known.seq < record.seq:
            self._met.put(record.node_id, record)

    def contact_for(self, record: Enr) -> Contact | None:
        """Return how to reach a node over the IP versions that we have; None: not at all.

        Where it has both, the version of an open session comes first, and one that was silent last.
        """
        versions = self._config.ip_versions
        found = [Contact.from_record(record, version == 6) for version in versions]
        contacts = [contact for contact in found if contact is not None]
        for contact in contacts[1:]:
            is_open = self._exchange.has_session(contact)
            if is_open and not self._exchange.has_session(contacts[0]):
                return contact
            if contacts[0].key in self._silent_since and contact.key not in self._silent_since:
                return contact
        return contacts[0] if contacts else None

    def drop_banned(self, node_id: NodeId) -> None:
        """Take a node that was banned out of the table."""
        self._met.pop(node_id)
        self._to_ping.pop(node_id, None)
        self._replace(node_id)

    def offer(self, record: Enr, *, seen: bool = False, bootstrap: bool = False) -> Added:
        """Offer a node to the table; a new one that we have no IP version for is refused."""
        if self.table.get(record.node_id) is None and self.contact_for(record) is None:
            return Added.REFUSED
        added = self.table.add(record, seen=seen, bootstrap=bootstrap)
        self._tell_removed()
        if added is Added.NEW:
            self._events.append(NodeAdded(record))
        return added

    def on_met(self, record: Enr, source: Address, now: float) -> None:
        """Note a node that opened a session with us; if its record is true it is pinged soon.

        A record that nobody at its source could know to be true is not kept: whoever asks for the
        node later would be sent to hosts of our private network.
        """
        if not all(may_relay(source, address) for address in record.addresses):
            return
        node_id = record.node_id
        self._met.put(node_id, record)
        self._silent_since.pop((node_id, source))
        if record.address(source.is_ipv6) != source:
            return
        self.offer(record)
        if node_id not in self._to_ping and len(self._to_ping) < MAX_MET_NODES:
            at = now + self._rng.uniform(0, self._config.met_ping_max)
            self._to_ping[node_id] = (at, Contact(node_id, source, record.public_key))
            self._timers.set_earlier(_Timer.MET, at)

    def on_heard(self, record: Enr, source: Address, now: float) -> None:
        """Note that a node asked us inside a session: one that had left the table may be back.

        Sessions outlive a node's place in the table, so no handshake would tell of it.
        """
        if self.table.get(record.node_id) is not None:
            return
        heard_at = self._heard_at.get(record.node_id)
        if heard_at is None or now >= heard_at + HEARD_GAP:
            self._heard_at.put(record.node_id, now)
            self.on_met(self.known_record(record.node_id) or record, source, now)

    def on_alive(self, contact: Contact) -> None:
        """Note that a node answered: it is alive and where we thought."""
        self._silent_since.pop(contact.key)
        record = self.known_record(contact.node_id)
        if record is not None and record.address(contact.address.is_ipv6) == contact.address:
            self.offer(record, seen=True)

    def is_outdated(self, node_id: NodeId, enr_seq: int) -> bool:
        """Say whether the table's record of a node is older than what the node tells of."""
        node = self.table.get(node_id)
        return node is not None and enr_seq > node.record.seq

    def fetch_record(self, contact: Contact, now: float, *, check: int | None = None) -> None:
        """Ask a node for its own record; a caller's check ends with it.

        Without one a node is asked once at a time: it may tell a higher seq than it has.
        """
        if check is None:
            asked_at = self._fetched_at.get(contact.node_id)
            if asked_at is not None and now < asked_at + self._config.response_timeout:
                return
            self._fetched_at.put(contact.node_id, now)
        request = FindNode(self._exchange.new_request_id(), (0,))
        self._exchange.submit(contact, request, Purpose.UPDATE, now, lookup=check)

    def on_pong(self, pending: Pending, enr_seq: int, now: float) -> None:
        """Take the seq that an answered PING told; a check ends here or with the record."""
        check = pending.token if pending.purpose is Purpose.CHECK else None
        if self.is_outdated(pending.contact.node_id, enr_seq):
            self.fetch_record(pending.contact, now, check=check)
        elif check is not None:
            self._events.append(Revalidated(check, True))

    def on_records(self, pending: Pending, records: Sequence[Enr], now: float) -> None:
        """Take the verified records of an answer to a request of ours."""
        awake = [record for record in records if not self._is_unwanted(record, now)]
        for record in awake:
            self.offer(record)
            if record.node_id == pending.contact.node_id:
                self.on_alive(pending.contact)  # it answered from where its new record says it is
        if pending.purpose is Purpose.UPDATE and pending.lookup is not None:
            self._events.append(Revalidated(pending.lookup, True))
        elif pending.lookup is not None:
            self.searches.on_named(pending.lookup, records)
            self.searches.on_records(pending, awake, now)
            self._arm_searches(now)

    def on_failure(self, pending: Pending, reason: Failure, now: float, *, heard: bool) -> None:
        """Take a failed request; where nobody at all answers it may be our own link.

        One that timed out may go on by another IP version; else that is told.
        """
        other = self._other_way(pending) if reason is Failure.TIMEOUT else None
        if other is not None:
            self._silent_since.put(pending.contact.key, now)
            if pending.purpose is not Purpose.CARRIER:  # what it was for goes on and tells more
                self._exchange.submit_again(pending, other, now)
            return
        node_id = pending.contact.node_id
        if reason is Failure.WRONG_ANSWER or (reason is Failure.TIMEOUT and heard):
            self._silent_since.put(pending.contact.key, now)
            self._replace(node_id)
        elif reason is Failure.TIMEOUT:
            self.table.mark_unseen(node_id)
        self._tell_failed(pending, reason, now)

    def _tell_failed(self, pending: Pending, reason: Failure, now: float) -> None:
        is_check = pending.purpose is Purpose.CHECK
        number = pending.token if is_check else pending.lookup
        if pending.purpose is Purpose.CALLER:
            self._events.append(RequestFailed(pending.token, reason))
        elif number is not None and (is_check or pending.purpose is Purpose.UPDATE):
            is_told = reason in (Failure.TIMEOUT, Failure.WRONG_ANSWER)
            end = Revalidated(number, False) if is_told else RequestFailed(number, reason)
            self._events.append(end)
        elif number is not None:
            self.searches.on_failure(pending, now)
            self._arm_searches(now)

    def _other_way(self, pending: Pending) -> Contact | None:
        """Return the node over its other IP version, or None; once: after that a request failed."""
        record = self.known_record(pending.contact.node_id)
        is_ipv6 = not pending.contact.address.is_ipv6
        if pending.is_second or record is None:
            return None
        if (6 if is_ipv6 else 4) not in self._config.ip_versions:
            return None
        return Contact.from_record(record, is_ipv6)

    def _replace(self, node_id: NodeId) -> None:
        if self.table.get(node_id) is None:
            return
        replacement = self.table.replace(node_id)
        self._tell_removed()
        if replacement is not None:
            self._events.append(NodeAdded(replacement))

    def _tell_removed(self) -> None:
        while self.table.removed:
            self._events.append(NodeRemoved(self.table.removed.popleft()))

    def _is_unwanted(self, record: Enr, now: float) -> bool:
        return self._is_silent(record, now) or self._guard.is_banned(record.node_id, now)

    def _is_silent(self, record: Enr, now: float) -> bool:
        if not self._silent_since:
            return False
        contact = self.contact_for(record)
        since = None if contact is None else self._silent_since.peek(contact.key)
        return since is not None and now < since + SILENT_FOR

    # searches

    def search(self, target: NodeId, want: Want, now: float, *, count: int | None = None) -> int:
        """Start a lookup or query; return its number."""
        self._last_lookup_at = now
        token = self.searches.begin(target, want, now, count=count)
        self._arm_searches(now)
        return token

    def resolve(self, node_id: NodeId, now: float) -> int:
        """Find the newest record of a node; return the resolve's number."""
        token = self.searches.resolve(node_id, now)
        if self.searches.is_under_way(token):
            self._last_lookup_at = now
        self._arm_searches(now)
        return token

    def revalidate(self, record: Enr, now: float, purpose: Purpose = Purpose.REVALIDATE) -> int:
        """PING a node: it is marked as seen, or replaced; return the request's number."""
        contact = self.contact_for(record)
        if contact is not None:
            ping = self._exchange.new_ping()
            return self._exchange.submit(contact, ping, purpose, now).token
        number = self._exchange.next_token()
        if purpose is Purpose.CHECK:
            self._events.append(RequestFailed(number, Failure.UNREACHABLE))
        return number

    def nearest(self, target: NodeId, count: int, now: float) -> list[Enr]:
        """Return the nodes of the table closest to the target, without silent ones if possible."""
        near = self.table.neighbours(target, count)
        return [record for record in near if not self._is_silent(record, now)] or near

    def on_own_search(self, target: NodeId, found: Sequence[Enr], now: float) -> None:
        """Go on after a lookup of our own: one at random after the one for ourselves."""
        if target != self._populating:
            return
        is_first = target == self.node_id
        if is_first and found:
            self._bootstrap_wait = self._config.bootstrap_retry
            self._populating = NodeId(self._random_bytes(32))
            self.search(self._populating, Want.OWN, now)
            return
        self._populating = None
        self._events.extend(PopulateDone(number, len(self.table)) for number in self._populates)
        self._populates.clear()
        if is_first and self.bootstrap and self._is_started:
            self._timers.set(_Timer.BOOTSTRAP, now + self._bootstrap_wait)
            longer = self._bootstrap_wait * 2
            self._bootstrap_wait = min(longer, self._config.bootstrap_retry_max)

    def _arm_searches(self, now: float) -> None:
        at = self.searches.wake_at(now)
        if at is not None:
            self._timers.set_earlier(_Timer.LOOKUP, at)

    def _join(self, now: float) -> None:
        self.seed()
        self.populate(now)

    # timers

    def _on_timer(self, timer: _Timer, now: float) -> None:
        match timer:
            case _Timer.LOOKUP:
                self.searches.advance_all(now)
                self._arm_searches(now)
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
        """Look up again: at random if nothing ran for the interval.

        While few nodes are known also for ourselves, in waits that double up to the interval: nodes
        that start together find each other so.
        """
        interval = self._config.refresh_interval
        due = self._last_lookup_at + interval
        if self._refresh_wait < interval and len(self.table) < self._config.bucket_size:
            self.search(self.node_id, Want.OWN, now)
            self._refresh_wait = min(self._refresh_wait * 2, interval)
            due = now + self._refresh_wait
        elif now >= due:
            self.search(NodeId(self._random_bytes(32)), Want.OWN, now)
            due = now + interval
        self._timers.set(_Timer.REFRESH, due)

    def _revalidate(self, now: float) -> None:
        """PING a node, and with one in doubt another one: that answers if our own link works."""
        record = self.table.node_to_revalidate(self._rng)
        if record is not None and self.contact_for(record) is None:
            self._replace(record.node_id)  # its newest record has no address for us any more
        elif record is not None:
            self.revalidate(record, now)
            node_id = record.node_id
            node = self.table.get(node_id)
            if node is not None and node.is_doubted:
                others = self.table.random_nodes(1, self._rng, lambda one: one.node_id != node_id)
                for other in others:
                    self.revalidate(other, now)
        lonely = not any(node.is_seen for node in self.table.nodes())
        if lonely and self.bootstrap and self._timers.get(_Timer.BOOTSTRAP) is None:
            self._timers.set(_Timer.BOOTSTRAP, now + self._bootstrap_wait)

    def _ping_met(self, now: float) -> None:
        for node_id, (at, contact) in list(self._to_ping.items()):
            if at <= now:
                del self._to_ping[node_id]
                self._exchange.submit(contact, self._exchange.new_ping(), Purpose.REVALIDATE, now)
            else:
                self._timers.set_earlier(_Timer.MET, at)
