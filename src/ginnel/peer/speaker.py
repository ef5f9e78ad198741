"""The innermost part of a peer connection: what it holds, and what it tells peer and engine.

`lifecycle.Lifecycle` decides when; here stand our half of a session, and commands as values.

Source: seed 000 (OfferAnswer, candidates); DESIGN, "Peer connection".
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import TimerTable
from ginnel.base.dataplane import CloseProxy, Endpoint, EngineCommand, SetPeer
from ginnel.base.types import Address, Transmit
from ginnel.ice.agent import AgentCore
from ginnel.ice.candidate import Candidate
from ginnel.ice.events import Drop
from ginnel.ice.reasons import RELAY, NatKind
from ginnel.peer.attempt import Attempt, Backoff, Early, make_extra_srflx
from ginnel.peer.events import (
    AddressesWanted,
    ConnConfig,
    ConnEvent,
    Engine,
    SendAnswer,
    SendCandidates,
    SendOffer,
)
from ginnel.peer.signal import Feature, OfferAnswer, fit_candidates
from ginnel.peer.status import StatusBoard
from ginnel.peer.timers import ADDRESSES_FRESH, MAX_ENDED_SESSIONS, Timer

log = logging.getLogger(__name__)


class Speaker:
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
        self._reason_before = ""  # before signalling failed
        self._endpoint: Endpoint | None = None  # that the data plane was given last
        self._proxied: list[Endpoint] = []  # relayed endpoints that it was given
        self._features: tuple[Feature, ...] = ()  # what the other side understands
        self._local: tuple[Candidate, ...] = ()
        self._addressed_at = float("-inf")  # when they were told
        self._nat = NatKind.UNKNOWN
        self._early_offer: OfferAnswer | None = None
        self._early_at = 0.0
        self._offered_at = float("-inf")
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
        self._turns = config.turns
        self._is_optional = False  # what waits for its turn looks for a better path only
        self._timers: TimerTable[Timer] = TimerTable()
        self._out: deque[Transmit] = deque()
        self._events: deque[ConnEvent] = deque()

    def _make_attempt(self, session: bytes, now: float, *, is_upgrade: bool = False) -> Attempt:
        agent = AgentCore(
            self.config.ice,
            controlling=self.config.is_controlling,
            random_bytes=self._random_bytes,
            rng=self._rng,
        )
        if now - self._addressed_at >= ADDRESSES_FRESH:
            self._events.append(AddressesWanted())
        attempt = Attempt(session, agent, now, is_upgrade=is_upgrade)
        for candidate in self._candidates_for(attempt):
            agent.add_local_candidate(candidate, now=now)
        agent.end_local_candidates()
        return attempt

    def _candidates_for(self, attempt: Attempt) -> tuple[Candidate, ...]:
        return attempt.choose(self._local, force_relay=self.config.ice.force_relay)

    def _send_offer(self, attempt: Attempt, now: float) -> None:
        self._offered_at = now
        offer, rest = self._describe(attempt, attempt.session)
        self._events.append(SendOffer(offer))
        self._send_candidates(attempt.session, rest)

    def _unsay(self, attempt: Attempt) -> None:
        """Take back offers and answers that nobody has taken yet: their addresses are gone."""
        ufrags = attempt.agent.ufrags
        self._events = deque(
            event
            for event in self._events
            if not (isinstance(event, SendOffer) and event.offer.ufrag in ufrags)
            and not (isinstance(event, SendAnswer) and event.answer.ufrag in ufrags)
        )

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
        self._is_known, self._endpoint = True, endpoint
        is_relayed = endpoint is not None and endpoint.relayed_from is not None
        if endpoint is not None and is_relayed and endpoint not in self._proxied:
            self._proxied.append(endpoint)
        keepalive_s = None if is_early else config.keepalive_s
        self._command(
            SetPeer(config.key, config.allowed_ips, endpoint, keepalive_s, config.preshared_key)
        )

    def _close_proxies(self, in_use: Sequence[Endpoint | None] = ()) -> None:
        """Let the data plane release what carried to relays, but to these."""
        for endpoint in self._proxied:
            if endpoint not in in_use:
                self._command(CloseProxy(self.config.key, endpoint))
        self._proxied = [endpoint for endpoint in self._proxied if endpoint in in_use]

    def _command(self, command: EngineCommand) -> None:
        self._events.append(Engine(command))

    def _drop(self, reason: Drop, source: Address, detail: str = "") -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1
        log.debug("dropped a datagram of %s: %s %s", source, reason.value, detail)
