"""How a peer connection is configured and what it tells: frozen values.

Source: seed 000 (ConnConfig, the signalling handlers, onConnected, onDisconnected).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from ginnel.base.dataplane import EngineCommand
from ginnel.base.types import Secret
from ginnel.ice.candidate import Candidate
from ginnel.ice.events import AgentConfig
from ginnel.ice.reasons import NatKind
from ginnel.peer.errors import ConnectionEnded
from ginnel.peer.signal import PSK_ID_SIZE, ModeMessage, OfferAnswer
from ginnel.peer.status import PeerState
from ginnel.peer.turns import Turns


class OnDisconnect(Enum):
    """What follows when the path of a connected peer no longer answers."""

    RESTART = "restart"  # look for another path inside the same open
    CLOSE = "close"  # end the open, as in seed 000


@dataclass(frozen=True)
class ConnConfig:
    """Settings of one connection; the larger of the two raw keys controls.

    `timeout` bounds the wait for an offer or answer, and no other: with one given, open ends by an
    error and may be called again; without it, open goes on for ever (the mesh's way). With one, a
    path that is lost ends the open `disconnected` at once or after 30 s, by
    `on_disconnect`.
    """

    key: bytes  # the remote peer's WireGuard public key, 32 bytes
    local_key: bytes  # ours
    allowed_ips: tuple[str, ...] = ()
    preshared_key: Secret | None = None
    psk_id: bytes = bytes(PSK_ID_SIZE)
    keepalive_s: int = 25  # seed 000's defaultWgKeepAlive
    version: str = ""
    timeout: float | None = None  # s to wait for an offer or answer; None: no end but `close`
    on_disconnect: OnDisconnect = OnDisconnect.RESTART
    stun_turn: tuple[str, ...] = ()  # URLs: stun:HOST[:PORT], turn:...; needs `knows_port`
    interface_blacklist: tuple[str, ...] = ()  # names or patterns whose addresses are not offered
    disable_ipv6_discovery: bool = False  # offers no address of IPv6, whoever tells it
    nat_external_ips: tuple[str, ...] = ()  # NAT 1:1: our addresses outside, with the same port
    local_wg_port: int = 0  # where our WireGuard listens; 0: at the candidates' port
    is_muxed: bool = True  # WireGuard and ICE share one port (seed 000's two muxes)
    userspace_bind: bool = True  # the data plane reads the shared port itself
    rosenpass_pub_key: bytes = b""  # of our Rosenpass server; empty: none
    rosenpass_addr: str = ""  # its IP:port
    ice: AgentConfig = field(default_factory=AgentConfig)
    lends_consent: bool = False  # the data plane takes `WatchConsent`
    turns: Turns = field(default_factory=Turns)  # give all connections the same one

    @property
    def overlay_ip(self) -> str:
        """Return the first of the allowed IPs, without its prefix length."""
        return self.allowed_ips[0].partition("/")[0] if self.allowed_ips else ""

    @property
    def knows_port(self) -> bool:
        """Say whether addresses are found and servers asked: from the port of `local_wg_port`."""
        return self.is_muxed and self.local_wg_port > 0

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
    """Signal further candidates of a session to the peer, and our NAT as it is known now."""

    session: bytes
    candidates: tuple[Candidate, ...]
    nat: NatKind = NatKind.UNKNOWN


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Signal any other message to the peer."""

    message: ModeMessage


@dataclass(frozen=True, slots=True)
class Engine:
    """A command for the data plane."""

    command: EngineCommand


@dataclass(frozen=True, slots=True)
class PathSuspected:
    """The path may be dead: now is the time to learn our own addresses anew."""


@dataclass(frozen=True, slots=True)
class AddressesWanted:
    """An attempt begins, or there are no addresses of ours: whoever finds them looks again."""


@dataclass(frozen=True, slots=True)
class PeerStateChanged:
    """The state for people changed."""

    state: PeerState


@dataclass(frozen=True, slots=True)
class Connected:
    """WireGuard authenticated a packet on a path (seed 000's onConnected)."""

    remote_key: bytes
    overlay_ip: str  # the first of the allowed IPs, without its prefix length
    rosenpass_pub_key: bytes = b""  # the peer's, if it runs Rosenpass
    rosenpass_addr: str = ""  # IP:port of its Rosenpass server


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection that was up has ended (seed 000's onDisconnected)."""

    remote_key: bytes
    allowed_ips: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """The open has ended, everything is cleaned up; the last event of an open."""

    error: ConnectionEnded


ConnEvent: TypeAlias = (
    SendOffer
    | SendAnswer
    | SendCandidates
    | SendMessage
    | Engine
    | PathSuspected
    | AddressesWanted
    | PeerStateChanged
    | Connected
    | Disconnected
    | Ended
)
