"""One try to find a path: its session ids, its ICE agent, how far it got; and when to try again.

Source: seed 000; FACTS, "What NetBird, Tailscale and Firezone learned" (the schedule of retries).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ginnel.base.addresses import is_public
from ginnel.base.chance import Rng
from ginnel.base.dataplane import Endpoint
from ginnel.base.types import Address
from ginnel.ice.agent import AgentCore
from ginnel.ice.candidate import Candidate, CandidateKind
from ginnel.ice.events import IceState
from ginnel.ice.reasons import NatKind
from ginnel.peer.events import ConnConfig, Connected
from ginnel.peer.signal import OfferAnswer
from ginnel.peer.timers import HYSTERESIS, MIN_GAIN

DEFAULT_WG_PORT = 51820  # where WireGuard listens if the other side does not tell
URGENT_RETRY = 0.4  # s until the offer of a restart is sent again: data waits
FIRST_RETRY = 3.0  # s until an unanswered offer is sent again
NEXT_RETRY = 0.8  # s, doubled each time
UNKNOWN_SCORE = 10.0  # s; no path, or its round trip is not known
RETRY_JITTER = 0.1  # part of the interval
LAST_RETRY = (30.0, 45.0)  # s, drawn between these in the end, for as long as it is open


@dataclass(eq=False)
class Attempt:
    """One session. Two offers that crossed are one attempt with two session ids."""

    session: bytes
    agent: AgentCore
    started_at: float
    is_upgrade: bool = False  # looks for a direct path while a relayed one works
    is_optional: bool = False  # looks for a better path while a direct one works
    is_suspect: bool = False  # WireGuard's data stays unanswered, and a check so far
    sessions: list[bytes] = field(default_factory=list)
    remote: OfferAnswer | None = None  # the other side's half, once it is known
    path: tuple[Candidate, Candidate] | None = None
    is_configured: bool = False  # WireGuard sends to its path
    extra_srflx: Candidate | None = None  # signalled besides our own candidates
    handshake_from: Address | None = None  # WireGuard was heard before the path was known

    @property
    def remote_ufrag(self) -> str:
        """Return the other side's ufrag, empty until it is known."""
        return self.remote.ufrag if self.remote is not None else ""

    @property
    def punch_address(self) -> Address | None:
        """Return where WireGuard listens at the other end, unless it shares the port of ICE."""
        if self.path is None or self.remote is None or self.is_relayed:
            return None
        peer, port = self.path[1].address, self.remote.wg_listen_port or DEFAULT_WG_PORT
        hosts = [pair.remote for pair in self.agent.pairs if pair.remote.kind is CandidateKind.HOST]
        if port in (peer.port, *(host.address.port for host in hosts)):
            return None
        return Address(peer.ip, port)

    def knows(self, session: bytes) -> bool:
        """Say whether the session id is one of this attempt's."""
        return session == self.session or session in self.sessions

    def is_of(self, session: bytes, ufrag: str) -> bool:
        """Say whether an offer or answer of the other side belongs to this attempt."""
        return self.knows(session) and self.remote_ufrag in ("", ufrag)

    def is_from(self, candidates: Sequence[Candidate], nat: NatKind) -> bool:
        """Say whether its path still starts at one of these addresses of ours."""
        if self.path is None:
            return True
        local = self.path[0]
        if all(candidate.base != local.base for candidate in candidates):
            return False
        if local.kind is not CandidateKind.SRFLX or nat is NatKind.SYMMETRIC:
            return True
        return any(candidate.address == local.address for candidate in candidates)

    @property
    def is_healthy(self) -> bool:
        """Say whether its path answers."""
        is_up = self.agent.state in (IceState.CONNECTED, IceState.COMPLETED)
        return is_up and not self.is_suspect

    @property
    def latency(self) -> float | None:
        """Return the round trip, in seconds, of the check that found its path."""
        if self.path is None:
            return None
        pairs = self.agent.pairs
        return next((p.latency for p in pairs if p.remote == self.path[1] and p.is_valid), None)

    @property
    def remote_address(self) -> Address | None:
        """Return the other end of the path."""
        return self.path[1].address if self.path else None

    @property
    def endpoint(self) -> Endpoint | None:
        """Return what WireGuard is told: the other end, and the address to send from."""
        return None if self.path is None else endpoint_of(*self.path)

    def is_worth_it(self, live: tuple[Candidate, Candidate] | None, latency: float | None) -> bool:
        """Say whether its path is the live one anew, or much better: worth a change."""
        if self.path == live:
            return True
        before = path_score(live, latency)
        return path_score(self.path, self.latency) < before * HYSTERESIS - MIN_GAIN

    def connected(self, config: ConnConfig) -> Connected:
        """Return what is told once WireGuard was heard on its path."""
        key, overlay_ip, remote = config.key, config.overlay_ip, self.remote
        if remote is None:
            return Connected(key, overlay_ip)
        return Connected(key, overlay_ip, remote.rosenpass_pub_key, remote.rosenpass_addr)

    def choose(
        self, candidates: tuple[Candidate, ...], *, force_relay: bool
    ) -> tuple[Candidate, ...]:
        """Return those of our candidates that it may use."""
        if force_relay:
            return tuple(candidate for candidate in candidates if candidate.is_relayed)
        if self.is_upgrade:
            return tuple(candidate for candidate in candidates if not candidate.is_relayed)
        return candidates

    def describe_pairs(self) -> tuple[str, ...]:
        """Return each candidate pair with its last result in words, best first."""
        return tuple(f"{pair.local} - {pair.remote}: {pair.result()}" for pair in self.agent.pairs)

    @property
    def is_relayed(self) -> bool:
        """Say whether its path goes through a relay."""
        return self.path is not None and any(candidate.is_relayed for candidate in self.path)


