"""The middle of a peer connection: care for the path while it works and when it may not.

- Our addresses changed: what has lost its address restarts at once, else new ones are told.
- The machine slept, or the network changed in another way: every path is checked at once, a relayed
  one tries for direct, and who waits tries again.
- Data stays unanswered: a quick check, and unless that is answered at once a restart. A restart
  keeps the session id and has new ICE credentials; the live path stays until WireGuard was heard on
  the new one.
- WireGuard is silent on a path whose checks pass: it is asked to shake hands, else dropped.
- A relayed path: direct is tried again and again. A direct one: a better one is tried when either
  side has a new address, and taken if it scores better (`attempt.path_score`). The controlling side
  tries; the other one tells it the address.

Source: FACTS, "What NetBird, Tailscale and Firezone learned"; seed 000.
"""

from __future__ import annotations

from collections.abc import Sequence

from ginnel.base.dataplane import (
    ConsentAnswered,
    ConsentMissed,
    DataUnanswered,
    ForgetConsent,
    StartHandshake,
    WatchConsent,
)
from ginnel.base.types import Address
from ginnel.ice.candidate import Candidate
from ginnel.ice.reasons import guess_nat
from ginnel.peer.attempt import URGENT_RETRY, Attempt, path_score
from ginnel.peer.events import PathSuspected, SendCandidates
from ginnel.peer.lifecycle import Lifecycle
from ginnel.peer.timers import PROBE_TIMEOUT, SILENT, UPGRADE_FIRST, UPGRADE_LAST, Timer

MIN_PATIENCE = 0.15  # s that a quick check gets until a restart begins beside it
PATIENCE_ROUND_TRIPS = 1.5  # of the path's; the larger one counts
WIREGUARD_DEAD_AFTER = 10.0  # s of silence after which WireGuard itself is in doubt
LAST_HANDSHAKE_TIMEOUT = 10.0  # s for the handshake that is then asked for: two tries
BETTER_GAP = 30.0  # s between two tries for a better path
MIN_GAP = 1.0  # s between an offer and one that is hurried
GOOD_ENOUGH = 0.001  # s of score; nothing better is looked for


