"""What a TURN client is configured with and what it tells: frozen values.

Source: RFC 8656 (error codes in section 19).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from ginnel.base.servers import Transport
from ginnel.base.types import Address, Secret
from ginnel.ice.channels import FIRST_CHANNEL, LAST_CHANNEL


@dataclass(frozen=True)
class TurnConfig:
    """One server and how it knows us.

    `realm` and `nonce` save a round trip where the server told them with the credentials. `host`:
    the server's name, which its TLS certificate must show. `channels`: the numbers to bind.
    """

    server: Address
    username: str
    password: Secret
    source_ip: str | None = None
    realm: str = ""
    nonce: bytes = b""
    transport: Transport = Transport.UDP
    host: str = ""
    channels: range = range(FIRST_CHANNEL, LAST_CHANNEL + 1)


@dataclass(frozen=True, slots=True)
class ConnectionWanted:
    """Connect to the server (a new connection), then call `on_connected`; not over UDP."""


@dataclass(frozen=True, slots=True)
class ConnectionOver:
    """Send what is to be sent, then close the connection, if there is one."""


@dataclass(frozen=True, slots=True)
class Allocated:
    """There is an allocation; `mapped` is our own address as the server sees it."""

    relayed: Address
    mapped: Address | None


@dataclass(frozen=True, slots=True)
class AllocationLost:
    """The allocation is gone, or none was given; it is tried again after `retry_s`."""

    relayed: Address | None
    reason: str
    retry_s: float


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """The server does not relay to this peer."""

    peer: Address
    reason: str


@dataclass(frozen=True, slots=True)
class RelayReceived:
    """A datagram of a peer came through the relay."""

    peer: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class ChannelOpened:
    """A peer's datagrams go in this channel; over UDP others may wrap and unwrap them too."""

    relayed: Address
    peer: Address
    number: int


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """The channel is not kept alive any more, or is gone."""

    relayed: Address
    peer: Address
    number: int


TurnEvent: TypeAlias = (
    ConnectionWanted
    | ConnectionOver
    | Allocated
    | AllocationLost
    | PeerRefused
    | RelayReceived
    | ChannelOpened
    | ChannelClosed
)


class TurnDrop(Enum):
    """Why a datagram was dropped."""

    SOURCE = "not from the server"
    MALFORMED = "malformed"
    FOREIGN = "answer to nothing"
    BAD_INTEGRITY = "bad integrity"
    NO_PERMISSION = "no permission asked for this peer"
    NO_ALLOCATION = "no allocation"
    FULL = "too many peers, or too much waits"


def explain(code: int) -> str:
    """Return in words what a server's error code means for us."""
    texts = {
        300: "the relay sends us to another server",
        401: "the relay does not take our credentials",
        403: "the relay does not relay to this address",
        437: "the relay has lost, or still has, an allocation of this port",
        438: "the relay's nonce went stale again and again",
        441: "the relay gave this port's allocation to other credentials",
        442: "the relay does not offer UDP",
        486: "the relay's quota for us is used up",
        508: "the relay has no room",
    }
    return texts.get(code, f"the relay refused ({code})")
