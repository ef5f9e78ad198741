"""PROBE: strangers find out whether an address can be reached, for who asks.

The node asked (`Reflector`) names up to two nodes of its table and has each send one discv5 PING
to where the request came from. Whoever asked, from a port that wrote to nobody but the node asked,
knows by what arrives how its NAT or firewall filters.

Invariants: PINGs go only to the address that a PROBE came from; at most one round a minute for one
address, few for one IP; nobody is sent into networks that the asker isn't in.

Source: docs/formats.md, "Rendezvous" (PROBE, PROBE-FOR).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from ginnel.base import rlp
from ginnel.base.addresses import Scope, scope_of
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.limits import RateLimiter
from ginnel.base.types import Address, NodeId, make_address
from ginnel.discv5.enr import Enr, decode_enr
from ginnel.discv5.requests import Contact
from ginnel.mesh.derive import sha256
from ginnel.mesh.rendezvous import (
    MAX_REQUEST,
    VERSION,
    Ping,
    RdvCommand,
    RequestType,
    Status,
    TalkRequest,
    Tokens,
)

PROBERS = 2  # nodes that are sent for one PROBE (Rendezvous)
CANDIDATES = 16  # nodes of the table among which they are drawn
MAX_PROBERS = 8  # addresses taken of one answer
MAX_RECORD = 300  # bytes of a record (EIP-778)
PER_ADDRESS_S = 60.0  # seconds between two rounds for one address (Rendezvous)
PER_IP_S = 10.0  # seconds for one more round of one IP: several members share a home's
PER_IP_BURST = 12.0
FOR_PER_IP_S = 2.0  # seconds for one more PROBE-FOR of one node that was asked
FOR_PER_IP_BURST = 30.0
RATE_KEYS = 4096  # addresses whose rates are remembered
_NEVER = (Scope.LOOPBACK, Scope.MULTICAST, Scope.UNSPECIFIED, Scope.LINK_LOCAL)

Closest = Callable[[NodeId, int], Sequence[Enr]]


class ProbeDrop(Enum):
    """Why a PROBE or PROBE-FOR was refused."""

    MALFORMED = "malformed probe"
    STRANGER = "another node's record in a probe"
    RATE = "probe rate"
    ADDRESS = "address not to be probed"
    NOBODY = "nobody to send"


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """Am I reachable? The asker's record comes along, for those who are sent."""

    record: Enr


@dataclass(frozen=True, slots=True)
class ProbeForRequest:
    """Send one PING to the node of this record at this address."""

    record: Enr
    address: Address


def encode_probe(record: Enr) -> bytes:
    """Encode a PROBE. Shape: [1, 4, record]."""
    return rlp.encode([VERSION, RequestType.PROBE, record.raw])


def encode_probe_for(request: ProbeForRequest) -> bytes:
    """Encode a PROBE-FOR. Shape: [1, 5, record, ip, port]."""
    address = request.address
    return rlp.encode(
        [VERSION, RequestType.PROBE_FOR, request.record.raw, address.packed_ip, address.port]
    )


def decode_probe(data: bytes) -> ProbeRequest | ProbeForRequest:
    """Decode either request.

    Raises:
        RemoteProtocolError: malformed, of another version, or a record that does not verify.
    """
    if len(data) > MAX_REQUEST:
        raise RemoteProtocolError(f"a request of {len(data)} bytes")
    items = rlp.as_list(rlp.decode(data), at_least=3)
    if rlp.as_int(items[0]) != VERSION:
        raise RemoteProtocolError("a request of another version")
    record = decode_enr(rlp.as_bytes(items[2], maximum=MAX_RECORD))
    if rlp.as_int(items[1]) == RequestType.PROBE:
        return ProbeRequest(record)
    rlp.as_list(items, at_least=5)
    return ProbeForRequest(record, _address(items[3], rlp.as_int(items[4], 65535)))


def encode_probe_answer(status: Status, probers: Sequence[str] = ()) -> bytes:
    """Encode the answer. Shape: [1, status, [ip ...]]: who will send, so that silence tells."""
    if not probers:
        return rlp.encode([VERSION, status])
    packed: list[rlp.Encodable] = [make_address(ip, 0).packed_ip for ip in probers]
    return rlp.encode([VERSION, status, packed])


