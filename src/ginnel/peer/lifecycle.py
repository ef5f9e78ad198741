"""The inner half of a peer connection: its attempts and its paths, and what follows from events.

`conn.ConnCore` is the outer half: commands and the five verbs; the invariants stand there.

Source: seed 000; DESIGN, "Peer connection".
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import TimerTable
from ginnel.base.dataplane import (
    CloseProxy,
    Endpoint,
    EngineCommand,
    RemovePeer,
    SetPeer,
    StartHandshake,
)
from ginnel.base.types import Address, Transmit
from ginnel.ice.agent import AgentCore
from ginnel.ice.candidate import Candidate
from ginnel.ice.events import (
    Drop,
    IceEvent,
    IceState,
    PairLatency,
    PairSelected,
    PairUsable,
    StateChanged,
)
from ginnel.ice.reasons import RELAY, NatKind
from ginnel.peer.attempt import (
    URGENT_RETRY,
    Attempt,
    Backoff,
    Early,
    endpoint_of,
    make_extra_srflx,
)
from ginnel.peer.errors import ConnectionDisconnected, ConnectionEnded
from ginnel.peer.events import (
    ConnConfig,
    ConnEvent,
    Disconnected,
    Ended,
    Engine,
    OnDisconnect,
    SendAnswer,
    SendCandidates,
    SendMessage,
    SendOffer,
)
from ginnel.peer.signal import SESSION_SIZE, Feature, ModeMessage, OfferAnswer, fit_candidates
from ginnel.peer.status import ConnStatus, Stage, StatusBoard
from ginnel.peer.timers import (
    FIRST_HANDSHAKE_TIMEOUT,
    HANDSHAKE_TIMEOUT,
    HANDSHAKE_WAIT,
    LATE,
    MAX_ENDED_SESSIONS,
    OF_A_PATH,
    OFFER_LIFE,
    PATH_LOST,
    PROBE_TIMEOUT,
    PUNCH_DELAY,
    RESTART_LIMIT,
    UPGRADE_FIRST,
    Timer,
)

log = logging.getLogger(__name__)


class Lifecycle:
    """Owns the attempts, the timers and what is to be told."""

    def __init__(self, config: ConnConfig, *, random_bytes: RandomBytes, rng: Rng) -> None:
        self.config = config
        self._board = StatusBoard(config.key, config.overlay_ip)
        self.drops: dict[Drop, int] = {}
        self._random_bytes = random_bytes
        self._rng = rng
        self._backoff = Backoff(rng)
        self._is_open = False
        self._is_closed = False
        self._is_known = False  # the data plane has the peer
        self._proxied: Endpoint | None = None  # the relayed endpoint that the data plane has
        self._features: tuple[Feature, ...] = ()  # what the other side understands
        self._local: tuple[Candidate, ...] = ()
        self._nat = NatKind.UNKNOWN
        self._early_offer: OfferAnswer | None = None
        self._early: dict[bytes, Early] = {}  # by session
        self._trying: Attempt | None = None
        self._live: Attempt | None = None
        self.left_working = False  # the path before the live one answered when it was left
        self._left: Address | None = None  # its other end; late packets still come from there
        self._better_from = 0.0  # when a better path may be looked for again
        self._upgrades = 0  # tries for direct since the path is relayed
        self._last_pairs: tuple[str, ...] = ()  # of the attempt that ended last
        self._ended: deque[bytes] = deque(maxlen=MAX_ENDED_SESSIONS)
        self._past_ufrags: deque[str] = deque(maxlen=MAX_ENDED_SESSIONS)  # of the other side
        self._timers: TimerTable[Timer] = TimerTable()
        self._out: deque[Transmit] = deque()
        self._events: deque[ConnEvent] = deque()

    # Attempts

    def _go_on(self, now: float) -> None:
        """Answer the offer that came early, or offer."""
        if not self._local:
            self._board.show(now, ConnStatus.CONNECTING, Stage.GATHERING)
            return
        offer, self._early_offer = self._early_offer, None
        if offer is None or not self._answer(offer, now):
            self._offer(now)

    def _answer(self, offer: OfferAnswer, now: float) -> bool:
        """Answer an offer: of a new session, a restart, one that crossed ours, or a known one."""
        attempts = self._attempts()
        attempt = next((a for a in attempts if a.is_of(offer.session, offer.ufrag)), None)
        if attempt is None and offer.ufrag in self._past_ufrags:
            return False
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

    def _make_attempt(self, session: bytes, now: float, *, is_upgrade: bool = False) -> Attempt:
        agent = AgentCore(
            self.config.ice,
            controlling=self.config.is_controlling,
            random_bytes=self._random_bytes,
            rng=self._rng,
        )
        attempt = Attempt(session, agent, now, is_upgrade=is_upgrade)
        for candidate in self._candidates_for(attempt):
            agent.add_local_candidate(candidate, now=now)
        agent.end_local_candidates()
        return attempt

    def _candidates_for(self, attempt: Attempt) -> tuple[Candidate, ...]:
        return attempt.choose(self._local, force_relay=self.config.ice.force_relay)

    def _offer(self, now: float, *, is_upgrade: bool = False, is_optional: bool = False) -> None:
        """Start an attempt of our own; a restart of the live session, if there is one."""
        restarted = None if is_upgrade else self._live
        session = restarted.session if restarted else self._random_bytes(SESSION_SIZE)
        self._trying = self._make_attempt(session, now, is_upgrade=is_upgrade)
        self._trying.is_optional = is_optional
        self._send_offer(self._trying)
        self._timers.set(Timer.RETRY, now + self._backoff.next())
        if self._live is None:
            self._board.show(now, ConnStatus.CONNECTING, Stage.OFFERING)

    def _send_offer(self, attempt: Attempt) -> None:
        offer, rest = self._describe(attempt, attempt.session)
        self._events.append(SendOffer(offer))
        self._send_candidates(attempt.session, rest)

    def _describe(
        self, attempt: Attempt, session: bytes
    ) -> tuple[OfferAnswer, tuple[Candidate, ...]]:
        """Return our half of a session, and the candidates that did not fit in."""
        candidates = self._candidates_for(attempt)
        attempt.extra_srflx = attempt.extra_srflx or make_extra_srflx(candidates)
        if attempt.extra_srflx is not None:
            candidates = (*candidates, attempt.extra_srflx)
        fitting, rest = fit_candidates(candidates)
        config = self.config
        port = config.local_wg_port
        if not port and config.is_muxed:
            port = next((c.base.port for c in self._local if not c.is_relayed), 0)
        ours = OfferAnswer(
            session,
            attempt.agent.ufrag,
            attempt.agent.pwd,
            fitting,
            config.psk_id,
            config.version,
            self._nat,
            complete=not rest,
            wg_listen_port=port,
            rosenpass_pub_key=config.rosenpass_pub_key,
            rosenpass_addr=config.rosenpass_addr,
            pacing_ms=round(config.ice.pacing * 1000),
        )
        return ours, rest

    def _send_candidates(self, session: bytes, candidates: Sequence[Candidate]) -> None:
        """Signal candidates in as many messages as they need."""
        while candidates:
            part, candidates = fit_candidates(candidates)
            self._events.append(SendCandidates(session, part, self._nat))

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
            self._send_offer(attempt)
            self._timers.set(Timer.RETRY, now + self._backoff.next())
            return
        self._end(attempt)
        if self._live is None or not self._live.is_healthy:
            self._offer(now)

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
            self._clean_up(now, live.agent.why_failed() or "")
            self._resume(now)
        elif state is IceState.DISCONNECTED:
            self._show_broken(now)
            self._look_for_another(now)
        elif live.is_healthy:
            self._timers.stop(Timer.GIVE_UP)
            self._board.show(now, ConnStatus.CONNECTED, Stage.CONNECTED, reason="")

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
        self._left = self._live.remote_address if self._live is not None else None
        self._timers.set(Timer.LATE, now + LATE)
        self._end(self._live)
        self._trying, self._live = None, attempt
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
        self._clean_up(now, error.text if reason is None else reason)
        self._timers = TimerTable()
        self._board.show(now, ConnStatus.DISCONNECTED, Stage.CLOSED)
        if was_open:
            self._events.append(Ended(error))

    def _clean_up(self, now: float, reason: str) -> None:
        """Undo a path: agent, proxy, peer, timers, event, status, always all of them."""
        was_live = self._live is not None
        self._end(self._live)
        if self._proxied is not None:
            self._command(CloseProxy(self.config.key, self._proxied))
            self._proxied = None
        if self._is_known:
            self._is_known = False
            self._command(RemovePeer(self.config.key))
        if was_live:
            self._events.append(Disconnected(self.config.key, self.config.allowed_ips))
        self._board.reset(now, reason)
        if self._trying is not None:
            self._trying.is_configured = False

    # Small things

    def _show_path(self, attempt: Attempt, now: float) -> None:
        has_rosenpass = attempt.remote is not None and bool(attempt.remote.rosenpass_pub_key)
        self._board.show(now, rosenpass_enabled=has_rosenpass)
        why = attempt.agent.why_not_yet().removeprefix(RELAY) if attempt.is_relayed else ""
        self._board.show_path(now, attempt.path, why)

    def _attempts(self) -> list[Attempt]:
        return [attempt for attempt in (self._trying, self._live) if attempt is not None]

    def _attempt_of(self, session: bytes) -> Attempt | None:
        return next((a for a in self._attempts() if a.knows(session)), None)

    def _set_peer(self, endpoint: Endpoint | None, *, is_early: bool = False) -> None:
        """Tell the data plane the peer; early: no keepalive, which would cross a handshake."""
        config = self.config
        self._is_known = True
        if endpoint is not None and endpoint.relayed_from is not None:
            self._proxied = endpoint
        keepalive_s = None if is_early else config.keepalive_s
        self._command(
            SetPeer(config.key, config.allowed_ips, endpoint, keepalive_s, config.preshared_key)
        )

    def _command(self, command: EngineCommand) -> None:
        self._events.append(Engine(command))

    def _drop(self, reason: Drop, source: Address, detail: str = "") -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1
        log.debug("dropped a datagram of %s: %s %s", source, reason.value, detail)
