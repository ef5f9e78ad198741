"""The half of an ICE session that asks: checks, retransmission, nomination, consent.

`session.SessionCore` is the other half: what callers see and how requests of the other side are
answered. Kept apart because each fits on a few screens.

Source: RFC 8445 sections 6.1.4, 7.2, 8.1; RFC 7675.
"""

from __future__ import annotations

import base64
import logging
from collections import deque
from dataclasses import dataclass
from enum import Enum

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import TimerTable
from ginnel.base.types import Address, Secret, Transmit
from ginnel.ice import stun
from ginnel.ice.candidate import (
    Candidate,
    CandidateKind,
    compute_priority,
    make_local,
    network_of,
    refusal,
)
from ginnel.ice.checklist import Checklist
from ginnel.ice.consent import Consent
from ginnel.ice.events import (
    TRANSITIONS,
    AgentConfig,
    Drop,
    IceEvent,
    IceState,
    PairLatency,
    PairSelected,
    PairUsable,
    PathChecked,
    StateChanged,
)
from ginnel.ice.pair import CandidatePair, PairState
from ginnel.ice.reasons import NatKind, is_hopeless
from ginnel.ice.stun import Attribute, Message, MessageClass
from ginnel.ice.transactions import MIN_RTO, Purpose, Transaction, Transactions

TA = 0.05  # s between new checks, unless both sides propose less (RFC 8445 section 14.2)
LIMITED_WAIT = 0.5  # s until a check that the limiter held back is tried again
NOMINATION_PATIENCE = 0.05  # s that a better pair gets at least; a LAN answers sooner
MAX_NOMINATION_WAIT = 0.5  # s after the first valid pair
NOMINATION_GRACE = 5.0  # s beyond the patience while a pair is valid but not nominated

log = logging.getLogger(__name__)


