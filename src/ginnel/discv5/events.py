"""What the discovery core tells: one frozen value a kind."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from ginnel.base.types import Address, NodeId
from ginnel.discv5.enr import Enr
from ginnel.discv5.requests import Contact, Failure


class Drop(Enum):
    """Why a packet or message was dropped."""

    PACKET_SIZE = "packet size"
    PROTOCOL_ID = "protocol id"
    VERSION = "version"
    FLAG = "flag"
    AUTHDATA = "authdata"
    SOURCE = "source address"
    BANNED = "banned for violations of the protocol"
    PACKET_RATE = "too many packets of this source"
    OWN_ID = "own node id"
    CHALLENGE_RATE = "too many challenges for this source"
    UNSOLICITED_CHALLENGE = "challenge that nothing of ours caused"
    CHALLENGE_REPEATED = "too many challenges for one request"
    NO_CHALLENGE = "handshake without open challenge"
    NO_RECORD = "handshake without the record we need"
    BAD_RECORD = "record"
    BAD_SIGNATURE = "id signature"
    BAD_KEY = "ephemeral key"
    BAD_HANDSHAKE_MESSAGE = "handshake message does not decrypt"
    MESSAGE = "message"
    MESSAGE_TYPE = "message type"
    MESSAGE_RATE = "too many messages of this source"
    UNSOLICITED_RESPONSE = "response to nothing"
    WRONG_RESPONSE = "response of the wrong kind"
    REPEATED_TALK = "repeated talk request"
    TOO_MANY_TALKS = "too many talk requests"


@dataclass(frozen=True, slots=True)
class TalkReceived:
    """A TALKREQ came; answer it with `respond_talk(token, ...)`."""

    token: int
    contact: Contact
    protocol: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class TalkAnswered:
    """The answer to a `talk_request`; empty means that the node does not know the protocol."""

    request: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The answer to a `ping`; `address` is how the node sees us."""

    request: int
    contact: Contact
    address: Address
    enr_seq: int


@dataclass(frozen=True, slots=True)
class NodesReceived:
    """The answer to a `find_node`: verified records at the distances asked for."""

    request: int
    records: tuple[Enr, ...]


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """A request got no answer."""

    request: int
    reason: Failure


@dataclass(frozen=True, slots=True)
class LookupDone:
    """A lookup ended; `nodes` are closest first and have all answered."""

    lookup: int
    target: NodeId
    nodes: tuple[Enr, ...]


@dataclass(frozen=True, slots=True)
class QueryDone:
    """A query ended; `nodes` are all that were found, alive or not."""

    query: int
    target: NodeId
    nodes: tuple[Enr, ...]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A `resolve` ended with the newest record there is of the node, or None."""

    request: int
    record: Enr | None


@dataclass(frozen=True, slots=True)
class PopulateDone:
    """A `populate` ended; `nodes` are in the table now."""

    request: int
    nodes: int


@dataclass(frozen=True, slots=True)
class Revalidated:
    """A `revalidate` ended: the node answered, or it has lost its place in the table."""

    request: int
    is_alive: bool


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """There are new keys with a node; `initiated`: we began."""

    node_id: NodeId
    address: Address
    initiated: bool


@dataclass(frozen=True, slots=True)
class AddressChanged:
    """The record was updated to the address that the majority of observers sees."""

    address: Address
    previous: Address | None


@dataclass(frozen=True, slots=True)
class AddressDiffers:
    """The majority sees another address than the record has, which was not updated."""

    address: Address
    published: Address | None


@dataclass(frozen=True, slots=True)
class ReflexiveChanged:
    """How others see us changed; None when no view is left."""

    address: Address | None
    symmetric: bool
    observers: int
    ipv6: bool


@dataclass(frozen=True, slots=True)
class NodeAdded:
    """A node came into the routing table."""

    enr: Enr


@dataclass(frozen=True, slots=True)
class NodeRemoved:
    """A node left the routing table because it did not answer."""

    node_id: NodeId


DiscoveryEvent: TypeAlias = (
    TalkReceived
    | TalkAnswered
    | PongReceived
    | NodesReceived
    | RequestFailed
    | LookupDone
    | QueryDone
    | Resolved
    | PopulateDone
    | Revalidated
    | SessionOpened
    | AddressChanged
    | AddressDiffers
    | ReflexiveChanged
    | NodeAdded
    | NodeRemoved
)
