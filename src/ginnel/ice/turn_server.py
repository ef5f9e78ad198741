"""CORE: a TURN server for members of one network, on a port that it shares.

Both ends of a relayed path allocate here, and datagrams between two allocations are passed on
inside. Nothing is ever relayed elsewhere. Each allocation holds a port of its own (`turn_ports`),
so that its address is nobody else's on this machine; what comes to that port from outside is never
read. Permissions and channels may name only other allocations of this server, each a whole address
(RFC 8656 has IPs).

Who has no credentials gets no answer at all, not even a challenge: nothing can be amplified, and
nobody outside learns that there is a relay. So realm and nonce come with the credentials.

Source: RFC 8656; RFC 8489 section 9.2; DESIGN, "Peer connection".
"""

from __future__ import annotations

import base64
import logging
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import TimerTable
from ginnel.base.dataplane import EndForwards, Endpoint, ForwardChannel
from ginnel.base.limits import BoundedLru, TokenBucket
from ginnel.base.servers import DEFAULT_PORTS, PortRange
from ginnel.base.types import Address, Deadline, Secret, Transmit
from ginnel.ice import stun
from ginnel.ice.bindings import Bindings
from ginnel.ice.channels import split_channel_data, wrap_channel_data
from ginnel.ice.stun import Attribute, Message, MessageClass
from ginnel.ice.turn_ports import PortBook, PortCommand

REALM = "ginnel"
CREDENTIAL_LIFE = 12 * 3600.0  # s (DESIGN, "Peer connection")
MAX_USERS = 1024  # credentials in force; the least recently used go
MAX_USER_CREDENTIALS = 2  # of one member: it may just have started again
MAX_ALLOCATIONS = 256  # of the server
MAX_USER_ALLOCATIONS = 4  # of one member: a restart, a second port
MIN_LIFETIME, MAX_LIFETIME = 600, 3600  # s of an allocation (section 7.2)
NONCE_LIFE = 3600.0  # s (section 7.2)
BYTES_PER_SECOND = 125_000_000  # of one allocation's sender: 1 Gbit/s
BURST_BYTES = 4_000_000  # a window of TCP at that rate and 30 ms
MAX_COMMANDS = 4096  # for a data plane; who has none never takes them
SWEEP_INTERVAL = 30.0  # s between looks for what is over
UDP_PROTOCOL = 17  # REQUESTED-TRANSPORT (section 18.6)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one member needs to allocate here."""

    username: str
    password: Secret
    realm: str
    nonce: bytes
    expires_at: float  # monotonic seconds of the server


class RelayDrop(Enum):
    """Why a datagram was not answered or not passed on."""

    MALFORMED = "malformed"
    UNKNOWN_USER = "unknown user"
    BAD_INTEGRITY = "bad integrity"
    EXPIRED = "credentials expired"
    NO_ALLOCATION = "no allocation"
    NO_PERMISSION = "no permission"
    NO_TARGET = "no such allocation"
    NO_RETURN = "the other side gave no permission"
    BANDWIDTH = "bandwidth quota"
    FORBIDDEN = "forbidden address"
    TOO_BIG = "too big"


@dataclass(eq=False, slots=True)
class _User:
    name: str
    member: bytes
    key: bytes
    expires_at: float


@dataclass(eq=False, slots=True)
class _Allocation:
    user: _User
    client: Address
    local_ip: str | None
    relayed: Address
    ends_at: float
    bucket: TokenBucket
    made_by: bytes  # the transaction, so that a repeated request gets the same answer
    bindings: Bindings = field(default_factory=Bindings)


