"""The discovery core: one node of the DHT without sockets, tasks or clocks.

Joins the parts: packets (`wire`), requests of ours (`exchange`), answers to others (`responder`),
the table and its searches (`neighbourhood`), our address (`views`), defence (`guard`).
Five verbs (`base/core.py`); every request made here ends in exactly one event.

Invariants: only nodes that answered are handed out; a bootstrap node is never removed; where
nothing that we sent since is answered, no node is blamed.

Source: devp2p discv5-theory.md; seed 001.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import earliest
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Address, Deadline, NodeId, Secret, Transmit
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.enr import Enr, FieldValue, RecordCache
from ginnel.discv5.events import (
    DiscoveryEvent,
    Drop,
    NodesReceived,
    PongReceived,
    SessionOpened,
    TalkAnswered,
)
from ginnel.discv5.exchange import Exchange
from ginnel.discv5.guard import Guard
from ginnel.discv5.identity import LocalRecord, without_addresses
from ginnel.discv5.messages import (
    FindNode,
    Message,
    Nodes,
    Ping,
    Pong,
    TalkRequest,
    TalkResponse,
    UnknownMessageType,
    decode_message,
)
from ginnel.discv5.metrics import ALL, NO_RESPONSE, Metrics, Sample, State, samples
from ginnel.discv5.neighbourhood import Neighbourhood
from ginnel.discv5.packet import OrdinaryPacket, PacketError, WhoAreYouPacket
from ginnel.discv5.requests import Contact, Failure, Pending, Purpose
from ginnel.discv5.responder import Responder
from ginnel.discv5.searches import Want
from ginnel.discv5.serve import check_distances, check_message_size
from ginnel.discv5.session import Session
from ginnel.discv5.table import Added, RoutingTable
from ginnel.discv5.verify import check_records
from ginnel.discv5.views import AddressWatch
from ginnel.discv5.wire import Dropped, Unserved, Wire

__all__ = ["Contact", "DiscoveryConfig", "DiscoveryCore", "Failure"]

log = logging.getLogger(__name__)

_RESPONSES = (Pong, Nodes, TalkResponse)


class DiscoveryCore:
    """One node.

    Args:
        private_key: 32 bytes, of the record.
        fields: further fields of the record; `client_mode` leaves addresses out.
        endpoint, endpoint6: what to publish over IPv4 and IPv6; `client_mode` ignores it.
        bootstrap: nodes to begin with; they are never removed.
        saved: nodes of an earlier run, to begin with as well.
        random_bytes, rng: chance, see `base/chance.py`.
        enr_seq: of the first record; higher than the last run's.
        previous: the last run's record, which goes on where nothing else is given.
        records: cache of verified records, may be shared by several cores.
    """

    def __init__(
        self,
        config: DiscoveryConfig,
        private_key: Secret,
        *,
        fields: Mapping[str, FieldValue] | None = None,
        endpoint: Address | None = None,
        endpoint6: Address | None = None,
        bootstrap: Sequence[Enr] = (),
        saved: Sequence[Enr] = (),
        random_bytes: RandomBytes,
        rng: Rng,
        now: float,
        enr_seq: int = 1,
        previous: Enr | None = None,
        records: RecordCache | None = None,
    ) -> None:
        self._config = config
        self._random_bytes = random_bytes
        given = without_addresses(fields or {}) if config.client_mode else fields or {}
        published = [] if config.client_mode else [one for one in (endpoint, endpoint6) if one]
        kept = () if config.client_mode else config.ip_versions
        self._local = LocalRecord(private_key, given, published, enr_seq, previous, kept)
        self._records = RecordCache() if records is None else records
        self._guard = Guard(config)
        self.metrics = Metrics()
        self.drops: Counter[Drop] = Counter()
        self._events: deque[DiscoveryEvent] = deque()
        self._wire = Wire(
            config,
            private_key,
            records=self._records,
            random_bytes=random_bytes,
            local_record=lambda: self._local.record,
            known_record=lambda node_id: self._around.known_record(node_id),
            guard=self._guard,
        )
        self.node_id = self._wire.node_id
        self._exchange = Exchange(
            config, self._wire, random_bytes, lambda: self._local.record.seq, self.metrics
        )
        self._around = Neighbourhood(
            self.node_id,
            config,
            self._exchange,
            self._guard,
            own_record=lambda: self._local.record,
            bootstrap=bootstrap,
            saved=saved,
            events=self._events,
            random_bytes=random_bytes,
            rng=rng,
            now=now,
        )
        self._responder = Responder(
            config, self._wire, self._exchange, self._around, self._local, self._events
        )
        self._watch = AddressWatch(config, self._exchange, self._local, self._events, self.metrics)
        self._asked_and_heard_at = float("-inf")  # the newest request that was answered

    # the table

    @property
    def record(self) -> Enr:
        """Our own record."""
        return self._local.record

    @property
    def bootstrap(self) -> tuple[Enr, ...]:
        """The nodes to begin with."""
        return self._around.bootstrap

    @property
    def table(self) -> RoutingTable:
        """The routing table, to read from."""
        return self._around.table

    def seed(self, now: float) -> int:
        """Offer the bootstrap and saved nodes to the table; return how many are new there."""
        return self._around.seed()

    def start(self, now: float) -> None:
        """Begin: seed and populate the table, and keep it alive from now on."""
        self._watch.start()
        self._around.start(now)
        self._settle(now)

    def populate(self, now: float) -> int:
        """Look up ourselves and a random target, to fill the table; ends in PopulateDone."""
        return self._settled(self._around.populate_for(now), now)

    def add_node(self, enr: Enr, now: float) -> bool:
        """Offer a node to the table; return whether it is new there."""
        return self._around.offer(enr) is Added.NEW

    def nodes(self) -> list[Enr]:
        """Return the nodes of the table, those that answered first."""
        return [node.record for node in self._around.table.nodes()]

    def closest(self, target: NodeId, count: int) -> list[Enr]:
        """Return the `count` nodes of the table closest to the target that answered."""
        return self.table.neighbours(target, count, seen_only=True)

    # requests

    def ping(self, contact: Contact, *, now: float) -> int:
        """Send PING; ends in PongReceived or RequestFailed with the returned number."""
        return self._request(contact, self._exchange.new_ping(), now)

    def find_node(self, contact: Contact, distances: Sequence[int], *, now: float) -> int:
        """Send FINDNODE with distances of 0 to 256; ends in NodesReceived or RequestFailed."""
        message = FindNode(self._exchange.new_request_id(), check_distances(distances))
        return self._request(contact, message, now)

    def talk_request(self, contact: Contact, protocol: bytes, payload: bytes, *, now: float) -> int:
        """Send TALKREQ inside a session (made by a PING if need be); ends in TalkAnswered or
        RequestFailed.

        Raises:
            MessageTooLarge: too large for one packet.
        """
        message = TalkRequest(self._exchange.new_request_id(), protocol, payload)
        check_message_size(message)
        return self._request(contact, message, now)

    def respond_talk(self, token: int, payload: bytes, *, now: float) -> None:
        """Answer a TalkReceived; too late or twice does nothing.

        Raises:
            MessageTooLarge: too large for one packet.
        """
        self._responder.respond_talk(token, payload, now)

    def refuse_talk(self, token: int) -> None:
        """Leave a TalkReceived without answer; if it comes again it is told again."""
        if self._responder.refuse_talk(token):
            self.metrics.requests_incoming[NO_RESPONSE] += 1

    def contact_for(self, record: Enr) -> Contact | None:
        """Return how to reach a node over our IP versions; None: it has no such address."""
        return self._around.contact_for(record)

    # searches

    def lookup(self, target: NodeId, *, now: float, count: int | None = None) -> int:
        """Find the nodes closest to the target that answer; ends in LookupDone."""
        return self._search(target, Want.LOOKUP, now, count)

    def query(self, target: NodeId, *, now: float, count: int | None = None) -> int:
        """Ask the nodes closest to the target once for others; ends in QueryDone."""
        return self._search(target, Want.QUERY, now, count)

    def query_random(self, *, now: float) -> int:
        """Query for a random target; ends in QueryDone."""
        return self.query(NodeId(self._random_bytes(32)), now=now)

    def resolve(self, node_id: NodeId, *, now: float) -> int:
        """Find the newest record of a node, from itself or else by lookup; ends in Resolved."""
        return self._settled(self._around.resolve(node_id, now), now)

    def revalidate(self, record: Enr, *, now: float) -> int:
        """PING a node of the table: it is marked as seen, or replaced; ends in Revalidated."""
        return self._settled(self._around.revalidate(record, now, Purpose.CHECK), now)

    # sessions and the record

    def doubt_address(self, now: float) -> None:
        """Believe newer views of our address more: the network may have changed."""
        self._watch.doubt(now)

    def pin_session(self, node_id: NodeId, address: Address) -> bool:
        """Keep the session in the cache; False if half of the cache is pinned."""
        return self._wire.sessions.pin((node_id, address))

    def unpin_session(self, node_id: NodeId, address: Address) -> None:
        """Let the session be pushed out again."""
        self._wire.sessions.unpin((node_id, address))

    def has_session(self, node_id: NodeId, address: Address) -> bool:
        """Say whether there are keys with the node at this address."""
        return self._wire.sessions.has((node_id, address))

    def set_endpoint(
        self, address: Address | None, *, now: float, ipv6: bool = False, learned: bool = False
    ) -> None:
        """Publish an address in the record (ends client mode), or none of this IP version.

        A learned one may be followed by another that others see.

        Raises:
            UsageError: the record would be too long; nothing has changed then.
        """
        ipv6 = ipv6 if address is None else address.is_ipv6
        self._local.set_endpoint(address, ipv6, learned=learned)

    def update_record(self, fields: Mapping[str, FieldValue | None], *, now: float) -> None:
        """Change fields of our record (None removes one); its seq rises.

        Raises:
            UsageError: the record would be too long; nothing has changed then.
        """
        self._local.update(fields)

    def samples(self) -> Iterator[Sample]:
        """Yield every metric, for `metrics.prometheus_text` or a collector."""
        table = self._around.table
        state = State(len(self._wire.sessions), len(table), table.seen_count, len(self._exchange))
        return samples(self.metrics, self.drops, state)

    # five verbs

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Take one datagram; never raises for its bytes."""
        self.metrics.packets_received += 1
        self.metrics.bytes_received += len(data)
        try:
            self._admit(source, now)
            self._on_packet(data, source, now, local_ip)
        except Dropped as dropped:
            self.drops[dropped.reason] += 1
            if isinstance(dropped, Unserved):
                self.metrics.requests_incoming[NO_RESPONSE] += 1
            log.debug("dropped: %s", dropped.reason.value)
        if self._exchange.failed:
            self._settle(now)

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due; a late or repeated call is harmless."""
        self._exchange.handle_timeout(now)
        self._around.handle_timeout(now)
        self._watch.handle_timeout(now)
        self._settle(now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send."""
        if not self._exchange.transmits:
            return None
        transmit = self._exchange.transmits.popleft()
        self.metrics.packets_sent += 1
        self.metrics.bytes_sent += len(transmit.data)
        return transmit

    def poll_event(self) -> DiscoveryEvent | None:
        """Return the next event."""
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        at = self._exchange.next_at()
        return earliest(
            self._around.deadline(),
            None if at is None else Deadline(at, "REQUEST"),
            self._watch.deadline(),
        )

    # packets

    def _admit(self, source: Address, now: float) -> None:
        if source.port == 0:
            raise Dropped(Drop.SOURCE)
        if self._guard.admits_all(source.ip):
            return
        if self._guard.is_banned(source.ip, now):
            raise Dropped(Drop.BANNED)
        if not self._guard.may_send(source.ip, now):
            raise Dropped(Drop.PACKET_RATE)

    def _on_packet(self, data: bytes, source: Address, now: float, local_ip: str | None) -> None:
        try:
            packet = self._wire.codec.decode(data)
        except PacketError as error:
            raise Dropped(Drop(error.fault.value)) from None
        if isinstance(packet, WhoAreYouPacket):
            self._exchange.on_challenge(packet, source, now, local_ip)
            return
        if packet.node_id == self.node_id:
            raise Dropped(Drop.OWN_ID)
        if self._guard.is_banned(packet.node_id, now):
            raise Dropped(Drop.BANNED)
        is_new = not isinstance(packet, OrdinaryPacket)
        if isinstance(packet, OrdinaryPacket):
            opened = self._wire.open_ordinary(packet, source)
            if opened is None:
                challenge = self._wire.challenge(packet, source, now)
                self.metrics.challenges_sent += 1
                self._exchange.transmits.append(challenge._replace(source_ip=local_ip))
                return
        else:
            opened = self._wire.accept(packet, source, now)
        session, message = opened
        session.local_ip = local_ip
        if is_new or self._exchange.has_openings or not session.confirmed:
            self._on_session(session, source, now, is_new=is_new)
        self._on_message(session, message, source, now)

    def _on_session(self, session: Session, source: Address, now: float, *, is_new: bool) -> None:
        """Note the use of a session, which may be its first."""
        if is_new:
            self.metrics.handshakes_accepted += 1
            if session.record is not None:
                self._around.on_met(session.record, source, now)
        if not session.confirmed or is_new:
            self._events.append(SessionOpened(session.node_id, source, initiated=not is_new))
        key = (session.node_id, source)
        self._exchange.on_session_used(key, session, now, is_new=is_new)

    def _on_message(self, session: Session, data: bytes, source: Address, now: float) -> None:
        try:
            message = decode_message(data)
        except UnknownMessageType:
            self.metrics.requests_incoming[ALL] += 1
            raise Unserved(Drop.MESSAGE_TYPE) from None
        except RemoteProtocolError:
            self._blame(session.node_id, source, now)
            raise Dropped(Drop.MESSAGE) from None
        if isinstance(message, _RESPONSES):
            self._on_response(session.node_id, source, message, now)
            return
        self.metrics.requests_incoming[ALL] += 1
        if not self._guard.may_ask(source.ip, now):
            raise Unserved(Drop.MESSAGE_RATE)
        self._responder.on_request(session, source, message, now)

    def _blame(self, node_id: NodeId, source: Address, now: float) -> None:
        """Count a violation of the protocol by a node that has proven its address."""
        if self._guard.on_violation(node_id, source.ip, now):
            self.metrics.bans += 1
            self._around.drop_banned(node_id)
            log.debug("banned a node for violations of the protocol")

    # responses

    def _on_response(
        self, node_id: NodeId, source: Address, message: Pong | Nodes | TalkResponse, now: float
    ) -> None:
        pending = self._exchange.match(node_id, source, message)
        if pending is None:
            self.metrics.unsolicited_messages += 1
            raise Dropped(Drop.UNSOLICITED_RESPONSE)
        self._asked_and_heard_at = max(self._asked_and_heard_at, pending.created_at)
        match pending.message, message:
            case Ping(), Pong():
                self._exchange.finish(pending, now)
                self._answered(pending, now)
                self._on_pong(pending, message, now)
            case FindNode(), Nodes():
                assert pending.collected is not None
                if pending.collected.add(message):
                    self._on_nodes(pending, now)
            case TalkRequest(), TalkResponse():
                self._exchange.finish(pending, now)
                self._answered(pending, now)
                self._events.append(TalkAnswered(pending.token, message.payload))
            case _:
                self._exchange.fail(pending, Failure.WRONG_ANSWER)
                self._blame(node_id, source, now)
                raise Dropped(Drop.WRONG_RESPONSE)

    def _on_pong(self, pending: Pending, pong: Pong, now: float) -> None:
        contact = pending.contact
        if pending.purpose is Purpose.CALLER:
            self._events.append(PongReceived(pending.token, contact, pong.address, pong.enr_seq))
        self._watch.on_pong(contact.address, pong.address, now)
        self._around.on_pong(pending, pong.enr_seq, now)

    def _on_nodes(self, pending: Pending, now: float) -> None:
        """Take a NODES response, or what came of it."""
        assert pending.collected is not None
        self._exchange.finish(pending, now)
        records = self._verify(pending, pending.collected.records(), now)
        self._answered(pending, now)
        if pending.purpose is Purpose.CALLER:
            self._events.append(NodesReceived(pending.token, tuple(records)))
        else:
            self._around.on_records(pending, records, now)

    def _verify(self, pending: Pending, raw_records: Sequence[bytes], now: float) -> list[Enr]:
        checked = check_records(pending, raw_records, self.node_id, self._records)
        if checked.refused:
            self.drops[Drop.BAD_RECORD] += checked.refused
        if checked.is_violation:
            self._blame(pending.contact.node_id, pending.contact.address, now)
        return checked.records

    def _answered(self, pending: Pending, now: float) -> None:
        self._around.on_alive(pending.contact)
        self._watch.ask(pending.contact, now)

    # failures

    def _settle(self, now: float) -> None:
        """Act on requests that failed, until none is left."""
        while self._exchange.failed:
            pending, reason = self._exchange.failed.popleft()
            self._on_failed(pending, reason, now)

    def _on_failed(self, pending: Pending, reason: Failure, now: float) -> None:
        if pending.collected is not None and pending.collected.has_any:
            self._on_nodes(pending, now)
            return
        heard = self._asked_and_heard_at >= pending.created_at
        self._around.on_failure(pending, reason, now, heard=heard)

    # small helpers

    def _request(self, contact: Contact, message: Message, now: float) -> int:
        assert isinstance(message, Ping | FindNode | TalkRequest)
        return self._settled(
            self._exchange.submit(contact, message, Purpose.CALLER, now).token, now
        )

    def _search(self, target: NodeId, want: Want, now: float, count: int | None) -> int:
        return self._settled(self._around.search(target, want, now, count=count), now)

    def _settled(self, number: int, now: float) -> int:
        self._settle(now)
        return number
