"""What we have asked and what awaits an answer, in order of time.

A request ends in exactly one way: answered, or failed. Its nonces stay known until then, because a
challenge may name any packet that carried it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum

from ginnel.base.types import Address, NodeId
from ginnel.discv5.enr import Enr
from ginnel.discv5.messages import Nodes, Request
from ginnel.discv5.session import SessionKey

MAX_HANDSHAKES_PER_REQUEST = 4  # challenges we answer for one request; a loop ends there


@dataclass(frozen=True, slots=True)
class Contact:
    """Whom to talk to: a node, where it is, and the key a handshake with it needs."""

    node_id: NodeId
    address: Address
    public_key: bytes

    @classmethod
    def from_record(cls, record: Enr, ipv6: bool = False) -> Contact | None:
        """Return the contact of a record over IPv4 (or IPv6), None without such an address."""
        address = record.address(ipv6)
        return None if address is None else cls(record.node_id, address, record.public_key)

    @property
    def key(self) -> SessionKey:
        """Return what its session is kept under."""
        return (self.node_id, self.address)


class Failure(Enum):
    """Why a request failed."""

    TIMEOUT = "no answer"
    WRONG_ANSWER = "an answer of the wrong kind"
    TOO_MANY = "too many requests under way"
    UNREACHABLE = "no address to send to"
    CLOSED = "the node was closed"


class Purpose(Enum):
    """Who wants the answer."""

    CALLER = "caller"  # ends in an event
    LOOKUP = "lookup"
    REVALIDATE = "revalidate"
    CHECK = "check"  # a revalidation that a caller waits for
    RESOLVE = "resolve"  # a record from its own node
    UPDATE = "update"  # fetch a newer record
    CARRIER = "carrier"  # opens a session for another request


@dataclass(slots=True, eq=False)
class Pending:
    """One request under way."""

    token: int
    contact: Contact
    message: Request
    encoded: bytes
    purpose: Purpose
    created_at: float
    lookup: int | None = None  # or the check that waits for a newer record
    deadline: float = 0.0
    handshakes: int = 0
    retransmits: int = 0
    is_queued: bool = False
    is_restarted: bool = False  # its time began anew after a handshake
    is_second: bool = False  # over the node's other IP version, after a timeout
    nonces: list[bytes] = field(default_factory=list)
    collected: NodesCollector | None = None


class NodesCollector:
    """Gathers the packets of one NODES response; equal packets count once."""

    def __init__(self, packet_limit: int, result_limit: int) -> None:
        self._packet_limit = packet_limit
        self._result_limit = result_limit
        self._packets: dict[tuple[bytes, ...], None] = {}
        self._total = 0

    @property
    def has_any(self) -> bool:
        """Say whether a packet came."""
        return bool(self._packets)

    def add(self, nodes: Nodes) -> bool:
        """Take a packet; say whether the response is complete."""
        if not self._packets:
            self._total = min(nodes.total, self._packet_limit)
        self._packets[nodes.records] = None
        records = sum(len(packet) for packet in self._packets)
        return len(self._packets) >= self._total or records >= self._result_limit

    def records(self) -> list[bytes]:
        """Return the distinct records so far, at most the limit, in order of arrival."""
        distinct: dict[bytes, None] = {}
        for packet in self._packets:
            for record in packet:
                distinct[record] = None
        return list(distinct)[: self._result_limit]


class RequestTable:
    """Requests under way, found by token, request id or nonce; bounded, in order of deadline."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_token: OrderedDict[int, Pending] = OrderedDict()
        self._by_id: dict[tuple[NodeId, bytes], Pending] = {}
        self._by_nonce: dict[bytes, Pending] = {}
        self._retransmit: OrderedDict[int, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_token)

    @property
    def is_full(self) -> bool:
        """Say whether a new request must be refused."""
        return len(self._by_token) >= self._limit

    def add(self, pending: Pending, deadline: float) -> None:
        """Take a new request; deadlines must not fall."""
        pending.deadline = deadline
        self._by_token[pending.token] = pending
        self._by_id[(pending.contact.node_id, pending.message.request_id)] = pending

    def restart(self, pending: Pending, deadline: float) -> None:
        """Move a request's deadline to the end: it waited for a handshake and goes out now.

        Once for each request: it has to end.
        """
        if pending.token in self._by_token:
            pending.deadline = deadline
            pending.is_restarted = True
            self._by_token.move_to_end(pending.token)

    def note_sent(self, pending: Pending, nonce: bytes, retransmit_at: float | None) -> None:
        """Remember the nonce of a packet that carries the request."""
        pending.nonces.append(nonce)
        self._by_nonce[nonce] = pending
        if retransmit_at is not None:
            self._retransmit[pending.token] = retransmit_at
            self._retransmit.move_to_end(pending.token)

    def stop_retransmit(self, pending: Pending) -> None:
        """Do not send the request again by itself."""
        self._retransmit.pop(pending.token, None)

    def remove(self, pending: Pending) -> bool:
        """Forget a request that ended; False if it had ended before."""
        if self._by_token.pop(pending.token, None) is None:
            return False
        self._by_id.pop((pending.contact.node_id, pending.message.request_id), None)
        self._retransmit.pop(pending.token, None)
        for nonce in pending.nonces:
            self._by_nonce.pop(nonce, None)
        return True

    def by_id(self, node_id: NodeId, request_id: bytes) -> Pending | None:
        """Return the request that a response names, or None."""
        return self._by_id.get((node_id, request_id))

    def by_nonce(self, nonce: bytes) -> Pending | None:
        """Return the request that a challenge names, or None."""
        return self._by_nonce.get(nonce)

    def is_open(self, pending: Pending) -> bool:
        """Say whether the request is under way."""
        return pending.token in self._by_token

    def pop_retransmit(self, now: float) -> Pending | None:
        """Return the next request that is due to be sent again, or None; call until None."""
        if self._retransmit:
            token, at = next(iter(self._retransmit.items()))
            if at <= now:
                del self._retransmit[token]
                return self._by_token.get(token)
        return None

    def overdue(self, now: float) -> Pending | None:
        """Return the next request whose time is over, or None; remove it and call until None."""
        if self._by_token:
            pending = next(iter(self._by_token.values()))
            if pending.deadline <= now:
                return pending
        return None

    def next_at(self) -> float | None:
        """Return when the next request is due to be sent again or given up, or None."""
        at: float | None = None
        if self._by_token:
            at = next(iter(self._by_token.values())).deadline
        if self._retransmit:
            again = next(iter(self._retransmit.values()))
            at = again if at is None else min(at, again)
        return at