class TurnServer:
    """One relay; see the module's text. `ip` is what relayed addresses show, `ports` too."""

    def __init__(
        self,
        *,
        ip: str,
        random_bytes: RandomBytes,
        rng: Rng,
        now: float,
        ports: PortRange = DEFAULT_PORTS,
    ) -> None:
        self.ip = ip
        self.drops: dict[RelayDrop, int] = {}
        self.relayed_bytes = 0
        self._random_bytes = random_bytes
        self._users: BoundedLru[str, _User] = BoundedLru(MAX_USERS)
        self._by_member: BoundedLru[bytes, tuple[str, ...]] = BoundedLru(MAX_USERS)
        self._by_client: dict[Address, _Allocation] = {}
        self._by_port: dict[int, _Allocation] = {}
        self._ports: PortBook[_Reply] = PortBook(ports, rng)
        self._nonces = (self._make_nonce(), b"")  # in force, and the one before
        self._nonce_ends = now + NONCE_LIFE
        self._timers: TimerTable[str] = TimerTable()
        self._out: deque[Transmit] = deque()
        self._commands: deque[ForwardChannel | EndForwards] = deque(maxlen=MAX_COMMANDS)

    @property
    def allocation_count(self) -> int:
        """Return how many allocations there are."""
        return len(self._by_client)

    # Commands

    def issue(self, member: bytes, *, now: float) -> Credentials:
        """Give a member new credentials; the ones before stay in force, older ones do not."""
        self._renew_nonce(now)
        name = base64.b64encode(self._random_bytes(9)).decode()
        password = base64.b64encode(self._random_bytes(18)).decode()
        key = stun.long_term_key(name, REALM, password)
        former = self._by_member.get(member) or ()
        for old in former[MAX_USER_CREDENTIALS - 1 :]:
            self._users.pop(old)
        former = former[: MAX_USER_CREDENTIALS - 1]
        self._users.put(name, _User(name, member, key, now + CREDENTIAL_LIFE))
        self._by_member.put(member, (name, *former))
        secret = Secret(password.encode())
        return Credentials(name, secret, REALM, self._nonces[0], now + CREDENTIAL_LIFE)

    def revoke(self, member: bytes) -> None:
        """Forget a member: its credentials and its allocations are void at once."""
        for name in self._by_member.pop(member) or ():
            self._users.pop(name)
        self._ports.forget(lambda reply: reply.user.member == member)
        for allocation in list(self._by_client.values()):
            if allocation.user.member == member:
                self._remove(allocation)

    def set_ip(self, ip: str) -> None:
        """Take another address to show; allocations under the old one end."""
        if ip != self.ip:
            self.ip = ip
            self.close()

    def close(self) -> None:
        """End all allocations; their ports are free."""
        self._ports.forget(lambda _: True)
        for allocation in list(self._by_client.values()):
            self._remove(allocation)

    def on_port(self, port: int, is_held: bool, *, now: float) -> None:
        """Take what became of a `HoldPort`: another program may have the port."""
        found = self._ports.on_port(port, is_held)
        if found is None:
            return
        reply, has_port = found
        if has_port:
            self._add(reply, port, now)
        else:
            reply.refuse(508, "Insufficient Capacity")

    def knows_channel(self, source: Address, number: int) -> bool:
        """Say whether this client has bound this channel (for the demultiplexer)."""
        allocation = self._by_client.get(source)
        return allocation is not None and allocation.bindings.knows(number)

    def owns(self, message: Message, source: Address) -> bool:
        """Say whether a message on the shared port is TURN's: checks and DHT are others'."""
        if message.message_class is MessageClass.INDICATION:
            return message.method == stun.SEND and source in self._by_client
        return message.message_class is MessageClass.REQUEST and message.method in (
            stun.ALLOCATE,
            stun.REFRESH,
            stun.CREATE_PERMISSION,
            stun.CHANNEL_BIND,
        )

    # The five verbs

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Take one datagram of a client: a STUN message or ChannelData."""
        allocation = self._by_client.get(source)
        channel = split_channel_data(data) if allocation is not None else None
        if allocation is not None and channel is not None:
            number, payload = channel
            peer = allocation.bindings.peer_of(number, now)
            if peer is None:
                self._drop(RelayDrop.NO_PERMISSION)
            else:
                self._forward(allocation, peer, payload, now)
            return
        try:
            message = stun.decode_message(data)
        except stun.StunError:
            self._drop(RelayDrop.MALFORMED)
            return
        self.handle_message(message, source, now=now, local_ip=local_ip)

    def handle_message(
        self, message: Message, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Take one decoded message that `owns` said is ours."""
        if message.message_class is MessageClass.INDICATION:
            self._on_send(message, source, now)
            return
        user = self._users.get(message.username)
        if user is None:
            return self._drop(RelayDrop.UNKNOWN_USER)
        if not stun.check_integrity(message, user.key):
            return self._drop(RelayDrop.BAD_INTEGRITY)
        if user.expires_at <= now:
            return self._drop(RelayDrop.EXPIRED)
        self._renew_nonce(now)
        reply = _Reply(self, message, source, local_ip, user)
        if message.get(Attribute.NONCE) not in self._nonces or not message.get(Attribute.NONCE):
            attributes = [
                (Attribute.REALM, REALM.encode()),
                (Attribute.NONCE, self._nonces[0]),
            ]
            return reply.refuse(438, "Stale Nonce", attributes)
        unknown = message.unknown_required()
        if unknown:
            value = b"".join(kind.to_bytes(2, "big") for kind in unknown)
            return reply.refuse(420, "Unknown Attribute", [(Attribute.UNKNOWN_ATTRIBUTES, value)])
        allocation = self._by_client.get(source)
        if allocation is not None and allocation.ends_at <= now:
            self._remove(allocation)
            allocation = None
        if message.method == stun.ALLOCATE:
            return self._allocate(reply, allocation, now)
        if allocation is None:
            return reply.refuse(437, "Allocation Mismatch")
        if allocation.user.member != user.member:
            return reply.refuse(441, "Wrong Credentials")
        if message.method == stun.REFRESH:
            return self._refresh(reply, allocation, now)
        return self._permit(reply, allocation, now)

    def handle_timeout(self, *, now: float) -> None:
        """Forget what is over."""
        for _ in self._timers.expire(now):
            for allocation in list(self._by_client.values()):
                if allocation.ends_at <= now:
                    self._remove(allocation)
        self._arm(now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> PortCommand | None:
        """Return the next port to hold (say so to `on_port`) or to free; call until None."""
        return self._ports.poll()

    def poll_command(self) -> ForwardChannel | EndForwards | None:
        """Return what a data plane may pass on without us, or None; call until None."""
        return self._commands.popleft() if self._commands else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted, or None."""
        return self._timers.deadline()

    # Requests

    def _allocate(self, reply: _Reply, known: _Allocation | None, now: float) -> None:
        message = reply.request
        if known is not None:
            if known.made_by == message.transaction_id:
                return reply.allocated(known, now)
            return reply.refuse(437, "Allocation Mismatch")
        transport = message.get(Attribute.REQUESTED_TRANSPORT)
        if transport is None or len(transport) != 4:
            return reply.refuse(400, "Bad Request")
        if transport[0] != UDP_PROTOCOL:
            return reply.refuse(442, "Unsupported Transport Protocol")
        waiting = self._ports.waiting
        if any(item.source == reply.source for item in waiting):
            return None  # a repeated request; the answer is on its way
        users = [a.user for a in self._by_client.values()] + [item.user for item in waiting]
        if sum(user.member == reply.user.member for user in users) >= MAX_USER_ALLOCATIONS:
            return reply.refuse(486, "Allocation Quota Reached")
        if len(users) >= MAX_ALLOCATIONS or not self._ports.want(reply, ipv6=":" in self.ip):
            return reply.refuse(508, "Insufficient Capacity")
        return None

    def _add(self, reply: _Reply, port: int, now: float) -> None:
        allocation = _Allocation(
            reply.user,
            reply.source,
            reply.local_ip,
            Address(self.ip, port),
            now + _lifetime_of(reply.request),
            TokenBucket(BYTES_PER_SECOND, BURST_BYTES, now=now),
            reply.request.transaction_id,
        )
        self._by_client[reply.source] = allocation
        self._by_port[port] = allocation
        self._arm(now)
        reply.allocated(allocation, now)

    def _refresh(self, reply: _Reply, allocation: _Allocation, now: float) -> None:
        lifetime = _lifetime_of(reply.request)
        if reply.request.number(Attribute.LIFETIME, 4) == 0:
            self._remove(allocation)
            lifetime = 0
        allocation.ends_at = now + lifetime
        self._tell_forwards(allocation, now)
        reply.accept([(Attribute.LIFETIME, lifetime.to_bytes(4, "big"))])

    def _permit(self, reply: _Reply, allocation: _Allocation, now: float) -> None:
        message = reply.request
        values = [v for kind, v in message.attributes if kind == Attribute.XOR_PEER_ADDRESS]
        peers = [stun.decode_address(value, message.transaction_id) for value in values]
        if not peers or None in peers:
            return reply.refuse(400, "Bad Request")
        known = [peer for peer in peers if peer is not None]
        if not all(self._is_ours(peer) for peer in known):
            self._drop(RelayDrop.FORBIDDEN)
            return reply.refuse(403, "Forbidden")
        bindings, number = allocation.bindings, _channel_of(message)
        binds = message.method == stun.CHANNEL_BIND
        if binds and (number is None or not bindings.may_bind(number, known[0], now)):
            return reply.refuse(400, "Bad Request")
        if not bindings.permit(known, now):
            return reply.refuse(508, "Insufficient Capacity")
        if binds and number is not None:
            bindings.bind(number, known[0], now)
        self._tell_forwards(allocation, now)
        return reply.accept([])

    def _is_ours(self, peer: Address) -> bool:
        return peer.ip == self.ip and peer.port in self._by_port

    # Data

    def _on_send(self, message: Message, source: Address, now: float) -> None:
        allocation = self._by_client.get(source)
        peer = message.address(Attribute.XOR_PEER_ADDRESS)
        data = message.get(Attribute.DATA)
        if allocation is None:
            self._drop(RelayDrop.NO_ALLOCATION)
        elif peer is None or data is None:
            self._drop(RelayDrop.MALFORMED)
        elif allocation.bindings.permitted_until(peer) <= now:
            self._drop(RelayDrop.NO_PERMISSION)
        else:
            self._forward(allocation, peer, data, now)

    def _forward(self, sender: _Allocation, peer: Address, data: bytes, now: float) -> None:
        """Pass a datagram from one allocation to another, inside."""
        target = self._by_port.get(peer.port)
        if target is None or target.relayed != peer or target.ends_at <= now:
            return self._drop(RelayDrop.NO_TARGET)
        if sender.ends_at <= now:
            return self._drop(RelayDrop.NO_ALLOCATION)
        if target.bindings.permitted_until(sender.relayed) <= now:
            return self._drop(RelayDrop.NO_RETURN)
        if not sender.bucket.take(now=now, amount=float(len(data))):
            return self._drop(RelayDrop.BANDWIDTH)
        channel = target.bindings.channel_to(sender.relayed)
        if channel is not None and channel[1] > now:
            wrapped = wrap_channel_data(channel[0], data)
        else:
            transaction_id = self._random_bytes(stun.TRANSACTION_ID_SIZE)
            address = stun.encode_address(sender.relayed, transaction_id)
            wrapped = stun.encode_message(
                MessageClass.INDICATION,
                transaction_id,
                [(Attribute.XOR_PEER_ADDRESS, address), (Attribute.DATA, data)],
                method=stun.DATA,
                fingerprint=False,
            )
            if len(wrapped) > stun.MAX_MESSAGE_SIZE:
                return self._drop(RelayDrop.TOO_BIG)
        self.relayed_bytes += len(data)
        self._out.append(Transmit(wrapped, target.client, target.local_ip))
        return None

    def _tell_forwards(self, allocation: _Allocation, now: float) -> None:
        """Let the data plane pass on, both ways, what may be."""
        for peer in allocation.bindings.peers():
            other = self._by_port.get(peer.port)
            if other is not None and other.relayed == peer:
                for sender, target in ((allocation, other), (other, allocation)):
                    if (forward := _forward(sender, target, now)) is not None:
                        self._commands.append(forward)

    # Small things

    def transmit(self, data: bytes, client: Address, local_ip: str | None) -> None:
        """Queue an answer."""
        self._out.append(Transmit(data, client, local_ip))

    def _remove(self, allocation: _Allocation) -> None:
        self._by_client.pop(allocation.client, None)
        self._by_port.pop(allocation.relayed.port, None)
        self._ports.free(allocation.relayed.port)
        self._commands.append(EndForwards(allocation.client))

    def _make_nonce(self) -> bytes:
        return base64.b64encode(self._random_bytes(12))

    def _renew_nonce(self, now: float) -> None:
        if now >= self._nonce_ends:
            self._nonces = (self._make_nonce(), self._nonces[0])
            self._nonce_ends = now + NONCE_LIFE

    def _arm(self, now: float) -> None:
        if self._by_client:
            self._timers.set_earlier("sweep", now + SWEEP_INTERVAL)

    def _drop(self, reason: RelayDrop) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1
        log.debug("relay: dropped a datagram: %s", reason.value)


@dataclass(frozen=True, slots=True)
class _Reply:
    """Answers one authenticated request, signed with its user's key."""

    server: TurnServer
    request: Message
    source: Address
    local_ip: str | None
    user: _User

    def accept(self, attributes: list[tuple[int, bytes]]) -> None:
        self._send(MessageClass.SUCCESS, attributes)

    def refuse(
        self, code: int, reason: str, attributes: list[tuple[Attribute, bytes]] | None = None
    ) -> None:
        error = (int(Attribute.ERROR_CODE), stun.encode_error(code, reason))
        self._send(MessageClass.ERROR, [error, *(attributes or [])])

    def allocated(self, allocation: _Allocation, now: float) -> None:
        transaction_id = self.request.transaction_id
        relayed = stun.encode_address(allocation.relayed, transaction_id)
        mapped = stun.encode_address(self.source, transaction_id)
        lifetime = round(allocation.ends_at - now)
        self.accept(
            [
                (Attribute.XOR_RELAYED_ADDRESS, relayed),
                (Attribute.LIFETIME, lifetime.to_bytes(4, "big")),
                (Attribute.XOR_MAPPED_ADDRESS, mapped),
            ]
        )

    def _send(self, message_class: MessageClass, attributes: list[tuple[int, bytes]]) -> None:
        data = stun.encode_message(
            message_class,
            self.request.transaction_id,
            attributes,
            key=self.user.key,
            method=self.request.method,
        )
        self.server.transmit(data, self.source, self.local_ip)


def _lifetime_of(message: Message) -> int:
    wanted = message.number(Attribute.LIFETIME, 4)
    return min(MAX_LIFETIME, max(MIN_LIFETIME, wanted or MIN_LIFETIME))


def _channel_of(message: Message) -> int | None:
    value = message.get(Attribute.CHANNEL_NUMBER)
    return int.from_bytes(value[:2], "big") if value is not None and len(value) == 4 else None


def _forward(sender: _Allocation, target: _Allocation, now: float) -> ForwardChannel | None:
    """Return how long one's datagrams may go on to the other; None if now they may not."""
    way = sender.bindings.way_to(target.relayed, target.bindings, sender.relayed)
    if way is None:
        return None
    number, onward, ends_at = way
    life = min(ends_at, sender.ends_at, target.ends_at) - now
    place = Endpoint(target.client, target.local_ip, channel=onward)
    forward = ForwardChannel(sender.client, number, place, life, BYTES_PER_SECOND, BURST_BYTES)
    return forward if life > 0 else None
