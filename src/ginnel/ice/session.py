"""CORE: one ICE session: one pair of credentials on each side, until the agent restarts.

It forms pairs, checks them, nominates one and watches over consent; `agent.AgentCore` owns one
session, or two while it restarts. This half answers requests and knows the candidates, `checker`
is the half that asks.

Deviations from RFC 8445, each bounded: checks give up after 10 s, not 39.5; freezing never delays
(see `checklist`); a failed request is not answered with 400 or 401 but dropped; the RTO takes 1 for
the N of section 14.3, which lets us: with all pairs for N, 30 of them would wait 45 s.

Invariant: nothing is sent to an address before the other side's credentials are known, but for
answers to requests that carry our password's integrity.

Source: RFC 8445 (sections 6 to 8, 11, 14), RFC 7675, RFC 8838, RFC 8863.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.dataplane import ConsentTerms
from ginnel.base.types import Address, Deadline, Secret, Transmit
from ginnel.ice import stun
from ginnel.ice.candidate import (
    MAX_LOCAL_CANDIDATES,
    MAX_REMOTE_CANDIDATES,
    Candidate,
    CandidateKind,
    make_foundation,
    make_remote,
)
from ginnel.ice.checker import Arrival, Checker, Timer
from ginnel.ice.consent import MIN_RETRY
from ginnel.ice.events import (
    AgentConfig,
    CandidateFound,
    Drop,
    IceEvent,
    IceState,
    PairSelected,
)
from ginnel.ice.pair import CandidatePair, PairState
from ginnel.ice.reasons import NatKind, explain_failure
from ginnel.ice.stun import Attribute, Message, MessageClass

MAX_EARLY_CHECKS = 20  # requests kept until the other side's credentials come
MIN_PACING = 0.005  # s (section 14.2)
MAX_PEER_REFLEXIVE = 10  # remote addresses learned from checks; a NAT shows one for each base
_REQUEST_ROLES = (Attribute.ICE_CONTROLLED, Attribute.ICE_CONTROLLING)


@dataclass(frozen=True, slots=True)
class _EarlyCheck:
    local: Candidate
    source: Address
    priority: int
    use_candidate: bool


class SessionCore(Checker):
    """One session; see the module. `controlling` may change by a role conflict."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        controlling: bool,
        random_bytes: RandomBytes,
        rng: Rng,
        drops: dict[Drop, int],
    ) -> None:
        super().__init__(config, controlling=controlling, random_bytes=random_bytes, rng=rng)
        self.drops = drops  # the agent's
        self._early: deque[_EarlyCheck] = deque(maxlen=MAX_EARLY_CHECKS)

    # What others may know

    @property
    def pwd(self) -> str:
        """Return our password, to be signalled sealed only."""
        return self._pwd.reveal().decode()

    @property
    def remote_ufrag(self) -> str:
        """Return the other side's ufrag, empty until it is known."""
        return self._remote_ufrag

    @property
    def selected(self) -> tuple[Candidate, Candidate] | None:
        """Return the selected pair (local, remote), or None."""
        pair = self._selected
        return (pair.mapped or pair.local, pair.remote) if pair else None

    @property
    def local_candidates(self) -> tuple[Candidate, ...]:
        """Return the local candidates."""
        return tuple(self._local)

    @property
    def pairs(self) -> tuple[CandidatePair, ...]:
        """Return the pairs with their last results, best first; don't change them."""
        return (*self._checklist, *self._checklist.past)

    def owns(self, message: Message, source: Address) -> bool:
        """Say whether a message on a shared socket is for this agent; it proves nothing."""
        if message.message_class is MessageClass.REQUEST:
            return message.local_ufrag == self.ufrag
        return message.transaction_id in self._transactions

    def why_failed(self) -> str | None:
        """Return in words why no path was found; None unless the agent failed."""
        if self.state is not IceState.FAILED:
            return None
        if self._selected is not None:
            return "the path broke: the other side answers no more"
        if any(pair.is_valid for pair in self._checklist):
            return "a path was found but the other side did not agree on it in time"
        return self.why_not_yet()

    def why_not_yet(self) -> str:
        """Return in words what probably keeps all checks out, whatever the state."""
        return explain_failure(
            self._local, self._remote, self.nats, pairs=len(self._checklist), limited=self._limited
        )

    # Commands

    def start(self, *, now: float) -> None:
        """Check pairs as soon as the other side's credentials are known."""
        self._started = True
        self._begin(now)

    def set_remote_credentials(self, ufrag: str, pwd: str, *, now: float) -> bool:
        """Take the other side's credentials; return False if there are some already."""
        if self._remote_key is not None or self._is_over():
            return False
        self._remote_ufrag = ufrag
        self._remote_key = Secret(pwd.encode())
        self._begin(now)
        return True

    def set_remote_pacing(self, pacing: float) -> None:
        """Take the other side's proposal; the larger one holds for both (section 14.2)."""
        self.pacing = max(MIN_PACING, self._config.pacing, pacing)

    def set_nats(self, nats: tuple[NatKind, NatKind], *, now: float) -> None:
        """Tell what is known of both sides' NATs, ours and theirs."""
        if self.nats != nats:
            self.nats = nats
            self._nominate(now)
            self._rearm(now)

    def add_local_candidate(self, candidate: Candidate, *, now: float) -> bool:
        """Add one address of ours; return whether it is new."""
        if self._is_over() or len(self._local) >= MAX_LOCAL_CANDIDATES:
            return False
        if any((c.address, c.base) == (candidate.address, candidate.base) for c in self._local):
            return False
        self._local.append(candidate)
        self._events.append(CandidateFound(candidate))
        if candidate.kind is not CandidateKind.SRFLX or not self._has_base(candidate.base):
            for remote in self._remote:
                self._checklist.add(candidate, remote)
        self._pace(now)
        return True

    def add_remote_candidate(self, candidate: Candidate, *, now: float) -> bool:
        """Add one address of the other side; return whether it is new and allowed."""
        if self._is_over() or not self._is_allowed(candidate.address):
            return False
        for known in self._remote:
            if known.address == candidate.address:
                if known.kind is CandidateKind.PRFLX:
                    self._remote[self._remote.index(known)] = candidate
                    self._on_signalled(known, candidate, now)
                return False
        signalled = sum(1 for c in self._remote if c.kind is not CandidateKind.PRFLX)
        if signalled >= MAX_REMOTE_CANDIDATES:
            return False
        self._remote.append(candidate)
        if self._selected is None:
            for local in self._bases():
                self._checklist.add(local, candidate)
            self._pace(now)
            self._nominate(now)
        return True

    def _on_signalled(self, known: Candidate, candidate: Candidate, now: float) -> None:
        """An address that a check showed is signalled: now it is known what it is."""
        self._checklist.replace_remote(known, candidate)
        pair = self._selected
        if pair is not None and pair.remote is candidate:
            self._events.append(PairSelected(pair.mapped or pair.local, candidate))
        self._nominate(now)
        self._rearm(now)

    def remove_relay(self, relayed: Address, reason: str, *, now: float) -> None:
        """An address of ours at a relay is gone: nothing is sent from there any more."""
        self._local = [c for c in self._local if c.base != relayed]
        self._refuse(relayed, None, reason, now)

    def on_relay_refused(self, relayed: Address, peer: Address, reason: str, *, now: float) -> None:
        """The relay does not carry packets from our address there to this peer."""
        self._refuse(relayed, peer, reason, now)

    def end_local_candidates(self) -> None:
        """No more local candidates will come."""
        self._ends["local"] = True
        self._maybe_complete()

    def end_remote_candidates(self) -> None:
        """No more remote candidates will come."""
        self._ends["remote"] = True
        self._maybe_complete()

    def check_now(self, *, now: float) -> bool:
        """Ask at once, and quickly again, whether the selected pair answers; see `AgentCore`."""
        if self._consent is None or self._selected is None:
            return False
        self._consent.check_now(now)
        self._watch(now)
        self._rearm(now)
        return True

    def lend_consent(self) -> ConsentTerms | None:
        """Leave the selected pair's consent to somebody else; None if it can't be left now."""
        pair, consent, key = self._selected, self._consent, self._remote_key
        is_well = self.state in (IceState.CONNECTED, IceState.COMPLETED) and self._is_confirmed
        if pair is None or consent is None or key is None or not is_well:
            return None
        if consent.is_lent or consent.quick_until is not None or pair.local.is_relayed:
            return None
        consent.is_lent = True
        self._timers.stop(Timer.CONSENT)
        return ConsentTerms(
            username=f"{self.ufrag}:{self._remote_ufrag}".encode(),
            local_password=self._pwd,
            remote_password=key,
            attributes=stun.encode_attributes(self._attributes(pair, nominates=self.controlling)),
            controlling=self.controlling,
            interval=consent.keepalive,
            patience=max(MIN_RETRY, 2 * consent.latency),
        )

    def take_consent_back(self, answered_at: float, *, now: float) -> None:
        """Ask for consent again; harmless if it isn't lent. `answered_at`: monotonic seconds."""
        if self._consent is not None and self._consent.is_lent:
            self._consent.take_back(now, answered_at)
            self._watch(now)
            self._rearm(now)

    def close(self) -> None:
        """Stop for good; harmless if closed."""
        self._stop(IceState.CLOSED)

    # The five verbs

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Take one datagram; see `base.core.Core`."""
        try:
            message = stun.decode_message(data)
        except stun.StunError as error:
            self._drop(Drop.MALFORMED, source, str(error))
            return
        self.handle_message(message, source, now=now, local_ip=local_ip)

    def handle_message(
        self,
        message: Message,
        source: Address,
        *,
        now: float,
        local_ip: str | None = None,
        relayed: Address | None = None,
    ) -> None:
        """Take one decoded message (the owner of several agents decodes once).

        `relayed`: our address at a relay, if it came through one.
        """
        came_to = Arrival(source, local_ip, relayed)
        if self._is_over():
            self._drop(Drop.CLOSED, source)
        elif message.method != stun.BINDING:
            self._drop(Drop.UNSUPPORTED, source)
        elif message.message_class is MessageClass.REQUEST:
            self._on_request(message, came_to, now)
        elif message.message_class is not MessageClass.INDICATION:
            self._on_response(message, came_to, now)
        self._rearm(now)

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due."""
        for timer in self._timers.expire(now):
            if timer is Timer.CHECK:
                self._pace(now)
            elif timer is Timer.RETRANSMIT:
                self._retransmit(now)
            elif timer is Timer.NOMINATE:
                self._nominate(now)
            elif timer is Timer.PATIENCE:
                self._on_patience(now)
            else:
                self._watch(now)
        self._rearm(now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> IceEvent | None:
        """Return the next event, or None."""
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted, or None."""
        return self._timers.deadline()

    # Requests of the other side

    def _on_request(self, message: Message, came_to: Arrival, now: float) -> None:
        source = came_to.source
        ours, _, theirs = message.username.partition(":")
        if ours != self.ufrag or (self._remote_ufrag and theirs != self._remote_ufrag):
            return self._drop(Drop.FOREIGN, source)
        verify = stun.check_integrity_sha256 if message.covered_sha256 else stun.check_integrity
        if not verify(message, self._pwd.reveal()):
            return self._drop(Drop.BAD_INTEGRITY, source)
        if not self._is_allowed(source):
            return self._drop(Drop.BAD_SOURCE, source)
        unknown = message.unknown_required()
        if unknown:
            value = b"".join(kind.to_bytes(2, "big") for kind in unknown)
            attributes = [
                (Attribute.ERROR_CODE, stun.encode_error(420, "Unknown Attribute")),
                (Attribute.UNKNOWN_ATTRIBUTES, value),
            ]
            return self._respond(message, came_to, MessageClass.ERROR, attributes)
        priority = message.number(Attribute.PRIORITY, 4)
        if priority is None:
            return self._drop(Drop.UNSUPPORTED, source, "no PRIORITY")
        if self._is_role_conflict(message):
            attributes = [(Attribute.ERROR_CODE, stun.encode_error(487, "Role Conflict"))]
            return self._respond(message, came_to, MessageClass.ERROR, attributes)
        mapped = stun.encode_address(source, message.transaction_id)
        attributes = [(Attribute.XOR_MAPPED_ADDRESS, mapped)]
        self._respond(message, came_to, MessageClass.SUCCESS, attributes)
        local = self._local_of(came_to)
        if local is None:
            return self._drop(Drop.NO_LOCAL, source)
        use_candidate = message.get(Attribute.USE_CANDIDATE) is not None
        check = _EarlyCheck(local, source, priority, use_candidate)
        if self._remote_key is None or not self._started:
            self._early.append(check)
            return None
        return self._on_check(check, now)

    def _on_check(self, check: _EarlyCheck, now: float) -> None:
        """Do what a check of the other side calls for (sections 7.3.1.3 to 7.3.1.5)."""
        nominated = check.use_candidate and not self.controlling
        if self._selected is not None and not nominated:
            return
        remote = next((c for c in self._remote if c.address == check.source), None)
        if remote is None:
            if sum(c.kind is CandidateKind.PRFLX for c in self._remote) >= MAX_PEER_REFLEXIVE:
                return self._drop(Drop.BAD_SOURCE, check.source)
            foundation = make_foundation(CandidateKind.PRFLX, str(check.source))
            remote = make_remote(CandidateKind.PRFLX, check.source, check.priority, foundation)
            self._remote.append(remote)
        pair = self._checklist.add(check.local, remote)
        if pair is None:
            return
        pair.nominated = pair.nominated or nominated
        if pair.is_valid:
            if nominated:
                self._select(pair, now)
            return
        if pair.state is PairState.IN_PROGRESS:
            self._transactions.stop_retransmits(pair)
        self._checklist.trigger(pair)
        self._pace(now)

    def _is_role_conflict(self, message: Message) -> bool:
        """Resolve a conflict (section 7.3.1.1): switch our role, or say that they must."""
        for attribute in _REQUEST_ROLES:
            theirs = message.number(attribute, 8)
            if theirs is None or (attribute is Attribute.ICE_CONTROLLING) != self.controlling:
                continue
            we_win = self._tie_breaker >= theirs
            if we_win == self.controlling:
                return True
            self._checklist.set_controlling(not self.controlling)
        return False

    def _respond(
        self,
        request: Message,
        came_to: Arrival,
        message_class: MessageClass,
        attributes: list[tuple[Attribute, bytes]],
    ) -> None:
        data = stun.encode_message(
            message_class,
            request.transaction_id,
            attributes,
            key=self._pwd.reveal(),
            sha256=bool(request.covered_sha256),  # as asked (RFC 8489 section 9.1.3)
        )
        self._out.append(
            Transmit(data, came_to.source, came_to.local_ip, relayed_from=came_to.relayed)
        )

    def _begin(self, now: float) -> None:
        if not self._started or self._remote_key is None or self.state is not IceState.NEW:
            return
        self._set_state(IceState.CHECKING)
        self._began_at = now
        self._timers.set(Timer.PATIENCE, now + self._config.patience)
        while self._early:
            self._on_check(self._early.popleft(), now)
        self._pace(now)