class Timer(Enum):
    """The timers of a session."""

    CHECK = "check"
    RETRANSMIT = "retransmit"
    NOMINATE = "nominate"
    PATIENCE = "patience"
    CONSENT = "consent"


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where a message came from and to: our local IP if known, or our address at a relay."""

    source: Address
    local_ip: str | None = None
    relayed: Address | None = None


class Checker:
    """Owns the candidates, the checklist, the open requests and the selected pair."""

    def __init__(
        self, config: AgentConfig, *, controlling: bool, random_bytes: RandomBytes, rng: Rng
    ) -> None:
        self._config = config
        self._random_bytes = random_bytes
        self._rng = rng
        self.ufrag = base64.b64encode(random_bytes(6)).decode()
        self._pwd = Secret(base64.b64encode(random_bytes(18)))
        self._tie_breaker = int.from_bytes(random_bytes(8), "big")
        self.state = IceState.NEW
        self.nats = (NatKind.UNKNOWN, NatKind.UNKNOWN)  # ours and theirs, for `why_failed`
        self.drops: dict[Drop, int] = {}
        self._remote_ufrag = ""
        self._remote_key: Secret | None = None
        self._local: list[Candidate] = []
        self._remote: list[Candidate] = []
        self._started = False
        self._ends = {"local": False, "remote": False}
        self._checklist = Checklist(controlling=controlling)
        self._transactions = Transactions()
        self._selected: CandidatePair | None = None
        self._usable: CandidatePair | None = None  # told while the other side nominates
        self._is_confirmed = False  # the other side knows that it is selected
        self.pacing = TA
        self._consent: Consent | None = None
        self._timers: TimerTable[Timer] = TimerTable()
        self._next_check_at = float("-inf")
        self._first_valid_at: float | None = None
        self._began_at = 0.0
        self._extended = False
        self._limited = 0
        self._out: deque[Transmit] = deque()
        self._events: deque[IceEvent] = deque()

    @property
    def controlling(self) -> bool:
        """Say whether we nominate."""
        return self._checklist.controlling

    # Our own requests

    def _pace(self, now: float) -> None:
        """Send the next check if its turn has come, and arm the timer of the one after."""
        if self.state is IceState.NEW or self._is_over():
            return
        if now >= self._next_check_at:
            self._check_next(now)
        if self._checklist.has_checks():
            self._timers.set(Timer.CHECK, max(now, self._next_check_at))
        self._rearm(now)

    def _check_next(self, now: float) -> None:
        free_at = self._config.limiter.next_start(now)
        if free_at > now:  # another agent's check has just gone out
            self._next_check_at = free_at
            return
        pair = self._checklist.next_check()
        if pair is not None:
            self._config.limiter.on_start(now)
            self._next_check_at = now + self.pacing
            self._send(pair, Purpose.CHECK, now)

    def _send(self, pair: CandidatePair, purpose: Purpose, now: float) -> bool:
        """Send a check; return False if the limiter holds it back."""
        remote = pair.remote.address
        if purpose is Purpose.CHECK:
            pair.state = PairState.IN_PROGRESS
            if pair.first_sent_at is None:
                pair.first_sent_at = now
        # Consent needs no leave: the other side answered there, and few are sent unanswered.
        if purpose is not Purpose.CONSENT and not self._config.limiter.take(remote.ip, now=now):
            self._limited += 1
            if purpose is Purpose.CHECK:
                pair.state = PairState.FROZEN  # after the pairs that wait
                self._next_check_at = now + LIMITED_WAIT
            return False
        transaction_id = self._random_bytes(stun.TRANSACTION_ID_SIZE)
        nominates = self.controlling and (purpose is Purpose.NOMINATION or pair is self._selected)
        attributes = self._attributes(pair, nominates=nominates)
        assert self._remote_key is not None
        key = self._remote_key.reveal()
        data = stun.encode_message(MessageClass.REQUEST, transaction_id, attributes, key=key)
        if pair.local.is_relayed:
            transmit = Transmit(data, remote, relayed_from=pair.local.base)
        else:
            transmit = Transmit(data, remote, pair.local.base.ip)
        rto = max(MIN_RTO, self.pacing * self._checklist.count_running())
        transaction = Transaction(
            transaction_id, pair, purpose, self.controlling, transmit, rto, now, now + rto
        )
        if purpose is Purpose.CONSENT:
            transaction.retransmits = False  # the next consent check follows soon anyway
            transaction.next_at = now + self._config.disconnected_timeout
        self._transactions.add(transaction)
        self._out.append(transmit)
        return True

    def _attributes(self, pair: CandidatePair, *, nominates: bool) -> list[tuple[int, bytes]]:
        role = Attribute.ICE_CONTROLLING if self.controlling else Attribute.ICE_CONTROLLED
        preference = (pair.local.priority >> 8) & 0xFFFF
        priority = compute_priority(CandidateKind.PRFLX, preference)
        attributes: list[tuple[int, bytes]] = [
            (Attribute.USERNAME, f"{self._remote_ufrag}:{self.ufrag}".encode()),
            (Attribute.PRIORITY, priority.to_bytes(4, "big")),
            (role, self._tie_breaker.to_bytes(8, "big")),
        ]
        return attributes + ([(Attribute.USE_CANDIDATE, b"")] if nominates else [])

    def _retransmit(self, now: float) -> None:
        again, over = self._transactions.due(now)
        for transaction in again:
            if self._config.limiter.take(transaction.transmit.destination.ip, now=now):
                self._out.append(transaction.transmit)
            else:
                self._limited += 1
        for transaction in over:
            if transaction.purpose is not Purpose.CONSENT and transaction.retransmits:
                self._fail_pair(transaction.pair, now, f"no answer to {transaction.sends} checks")

    def _on_response(self, message: Message, came_to: Arrival, now: float) -> None:
        source = came_to.source
        transaction = self._transactions.get(message.transaction_id)
        if transaction is None or self._remote_key is None:
            return self._drop(Drop.FOREIGN, source)
        if not stun.check_integrity(message, self._remote_key.reveal()):
            return self._drop(Drop.BAD_INTEGRITY, source)
        self._transactions.pop(transaction.id)
        pair = transaction.pair
        if source != transaction.transmit.destination:
            self._fail_pair(pair, now, f"answered from another address, {source}")
            return self._drop(Drop.ASYMMETRIC, source)
        for _ in range(0 if transaction.purpose is Purpose.CONSENT else transaction.sends):
            self._config.limiter.give_back(source.ip, now=now)
        if message.message_class is MessageClass.ERROR:
            return self._on_error(message, transaction, now)
        mapped = message.mapped_address
        if mapped is None:
            return self._fail_pair(pair, now, "answered without an address")
        if transaction.sends == 1:
            pair.latency = now - transaction.sent_at
        pair.state = PairState.SUCCEEDED
        pair.mapped = self._mapped_candidate(mapped, pair)
        self._transactions.stop_retransmits(pair)
        self._checklist.thaw(pair.foundation)
        if self._first_valid_at is None:
            self._first_valid_at = now
        self._on_success(transaction, now)
        return self._pace(now)

    def _on_success(self, transaction: Transaction, now: float) -> None:
        pair = transaction.pair
        if pair is self._selected and self._consent is not None:
            latency = pair.latency or 0.0
            self._is_confirmed = True
            if self._consent.quick_until is not None:
                self._events.append(PathChecked(is_alive=True))
            self._consent.on_answer(now, latency, self._rng)
            if transaction.sends == 1:
                self._events.append(PairLatency(latency))
            if self.state is IceState.DISCONNECTED:
                self._set_state(IceState.CONNECTED)
                self._maybe_complete()
        elif pair.nominated and not self.controlling:
            self._select(pair, now)
        else:
            self._nominate(now)

    def _on_error(self, message: Message, transaction: Transaction, now: float) -> None:
        if message.error_code != 487:
            return self._fail_pair(transaction.pair, now, f"refused ({message.error_code})")
        if transaction.controlling == self.controlling:
            self._checklist.set_controlling(not self.controlling)
        self._checklist.trigger(transaction.pair)
        return self._pace(now)

    def _mapped_candidate(self, mapped: Address, pair: CandidatePair) -> Candidate:
        """Return the local candidate of a mapped address; an unknown one is peer-reflexive."""
        for candidate in self._local:
            if candidate.address == mapped and candidate.base == pair.local.base:
                return candidate
        preference = (pair.local.priority >> 8) & 0xFFFF
        return make_local(CandidateKind.PRFLX, mapped, pair.local.base, preference)

    def _fail_pair(self, pair: CandidatePair, now: float, why: str) -> None:
        if pair is not self._selected:
            pair.state, pair.failure = PairState.FAILED, why
            self._nominate(now)

    def _refuse(self, relayed: Address, peer: Address | None, why: str, now: float) -> None:
        """Fail the pairs from an address at a relay, all or those to one peer."""
        if self._is_over():
            return
        for pair in list(self._checklist):
            if pair.local.base == relayed and peer in (None, pair.remote.address):
                self._transactions.stop_retransmits(pair)
                self._fail_pair(pair, now, why)
        self._rearm(now)

    # Nomination, selection, consent

    def _nominate(self, now: float) -> None:
        """Nominate the best valid pair once no better one deserves more patience.

        It is the selected pair from then on: a valid pair may carry data (section 12.1), and the
        answer to the nomination would only come a round trip later. The controlled side tells by
        the same rules which pair it is going to be.
        """
        if self._selected is not None or self._is_over():
            return
        best = next((pair for pair in self._checklist if pair.is_valid), None)
        if best is None or self._first_valid_at is None:
            return
        patience = max(NOMINATION_PATIENCE, best.latency or 0.0)
        wait_until = now
        for pair in self._checklist:
            if pair is best:
                break
            if pair.state is not PairState.FAILED:
                sent_at = now if pair.first_sent_at is None else pair.first_sent_at
                wait_until = max(wait_until, sent_at + patience)
        wait_until = min(wait_until, self._first_valid_at + MAX_NOMINATION_WAIT)
        if self._may_be_relayed(best):
            wait_until = self._relay_wait(now)
        if wait_until > now:
            self._timers.set(Timer.NOMINATE, wait_until)
        elif not self.controlling:
            if best is not self._usable:
                self._usable = best
                self._events.append(PairUsable(best.mapped or best.local, best.remote))
        elif self._send(best, Purpose.NOMINATION, now):
            self._select(best, now, is_confirmed=False)
        else:
            self._timers.set(Timer.NOMINATE, now + LIMITED_WAIT)

    def _relay_wait(self, now: float) -> float:
        """Return until when a valid relayed pair waits for a direct one.

        Where none can come it does not wait: all have failed, or the NATs keep each other out and
        the two are not in one home.
        """
        direct = [pair for pair in self._checklist if not self._may_be_relayed(pair)]
        # Who hears nothing by UDP has no outer address: homes are told apart by the inner ones.
        kinds = [CandidateKind.SRFLX] + [CandidateKind.HOST] * (NatKind.BLOCKED in self.nats)
        ours, theirs = (
            {_place_of(c) for c in side if c.kind in kinds} for side in (self._local, self._remote)
        )
        none_can_come = is_hopeless(self.nats) and ours.isdisjoint(theirs)
        if none_can_come or all(pair.state is PairState.FAILED for pair in direct):
            return now
        return self._began_at + self._config.relay_acceptance_wait

    def _may_be_relayed(self, pair: CandidatePair) -> bool:
        """Say whether a pair is relayed, or its far end may be a relay that was not signalled yet.

        A NAT shows the IP of a signalled candidate (RFC 4787, REQ-2), only its port is new.
        """
        remote = pair.remote
        if pair.is_relayed or remote.kind is not CandidateKind.PRFLX:
            return pair.is_relayed
        signalled = (c.address for c in self._remote if c.kind is not CandidateKind.PRFLX)
        return all(network_of(address) != network_of(remote.address) for address in signalled)

    def _select(self, pair: CandidatePair, now: float, *, is_confirmed: bool = True) -> None:
        """Make the pair the path (section 8.1.1); the controlled side follows later changes."""
        if pair is self._selected or self._is_over():
            return
        keeps = self._is_confirmed and self.state is not IceState.DISCONNECTED
        if keeps and self._selected is not None and pair.priority < self._selected.priority:
            return
        pair.nominated = True
        self._selected, self._is_confirmed = pair, is_confirmed
        self._timers.stop(Timer.NOMINATE)
        self._timers.stop(Timer.PATIENCE)
        self._transactions.drop_all_but(pair)
        self._checklist.stop_all_but(pair)
        config = self._config
        self._consent = Consent(
            config.keepalive, config.disconnected_timeout, config.failed_timeout, now, now
        )
        self._consent.on_answer(now, pair.latency or 0.0, self._rng)
        self._events.append(PairSelected(pair.mapped or pair.local, pair.remote))
        if pair.latency is not None:
            self._events.append(PairLatency(pair.latency))
        if self.state in (IceState.CHECKING, IceState.DISCONNECTED):
            self._set_state(IceState.CONNECTED)
        self._maybe_complete()

    def _watch(self, now: float) -> None:
        """Ask for consent, and notice that it is gone."""
        consent, pair = self._consent, self._selected
        if consent is None or pair is None or consent.is_lent:
            return
        if consent.take_quick_failure(now):
            self._events.append(PathChecked(is_alive=False))
        if consent.is_failed(now):
            self._stop(IceState.FAILED)
            return
        if consent.is_disconnected(now) and self.state is not IceState.DISCONNECTED:
            self._set_state(IceState.DISCONNECTED)
        if now >= consent.next_at:
            self._send(pair, Purpose.CONSENT, now)
            consent.on_sent(now)

    def _on_patience(self, now: float) -> None:
        if any(pair.is_valid for pair in self._checklist) and not self._extended:
            self._extended = True
            self._timers.set(Timer.PATIENCE, now + NOMINATION_GRACE)
            return
        self._set_state(IceState.CHECKING)
        self._stop(IceState.FAILED)

    def _maybe_complete(self) -> None:
        if self.state is IceState.CONNECTED and all(self._ends.values()):
            self._set_state(IceState.COMPLETED)

    # Small things

    def _is_over(self) -> bool:
        return self.state in (IceState.FAILED, IceState.CLOSED)

    def _is_allowed(self, address: Address) -> bool:
        if any(candidate.base == address for candidate in self._local):
            return False  # ourselves, or a namesake in another private network
        config = self._config
        return refusal(address, config.overlay, allow_loopback=config.allow_loopback) is None

    def _has_base(self, base: Address) -> bool:
        return any(c.base == base and c.kind is not CandidateKind.SRFLX for c in self._local)

    def _bases(self) -> list[Candidate]:
        """Return one candidate for each base: reflexive ones are checked from their base."""
        bases: dict[Address, Candidate] = {}
        for candidate in self._local:
            known = bases.get(candidate.base)
            if known is None or known.kind is CandidateKind.SRFLX:
                bases[candidate.base] = candidate
        return list(bases.values())

    def _local_of(self, came_to: Arrival) -> Candidate | None:
        """Return our candidate that a packet came to."""
        source, local_ip = came_to.source, came_to.local_ip
        family = [c for c in self._bases() if c.base.is_ipv6 == source.is_ipv6]
        if came_to.relayed is not None:
            return next((c for c in family if c.base == came_to.relayed), None)
        family = [c for c in family if not c.is_relayed]
        if local_ip is not None:
            return next((c for c in family if c.base.ip == local_ip), None)
        paired = [
            p.local
            for p in self._checklist
            if p.remote.address == source and not p.local.is_relayed
        ]
        return next(iter(paired + family), None)

    def _rearm(self, now: float) -> None:
        if self._is_over():
            return
        next_at = self._transactions.next_at()
        if next_at is None:
            self._timers.stop(Timer.RETRANSMIT)
        else:
            self._timers.set(Timer.RETRANSMIT, next_at)
        if self._consent is not None and self._consent.is_lent:
            self._timers.stop(Timer.CONSENT)
        elif self._consent is not None:
            self._timers.set(Timer.CONSENT, self._consent.deadline(now))

    def _set_state(self, state: IceState) -> None:
        if state is self.state:
            return
        assert state in TRANSITIONS[self.state], f"{self.state} to {state}"
        self.state = state
        self._events.append(StateChanged(state))

    def _stop(self, state: IceState) -> None:
        if self.state is state or self.state is IceState.CLOSED:
            return
        if state is IceState.FAILED and self.state is not IceState.CHECKING:
            self._set_state(IceState.DISCONNECTED)
        self._set_state(state)
        self._timers = TimerTable()
        self._transactions.clear()
        self._consent = None

    def _drop(self, reason: Drop, source: Address, detail: str = "") -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1
        log.debug("dropped a datagram of %s: %s %s", source, reason.value, detail)


def _place_of(candidate: Candidate) -> bytes:
    """Return what candidates of one home have in common: the outer IP, or the inner subnet."""
    packed = candidate.address.packed_ip
    if candidate.kind is not CandidateKind.HOST:
        return packed
    return packed[:3] if len(packed) == 4 else packed[:8]