class PathCare(Lifecycle):
    """A lifecycle that cares for its path; see the module."""

    _is_lent = False  # the data plane asks for consent and answers

    def set_local_candidates(
        self,
        candidates: Sequence[Candidate],
        *,
        now: float,
        symmetric: bool = False,
        restricted: bool = False,
    ) -> None:
        """Tell all addresses of ours as they are now.

        Args:
            candidates: host and server-reflexive ones; called again on every change.
            now: monotonic seconds.
            symmetric: observers saw different ports of ours.
            restricted: our NAT is known to let in only addresses and ports that we wrote to.
        """
        nat_before, self._addressed_at = self._nat, now
        before, self._local = self._local, tuple(candidates)
        self._nat = guess_nat(self._local, symmetric=symmetric, restricted=restricted)
        for attempt in self._attempts():
            attempt.agent.set_nats(self._nat, attempt.agent.nats[1], now=now)
        if not self._is_open or self._is_closed:
            return
        if self._local == before:
            if self._nat is not nat_before and self._trying is not None:
                self._events.append(SendCandidates(self._trying.session, (), self._nat))
            self._collect(now)
            return
        bases = [candidate.base for candidate in self._local]
        gone = [candidate for candidate in before if candidate.base not in bases]
        self._remove_relays([c.address for c in gone if c.is_relayed], now)
        is_moved = any(not candidate.is_relayed for candidate in gone)
        is_live_gone = self._live is not None and not self._live.is_from(self._local, self._nat)
        if is_moved or is_live_gone or self._trying is None:
            self._backoff.reset()
        trying = self._trying
        is_kept = trying is not None and trying.is_from(self._local, self._nat)
        if trying is not None and is_kept and (trying.path is not None or not is_moved):
            mine = self._candidates_for(trying)
            self._trickle(trying, [c for c in mine if c not in before], now)
            self.retry_now(now=now)
            if is_live_gone:
                self._on_suspect(now)  # its relay is gone: what was found is taken at once
        elif self._live is None or is_moved or is_live_gone:
            if trying is not None:
                self._unsay(trying)
            self._end(trying)
            self._trying = None
            if self._live is not None and self._live.is_healthy:
                self._live.is_suspect = True  # signalling must not go by this path alone
                self._show_broken(now)
                self._live.agent.check_now(now=now)
                self._events.append(PathSuspected())
                self._backoff.reset(URGENT_RETRY)
            self._go_on(now)
        elif new := [c for c in self._local if c not in before and not c.is_relayed]:
            self._on_new_addresses(new, now)

    def _on_answered(self, attempt: Attempt, now: float) -> None:
        super()._on_answered(attempt, now)
        if attempt is not self._live or not self.config.lends_consent:
            return
        endpoint, terms = attempt.endpoint, attempt.agent.lend_consent()
        if endpoint is not None and terms is not None:
            self._is_lent = True
            self._command(WatchConsent(self.config.key, endpoint, terms))

    def _end(self, attempt: Attempt | None) -> None:
        if attempt is not None and attempt is self._live and self._is_lent:
            self._is_lent = False
            self._command(ForgetConsent(self.config.key))
        super()._end(attempt)

    def _on_consent(self, event: ConsentMissed | ConsentAnswered, now: float) -> None:
        """Take what the data plane tells of the consent that it was lent."""
        if self._live is not None and isinstance(event, ConsentMissed):
            self._live.agent.take_consent_back(now - event.seconds, now=now)
        elif self._live is not None:
            self._board.show(now, latency_s=event.seconds)
        self._collect(now)

    def _remove_relays(self, relayed: Sequence[Address], now: float) -> None:
        for address in relayed:
            for attempt in self._attempts():
                attempt.agent.remove_relay(address, "the relay is gone", now=now)

    def on_unanswered(self, event: DataUnanswered, *, now: float) -> None:
        """Take that the peer does not answer the data it is sent."""
        live = self._live
        if live is None or live.is_suspect:
            return
        if event.seconds >= WIREGUARD_DEAD_AFTER:
            self._command(StartHandshake(self.config.key))
            self._timers.set_earlier(Timer.WATCH, now + LAST_HANDSHAKE_TIMEOUT)
        self._check_quickly(live, now)
        self._events.append(PathSuspected())
        self._collect(now)

    def on_network_changed(self, *, now: float) -> None:
        """Take that the machine slept or that the network changed, perhaps not our addresses."""
        live = self._live
        if live is None:
            self.retry_now(now=now)
        elif not live.is_suspect:
            self._check_quickly(live, now)
            self._upgrade(now)
        self._collect(now)

    def retry_now(self, *, now: float) -> None:
        """Offer at once instead of waiting: signalling works again, or the network changed."""
        trying = self._trying
        if not self._is_open or self._live is not None or not self._local:
            return
        is_checking = trying is not None and bool(trying.remote_ufrag)
        if is_checking or now - self._offered_at < MIN_GAP:
            return
        self._backoff.reset()
        self._timers.stop(Timer.RETRY)
        self._retry(now)

    def _check_quickly(self, live: Attempt, now: float) -> None:
        patience = max(MIN_PATIENCE, PATIENCE_ROUND_TRIPS * (self._board.state.latency_s or 0.0))
        self._timers.set_earlier(Timer.SUSPECT, now + patience)
        live.agent.check_now(now=now)

    def _on_suspect(self, now: float) -> None:
        """The quick check was not answered in time."""
        if self._live is not None and self._live.is_healthy:
            self._live.is_suspect = True
            self._show_broken(now)
            self._look_for_another(now)
            self._collect(now)

    def _on_new_addresses(self, new: list[Candidate], now: float) -> None:
        """We have further addresses while a path works."""
        if self._live is None or self._is_relayed():
            self._upgrade(now)
        elif self.config.is_controlling:
            self._seek_better(now)
        else:
            self._send_candidates(self._live.session, new)

    def _seek_better(self, now: float) -> None:
        """Try for a better path while a direct one works."""
        live = self._live
        if live is None or not live.is_healthy or live.is_relayed or self._trying is not None:
            return
        if path_score(live.path, self._board.state.latency_s) < GOOD_ENOUGH:
            return
        if now < self._better_from:
            self._timers.set(Timer.BETTER, self._better_from)
            return
        self._better_from = now + BETTER_GAP
        self._backoff.reset()
        self._offer(now, is_optional=True)

    def _upgrade(self, now: float) -> None:
        """Try for a direct path while the relayed one carries."""
        if not self._is_relayed() or self.config.ice.force_relay:
            return
        wait = min(UPGRADE_LAST, UPGRADE_FIRST * 2 ** min(self._upgrades, 10))
        self._upgrades += 1
        self._timers.set(Timer.UPGRADE, now + wait)
        if self._trying is None:
            self._backoff.reset()
            self._offer(now, is_upgrade=True)

    def _on_silence(self, now: float) -> None:
        """WireGuard made no handshake for too long on a path whose checks may pass."""
        if self._live is not None:
            self._lose(SILENT, now)
        elif self._trying is not None and self._trying.is_configured:
            self._fail(SILENT, now)

    def _on_probe_timeout(self, now: float) -> None:
        """WireGuard was not heard on the new path while the live one answers."""
        trying, live = self._trying, self._live
        if trying is None or live is None:
            return
        if not trying.is_configured and live.knows(trying.session):
            self._end(trying)  # the controlling side has kept the live path, too
            self._rest()
            return
        if not trying.is_configured and not self.config.is_controlling:
            self._timers.set(Timer.PROBE, now + PROBE_TIMEOUT)
            self._configure(trying, now)
            return
        self._end(trying)
        self._rest()
        self._set_peer(live.endpoint)
        self._close_proxies([live.endpoint])
