"""What the mesh tells, one frozen value a kind; commands to the DHT are in `rendezvous.py`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from ginnel.base.dataplane import EngineCommand
from ginnel.base.links import LinkCommand
from ginnel.base.types import Address, MemberId, NodeId
from ginnel.ice.turn_ports import PortCommand
from ginnel.peer.status import PeerState


class MeshDrop(Enum):
    """Why a message that passed all checks of the envelope was dropped, or a datagram was."""

    STUN = "stun for no connection"
    PAYLOAD = "payload"
    NO_PEER = "no such peer"
    KIND = "kind not served"


@dataclass(frozen=True, slots=True)
class Engine:
    """A command for the data plane."""

    command: EngineCommand


@dataclass(frozen=True, slots=True)
class RelayedPacket:
    """A WireGuard packet of `peer` came for our address at a relay: for the data plane."""

    relayed: Address
    peer: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class PeerChanged:
    """A member's connection, in full; `stage` is for people. Gone members have `is_gone`."""

    member_id: MemberId
    name: str
    full_name: str
    addresses: tuple[str, ...]
    state: PeerState
    stage: str
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class MemberFound:
    """A member's presence was found in the DHT; `via` tells how, `storers` who told."""

    member_id: MemberId
    name: str
    via: str
    storers: tuple[NodeId, ...]
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class PingResult:
    """A ping through the tunnel came back after `seconds`, or (None) did not."""

    token: int
    member_id: MemberId
    seconds: float | None


@dataclass(frozen=True, slots=True)
class EnvelopeReceived:
    """An envelope came for a point that was added (an invite's): its tag, and it whole."""

    tag: bytes
    envelope: bytes


@dataclass(frozen=True, slots=True)
class EnvelopeDelivered:
    """A `deliver` ended; ok: a storing node has sent it on."""

    delivery: int
    ok: bool


@dataclass(frozen=True, slots=True)
class RosterChanged:
    """New objects were accepted: store them."""

    objects: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PointRegistered:
    """A round of registering a point ended; 0 storers: none accepted, and why."""

    location: NodeId
    storers: int
    reason: str


@dataclass(frozen=True, slots=True)
class PointSearched:
    """A search for a point that was added ended without success; it goes on by itself."""

    location: NodeId
    reason: str


class NoticeKind(Enum):
    """What a person should look at."""

    CLOCK = "clock"
    CERTIFICATE = "certificate"
    CONFLICT = "conflict"
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a person should know; told once until it changes; an empty text ends it."""

    kind: NoticeKind
    text: str


MeshEvent: TypeAlias = (
    Engine
    | RelayedPacket
    | LinkCommand
    | PortCommand
    | PeerChanged
    | MemberFound
    | PingResult
    | EnvelopeReceived
    | EnvelopeDelivered
    | RosterChanged
    | PointRegistered
    | PointSearched
    | Notice
)
