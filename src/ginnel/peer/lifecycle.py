"""The inner part of a peer connection: its attempts and its paths, and what follows from events.

`speaker` is below it, `care` and `conn.ConnCore` are above; the invariants stand there.

Source: seed 000; DESIGN, "Peer connection".
"""

from __future__ import annotations

import logging

from ginnel.base.core import TimerTable
from ginnel.base.dataplane import (
    RemovePeer,
    StartHandshake,
)
from ginnel.ice.candidate import Candidate
from ginnel.ice.events import (
    IceEvent,
    IceState,
    PairLatency,
    PairSelected,
    PairUsable,
    StateChanged,
)
from ginnel.peer.attempt import (
    URGENT_RETRY,
    Attempt,
    Early,
    endpoint_of,
    make_extra_srflx,
)
from ginnel.peer.errors import ConnectionDisconnected, ConnectionEnded
from ginnel.peer.events import (
    Disconnected,
    Ended,
    OnDisconnect,
    SendAnswer,
    SendMessage,
)
from ginnel.peer.signal import SESSION_SIZE, Feature, ModeMessage, OfferAnswer
from ginnel.peer.speaker import Speaker
from ginnel.peer.status import ConnStatus, Stage
from ginnel.peer.timers import (
    FIRST_HANDSHAKE_TIMEOUT,
    HANDSHAKE_TIMEOUT,
    HANDSHAKE_WAIT,
    LATE,
    OF_A_PATH,
    OFFER_LIFE,
    PATH_LOST,
    PROBE_TIMEOUT,
    PUNCH_DELAY,
    RESTART_LIMIT,
    UPGRADE_FIRST,
    Timer,
)
from ginnel.peer.turns import ANSWER_WAIT, SILENT_WAIT, SLOW_AFTER, SLOW_AGAIN, Urgency

log = logging.getLogger(__name__)


