"""CORE: the connection to one remote peer: offer, answer, check, configure, connected, clean-up.

It owns its ICE agents and emits what to signal and what to tell the data plane. A path counts as
connected once WireGuard authenticated a packet on it. While it is open it tries for ever, unless
`ConnConfig.timeout` is set: then an open ends as in seed 000 (`Ended`).

Invariants:
- At most one attempt is `live` (WireGuard was heard on it) and one is `trying`.
- A live path that answers is given up only after WireGuard was heard on the new one. The engine
  knows one endpoint a peer, so the controlling side moves it to ask there and moves it back after
  `PROBE_TIMEOUT`; the other side waits to be asked.
- Offers that cross settle at once: each side takes the other's offer as the answer to its own.
- After `close` (also before `open`) it never opens again; after another end it may.

Source: seed 000; DESIGN, "Peer connection".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ginnel.base.core import earliest
from ginnel.base.dataplane import (
    CommandRefused,
    ConsentAnswered,
    ConsentMissed,
    DataUnanswered,
    HandshakeCompleted,
    PeerEvent,
    StartHandshake,
)
from ginnel.base.types import Address, Deadline, Transmit
from ginnel.ice import stun
from ginnel.ice.candidate import MAX_REMOTE_CANDIDATES, Candidate
from ginnel.ice.events import Drop
from ginnel.ice.reasons import NatKind
from ginnel.ice.stun import Message
from ginnel.peer.attempt import Early
from ginnel.peer.care import PathCare
from ginnel.peer.errors import ConnectionClosed, ConnectionDisconnected, ConnectionTimeout
from ginnel.peer.events import (
    ConnEvent,
    Ended,
    PeerStateChanged,
)
from ginnel.peer.signal import ModeMessage, OfferAnswer, parse_features
from ginnel.peer.status import PeerState
from ginnel.peer.timers import HANDSHAKE_TIMEOUT, MAX_EARLY_SESSIONS, PUNCH, SIGNALLING, Timer

CALLED = Deadline(0.0, "its turn to connect has come")  # at once: monotonic time is past 0
VAIN_AFTER = 5.0  # s of checks without a path; an offer that replaces them then tells a failure


class ConnCore(PathCare):
    """One peer's connection; see the module."""

    @property
    def state(self) -> PeerState:
        """Return what is known of the connection."""
        return self._board.state

    @property
    def path(self) -> tuple[Candidate, Candidate] | None:
        """Return the live path, (local, remote), or None."""
        return self._live.path if self._live is not None else None

    @property
    def is_closed(self) -> bool:
        """Say whether `close` was called."""
        return self._is_closed

    # Commands

    def open(self, now: float) -> bool:
        """Start to connect; return False if it was closed before. Harmless while it is open."""
        if self._is_closed:
            return False
        if not self._is_open:
            self._is_open = True
            if self.config.timeout is not None:
                self._timers.set(Timer.ANSWER, now + self.config.timeout)
            self._backoff.reset()
            self._go_on(now)
        return True

    def close(self, now: float) -> bool:
        """End the connection and clean up; return False if it was closed before."""
        if self._is_closed:
            return False
        self._is_closed = True
        self._end_open(ConnectionClosed(self.config.key), now, reason="")
        return True

    def update_stun_turn(self, urls: Iterable[str]) -> None:
        """Take other STUN and TURN servers; whoever gathers for us reads them."""
        self.config = replace(self.config, stun_turn=tuple(urls))

    def register_features(self, numbers: Iterable[int]) -> None:
        """Take what the other side says that it understands; unknown numbers are ignored."""
        self._features = parse_features(numbers)

    def on_remote_mode(self, message: ModeMessage, *, now: float) -> bool:
        """Take what the peer tells of the path that it has chosen; return whether it was taken."""
        if not self._is_open:
            return False
        self._board.show(now, remote_direct=message.direct)
        return True

    def on_signal_failed(self, why: str, *, now: float) -> None:
        """Take that something could not be signalled: a loss, told while no path works."""
        if self._is_open and (self._live is None or not self._live.is_healthy):
            if not self._board.state.reason.startswith(SIGNALLING):
                self._reason_before = self._board.state.reason
            self._board.show(now, reason=f"{SIGNALLING}{why}")

    def on_signalled(self, *, now: float) -> None:
        """Take that signalling works: a failure of it is no reason any more."""
        if self._is_open and self._board.state.reason.startswith(SIGNALLING):
            self._board.show(now, reason=self._reason_before)

    def on_remote_offer(self, offer: OfferAnswer, *, now: float) -> bool:
        """Take the peer's offer; return whether it was taken."""
        is_late = offer.session in self._ended and offer.ufrag in self._past_ufrags
        if self._is_closed or is_late:
            return False
        if offer.session in self._ended:  # who slept restarts what we have given up meanwhile
            self._ended.remove(offer.session)
        if not self._is_open or not self._local:
            self._keep_offer(offer, now)
            return True
        trying = self._trying
        if trying is not None and trying.remote_ufrag and not trying.knows(offer.session):
            is_vain = trying.path is None and self._live is None
            if is_vain and now - trying.started_at >= VAIN_AFTER:  # the peer has given it up
                theirs = offer.nat or trying.agent.nats[1]
                trying.agent.set_nats(self._nat, theirs, now=now)
                self._board.show(now, reason=trying.agent.why_not_yet())
        return self._answer(offer, now, came_at=now)

    def on_remote_answer(self, answer: OfferAnswer, *, now: float) -> bool:
        """Take the peer's answer to our offer; return whether it was taken."""
        attempts = self._attempts()
        attempt = next((a for a in attempts if a.remote_ufrag == answer.ufrag), None)
        if attempt is None and answer.ufrag not in self._past_ufrags:
            attempt = next((a for a in attempts if a.is_of(answer.session, answer.ufrag)), None)
        if attempt is None or not attempt.knows(answer.session):
            return False
        self._apply(attempt, answer, now)
        return True

    def on_remote_candidates(
        self,
        session: bytes,
        candidates: Sequence[Candidate],
        *,
        now: float,
        nat: NatKind = NatKind.UNKNOWN,
    ) -> bool:
        """Take further candidates of the peer, also before their offer; return whether taken.

        `nat`: theirs as they know it now.
        """
        attempt = self._attempt_of(session)
        if attempt is None:
            return self._keep_early(session, candidates, nat)
        attempt.agent.set_nats(self._nat, nat or attempt.agent.nats[1], now=now)
        if attempt is self._live:  # they may be of a restart whose offer is still to come
            self._keep_early(session, candidates, nat)
        new = [c for c in candidates if attempt.agent.add_remote_candidate(c, now=now)]
        if attempt is self._live and self.config.is_controlling and new:
            self._seek_better(now)
        self._collect(now)
        return True

    def on_relay_refused(self, relayed: Address, peer: Address, reason: str, *, now: float) -> None:
        """Take that a relay does not carry from our address there to this peer."""
        for attempt in self._attempts():
            attempt.agent.on_relay_refused(relayed, peer, reason, now=now)
        self._collect(now)

    def describe_pairs(self) -> tuple[str, ...]:
        """Return each candidate pair with its last result in words, of the newest attempt."""
        found = [text for attempt in self._attempts() for text in attempt.describe_pairs()]
        return tuple(found) or self._last_pairs

    def on_engine_event(self, event: PeerEvent, *, now: float) -> None:
        """Take what the data plane tells of this peer; other peers' events are ignored."""
        if event.public_key != self.config.key or self._is_closed or not self._is_open:
            return
        if isinstance(event, CommandRefused):
            self._on_refused(event.reason, now)
            return
        if isinstance(event, DataUnanswered):
            self.on_unanswered(event, now=now)
            return
        if isinstance(event, ConsentMissed | ConsentAnswered):
            self._on_consent(event, now)
            return
        if isinstance(event, HandshakeCompleted):
            self._board.show(now, last_handshake_at=now)
            if self._live is not None:
                self._timers.set(Timer.WATCH, now + HANDSHAKE_TIMEOUT)
        trying = self._trying
        if trying is not None:
            is_there = trying.path is not None and event.address == trying.remote_address
            is_only = self._live is None and trying.is_configured
            if is_there or is_only or (event.address is None and trying.is_configured):
                self._promote(trying, now)
            elif trying.path is None and event.address is not None:
                trying.handshake_from = event.address
        if self._live is not None and event.address is not None:
            if event.address == self._left:
                self._set_peer(self._live.endpoint)  # WireGuard follows what was still under way
            else:
                self._board.show(now, remote_address=event.address)
        self._collect(now)

    # The five verbs, and routing on a shared socket

    @property
    def ufrags(self) -> tuple[str, ...]:
        """Return our user name fragments, by which checks of the other side are told apart."""
        return tuple(ufrag for attempt in self._attempts() for ufrag in attempt.agent.ufrags)

    def owns(self, message: Message, source: Address) -> bool:
        """Say whether a STUN message on the shared port is for this connection."""
        return any(attempt.agent.owns(message, source) for attempt in self._attempts())

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Take one STUN datagram; see `base.core.Core`."""
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
        """Take one decoded STUN message; `relayed`: our address at the relay it came through."""
        for attempt in self._attempts():
            if attempt.agent.owns(message, source):
                attempt.agent.handle_message(
                    message, source, now=now, local_ip=local_ip, relayed=relayed
                )
                self._collect(now)
                return
        self._drop(Drop.FOREIGN, source)

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due."""
        for attempt in self._attempts():
            attempt.agent.handle_timeout(now=now)
        self._collect(now)
        on_timer = {
            Timer.RETRY: self._retry,
            Timer.START_HANDSHAKE: self._ask_handshake,
            Timer.WATCH: self._on_silence,
            Timer.UPGRADE: self._upgrade,
            Timer.SUSPECT: self._on_suspect,
            Timer.BETTER: self._seek_better,
            Timer.LATE: self._on_late_over,
            Timer.TURN: self._on_turn_over,
            Timer.PUNCH: self._punch,
            Timer.PROBE: self._on_probe_timeout,
            Timer.ANSWER: self._on_no_answer,
            Timer.GIVE_UP: self._on_no_path,
        }
        for timer in self._timers.expire(now):
            on_timer[timer](now)
        if self._turns.take_call(self.config.key):
            self._on_turn(now)
        self._collect(now)

    def _ask_handshake(self, _now: float) -> None:
        self._command(StartHandshake(self.config.key))

    def _on_late_over(self, _now: float) -> None:
        self._left = None
        self._close_proxies([*(one.endpoint for one in self._attempts()), self._endpoint])

    def _on_no_answer(self, now: float) -> None:
        error = ConnectionTimeout(self.config.key, self.config.timeout or 0.0)
        self._end_open(error, now)

    def _on_no_path(self, now: float) -> None:
        text = self._board.state.reason or "no path"
        self._end_open(ConnectionDisconnected(self.config.key, text), now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> ConnEvent | None:
        """Return the next event, or None; a change of state is told last, as it is then.

        Only `Ended` comes after it.
        """
        if self._events and not isinstance(self._events[0], Ended):
            return self._events.popleft()
        state = self._board.take_change()
        if state is not None:
            return PeerStateChanged(state)
        return self._events.popleft() if self._events else None

    def _punch(self, _now: float) -> None:
        """Open our NAT for a WireGuard that has a port of its own."""
        attempt = self._live or self._trying
        if attempt is not None and attempt.path is not None and attempt.punch_address is not None:
            self._out.append(Transmit(PUNCH, attempt.punch_address, attempt.path[0].base.ip))

    def _keep_early(self, session: bytes, candidates: Sequence[Candidate], nat: NatKind) -> bool:
        """Keep candidates that overtook their offer."""
        if self._is_closed or session in self._ended:
            return False
        early = self._early.pop(session, None) or Early()
        early.candidates += candidates[: MAX_REMOTE_CANDIDATES - len(early.candidates)]
        early.nat = nat or early.nat
        while len(self._early) >= MAX_EARLY_SESSIONS:
            del self._early[next(iter(self._early))]
        self._early[session] = early
        return True

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted, or None."""
        if self._turns.is_called(self.config.key):
            return CALLED
        agents = [attempt.agent.poll_deadline() for attempt in self._attempts()]
        return earliest(self._timers.deadline(), *agents)
