"""What a data plane is told and what it tells, as values.

Cores emit commands, shells hand them to an engine (`engine/base.py`) and bring its events back.
Keys are raw 32-byte WireGuard public keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from ginnel.base.types import Address, Secret


class DatagramKind(IntEnum):
    """What a datagram on the shared port is (DESIGN, "One UDP port")."""

    WIREGUARD = 1
    STUN = 2
    CHANNEL_DATA = 3
    DISCV5 = 4


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where WireGuard packets of a peer go: an address, and the local IP to send from.

    `relayed_from`: our own address at a relay, if they go through it. `channel`: they go in this
    channel of a TURN server, which `address` is then; 0 is none.
    """

    address: Address
    source_ip: str | None = None
    relayed_from: Address | None = None
    channel: int = 0


@dataclass(frozen=True, slots=True)
class SetPeer:
    """Add a peer or change it as a whole; `endpoint` None keeps what is known.

    `preshared_key` is 32 bytes or None; changing it keeps live transport keys.
    """

    public_key: bytes
    allowed_ips: tuple[str, ...]
    endpoint: Endpoint | None = None
    keepalive_s: int | None = None
    preshared_key: Secret | None = None


@dataclass(frozen=True, slots=True)
class RemovePeer:
    """Remove a peer and its keys."""

    public_key: bytes


@dataclass(frozen=True, slots=True)
class CloseProxy:
    """Release what carries a peer's packets to a relay; a data plane without proxies ignores it."""

    public_key: bytes
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class StartHandshake:
    """Start a WireGuard handshake with the peer now (its endpoint must be known)."""

    public_key: bytes


@dataclass(frozen=True, slots=True)
class SendInner:
    """Send one IP packet to a peer inside the tunnel (the control port)."""

    public_key: bytes
    packet: bytes


@dataclass(frozen=True, slots=True)
class SendProbe:
    """As `SendInner`, but exactly this long and never in fragments outside: does it arrive?"""

    public_key: bytes
    packet: bytes


@dataclass(frozen=True, slots=True)
class SetPathMtu:
    """Bytes of the largest inner packet that a peer's path takes; None: not known (any is sent).

    What does not fit is answered (fragmentation needed, Packet Too Big) instead of sent.
    """

    public_key: bytes
    mtu: int | None


@dataclass(frozen=True, slots=True)
class OpenChannel:
    """A TURN server carries datagrams between our address there and a peer in this channel."""

    relayed: Address
    peer: Address
    server: Address
    source_ip: str | None
    number: int


@dataclass(frozen=True, slots=True)
class CloseChannel:
    """Nothing goes in this channel any more; what is under way in it is taken."""

    channel: OpenChannel


@dataclass(frozen=True, slots=True)
class ForwardChannel:
    """We are the relay: what a client sends in this channel goes to another client in another.

    After `life_s` seconds the datagrams come up again. `bytes_per_second` and `burst_bytes` bound
    all that the client has passed on.
    """

    client: Address
    number: int
    target: Endpoint
    life_s: float
    bytes_per_second: int
    burst_bytes: int


@dataclass(frozen=True, slots=True)
class EndForwards:
    """Nothing from this client or to it is passed on any more."""

    client: Address


@dataclass(frozen=True, slots=True)
class ConsentTerms:
    """What consent on a selected ICE pair needs; all as RFC 8445 and RFC 7675 name it."""

    username: bytes  # of the other side's requests
    local_password: Secret
    remote_password: Secret
    attributes: bytes  # of our requests, encoded, up to MESSAGE-INTEGRITY
    controlling: bool
    interval: float  # s between an answer and the next request, on average
    patience: float  # s after which an answer is late


@dataclass(frozen=True, slots=True)
class WatchConsent:
    """Ask for consent on a direct path, and answer for it, until an answer is late."""

    public_key: bytes
    endpoint: Endpoint
    terms: ConsentTerms


@dataclass(frozen=True, slots=True)
class ForgetConsent:
    """Neither ask nor answer for a peer's consent any more."""

    public_key: bytes


ChannelCommand: TypeAlias = OpenChannel | CloseChannel | ForwardChannel | EndForwards
PeerCommand: TypeAlias = (
    SetPeer
    | RemovePeer
    | CloseProxy
    | StartHandshake
    | SendInner
    | SendProbe
    | SetPathMtu
    | WatchConsent
    | ForgetConsent
)
EngineCommand: TypeAlias = PeerCommand | ChannelCommand
PathCommand: TypeAlias = SetPeer | StartHandshake | WatchConsent  # without it a path is of no use


@dataclass(frozen=True, slots=True)
class InnerReceived:
    """An IP packet for the control port came from a peer (its source address was checked)."""

    public_key: bytes
    packet: bytes


@dataclass(frozen=True, slots=True)
class HandshakeCompleted:
    """WireGuard has new transport keys with a peer: a packet was authenticated on `address`.

    `channel`: it came in this channel of a TURN server, which `address` is then.
    """

    public_key: bytes
    address: Address | None
    channel: int = 0


@dataclass(frozen=True, slots=True)
class EndpointRoamed:
    """An authenticated packet of a peer came from another address than its endpoint.

    `channel`: as of `HandshakeCompleted`.
    """

    public_key: bytes
    address: Address
    channel: int = 0


@dataclass(frozen=True, slots=True)
class DataUnanswered:
    """Data went both ways with a peer, and now nothing has come back: told after 1 s and 15 s."""

    public_key: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class ConsentMissed:
    """A request for consent is not answered: no more are sent, the last answer is `seconds` old."""

    public_key: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class ConsentAnswered:
    """A request for consent was answered after another time than before; not told each time."""

    public_key: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class CommandRefused:
    """A `PathCommand` was refused, and nothing of it done; told by who carries commands."""

    public_key: bytes
    reason: str


PeerEvent: TypeAlias = (
    HandshakeCompleted
    | EndpointRoamed
    | DataUnanswered
    | ConsentMissed
    | ConsentAnswered
    | CommandRefused
)
EngineEvent: TypeAlias = InnerReceived | PeerEvent


@dataclass(frozen=True, slots=True)
class PeerStats:
    """Counters of one peer; bytes are of inner packets with WireGuard's padding."""

    public_key: bytes
    endpoint: Address | None
    rx_bytes: int
    tx_bytes: int
    last_handshake_unix: float | None  # wall time, for people
    handshake_age_s: float | None  # monotonic age of the last handshake
    channel: int = 0  # of the TURN server that `endpoint` is then
