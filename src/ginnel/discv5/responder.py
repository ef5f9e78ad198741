"""What we do for others: answers to PING, FINDNODE and TALKREQ, inside a session only.

Answers go to where the request came from. Only nodes that answered us are named, none to itself,
and none that the asker could not reach.

Source: discv5-wire.md, "Protocol Messages"; discv5-theory.md, "Lookup".
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ginnel.base.addresses import Scope, scope_of
from ginnel.base.limits import BoundedLru
from ginnel.base.types import Address, NodeId
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.enr import Enr
from ginnel.discv5.events import DiscoveryEvent, Drop, TalkReceived
from ginnel.discv5.exchange import Exchange
from ginnel.discv5.identity import LocalRecord
from ginnel.discv5.messages import (
    MAX_RECORDS_PER_MESSAGE,
    FindNode,
    Nodes,
    Ping,
    Pong,
    Request,
    TalkRequest,
    TalkResponse,
)
from ginnel.discv5.neighbourhood import Neighbourhood
from ginnel.discv5.requests import Contact
from ginnel.discv5.serve import MAX_DISTANCE, Talks, pack_nodes
from ginnel.discv5.session import Session
from ginnel.discv5.table import may_relay
from ginnel.discv5.wire import Dropped, Unserved, Wire

KEPT_ANSWERS = 64  # answers to FINDNODE for as many sets of distances


class _FoundNodes(NamedTuple):
    """What a FINDNODE gets, as long as the table has this version."""

    version: int
    groups: tuple[tuple[bytes, ...], ...]  # of records, one for each packet
    node_ids: tuple[NodeId, ...]


class Responder:
    """Serves the requests of other nodes."""

    def __init__(
        self,
        config: DiscoveryConfig,
        wire: Wire,
        exchange: Exchange,
        around: Neighbourhood,
        local: LocalRecord,
        events: deque[DiscoveryEvent],
    ) -> None:
        self._config = config
        self._wire = wire
        self._exchange = exchange
        self._around = around
        self._local = local
        self._events = events
        self._answers: BoundedLru[tuple[tuple[int, ...], Scope], _FoundNodes] = BoundedLru(
            KEPT_ANSWERS
        )
        self._talks = Talks(config.talk_limit, config.response_timeout)
        fill = MAX_RECORDS_PER_MESSAGE if config.fill_packets else config.records_per_packet
        self._per_packet = max(fill, config.records_per_packet)

    def on_request(self, session: Session, source: Address, message: Request, now: float) -> None:
        """Answer a request, or hand it up.

        Raises:
            Dropped: a TALKREQ that came before, or too many of them.
        """
        match message:
            case Ping():
                pong = Pong(message.request_id, self._local.record.seq, source)
                self._exchange.respond(session, source, pong)
                if self._around.is_outdated(session.node_id, message.enr_seq):
                    self._around.fetch_record(contact_of(session, source), now)
                if session.record is not None:
                    self._around.on_heard(session.record, source, now)
            case FindNode():
                for nodes in self._nodes(message, session.node_id, source):
                    self._exchange.respond(session, source, nodes)
            case TalkRequest():
                self._on_talk(session, source, message, now)

    def respond_talk(self, token: int, payload: bytes, now: float) -> None:
        """Answer a TalkReceived; too late or twice does nothing.

        Raises:
            MessageTooLarge: it does not fit into one packet.
        """
        talk = self._talks.answer(token, payload, now)
        if talk is not None and talk.answer is not None:
            session = self._wire.sessions.get((talk.session.node_id, talk.source)) or talk.session
            self._exchange.respond(session, talk.source, talk.answer)

    def refuse_talk(self, token: int) -> bool:
        """Forget a TalkReceived; False if it is closed."""
        return self._talks.refuse(token)

    def _nodes(self, message: FindNode, asker: NodeId, source: Address) -> list[Nodes]:
        """Return the answer to a FINDNODE; it is put together anew when the table has changed."""
        distances = message.distances
        if 0 in distances:
            return pack_nodes(message.request_id, [self._local.record.raw])
        if not distances or max(distances) > MAX_DISTANCE:
            return pack_nodes(message.request_id, [])
        key = (distances, scope_of(source.ip))
        answer = self._answers.get(key)
        if answer is None or answer.version != self._around.table.version:
            answer = self._find(distances, source, None)
            self._answers.put(key, answer)
        if asker in answer.node_ids:
            answer = self._find(distances, source, asker)
        total = len(answer.groups)
        return [Nodes(message.request_id, total, group) for group in answer.groups]

    def _find(
        self, distances: tuple[int, ...], source: Address, asker: NodeId | None
    ) -> _FoundNodes:
        def may_name(record: Enr) -> bool:
            is_other = record.node_id != asker
            return is_other and all(may_relay(source, address) for address in record.addresses)

        limit = self._config.result_limit
        found = self._around.table.at_distances(distances, limit, accept=may_name)
        packets = pack_nodes(b"", [record.raw for record in found], self._per_packet)
        return _FoundNodes(
            self._around.table.version,
            tuple(packet.records for packet in packets),
            tuple(record.node_id for record in found),
        )

    def _on_talk(self, session: Session, source: Address, message: TalkRequest, now: float) -> None:
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
            raise Unserved(Drop.TOO_MANY_TALKS)
        contact = contact_of(session, source)
        self._events.append(TalkReceived(token, contact, message.protocol, message.payload))


def contact_of(session: Session, source: Address) -> Contact:
    """Return whom a session is with, at this address."""
    return Contact(session.node_id, source, session.public_key)
