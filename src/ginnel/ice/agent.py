"""CORE: one ICE agent with one component, on a socket that it may share with others.

It forms pairs, checks them, nominates one and watches over consent. Gathering, signalling and
sockets are left to others: candidates come in by methods, datagrams by the five verbs. Requests on
a shared socket are told apart by USERNAME, answers by transaction id (`owns`).

The work is done in a session (`session.SessionCore`), one for each pair of credentials. A restart
makes a new session; the one that has a path goes on asking for consent, and `selected` is its pair,
until the new one has selected its own. If the new one finds none, the old path is the path again.

Invariants:
- There are at most two sessions, and the kept one has a path.
- No session outlives the selection of a pair in a newer one.
- A closed agent stays closed.

Source: RFC 8445 section 9 (restarts), RFC 8838 section 14 (candidates of another session).
"""

from __future__ import annotations

from collections import deque

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import earliest
from ginnel.base.dataplane import ConsentTerms
from ginnel.base.types import Address, Deadline, Transmit
from ginnel.ice import stun
from ginnel.ice.candidate import Candidate
from ginnel.ice.events import (
    TRANSITIONS,
    AgentConfig,
    Drop,
    IceEvent,
    IceState,
    KeptPathLost,
    PairSelected,
    RestartFailed,
    StateChanged,
)
from ginnel.ice.pair import CandidatePair
from ginnel.ice.reasons import NatKind
from ginnel.ice.session import SessionCore
from ginnel.ice.stun import Message

MAX_EARLY_CANDIDATES = 40  # of sessions whose credentials have not come: two full sets
MAX_PAST_UFRAGS = 8  # of the other side's ended sessions, to know late candidates by