class Lifecycle(Speaker):
    """Decides what follows from offers, answers, paths and their ends."""

    # Attempts

    def _go_on(self, now: float) -> None:
        """Answer the offer that came early, or offer."""
        if not self._local:
            self._board.show(now, ConnStatus.CONNECTING, Stage.GATHERING)
            return
        if not self._answer_early(now):
            self._offer(now)

    def _answer_early(self, now: float) -> bool:
        """Answer the offer that waits for it, unless its sender has given it up."""
        offer, self._early_offer = self._early_offer, None
        if offer is None or now - self._early_at >= OFFER_LIFE:
            return False
        return self._answer(offer, now, came_at=self._early_at)

    def _keep_offer(self, offer: OfferAnswer, came_at: float) -> None:
        self._early_offer, self._early_at = offer, came_at

    def _answer(self, offer: OfferAnswer, now: float, *, came_at: float) -> bool:
        """Answer an offer: of a new session, a restart, one that crossed ours, or a known one."""
        attempts = self._attempts()
        attempt = next((a for a in attempts if a.is_of(offer.session, offer.ufrag)), None)
        if attempt is None and offer.ufrag in self._past_ufrags:
            return False
        if (attempt is None or not attempt.remote_ufrag) and not self._may_answer(now):
            self._keep_offer(offer, came_at)
            return True
        if attempt is None:
            attempt = self._trying
            if attempt is not None and not attempt.remote_ufrag:
                attempt.sessions.append(offer.session)  # the offers crossed
            else:
                self._end(self._trying)
                has_relay = any(candidate.is_relayed for candidate in offer.candidates)
                is_upgrade = self._is_relayed() and not has_relay
                attempt = self._make_attempt(offer.session, now, is_upgrade=is_upgrade)
                self._trying = attempt
        answer, rest = self._describe(attempt, offer.session)
        self._events.append(SendAnswer(answer))
        self._send_candidates(offer.session, rest)
        self._apply(attempt, offer, now)
        return True

    def _offer(self, now: float, *, is_upgrade: bool = False, is_optional: bool = False) -> None:
        """Start an attempt of our own; a restart of the live session, if there is one."""
        self._is_optional = is_optional
        if not self._has_turn(now, is_urgent=not is_upgrade and not is_optional):
            return
        restarted = None if is_upgrade else self._live
        session = restarted.session if restarted else self._random_bytes(SESSION_SIZE)
        self._trying = self._make_attempt(session, now, is_upgrade=is_upgrade)
        self._trying.is_optional = is_optional
        self._send_offer(self._trying, now)
        self._timers.set(Timer.RETRY, now + self._backoff.next())
        if self._live is None:
            self._board.show(now, ConnStatus.CONNECTING, Stage.OFFERING)

    def _apply(self, attempt: Attempt, remote: OfferAnswer, now: float) -> None:
        """Take the other side's credentials and candidates, and check."""
        is_new = not attempt.remote_ufrag
        attempt.remote = remote
        early = self._early.pop(remote.session, Early())
        theirs = early.nat or remote.nat or attempt.agent.nats[1]
        attempt.agent.set_nats(self._nat, theirs, now=now)
        attempt.agent.set_remote_pacing(remote.pacing_ms / 1000)
        for candidate in (*remote.candidates, *early.candidates):
            attempt.agent.add_remote_candidate(candidate, now=now)
        if remote.complete:
            attempt.agent.end_remote_candidates()
        if is_new:
            self._timers.stop(Timer.RETRY)
            self._timers.stop(Timer.ANSWER)
            self._turns.join(self.config.key)
            self._timers.set(Timer.TURN, now + SLOW_AFTER)
            if not self._is_known:  # so that WireGuard answers even before we know the path
                self._set_peer(None)
            if self._live is None:
                self._board.show(now, ConnStatus.CONNECTING, Stage.CHECKING)
            attempt.agent.set_remote_credentials(remote.ufrag, remote.pwd, now=now)
            attempt.agent.start(now=now)
        self._collect(now)

    def _trickle(self, attempt: Attempt, candidates: list[Candidate], now: float) -> None:
        new = [c for c in candidates if attempt.agent.add_local_candidate(c, now=now)]
        if attempt.extra_srflx is None and (extra := make_extra_srflx(new)) is not None:
            attempt.extra_srflx = extra
            new.append(extra)
        self._send_candidates(attempt.session, new)
        self._collect(now)

    def _retry(self, now: float) -> None:
        attempt = self._trying
        if attempt is not None and attempt.remote_ufrag:
            return
        if attempt is not None and now - attempt.started_at < OFFER_LIFE:
            if self._has_turn(now, is_urgent=False):
                self._send_offer(attempt, now)
                self._timers.set(Timer.RETRY, now + self._backoff.next())
            return
        self._end(attempt)
        if self._live is None or not self._live.is_healthy:
            self._offer(now)
        else:
            self._rest()

    # Turns

    def _has_turn(self, now: float, *, is_urgent: bool) -> bool:
        """Say whether an offer may go out now; else `_on_turn` comes when it may."""
        urgency = Urgency.AGAIN
        if is_urgent and self._backoff.is_fresh:
            urgency = Urgency.FIRST if self._live is None else Urgency.BROKEN
        if not self._turns.take(self.config.key, urgency):
            if self._live is None:
                self._board.show(now, ConnStatus.CONNECTING, Stage.QUEUED)
            return False
        wait = SILENT_WAIT if urgency is Urgency.AGAIN else ANSWER_WAIT
        self._timers.set(Timer.TURN, now + wait)
        return True

    def _may_answer(self, now: float) -> bool:
        if self._turns.answer(self.config.key):
            return True
        if self._live is None:
            self._board.show(now, ConnStatus.CONNECTING, Stage.QUEUED)
        return False

    def _on_turn(self, now: float) -> None:
        """We waited, and now it's our turn: do what is wanted now."""
        self._timers.set(Timer.TURN, now + SLOW_AFTER)
        if self._is_open and self._answer_early(now):
            return
        live = self._live
        if not self._is_open:
            self._rest()
        elif self._trying is not None or live is None:
            self._retry(now)
        elif not live.is_healthy:
            self._offer(now)
        elif live.is_relayed != self._is_optional:
            self._offer(now, is_upgrade=live.is_relayed, is_optional=self._is_optional)
        else:
            self._rest()

    def _on_turn_over(self, now: float) -> None:
        """Back-off needs no place; slow negotiations have others."""
        if self._trying is None or not self._trying.remote_ufrag:
            self._rest()
        elif not self._turns.slow(self.config.key):
            self._timers.set(Timer.TURN, now + SLOW_AGAIN)

    def _rest(self) -> None:
        """Give the place back."""
        self._turns.release(self.config.key)
        self._timers.stop(Timer.TURN)

    def _is_relayed(self) -> bool:
        return self._live is not None and self._live.is_healthy and self._live.is_relayed

    def _end(self, attempt: Attempt | None) -> None:
        """Forget an attempt; its late messages start nothing."""
        if attempt is None:
            return
        self._last_pairs = attempt.describe_pairs() or self._last_pairs
        attempt.agent.close()
        if attempt.remote_ufrag:
            self._past_ufrags.append(attempt.remote_ufrag)
        others = [other for other in self._attempts() if other is not attempt]
        for session in (attempt.session, *attempt.sessions):
            if not any(other.knows(session) for other in others):
                self._ended.append(session)
        if attempt is self._trying:
            self._trying = None
            self._timers.stop(Timer.PROBE)
        if attempt is self._live:
            self._live = None
        if self._trying is None and self._live is None:
            for timer in OF_A_PATH:
                self._timers.stop(timer)
        if self._live is None:
            self._timers.stop(Timer.SUSPECT)

    # Paths

    def _collect(self, now: float) -> None:
        """Take what the agents send and tell."""
        for attempt in self._attempts():
            while (transmit := attempt.agent.poll_transmit()) is not None:
                self._out.append(transmit)
            while (event := attempt.agent.poll_event()) is not None:
                if attempt in self._attempts():  # an earlier event may have ended it
                    self._on_ice_event(attempt, event, now)

    def _on_ice_event(self, attempt: Attempt, event: IceEvent, now: float) -> None:
        if isinstance(event, PairSelected):
            attempt.path = (event.local, event.remote)
            self._on_path(attempt, now)
        elif isinstance(event, PairUsable):
            if self._live is None and attempt.path is None:
                self._set_peer(endpoint_of(event.local, event.remote), is_early=True)
        elif isinstance(event, PairLatency):
            if attempt is (self._live or self._trying):
                self._board.show(now, latency_s=event.seconds)
            self._on_answered(attempt, now)
        elif isinstance(event, StateChanged):
            if attempt is self._live:
                self._on_live_state(event.state, now)
            elif event.state is IceState.FAILED and attempt is self._trying:
                self._fail(attempt.agent.why_failed() or "", now)

    def _on_answered(self, attempt: Attempt, now: float) -> None:
        """A check of the path was answered: what was suspected is not so."""
        if attempt is not self._live:
            return
        self._timers.stop(Timer.SUSPECT)
        if attempt.is_suspect:
            attempt.is_suspect = False
            self._timers.stop(Timer.GIVE_UP)
            self._board.show(now, ConnStatus.CONNECTED, Stage.CONNECTED, reason="")

    def _show_broken(self, now: float) -> None:
        self._board.show(now, ConnStatus.CONNECTED, Stage.BROKEN, reason=PATH_LOST)
        self._give_up_later(now)

    def _on_live_state(self, state: IceState, now: float) -> None:
        live = self._live
        if live is None:
            return
        is_broken = state in (IceState.FAILED, IceState.DISCONNECTED)
        if is_broken and self.config.on_disconnect is OnDisconnect.CLOSE:
            self._end_open(ConnectionDisconnected(self.config.key, PATH_LOST), now)
        elif state is IceState.FAILED:
            self._lose(live.agent.why_failed() or "", now)
        elif state is IceState.DISCONNECTED:
            self._show_broken(now)
            self._look_for_another(now)
        elif live.is_healthy:
            self._timers.stop(Timer.GIVE_UP)
            self._board.show(now, ConnStatus.CONNECTED, Stage.CONNECTED, reason="")

    def _lose(self, reason: str, now: float) -> None:
        """The live path is of no use any more: end, or go on without it."""
        if self.config.on_disconnect is OnDisconnect.CLOSE:
            self._end_open(ConnectionDisconnected(self.config.key, reason), now)
            return
        self._clean_up(now, reason)
        self._give_up_later(now)
        self._resume(now)

    def _look_for_another(self, now: float) -> None:
        """The live path does not answer: restart, or use what was found meanwhile."""
        if self._trying is None:
            self._backoff.reset(URGENT_RETRY)
            self._offer(now)
        elif self._trying.path is not None:
            self._configure(self._trying, now)

    def _resume(self, now: float) -> None:
        """The live path is gone: go on with the attempt under way, or start one."""
        trying = self._trying
        if trying is None:
            self._backoff.reset()
            self._go_on(now)
        elif trying.path is not None:
            self._configure(trying, now)
        elif trying.remote_ufrag:
            self._set_peer(None)
            self._board.show(now, ConnStatus.CONNECTING, Stage.CHECKING)
        else:
            self._board.show(now, ConnStatus.CONNECTING, Stage.OFFERING)

    def _on_path(self, attempt: Attempt, now: float) -> None:
        if attempt is self._live:
            self._set_peer(attempt.endpoint)
            self._timers.set(Timer.LATE, now + LATE)
            self._show_path(attempt, now)
            self._arm_upgrade(attempt, now)
        elif attempt.handshake_from == attempt.remote_address:
            self._promote(attempt, now)
        elif self._live is None or not self._live.is_healthy:
            self._configure(attempt, now)
        elif attempt.is_optional and not attempt.is_worth_it(
            self._live.path, self._board.state.latency_s
        ):
            self._end(attempt)
            self._rest()
        else:
            self._timers.set(Timer.PROBE, now + PROBE_TIMEOUT)
            if self.config.is_controlling:
                self._configure(attempt, now)

    def _configure(self, attempt: Attempt, now: float) -> None:
        """Let WireGuard send on the path of an attempt."""
        if attempt.is_configured:
            return
        attempt.is_configured = True
        self._set_peer(attempt.endpoint)
        if attempt.punch_address is not None:
            self._timers.set(Timer.PUNCH, now + PUNCH_DELAY)
        if self.config.is_controlling or self._live is not None:
            self._command(StartHandshake(self.config.key))
        else:
            self._timers.set(Timer.START_HANDSHAKE, now + HANDSHAKE_WAIT)
        if self._live is None:
            self._timers.set(Timer.WATCH, now + FIRST_HANDSHAKE_TIMEOUT)
            self._board.show(now, ConnStatus.CONNECTING, Stage.CONFIGURING)

    def _promote(self, attempt: Attempt, now: float) -> None:
        """WireGuard was heard on the attempt's path: it is the live one."""
        is_first = self._live is None
        self.left_working = self._live is not None and self._live.is_healthy
        left = self._live.remote_address if self._live is not None else None
        self._left = left if left != attempt.remote_address else None
        self._timers.set(Timer.LATE, now + LATE)
        self._end(self._live)
        self._trying, self._live = None, attempt
        self._rest()
        if not attempt.is_configured:
            attempt.is_configured = True
            self._set_peer(attempt.endpoint)
        for timer in (Timer.RETRY, Timer.PROBE, Timer.START_HANDSHAKE, Timer.GIVE_UP):
            self._timers.stop(timer)
        self._timers.set(Timer.WATCH, now + HANDSHAKE_TIMEOUT)
        self._backoff.reset()
        self._show_path(attempt, now)
        self._arm_upgrade(attempt, now)
        if is_first:
            self._events.append(attempt.connected(self.config))
        if Feature.DIRECT_CHECK in self._features and attempt.path is not None:
            self._events.append(SendMessage(ModeMessage(not attempt.path[0].is_relayed)))

    def _arm_upgrade(self, attempt: Attempt, now: float) -> None:
        self._timers.stop(Timer.UPGRADE)
        if attempt.is_relayed and self.config.is_controlling and not self.config.ice.force_relay:
            self._upgrades = 1
            self._timers.set(Timer.UPGRADE, now + UPGRADE_FIRST)

    def _fail(self, reason: str, now: float) -> None:
        """The attempt found no path: say why, and try again later."""
        self._end(self._trying)
        self._rest()
        if self._live is not None and self._live.is_healthy:
            return
        if self._live is None:
            self._clean_up(now, reason)
            self._board.show(now, ConnStatus.DISCONNECTED, Stage.WAITING, reason=reason)
            if self._ends and self.config.on_disconnect is OnDisconnect.CLOSE:
                self._end_open(ConnectionDisconnected(self.config.key, reason), now)
                return
            self._give_up_later(now)
        self._timers.set(Timer.RETRY, now + self._backoff.next())

    def _on_refused(self, why: str, now: float) -> None:
        """The data plane refused a command: no path is of use without it."""
        if not self._is_known:
            return  # of a peer that is given up already
        text = f"data plane: {why}"
        if self._ends:
            self._end_open(ConnectionDisconnected(self.config.key, text), now)
            return
        self._end(self._trying)
        self._clean_up(now, text)
        self._fail(text, now)

    @property
    def _ends(self) -> bool:
        """Say whether this open ends by itself."""
        return self.config.timeout is not None

    def _give_up_later(self, now: float) -> None:
        if self._ends and self._timers.get(Timer.GIVE_UP) is None:
            self._timers.set(Timer.GIVE_UP, now + RESTART_LIMIT)

    def _end_open(self, error: ConnectionEnded, now: float, reason: str | None = None) -> None:
        was_open, self._is_open = self._is_open, False
        self._end(self._trying)
        self._rest()
        self._clean_up(now, error.text if reason is None else reason)
        self._timers = TimerTable()
        self._board.show(now, ConnStatus.DISCONNECTED, Stage.CLOSED)
        if was_open:
            self._events.append(Ended(error))

    def _clean_up(self, now: float, reason: str) -> None:
        """Undo a path: agent, proxy, peer, timers, event, status, always all of them."""
        was_live = self._live is not None
        self._end(self._live)
        self._timers.stop(Timer.LATE)
        self._left = None
        self._close_proxies()
        if self._is_known:
            self._is_known = False
            self._command(RemovePeer(self.config.key))
        if was_live:
            self._events.append(Disconnected(self.config.key, self.config.allowed_ips))
        self._board.reset(now, reason)
        if self._trying is not None:
            self._trying.is_configured = False
