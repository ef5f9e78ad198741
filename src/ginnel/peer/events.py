"""How a peer connection is configured and what it tells: frozen values.

Source: seed 000 (ConnConfig, the signalling handlers, onConnected, onDisconnected).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from ginnel.base.dataplane import EngineCommand
from ginnel.base.types import Secret
from ginnel.ice.candidate import Candidate
from ginnel.ice.events import AgentConfig
from ginnel.peer.signal import PSK_ID_SIZE, OfferAnswer
from ginnel.peer.status import PeerState


@dataclass(frozen=True)
class ConnConfig:
    """Settings of one connection; the larger of the two raw keys controls."""

    key: bytes  # the remote peer's WireGuard public key, 32 bytes
    local_key: bytes  # ours
    allowed_ips: tuple[str, ...] = ()
    preshared_key: Secret | None = None
    psk_id: bytes = bytes(PSK_ID_SIZE)
    keepalive_s: int = 25  # seed 000's defaultWgKeepAlive
    version: str = ""
    ice: AgentConfig = field(default_factory=AgentConfig)

    @property
    def is_controlling(self) -> bool:
        """Say whether our key is the larger one."""
        return self.local_key > self.key


@dataclass(frozen=True, slots=True)
class SendOffer:
    """Signal this offer to the peer; it may get lost."""

    offer: OfferAnswer


@dataclass(frozen=True, slots=True)
class SendAnswer:
    """Signal this answer to the peer; it may get lost."""

    answer: OfferAnswer


@dataclass(frozen=True, slots=True)
class SendCandidates:
    """Signal further candidates of a session to the peer."""

    session: bytes
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Engine:
    """A command for the data plane."""

    command: EngineCommand


@dataclass(frozen=True, slots=True)
class PeerStateChanged:
    """The state for people changed."""

    state: PeerState


@dataclass(frozen=True, slots=True)
class Connected:
    """WireGuard authenticated a packet on a path (seed 000's onConnected)."""

    remote_key: bytes
    overlay_ip: str  # the first of the allowed IPs, without its prefix length


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection that was up has ended (seed 000's onDisconnected)."""

    remote_key: bytes
    allowed_ips: tuple[str, ...]


ConnEvent: TypeAlias = (
    SendOffer | SendAnswer | SendCandidates | Engine | PeerStateChanged | Connected | Disconnected
)