def decode_probe_answer(data: bytes) -> tuple[str, ...]:
    """Return the IPs of those who were sent; none if the node sent nobody or serves no PROBE.

    Raises:
        RemoteProtocolError: malformed.
    """
    if not data:
        return ()
    items = rlp.as_list(rlp.decode(data), at_least=2)
    if rlp.as_int(items[1]) != Status.DONE or len(items) < 3:
        return ()
    return tuple(_address(item, 0).ip for item in rlp.as_list(items[2])[:MAX_PROBERS])


class Reflector:
    """Serves PROBE and PROBE-FOR; commands come out of `poll_command`."""

    def __init__(self, node_id: NodeId, closest: Closest, *, tokens: Tokens) -> None:
        self.drops: dict[ProbeDrop, int] = {}
        self._node_id = node_id
        self._closest = closest
        self._tokens = tokens
        self._addresses: RateLimiter[Address] = RateLimiter(1 / PER_ADDRESS_S, 1, limit=RATE_KEYS)
        self._ips: RateLimiter[str] = RateLimiter(1 / PER_IP_S, PER_IP_BURST, limit=RATE_KEYS)
        self._targets: RateLimiter[Address] = RateLimiter(1 / PER_ADDRESS_S, 1, limit=RATE_KEYS)
        self._senders: RateLimiter[str] = RateLimiter(
            1 / FOR_PER_IP_S, FOR_PER_IP_BURST, limit=RATE_KEYS
        )
        self._outbox: deque[RdvCommand] = deque()

    def serve(self, contact: Contact, payload: bytes, *, now: float) -> bytes:
        """Serve one request; return the answer."""
        try:
            request = decode_probe(payload)
        except RemoteProtocolError:
            return self._refuse(ProbeDrop.MALFORMED)
        if isinstance(request, ProbeRequest):
            return self._on_probe(contact, request, now)
        return self._on_probe_for(contact, request, now)

    def poll_command(self) -> RdvCommand | None:
        """Return the next command; call until None."""
        return self._outbox.popleft() if self._outbox else None

    def _on_probe(self, contact: Contact, request: ProbeRequest, now: float) -> bytes:
        source = contact.address
        if request.record.node_id != contact.node_id:
            return self._refuse(ProbeDrop.STRANGER)
        if scope_of(source.ip) in _NEVER:
            return self._refuse(ProbeDrop.ADDRESS)
        if not self._ips.take(source.ip, now=now) or not self._addresses.take(source, now=now):
            return self._refuse(ProbeDrop.RATE, Status.SLOW_DOWN)
        probers = self._choose(contact)
        if not probers:
            return self._refuse(ProbeDrop.NOBODY, Status.UNKNOWN)
        payload = encode_probe_for(ProbeForRequest(request.record, source))
        for prober in probers:
            self._outbox.append(TalkRequest(self._tokens.next(), prober, payload))
        return encode_probe_answer(Status.DONE, [prober.address.ip for prober in probers])

    def _on_probe_for(self, contact: Contact, request: ProbeForRequest, now: float) -> bytes:
        target, record = request.address, request.record
        scope = scope_of(target.ip)
        if not target.port or scope in _NEVER or scope is not scope_of(contact.address.ip):
            return self._refuse(ProbeDrop.ADDRESS)
        sender = contact.address.ip
        if not self._senders.take(sender, now=now) or not self._targets.take(target, now=now):
            return self._refuse(ProbeDrop.RATE, Status.SLOW_DOWN)
        to = Contact(record.node_id, target, record.public_key)
        self._outbox.append(Ping(self._tokens.next(), to))
        return encode_probe_answer(Status.DONE)

    def _choose(self, asker: Contact) -> list[Contact]:
        """Return nodes at IPs of their own, in an order that the asker can't foresee."""
        source = asker.address
        target = NodeId(sha256(self._node_id + asker.node_id + source.packed_ip))
        taken = [source.ip]
        chosen: list[Contact] = []
        for record in self._closest(target, CANDIDATES):
            found = Contact.from_record(record, ipv6=source.is_ipv6)
            if found is None or found.address.ip in taken or record.node_id == asker.node_id:
                continue
            if scope_of(found.address.ip) is not scope_of(source.ip):
                continue
            taken.append(found.address.ip)
            chosen.append(found)
        return chosen[:PROBERS]

    def _refuse(self, reason: ProbeDrop, status: Status = Status.REFUSED) -> bytes:
        self.drops[reason] = self.drops.get(reason, 0) + 1
        return encode_probe_answer(status)


def _address(item: rlp.Rlp, port: int) -> Address:
    ip = rlp.as_bytes(item)
    if len(ip) not in (4, 16):
        raise RemoteProtocolError("an IP address of a wrong size")
    return make_address(ip, port)
