"""Requests on their way: over a session, or through a handshake with others queued behind it.

One request leads a handshake (a PING where the request itself is a TALKREQ, or too large); up to
`queue_limit` more wait for it. A request is sent again up to `retransmits` times: a challenge that
the other side holds open for an answer of ours blocks new ones for 2 s. Challenges may name any
packet that carried a request. Failed requests are left in `failed` for the core.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ginnel.base.chance import RandomBytes
from ginnel.base.types import Address, NodeId, Transmit
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.events import Drop
from ginnel.discv5.messages import (
    FindNode,
    Message,
    Ping,
    Request,
    Response,
    TalkRequest,
    encode_message,
)
from ginnel.discv5.metrics import ALL, INVALID_RESPONSE, NO_RESPONSE, Metrics
from ginnel.discv5.packet import WhoAreYouPacket
from ginnel.discv5.requests import (
    MAX_HANDSHAKES_PER_REQUEST,
    Contact,
    Failure,
    NodesCollector,
    Pending,
    Purpose,
    RequestTable,
)
from ginnel.discv5.session import Session, SessionKey
from ginnel.discv5.wire import Dropped, Wire

REQUEST_ID_SIZE = 8  # bytes, random: nobody guesses the id of an open request


@dataclass(slots=True)
class _Opening:
    """A handshake under way to one node at one address."""

    lead: Pending
    queue: deque[Pending] = field(default_factory=deque)
    session: Session | None = None  # ours as initiator, not confirmed yet
    answered_at: float = 0.0  # when the challenge was last answered


class Exchange:
    """All requests of one node under way.

    Args:
        wire: sessions and packets.
        enr_seq: returns the seq of the local record, for PINGs made here.
        metrics: counts requests and handshakes.
    """

    def __init__(
        self,
        config: DiscoveryConfig,
        wire: Wire,
        random_bytes: RandomBytes,
        enr_seq: Callable[[], int],
        metrics: Metrics | None = None,
    ) -> None:
        self._config = config
        self._wire = wire
        self._random_bytes = random_bytes
        self._enr_seq = enr_seq
        self._metrics = metrics or Metrics()
        self._requests = RequestTable(config.request_limit)
        self._openings: dict[SessionKey, _Opening] = {}
        self._tokens = 0
        self._resend_gap = config.retransmit_after / 2
        self.transmits: deque[Transmit] = deque()
        self.failed: deque[tuple[Pending, Failure]] = deque()

    def __len__(self) -> int:
        return len(self._requests)

    def has_session(self, contact: Contact) -> bool:
        """Say whether there are keys with the contact."""
        return self._wire.sessions.has(contact.key)

    def new_request_id(self) -> bytes:
        """Return a fresh request id."""
        return self._random_bytes(REQUEST_ID_SIZE)

    def forget_local_ips(self) -> None:
        """Our addresses may have changed: don't insist on those that packets came to."""
        self._wire.sessions.forget_local_ips()

    def new_ping(self) -> Ping:
        """Return a fresh PING."""
        return Ping(self.new_request_id(), self._enr_seq())

    def next_token(self) -> int:
        """Return a number that names a request, a lookup or a talk; it is never used again."""
        self._tokens += 1
        return self._tokens

    def submit(
        self,
        contact: Contact,
        message: Request,
        purpose: Purpose,
        now: float,
        *,
        lookup: int | None = None,
    ) -> Pending:
        """Send a request now or as soon as a session is open; it ends as answer or in `failed`."""
        pending = Pending(
            self.next_token(), contact, message, encode_message(message), purpose, now, lookup
        )
        self._begin(pending, now)
        return pending

    def submit_again(self, pending: Pending, contact: Contact, now: float) -> None:
        """Send a request that timed out elsewhere, under its number; it ends as any other."""
        self._begin(
            Pending(
                pending.token,
                contact,
                pending.message,
                pending.encoded,
                pending.purpose,
                now,
                pending.lookup,
                is_second=True,
            ),
            now,
        )

    def _begin(self, pending: Pending, now: float) -> None:
        contact = pending.contact
        if isinstance(pending.message, FindNode):
            pending.collected = NodesCollector(
                self._config.response_packet_limit, self._config.result_limit
            )
        if self._requests.is_full or contact.node_id == self._wire.node_id:
            full = self._requests.is_full
            self.failed.append((pending, Failure.TOO_MANY if full else Failure.UNREACHABLE))
            return
        opening = self._openings.get(contact.key)
        if opening is not None and len(opening.queue) >= self._config.queue_limit:
            self.failed.append((pending, Failure.TOO_MANY))
            return
        self._requests.add(pending, now + self._config.response_timeout)
        self._metrics.requests_outgoing[ALL] += 1
        if opening is not None:
            self._enqueue(opening, pending)
        else:
            self._send(pending, now)

    def respond(self, session: Session, address: Address, message: Message) -> None:
        """Send a response inside the session, to where the request came from.

        A session whose key is used up is forgotten: what comes next is challenged.
        """
        if session.is_exhausted:
            self._wire.sessions.drop((session.node_id, address))
            return
        data, _ = self._wire.seal(session, encode_message(message))
        self.transmits.append(Transmit(data, address, session.local_ip))

    def match(self, node_id: NodeId, source: Address, response: Response) -> Pending | None:
        """Return the request that a response belongs to, or None."""
        pending = self._requests.by_id(node_id, response.request_id)
        if pending is None or pending.contact.address != source:
            return None
        return pending

    def finish(self, pending: Pending, now: float) -> None:
        """Forget a request that was answered.

        If it led a handshake that was not needed in the end (the answer came under older keys),
        those behind it go on.
        """
        self._requests.remove(pending)
        opening = self._openings.get(pending.contact.key)
        if opening is not None and opening.lead is pending:
            del self._openings[pending.contact.key]
            self._release(opening.queue, now)

    def on_challenge(
        self, packet: WhoAreYouPacket, source: Address, now: float, local_ip: str | None
    ) -> None:
        """Answer a challenge that one of our packets caused.

        Raises:
            Dropped: none did, or too many challenges came.
        """
        pending = self._requests.by_nonce(packet.request_nonce)
        if pending is None or pending.contact.address != source:
            raise Dropped(Drop.UNSOLICITED_CHALLENGE)
        contact = pending.contact
        opening = self._openings.get(contact.key)
        session = self._wire.sessions.get(contact.key)
        if session is not None and session.challenge_data == packet.challenge_data:
            recent = opening is not None and now < opening.answered_at + self._resend_gap
            if session.confirmed or recent:  # one of several packets that caused it
                raise Dropped(Drop.CHALLENGE_REPEATED)
        counted = pending if opening is None else opening.lead
        if counted.handshakes >= MAX_HANDSHAKES_PER_REQUEST:
            raise Dropped(Drop.CHALLENGE_REPEATED)
        counted.handshakes += 1
        if opening is None:  # the other side has lost the session
            opening = self._open(pending, now)
        sent = self._wire.answer(packet, contact, opening.lead.encoded)
        if sent is None:  # too large beside our record: let a PING carry the handshake
            self._enqueue(opening, opening.lead)
            opening.lead = self._carrier(opening.lead, now)
            sent = self._wire.answer(packet, contact, opening.lead.encoded)
            assert sent is not None
        transmit, nonce = sent
        opening.session = self._wire.sessions.get(contact.key)
        opening.answered_at = now
        self._metrics.handshakes_initiated += 1
        self.transmits.append(Transmit(transmit.data, transmit.destination, local_ip))
        self._requests.note_sent(opening.lead, nonce, now + self._config.retransmit_after)

    @property
    def has_openings(self) -> bool:
        """Say whether any handshake is under way."""
        return bool(self._openings)

    def on_session_used(
        self, key: SessionKey, session: Session, now: float, *, is_new: bool
    ) -> None:
        """Note that a packet was decrypted: a handshake that was under way is over.

        Args:
            is_new: the packet was the other side's handshake, so our own one is not needed.
        """
        session.confirmed = True
        opening = self._openings.get(key)
        if opening is None or not (is_new or opening.session is session):
            return
        del self._openings[key]
        session.authdata = b""
        self._release([opening.lead, *opening.queue] if is_new else opening.queue, now)

    def handle_timeout(self, now: float) -> None:
        """Send again what is due and give up what is overdue."""
        while (pending := self._requests.pop_retransmit(now)) is not None:
            self._send_again(pending, now)
        while (pending := self._requests.overdue(now)) is not None:
            self.fail(pending, Failure.TIMEOUT)

    def fail(self, pending: Pending, reason: Failure) -> None:
        """End a request without answer, and with it those that wait for its handshake."""
        if not self._end(pending, reason):
            return
        opening = self._openings.get(pending.contact.key)
        if opening is None or opening.lead is not pending:
            return
        del self._openings[pending.contact.key]
        session = self._wire.sessions.get(pending.contact.key)
        if session is not None and not session.confirmed:
            self._wire.sessions.drop(pending.contact.key)
        for waiting in opening.queue:
            self._end(waiting, reason)

    def next_at(self) -> float | None:
        """Return when `handle_timeout` is wanted, or None."""
        return self._requests.next_at()

    def _end(self, pending: Pending, reason: Failure) -> bool:
        """Count one request as failed and tell it; False if it had ended before."""
        if not self._requests.remove(pending):
            return False
        if reason is not Failure.TIMEOUT:
            self._metrics.requests_outgoing[INVALID_RESPONSE] += 1
        elif pending.collected is None or not pending.collected.has_any:
            self._metrics.requests_outgoing[NO_RESPONSE] += 1
        self.failed.append((pending, reason))
        return True

    def _send(self, pending: Pending, now: float) -> None:
        """Send a request that nothing holds up: in the session, or as a new handshake's lead."""
        contact = pending.contact
        session = self._wire.sessions.get(contact.key)
        if session is not None and session.is_exhausted:
            self._wire.sessions.drop(contact.key)
            session = None
        if session is not None:
            data, nonce = self._wire.seal(session, pending.encoded)
            self._note(pending, data, nonce, session.local_ip, self._again_at(pending, now))
            return
        opening = self._openings.get(contact.key)
        if opening is not None:
            self._enqueue(opening, pending)
            return
        opening = self._open(pending, now)
        self._knock(opening.lead, now)

    def _release(self, waiting: Iterable[Pending], now: float) -> None:
        """Send what waited for a handshake; its time begins now.

        Once: else a peer that asks for one handshake after the other would keep it open for ever.
        """
        for pending in waiting:
            if self._requests.is_open(pending):
                pending.is_queued = False
                if not pending.is_restarted:
                    self._requests.restart(pending, now + self._config.response_timeout)
                self._send(pending, now)

    def _open(self, pending: Pending, now: float) -> _Opening:
        """Begin a handshake led by this request, or by a PING where it must not lead."""
        if isinstance(pending.message, TalkRequest):
            opening = _Opening(self._carrier(pending, now))
            self._enqueue(opening, pending)
        else:
            opening = _Opening(pending)
        self._openings[pending.contact.key] = opening
        return opening

    def _carrier(self, cause: Pending, now: float) -> Pending:
        """Return a PING that makes the session for a request, whose handshakes so far count."""
        message = self.new_ping()
        encoded = encode_message(message)
        purpose = Purpose.CARRIER
        carrier = Pending(self.next_token(), cause.contact, message, encoded, purpose, now)
        carrier.handshakes = cause.handshakes
        self._requests.add(carrier, now + self._config.response_timeout)
        self._metrics.requests_outgoing[ALL] += 1
        return carrier

    def _enqueue(self, opening: _Opening, pending: Pending) -> None:
        pending.is_queued = True
        self._requests.stop_retransmit(pending)
        opening.queue.append(pending)

    def _knock(self, pending: Pending, now: float) -> None:
        contact = pending.contact
        data, nonce = self._wire.knock(contact.node_id)
        self._note(pending, data, nonce, None, self._again_at(pending, now))

    def _again_at(self, pending: Pending, now: float) -> float | None:
        if pending.retransmits >= self._config.retransmits:
            return None
        return now + self._config.retransmit_after

    def _note(
        self,
        pending: Pending,
        data: bytes,
        nonce: bytes,
        source_ip: str | None,
        again_at: float | None,
    ) -> None:
        self._requests.note_sent(pending, nonce, again_at)
        self.transmits.append(Transmit(data, pending.contact.address, source_ip))

    def _send_again(self, pending: Pending, now: float) -> None:
        """Send a request once more, without naming the local IP: it may be gone."""
        if pending.is_queued:
            return
        pending.retransmits += 1
        opening = self._openings.get(pending.contact.key)
        session = self._wire.sessions.get(pending.contact.key)
        if opening is not None and opening.session is None:
            self._knock(pending, now)
        elif session is not None and not session.is_exhausted:
            data, nonce = self._wire.seal(session, pending.encoded)
            self._note(pending, data, nonce, None, self._again_at(pending, now))
        elif opening is None:
            self._send(pending, now)
