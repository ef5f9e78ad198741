"""CORE: asks STUN servers which addresses of ours they see, from sockets that others use too.

One question is one server and one address of ours (a base). New questions go out one each Ta, each
is sent again until it is answered or given up, and is asked anew before the NAT forgets it. A
silent server costs the others nothing. Which servers there are is for others to say.

Invariants:
- An answer counts only if it came from the server that was asked, with the id that it was asked
  with.
- Each question has at most one open request.

Source: RFC 8489 sections 6.2.1 and 6.3.3; RFC 8445 sections 5.1.1.2, 5.1.1.4, 14.2 and 14.3.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import TimerTable
from ginnel.base.types import Address, Deadline, Transmit
from ginnel.ice import stun
from ginnel.ice.candidate import refusal
from ginnel.ice.stun import Message, MessageClass

TA = 0.05  # s between two new questions (RFC 8445 section 14.2)
MIN_RTO = 0.5  # s (RFC 8445 section 14.3)
MAX_SENDS = 7  # Rc of RFC 8489 section 6.2.1: at 0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5 s
LAST_WAIT = 16  # Rm: times the RTO after the last send; a question fails after 39.5 s
REFRESH = 15.0  # s from an answer to the next question (Tr of RFC 8445 section 11)
RETRY_FIRST, RETRY_LAST = 30.0, 600.0  # s until a silent server is asked again
MAX_QUESTIONS = 32  # 4 servers from 8 addresses of ours

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReflexiveFound:
    """A server sees the base as this address; told again when it changes."""

    server: Address
    base: Address
    address: Address


@dataclass(frozen=True, slots=True)
class ReflexiveLost:
    """A server does not answer, or told nothing of use; `address`: what it had told before."""

    server: Address
    base: Address
    address: Address | None
    reason: str


StunClientEvent: TypeAlias = ReflexiveFound | ReflexiveLost


class StunDrop(Enum):
    """Why a message was dropped."""

    MALFORMED = "malformed"
    FOREIGN = "answer to nothing"
    SOURCE = "not from the server that was asked"


class _Timer(Enum):
    ASK = "ask"
    RETRANSMIT = "retransmit"


@dataclass(eq=False, slots=True)
class _Question:
    server: Address
    base: Address
    ask_at: float
    rto: float = MIN_RTO
    transaction_id: bytes = b""  # empty: no open request
    sends: int = 0
    next_at: float = 0.0
    failures: int = 0
    is_settled: bool = False  # answered or given up, once
    seen: Address | None = None


class StunClient:
    """All questions of one port; see the module's text.

    Args:
        random_bytes: for transaction ids.
        rng: for the spread of repeated questions.
        refresh: seconds from an answer to the next question.
        allow_loopback: whether an address on loopback is believed (for tests).
    """

    def __init__(
        self,
        *,
        random_bytes: RandomBytes,
        rng: Rng,
        refresh: float = REFRESH,
        allow_loopback: bool = False,
    ) -> None:
        self.drops: dict[StunDrop, int] = {}
        self._random_bytes = random_bytes
        self._rng = rng
        self._refresh = refresh
        self._allow_loopback = allow_loopback
        self._questions: list[_Question] = []
        self._open: dict[bytes, _Question] = {}
        self._next_ask_at = float("-inf")
        self._timers: TimerTable[_Timer] = TimerTable()
        self._out: deque[Transmit] = deque()
        self._events: deque[StunClientEvent] = deque()

    @property
    def answers(self) -> tuple[tuple[Address, Address], ...]:
        """Return what is known, (address seen from outside, base), without doubles."""
        known = {(q.seen, q.base): None for q in self._questions if q.seen is not None}
        return tuple((seen, base) for seen, base in known if seen is not None)

    @property
    def is_settled(self) -> bool:
        """Say whether every question was answered, or given up, at least once."""
        return all(question.is_settled for question in self._questions)

    def ask(self, servers: Sequence[Address], bases: Sequence[Address], *, now: float) -> None:
        """Ask these servers, from these addresses of ours, from now on; others are forgotten.

        Those of one IP version are paired; what was asked before goes on as it is.
        """
        wanted = [(s, b) for s in servers for b in bases if s.is_ipv6 == b.is_ipv6][:MAX_QUESTIONS]
        known = {(q.server, q.base): q for q in self._questions}
        for key, question in known.items():
            if key not in wanted:
                self._open.pop(question.transaction_id, None)
        self._questions = [known.get(key) or _Question(*key, ask_at=now) for key in wanted]
        self._ask_next(now)
        self._rearm()

    def owns(self, message: Message, source: Address) -> bool:
        """Say whether a message on a shared socket answers one of these questions."""
        question = self._open.get(message.transaction_id)
        return question is not None and question.server == source

    # The five verbs

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Take one datagram; see `base.core.Core`."""
        try:
            message = stun.decode_message(data)
        except stun.StunError:
            self._drop(StunDrop.MALFORMED)
            return
        self.handle_message(message, source, now=now)

    def handle_message(self, message: Message, source: Address, *, now: float) -> None:
        """Take one decoded message."""
        question = self._open.get(message.transaction_id)
        is_answer = message.message_class in (MessageClass.SUCCESS, MessageClass.ERROR)
        if question is None or not is_answer or message.method != stun.BINDING:
            self._drop(StunDrop.FOREIGN)
            return
        if question.server != source:
            self._drop(StunDrop.SOURCE)
            return
        del self._open[question.transaction_id]
        question.transaction_id = b""
        seen = message.mapped_address
        if message.message_class is MessageClass.ERROR:
            self._fail(question, f"the server refused ({message.error_code or 0})", now)
        elif message.unknown_required():
            self._fail(question, "the answer asks for what we don't know", now)
        elif seen is None or refusal(seen, allow_loopback=self._allow_loopback) is not None:
            self._fail(question, "the answer names no usable address", now)
        else:
            self._on_seen(question, seen, now)
        self._ask_next(now)
        self._rearm()

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due."""
        for timer in self._timers.expire(now):
            if timer is _Timer.RETRANSMIT:
                self._retransmit(now)
            else:
                self._ask_next(now)
        self._rearm()

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> StunClientEvent | None:
        """Return the next event, or None."""
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted, or None."""
        return self._timers.deadline()

    # Inside

    def _ask_next(self, now: float) -> None:
        """Ask the question that is due the longest, if its turn has come."""
        due = [q for q in self._questions if not q.transaction_id and q.ask_at <= now]
        if not due or now < self._next_ask_at:
            return
        question = min(due, key=lambda q: q.ask_at)
        self._next_ask_at = now + TA
        question.transaction_id = self._random_bytes(stun.TRANSACTION_ID_SIZE)
        question.rto = max(MIN_RTO, TA * len(self._questions))
        question.sends = 0
        self._open[question.transaction_id] = question
        self._send(question, now)

    def _send(self, question: _Question, now: float) -> None:
        question.sends += 1
        is_last = question.sends == MAX_SENDS
        question.next_at = now + question.rto * (
            LAST_WAIT if is_last else 2 ** (question.sends - 1)
        )
        data = stun.encode_message(MessageClass.REQUEST, question.transaction_id, ())
        self._out.append(Transmit(data, question.server, question.base.ip))

    def _retransmit(self, now: float) -> None:
        for question in list(self._open.values()):
            if question.next_at > now:
                continue
            if question.sends < MAX_SENDS:
                self._send(question, now)
                continue
            del self._open[question.transaction_id]
            question.transaction_id = b""
            self._fail(question, "the server does not answer", now)

    def _on_seen(self, question: _Question, seen: Address, now: float) -> None:
        question.failures, question.is_settled = 0, True
        question.ask_at = now + self._refresh * self._rng.uniform(0.9, 1.0)
        if question.seen != seen:
            question.seen = seen
            self._events.append(ReflexiveFound(question.server, question.base, seen))

    def _fail(self, question: _Question, reason: str, now: float) -> None:
        wait = min(RETRY_LAST, RETRY_FIRST * 2 ** min(question.failures, 10))
        question.failures += 1
        question.is_settled = True
        question.ask_at = now + wait * self._rng.uniform(0.9, 1.1)
        before, question.seen = question.seen, None
        self._events.append(ReflexiveLost(question.server, question.base, before, reason))

    def _rearm(self) -> None:
        resend_at = min((q.next_at for q in self._open.values()), default=None)
        ask_at = min((q.ask_at for q in self._questions if not q.transaction_id), default=None)
        if ask_at is not None:
            ask_at = max(ask_at, self._next_ask_at)
        for timer, at in ((_Timer.RETRANSMIT, resend_at), (_Timer.ASK, ask_at)):
            if at is None:
                self._timers.stop(timer)
            else:
                self._timers.set(timer, at)

    def _drop(self, reason: StunDrop) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1
        log.debug("dropped a datagram: %s", reason.value)