def endpoint_of(local: Candidate, remote: Candidate) -> Endpoint:
    """Return what WireGuard is told of a pair."""
    if local.is_relayed:
        return Endpoint(remote.address, relayed_from=local.base)
    return Endpoint(remote.address, local.base.ip)


def path_score(path: tuple[Candidate, Candidate] | None, latency: float | None) -> float:
    """Return how good a path is: its round trip in seconds, weighted; less is better.

    A LAN counts half, IPv6 a tenth less, a relay two seconds more.
    """
    if path is None or latency is None:
        return UNKNOWN_SCORE
    score = latency
    if all(end.kind is CandidateKind.HOST and not is_public(end.address.ip) for end in path):
        score *= 0.5
    if path[1].address.is_ipv6:
        score *= 0.9
    return score + (2.0 if any(end.is_relayed for end in path) else 0.0)


def make_extra_srflx(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return our outer address with our own port, if the NAT shows another port; else None.

    It is of use where the router forwards WireGuard's port to us (seed 000).
    """
    for candidate in candidates:
        if candidate.kind is CandidateKind.SRFLX and candidate.address.port != candidate.base.port:
            address = Address(candidate.address.ip, candidate.base.port)
            if all(known.address != address for known in candidates):
                return replace(candidate, address=address, priority=candidate.priority - 1)
    return None


@dataclass
class Early:
    """What came of a session before its offer."""

    candidates: list[Candidate] = field(default_factory=list)
    nat: NatKind = NatKind.UNKNOWN


class Backoff:
    """The intervals between tries: 3 s, then from 0.8 s doubling, in the end 30 to 45 s."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._count = 0
        self._first = FIRST_RETRY

    def reset(self, first: float = FIRST_RETRY) -> None:
        """Start anew: connected, or the network changed; `first`: seconds to the first retry."""
        self._count = 0
        self._first = first

    @property
    def is_fresh(self) -> bool:
        """Say whether nothing was tried since the last `reset`."""
        return self._count == 0

    def next(self) -> float:
        """Return the seconds until the next try."""
        self._count += 1
        if self._count == 1:
            return self._first
        interval = NEXT_RETRY * 2 ** min(self._count - 2, 10)
        if interval >= LAST_RETRY[0]:
            return float(self._rng.uniform(*LAST_RETRY))
        return float(interval * self._rng.uniform(1 - RETRY_JITTER, 1 + RETRY_JITTER))