class AgentCore:
    """One agent; see the module. `controlling` may change by a role conflict."""

    def __init__(
        self, config: AgentConfig, *, controlling: bool, random_bytes: RandomBytes, rng: Rng
    ) -> None:
        self.state = IceState.NEW
        self.drops: dict[Drop, int] = {}
        self._config = config
        self._random_bytes = random_bytes
        self._rng = rng
        self._session = self._make_session(controlling=controlling)
        self._kept: SessionCore | None = None
        self._early: deque[tuple[str, Candidate]] = deque(maxlen=MAX_EARLY_CANDIDATES)
        self._past: deque[str] = deque(maxlen=MAX_PAST_UFRAGS)
        self._out: deque[Transmit] = deque()
        self._events: deque[IceEvent] = deque()

    # What others may know

    @property
    def ufrag(self) -> str:
        """Return our user name fragment, to be signalled; a restart changes it."""
        return self._session.ufrag

    @property
    def ufrags(self) -> tuple[str, ...]:
        """Return our user name fragments that checks may come with: two during a restart."""
        return tuple(session.ufrag for session in self._sessions())

    @property
    def pwd(self) -> str:
        """Return our password, to be signalled sealed only; a restart changes it."""
        return self._session.pwd

    @property
    def remote_ufrag(self) -> str:
        """Return the other side's ufrag, empty until it is known."""
        return self._session.remote_ufrag

    @property
    def controlling(self) -> bool:
        """Say whether we nominate."""
        return self._session.controlling

    @property
    def is_restarting(self) -> bool:
        """Say whether a path from before a restart is kept."""
        return self._kept is not None

    @property
    def selected(self) -> tuple[Candidate, Candidate] | None:
        """Return the pair to send on (local, remote), or None; during a restart the old one."""
        return (self._kept or self._session).selected

    @property
    def local_candidates(self) -> tuple[Candidate, ...]:
        """Return the local candidates."""
        return self._session.local_candidates

    @property
    def pairs(self) -> tuple[CandidatePair, ...]:
        """Return the pairs with their last results, best first; don't change them."""
        return self._session.pairs

    @property
    def nats(self) -> tuple[NatKind, NatKind]:
        """Return the kinds of NAT, ours and theirs: for `why_failed` and the wait for direct."""
        return self._session.nats

    def owns(self, message: Message, source: Address) -> bool:
        """Say whether a message on a shared socket is for this agent; it proves nothing."""
        return any(session.owns(message, source) for session in self._sessions())

    def why_failed(self) -> str | None:
        """Return in words why no path was found; None unless the agent failed."""
        return self._session.why_failed() if self.state is IceState.FAILED else None

    def why_not_yet(self) -> str:
        """Return in words what probably keeps all checks out, whatever the state."""
        return self._session.why_not_yet()

    # Commands

    def start(self, *, now: float) -> None:
        """Check pairs as soon as the other side's credentials are known."""
        self._session.start(now=now)
        self._collect(now)

    def set_remote_credentials(self, ufrag: str, pwd: str, *, now: float) -> bool:
        """Take the other side's credentials; return whether they are the session's now.

        Each session takes them once: if the other side has restarted, call `restart` first, then
        this, and signal the new credentials of ours.
        """
        is_old = self._kept is not None and self._kept.remote_ufrag == ufrag
        if is_old or not self._session.set_remote_credentials(ufrag, pwd, now=now):
            return False
        if ufrag in self._past:
            self._past.remove(ufrag)
        early, self._early = self._early, deque(maxlen=MAX_EARLY_CANDIDATES)
        for name, candidate in early:
            if name == ufrag:
                self._session.add_remote_candidate(candidate, now=now)
            else:
                self._early.append((name, candidate))
        self._collect(now)
        return True

    def restart(
        self, *, now: float, candidates: tuple[Candidate, ...] | None = None
    ) -> tuple[str, str]:
        """Begin a new session with new credentials; return our new (ufrag, pwd), to be signalled.

        The state is `checking` from now on (`new` stays `new`), and the selected pair stays in
        use. Remote credentials, remote candidates and both ends of candidates are to be given
        anew; local candidates are told again by events. It ends with the state `connected` (with
        `PairSelected` for a new pair, or `RestartFailed` for the old one) or `failed`.

        Args:
            now: monotonic seconds.
            candidates: our addresses from now on; None keeps those that there are.
        """
        if self.state is IceState.CLOSED:
            return self.ufrag, self.pwd
        old = self._session
        if old.remote_ufrag:
            self._past.append(old.remote_ufrag)
        self._session = self._make_session(controlling=old.controlling)
        self._session.nats, self._session.pacing = old.nats, old.pacing
        if old.selected is not None and old.state is not IceState.FAILED:
            assert self._kept is None, "a session with a path ends the one before"
            self._kept = old
        else:
            old.close()
        for candidate in old.local_candidates if candidates is None else candidates:
            self._session.add_local_candidate(candidate, now=now)
        if self.state is not IceState.NEW:
            self._session.start(now=now)
            self._set_state(IceState.CHECKING)
        self._collect(now)
        return self.ufrag, self.pwd

    def cancel_restart(self, reason: str, *, now: float) -> bool:
        """Go back to the path from before the restart; return False if there is none.

        For a restart that the other side doesn't answer. `RestartFailed` tells the reason.
        """
        kept = self._kept
        if kept is None:
            return False
        if self._session.remote_ufrag:
            self._past.append(self._session.remote_ufrag)
        if kept.remote_ufrag in self._past:
            self._past.remove(kept.remote_ufrag)
        self._session.close()
        self._session, self._kept = kept, None
        self._events.append(RestartFailed(reason))
        self._set_state(IceState.CONNECTED)
        if kept.state is not IceState.CONNECTED:
            self._set_state(kept.state)
        self._collect(now)
        return True

    def check_now(self, *, now: float) -> bool:
        """Ask at once, and quickly again, whether the selected pair answers.

        The event `PathChecked` tells the outcome: an answer, or none for 1 s (or four round trips,
        2 s at most); the state is then `disconnected` at once, unless a restart is under way.
        Harmless when repeated. Returns False if no pair is selected.
        """
        done = (self._kept or self._session).check_now(now=now)
        self._collect(now)
        return done

    def lend_consent(self) -> ConsentTerms | None:
        """Leave consent to somebody else, a data plane say, who answers and asks from now on.

        Returns what that takes, or None: no confirmed pair, a relayed one, a check or a restart
        under way. `check_now` and `take_consent_back` end it.
        """
        return self._session.lend_consent() if self._kept is None else None

    def take_consent_back(self, answered_at: float, *, now: float) -> None:
        """Ask for consent again, at once; the last answer came at `answered_at`."""
        for session in self._sessions():
            session.take_consent_back(answered_at, now=now)
        self._collect(now)

    def set_remote_pacing(self, pacing: float) -> None:
        """Take the time between checks that the other side proposes, in seconds.

        The larger proposal holds for both (section 14.2); who proposes none gets 50 ms.
        """
        self._session.set_remote_pacing(pacing)

    def set_nats(self, ours: NatKind, theirs: NatKind, *, now: float) -> None:
        """Tell what is known of both sides' NATs: where none can be met, no relay waits."""
        self._session.set_nats((ours, theirs), now=now)
        self._collect(now)

    def add_local_candidate(self, candidate: Candidate, *, now: float) -> bool:
        """Add one address of ours; return whether it is new."""
        result = self._session.add_local_candidate(candidate, now=now)
        self._collect(now)
        return result

    def add_remote_candidate(self, candidate: Candidate, *, now: float, ufrag: str = "") -> bool:
        """Add one address of the other side; return whether it is new and allowed.

        Args:
            candidate: as signalled.
            now: monotonic seconds.
            ufrag: the other side's, that the candidate was signalled with. One that is not known
                yet keeps the candidate until `set_remote_credentials`; one of an old session
                refuses it. Empty: the session of now.
        """
        session = self._session
        if ufrag and ufrag != session.remote_ufrag:
            if ufrag in self._past or self.state is IceState.CLOSED:
                self.drops[Drop.OLD_SESSION] = self.drops.get(Drop.OLD_SESSION, 0) + 1
                return False
            if (ufrag, candidate) in self._early:
                return False
            self._early.append((ufrag, candidate))
            return True
        result = session.add_remote_candidate(candidate, now=now)
        self._collect(now)
        return result

    def remove_relay(self, relayed: Address, reason: str, *, now: float) -> None:
        """An address of ours at a relay is gone: nothing is sent from there any more."""
        for session in self._sessions():
            session.remove_relay(relayed, reason, now=now)
        self._collect(now)

    def on_relay_refused(self, relayed: Address, peer: Address, reason: str, *, now: float) -> None:
        """The relay does not carry packets from our address there to this peer."""
        for session in self._sessions():
            session.on_relay_refused(relayed, peer, reason, now=now)
        self._collect(now)

    def end_local_candidates(self) -> None:
        """No more local candidates will come, until a restart."""
        self._session.end_local_candidates()
        self._take_events(self._session)

    def end_remote_candidates(self) -> None:
        """No more remote candidates will come, until a restart."""
        self._session.end_remote_candidates()
        self._take_events(self._session)

    def close(self) -> None:
        """Stop for good; harmless if closed."""
        for session in self._sessions():
            session.close()
        self._kept = None
        self._early.clear()
        self._set_state(IceState.CLOSED)

    # The five verbs

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Take one datagram; see `base.core.Core`."""
        try:
            message = stun.decode_message(data)
        except stun.StunError:
            self.drops[Drop.MALFORMED] = self.drops.get(Drop.MALFORMED, 0) + 1
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
        kept = self._kept
        session = kept if kept is not None and kept.owns(message, source) else self._session
        session.handle_message(message, source, now=now, local_ip=local_ip, relayed=relayed)
        self._collect(now)

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due."""
        for session in self._sessions():
            session.handle_timeout(now=now)
        self._collect(now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> IceEvent | None:
        """Return the next event, or None."""
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted, or None."""
        return earliest(*(session.poll_deadline() for session in self._sessions()))

    # The sessions

    def _make_session(self, *, controlling: bool) -> SessionCore:
        return SessionCore(
            self._config,
            controlling=controlling,
            random_bytes=self._random_bytes,
            rng=self._rng,
            drops=self.drops,
        )

    def _sessions(self) -> list[SessionCore]:
        return [self._session] if self._kept is None else [self._kept, self._session]

    def _collect(self, now: float) -> None:
        """Take what the sessions send and tell, and end the one that is not needed any more."""
        for session in self._sessions():
            while (transmit := session.poll_transmit()) is not None:
                self._out.append(transmit)
        if self._kept is not None:
            self._watch_kept(self._kept)
        self._take_events(self._session)
        if self._kept is not None and self._session.state is IceState.FAILED:
            self.cancel_restart(self._session.why_failed() or "no path", now=now)

    def _watch_kept(self, kept: SessionCore) -> None:
        while (event := kept.poll_event()) is not None:
            if not isinstance(event, StateChanged):
                self._events.append(event)
        if kept.state is IceState.FAILED:
            self._kept = None
            self._events.append(KeptPathLost())

    def _take_events(self, session: SessionCore) -> None:
        while (event := session.poll_event()) is not None:
            if not isinstance(event, StateChanged):
                self._end_kept_after(event)
                self._events.append(event)
            elif event.state is not IceState.FAILED or self._kept is None:
                self._set_state(event.state)

    def _end_kept_after(self, event: IceEvent) -> None:
        if isinstance(event, PairSelected) and self._kept is not None:
            self._kept.close()
            self._kept = None

    def _set_state(self, state: IceState) -> None:
        if state is self.state:
            return
        assert state in TRANSITIONS[self.state], f"{self.state} to {state}"
        self.state = state
        self._events.append(StateChanged(state))
