"""The discovery core: one node of the DHT without sockets, tasks or clocks.

It answers requests, keeps the routing table alive, runs lookups and counts votes on our address.
Five verbs (`base/core.py`); every request made here ends in exactly one event.

Invariants: only nodes that answered are handed out; a bootstrap node is never removed; where
nobody is heard at all, no node is blamed.

Source: devp2p discv5-theory.md; seed 001.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Mapping, Sequence

from ginnel.base.addresses import is_public
from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import earliest
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.limits import BoundedLru, RateLimiter
from ginnel.base.types import Address, Deadline, NodeId, Secret, Transmit
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.endpoint import EndpointVotes
from ginnel.discv5.enr import Enr, FieldValue, RecordCache
from ginnel.discv5.events import (
    DiscoveryEvent,
    Drop,
    NodesReceived,
    PongReceived,
    ReflexiveChanged,
    RequestFailed,
    TalkAnswered,
    TalkReceived,
)
from ginnel.discv5.exchange import Exchange
from ginnel.discv5.identity import LocalRecord
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
from ginnel.discv5.neighbourhood import Neighbourhood
from ginnel.discv5.packet import OrdinaryPacket, PacketError, WhoAreYouPacket
from ginnel.discv5.requests import Contact, Failure, Pending, Purpose, matches_distances
from ginnel.discv5.serve import Talks, check_message_size, pack_nodes
from ginnel.discv5.session import Session
from ginnel.discv5.table import Added, may_relay
from ginnel.discv5.wire import MAX_SOURCES, Dropped, Opened, Wire

__all__ = ["Contact", "DiscoveryConfig", "DiscoveryCore", "Failure"]

MAX_OBSERVERS = 512  # observers remembered as asked
VOTE_PING_GAP = 10.0  # seconds between PINGs to one observer for its view of our address

log = logging.getLogger(__name__)


class DiscoveryCore:
    """One node.

    Args:
        private_key: 32 bytes, of the record.
        fields: further fields of the record.
        endpoint: the address to publish, or None (`client_mode` ignores it).
        bootstrap: nodes to begin with; they are never removed.
        random_bytes, rng: chance, see `base/chance.py`.
        enr_seq: of the first record; higher than the last run's.
        records: cache of verified records, may be shared by several cores.
    """

    def __init__(
        self,
        config: DiscoveryConfig,
        private_key: Secret,
        *,
        fields: Mapping[str, FieldValue] | None = None,
        endpoint: Address | None = None,
        bootstrap: Sequence[Enr] = (),
        random_bytes: RandomBytes,
        rng: Rng,
        now: float,
        enr_seq: int = 1,
        records: RecordCache | None = None,
    ) -> None:
        self._config = config
        published = None if config.client_mode else endpoint
        self._local = LocalRecord(private_key, fields or {}, published, enr_seq)
        self._records = records or RecordCache()
        self._wire = Wire(
            config,
            private_key,
            records=self._records,
            random_bytes=random_bytes,
            local_record=lambda: self._local.record,
            known_record=lambda node_id: self._around.known_record(node_id),
        )
        self.node_id = self._wire.node_id
        self._exchange = Exchange(config, self._wire, random_bytes, lambda: self._local.record.seq)
        self._events: deque[DiscoveryEvent] = deque()
        self._around = Neighbourhood(
            self.node_id,
            config,
            self._exchange,
            bootstrap=bootstrap,
            events=self._events,
            random_bytes=random_bytes,
            rng=rng,
            now=now,
        )
        self._talks = Talks(config.talk_limit, config.response_timeout)
        self._votes = {v6: EndpointVotes(config.vote_lifetime) for v6 in (False, True)}
        self._asked_view: BoundedLru[str, float] = BoundedLru(MAX_OBSERVERS)
        self._votes_end_at: float | None = None
        self._rate: RateLimiter[str] = RateLimiter(
            config.request_rate, config.request_burst, limit=MAX_SOURCES
        )
        self._last_heard_at = float("-inf")
        self.drops: Counter[Drop] = Counter()

    # commands and questions

    @property
    def record(self) -> Enr:
        """Our own record."""
        return self._local.record

    def start(self, now: float) -> None:
        """Begin: take the bootstrap nodes and populate the table by lookups."""
        self._around.start(now)
        self._settle(now)

    def add_node(self, enr: Enr, now: float) -> bool:
        """Offer a node to the table; return whether it is new there."""
        return self._around.offer(enr) is Added.NEW

    def nodes(self) -> list[Enr]:
        """Return the nodes of the table, those that answered first."""
        return [node.record for node in self._around.table.nodes()]

    def closest(self, target: NodeId, count: int) -> list[Enr]:
        """Return the `count` nodes of the table closest to the target that answered."""
        return self._around.table.neighbours(target, count, seen_only=True)

    def ping(self, contact: Contact, *, now: float) -> int:
        """Send PING; ends in PongReceived or RequestFailed with the returned number."""
        return self._request(contact, self._exchange.new_ping(), now)

    def find_node(self, contact: Contact, distances: Sequence[int], *, now: float) -> int:
        """Send FINDNODE; ends in NodesReceived or RequestFailed."""
        message = FindNode(self._exchange.new_request_id(), tuple(distances))
        return self._request(contact, message, now)

    def talk_request(self, contact: Contact, protocol: bytes, payload: bytes, *, now: float) -> int:
        """Send TALKREQ inside a session (made by a PING if need be); ends in TalkAnswered or
        RequestFailed.

        Raises:
            UsageError: too large for one packet.
        """
        message = TalkRequest(self._exchange.new_request_id(), protocol, payload)
        check_message_size(message)
        return self._request(contact, message, now)

    def respond_talk(self, token: int, payload: bytes, *, now: float) -> None:
        """Answer a TalkReceived; too late or twice does nothing.

        Raises:
            UsageError: too large for one packet.
        """
        talk = self._talks.answer(token, payload, now)
        if talk is not None and talk.answer is not None:
            session = self._wire.sessions.get((talk.session.node_id, talk.source)) or talk.session
            self._exchange.respond(session, talk.source, talk.answer)

    def lookup(self, target: NodeId, *, now: float) -> int:
        """Find the nodes closest to the target; ends in LookupDone."""
        token = self._around.look_up(target, now, wanted=True)
        self._settle(now)
        return token

    def pin_session(self, node_id: NodeId, address: Address) -> bool:
        """Keep the session in the cache; False if half of the cache is pinned."""
        return self._wire.sessions.pin((node_id, address))

    def unpin_session(self, node_id: NodeId, address: Address) -> None:
        """Let the session be pushed out again."""
        self._wire.sessions.unpin((node_id, address))

    def has_session(self, node_id: NodeId, address: Address) -> bool:
        """Say whether there are keys with the node at this address."""
        return self._wire.sessions.get((node_id, address)) is not None

    def set_endpoint(self, address: Address | None, *, now: float, ipv6: bool = False) -> None:
        """Publish an address in the record (ends client mode), or none of this IP version."""
        self._local.set_endpoint(address, address.is_ipv6 if address is not None else ipv6)

    def update_record(self, fields: Mapping[str, FieldValue], *, now: float) -> None:
        """Change fields of our record; its seq rises.

        Raises:
            UsageError: the record would be too long.
        """
        self._local.update(fields)

    # five verbs

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Take one datagram; never raises for its bytes."""
        try:
            if source.port == 0:
                raise Dropped(Drop.SOURCE)
            self._on_packet(data, source, now, local_ip)
        except Dropped as dropped:
            self.drops[dropped.reason] += 1
            log.debug("dropped: %s", dropped.reason.value)
        self._settle(now)

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due; a late or repeated call is harmless."""
        self._exchange.handle_timeout(now)
        self._around.handle_timeout(now)
        self._expire_votes(now)
        self._settle(now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send."""
        return self._exchange.transmits.popleft() if self._exchange.transmits else None

    def poll_event(self) -> DiscoveryEvent | None:
        """Return the next event."""
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        at = self._exchange.next_at()
        votes_at = self._votes_end_at
        return earliest(
            self._around.deadline(),
            None if at is None else Deadline(at, "REQUEST"),
            None if votes_at is None else Deadline(votes_at, "VOTES"),
        )

    # packets

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
        opened: Opened | None
        if isinstance(packet, OrdinaryPacket):
            opened = self._wire.open_ordinary(packet, source)
            if opened is None:
                challenge = self._wire.challenge(packet, source, now)
                self._exchange.transmits.append(
                    Transmit(challenge.data, challenge.destination, local_ip)
                )
                return
        else:
            opened = self._wire.accept(packet, source, now)
        self._last_heard_at = now
        opened.session.local_ip = local_ip
        if opened.is_new_session and opened.session.record is not None:
            self._around.on_met(opened.session.record, source, now)
        self._exchange.on_session_used(
            (packet.node_id, source), opened.session, now, is_new=opened.is_new_session
        )
        self._on_message(opened, source, now)

    def _on_message(self, opened: Opened, source: Address, now: float) -> None:
        try:
            message = decode_message(opened.message)
        except UnknownMessageType:
            raise Dropped(Drop.MESSAGE_TYPE) from None
        except RemoteProtocolError:
            raise Dropped(Drop.MESSAGE) from None
        if isinstance(message, Pong | Nodes | TalkResponse):
            self._on_response(opened.session.node_id, source, message, now)
            return
        if is_public(source.ip) and not self._rate.take(source.ip, now=now):
            raise Dropped(Drop.MESSAGE_RATE)
        session = opened.session
        match message:
            case Ping():
                pong = Pong(message.request_id, self._local.record.seq, source)
                self._exchange.respond(session, source, pong)
                self._around.on_seq(contact_of(session, source), message, now)
            case FindNode():
                for nodes in self._serve(message, session.node_id, source):
                    self._exchange.respond(session, source, nodes)
            case TalkRequest():
                self._on_talk(opened, source, message, now)

    def _serve(self, message: FindNode, asker: NodeId, source: Address) -> list[Nodes]:
        distances = message.distances
        records: list[bytes] = []
        if 0 in distances:
            records = [self._local.record.raw]
        elif distances and max(distances) <= 256:
            limit = self._config.result_limit
            for record in self._around.table.at_distances(distances, limit + 1):
                address = record.address() or record.address(ipv6=True)
                if record.node_id != asker and address is not None and may_relay(source, address):
                    records.append(record.raw)
            del records[limit:]
        return pack_nodes(message.request_id, records)

    def _on_talk(self, opened: Opened, source: Address, message: TalkRequest, now: float) -> None:
        session = opened.session
        known = self._config.talk_protocols
        if known is not None and message.protocol not in known:
            self._exchange.respond(session, source, TalkResponse(message.request_id, b""))
            return
        before = self._talks.find(session.node_id, message, now)
        if before is not None:
            if before.answer is not None:
                self._exchange.respond(session, source, before.answer)
            raise Dropped(Drop.REPEATED_TALK)
        token = self._exchange.next_token()
        if not self._talks.open(token, session, source, message, now):
            raise Dropped(Drop.TOO_MANY_TALKS)
        contact = contact_of(session, source)
        self._events.append(TalkReceived(token, contact, message.protocol, message.payload))

    # responses

    def _on_response(
        self, node_id: NodeId, source: Address, message: Pong | Nodes | TalkResponse, now: float
    ) -> None:
        pending = self._exchange.match(node_id, source, message)
        if pending is None:
            raise Dropped(Drop.UNSOLICITED_RESPONSE)
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
                raise Dropped(Drop.WRONG_RESPONSE)

    def _on_pong(self, pending: Pending, pong: Pong, now: float) -> None:
        contact = pending.contact
        if pending.purpose is Purpose.CALLER:
            self._events.append(PongReceived(pending.token, contact, pong.address, pong.enr_seq))
        votes = self._votes[contact.address.is_ipv6]
        if votes.vote(contact.address, pong.address, now):
            self._tell_view(contact.address.is_ipv6)
        self._arm_votes()
        self._around.on_seq(contact, pong, now)

    def _on_nodes(self, pending: Pending, now: float) -> None:
        """Take a NODES response, or what came of it."""
        assert pending.collected is not None
        self._exchange.finish(pending, now)
        records = self._verify(pending, pending.collected.records())
        self._answered(pending, now)
        if pending.purpose is Purpose.CALLER:
            self._events.append(NodesReceived(pending.token, tuple(records)))
        else:
            self._around.on_records(pending, records, now)

    def _verify(self, pending: Pending, raw_records: Sequence[bytes]) -> list[Enr]:
        """Return the records that are valid, at a distance asked for and reachable."""
        assert isinstance(pending.message, FindNode)
        contact = pending.contact
        records: list[Enr] = []
        for raw in raw_records:
            try:
                record = self._records.decode(raw)
            except RemoteProtocolError:
                self.drops[Drop.BAD_RECORD] += 1
                continue
            address = record.address() or record.address(ipv6=True)
            is_own_answer = record.node_id == contact.node_id
            reachable = address is not None and may_relay(contact.address, address)
            fits = matches_distances(pending.message, contact.node_id, record)
            if fits and (reachable or is_own_answer) and record.node_id != self.node_id:
                records.append(record)
            else:
                self.drops[Drop.BAD_RECORD] += 1
        return records

    def _answered(self, pending: Pending, now: float) -> None:
        self._around.on_alive(pending.contact)
        self._ask_view(pending.contact, now)

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
        heard = self._last_heard_at >= pending.created_at
        self._around.on_failure(pending, reason, now, heard=heard)
        if pending.purpose is Purpose.CALLER:
            self._events.append(RequestFailed(pending.token, reason))

    # votes on our address

    def _ask_view(self, contact: Contact, now: float) -> None:
        """PING an observer for its view of our address while too few have told."""
        votes = self._votes[contact.address.is_ipv6]
        if votes.view.observers >= self._config.wanted_observers:
            return
        asked_at = self._asked_view.get(contact.address.ip)
        if asked_at is not None and now < asked_at + VOTE_PING_GAP:
            return
        if not votes.has_voted(contact.address, now):
            self._asked_view.put(contact.address.ip, now)
            self._exchange.submit(contact, self._exchange.new_ping(), Purpose.REVALIDATE, now)

    def _tell_view(self, ipv6: bool) -> None:
        view = self._votes[ipv6].view
        self._events.append(ReflexiveChanged(view.address, view.symmetric, view.observers, ipv6))

    def _expire_votes(self, now: float) -> None:
        if self._votes_end_at is None or now < self._votes_end_at:
            return
        for ipv6, votes in self._votes.items():
            if votes.expire(now):
                self._tell_view(ipv6)
        self._arm_votes()

    def _arm_votes(self) -> None:
        ends = [at for votes in self._votes.values() if (at := votes.next_at()) is not None]
        self._votes_end_at = min(ends, default=None)

    # small helpers

    def _request(self, contact: Contact, message: Message, now: float) -> int:
        assert isinstance(message, Ping | FindNode | TalkRequest)
        pending = self._exchange.submit(contact, message, Purpose.CALLER, now)
        self._settle(now)
        return pending.token


def contact_of(session: Session, source: Address) -> Contact:
    """Return whom a session is with, at this address."""
    return Contact(session.node_id, source, session.public_key)
