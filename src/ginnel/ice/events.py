"""What an ICE agent is configured with and what it tells: frozen values.

The defaults of the timeouts are seed 000's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from ginnel.ice.candidate import Candidate
from ginnel.ice.limiter import CheckLimiter


class IceState(Enum):
    """The states of an agent."""

    NEW = "new"
    CHECKING = "checking"
    CONNECTED = "connected"  # a pair is selected
    COMPLETED = "completed"  # and no candidate will come any more
    DISCONNECTED = "disconnected"  # consent unanswered, may come back
    FAILED = "failed"
    CLOSED = "closed"


# To CHECKING from a later state: by a restart.
TRANSITIONS: dict[IceState, tuple[IceState, ...]] = {
    IceState.NEW: (IceState.CHECKING, IceState.CLOSED),
    IceState.CHECKING: (IceState.CONNECTED, IceState.FAILED, IceState.CLOSED),
    IceState.CONNECTED: (
        IceState.COMPLETED,
        IceState.DISCONNECTED,
        IceState.CHECKING,
        IceState.CLOSED,
    ),
    IceState.COMPLETED: (IceState.DISCONNECTED, IceState.CHECKING, IceState.CLOSED),
    IceState.DISCONNECTED: (
        IceState.CONNECTED,
        IceState.CHECKING,
        IceState.FAILED,
        IceState.CLOSED,
    ),
    IceState.FAILED: (IceState.CHECKING, IceState.CLOSED),
    IceState.CLOSED: (),
}


class Drop(Enum):
    """Why a datagram was dropped."""

    MALFORMED = "malformed"
    CLOSED = "closed"
    FOREIGN = "foreign"  # another agent's ufrag or transaction
    BAD_INTEGRITY = "bad integrity"
    UNSUPPORTED = "unsupported"  # method, class or a missing attribute
    BAD_SOURCE = "bad source"  # an address that we never talk to, or a limit
    NO_LOCAL = "no local candidate"
    ASYMMETRIC = "asymmetric"  # an answer from another address
    OLD_SESSION = "old session"  # a candidate of credentials that a restart has ended


@dataclass(frozen=True)
class AgentConfig:
    """Settings of one agent; times in seconds."""

    keepalive: float = 4.0
    disconnected_timeout: float = 6.0
    failed_timeout: float = 6.0
    relay_acceptance_wait: float = 2.0  # of a relayed pair for a direct one, from the start
    force_relay: bool = False  # pairs with no relayed end of ours are never checked
    patience: float = 10.0  # RFC 8863, bounded: a pair that can't be direct says so within 15 s
    overlay: tuple[IPv4Network | IPv6Network, ...] = ()  # no path may lie in the tunnel
    allow_loopback: bool = False
    pacing: float = 0.01  # Ta that we propose; 0.05 holds with who proposes none (RFC 8445, 14.2)
    limiter: CheckLimiter = field(default_factory=CheckLimiter)  # give all agents the same one


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The agent's state changed."""

    state: IceState


@dataclass(frozen=True, slots=True)
class CandidateFound:
    """A local candidate to signal."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class PairUsable:
    """A path works and none better is likely; data may go there though the other side has the last
    word (RFC 8445 section 12.1). The controlled side tells it before `PairSelected`.
    """

    local: Candidate
    remote: Candidate


@dataclass(frozen=True, slots=True)
class PairSelected:
    """A path works and both sides agreed on it; send from `local.base`."""

    local: Candidate
    remote: Candidate


@dataclass(frozen=True, slots=True)
class PairLatency:
    """A check on the selected pair was answered after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class PathChecked:
    """What `check_now` came to: the selected pair answered, or did not in about 1 s."""

    is_alive: bool


@dataclass(frozen=True, slots=True)
class RestartFailed:
    """A restart found no path; the one from before it still answers and is the path again."""

    reason: str


@dataclass(frozen=True, slots=True)
class KeptPathLost:
    """While a restart looks for a path, the one from before it has died."""


IceEvent: TypeAlias = (
    StateChanged
    | CandidateFound
    | PairUsable
    | PairSelected
    | PairLatency
    | PathChecked
    | RestartFailed
    | KeptPathLost
)
