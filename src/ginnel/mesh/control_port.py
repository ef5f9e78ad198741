"""The control port: UDP 41641 on the overlay addresses, inside WireGuard.

Builds and checks whole IP packets (the data plane hands them over as they were), splits bodies
into parts and puts them together, and measures round trips. What an envelope body means is
`signalling.py`'s business. The data plane has checked that a packet's source is its peer's.

Shape: ver (1) kind (1) request (8) part (1) parts (1) body, at most 1200 bytes of body a part.

Source: docs/formats.md, "Control port"; RFC 791, RFC 8200, RFC 768.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from ginnel.base.chance import RandomBytes
from ginnel.base.core import TimerTable
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.limits import BoundedLru, RateLimiter
from ginnel.base.types import Deadline

PORT = 41641  # UDP, inside the tunnel only (Control port)
VERSION = 1
HEADER_SIZE = 12  # bytes of ours before the body
REQUEST_SIZE = 8  # bytes that name a request
MAX_PART = 1200  # bytes of body in one part (Control port)
MAX_PARTS = 4  # a body of ours is an envelope body, below 1 KiB; keys to come need two
MAX_PENDING_PINGS = 256
MAX_PENDING_PROBES = 1024  # with the pings; seven sizes for each of a hundred peers
MAX_PROBE = 9000  # bytes of a padded message: the largest MTU of a device
MAX_REASSEMBLIES = 64  # bodies of which a part is missing, all peers together
PING_TIMEOUT_S = 5.0  # seconds after which a ping counts as lost
MESSAGES_PER_S = 50.0  # of one peer
MESSAGES_BURST = 200.0
RATE_KEYS = 1024  # peers whose rate is remembered
HOP_LIMIT = 64
_UDP = 17
_IPV4_HEADER = struct.Struct("!BBHHHBBH4s4s")
_IPV6_HEADER = struct.Struct("!IHBB16s16s")
_UDP_HEADER = struct.Struct("!HHHH")
_HEADER = struct.Struct(f"!BB{REQUEST_SIZE}sBB")


class Kind(IntEnum):
    """What a message on the control port is."""

    PING = 1
    PONG = 2
    ENVELOPE = 3
    PSK = 4
    MTU = 5


class ControlDrop(Enum):
    """Why a packet was dropped."""

    PACKET = "not a packet for the control port"
    MESSAGE = "malformed message"
    KIND = "kind or version not served"
    RATE = "rate"
    UNASKED = "a pong nobody waits for"


@dataclass(frozen=True, slots=True)
class InnerPacket:
    """One IP packet for a peer's control port."""

    peer: bytes  # its WireGuard key
    packet: bytes
    is_probe: bool = False  # to be sent whole or not at all


@dataclass(frozen=True, slots=True)
class PongArrived:
    """A ping came back after `seconds`, or (None) did not."""

    token: int
    peer: bytes
    seconds: float | None


@dataclass(frozen=True, slots=True)
class BodyArrived:
    """An envelope body came from a peer whom WireGuard has authenticated."""

    peer: bytes
    body: bytes


ControlEvent: TypeAlias = PongArrived | BodyArrived


# --- packets -----------------------------------------------------------------------------------


def build_packet(source_ip: str, destination_ip: str, payload: bytes) -> bytes:
    """Return the IP packet that carries the payload from control port to control port."""
    source, destination = ip_address(source_ip), ip_address(destination_ip)
    size = _UDP_HEADER.size + len(payload)
    pseudo = _pseudo_header(source, destination, size)
    checksum = _checksum(pseudo + _UDP_HEADER.pack(PORT, PORT, size, 0) + payload) or 0xFFFF
    udp = _UDP_HEADER.pack(PORT, PORT, size, checksum) + payload
    if isinstance(source, IPv6Address):
        head = _IPV6_HEADER.pack(6 << 28, size, _UDP, HOP_LIMIT, source.packed, destination.packed)
        return head + udp
    fields = (0x45, 0, 20 + size, 0, 0x4000, HOP_LIMIT, _UDP)
    bare = _IPV4_HEADER.pack(*fields, 0, source.packed, destination.packed)
    head = _IPV4_HEADER.pack(*fields, _checksum(bare), source.packed, destination.packed)
    return head + udp


def parse_packet(packet: bytes) -> tuple[str, str, bytes]:
    """Return source IP, destination IP and payload of a packet for the control port.

    Raises:
        RemoteProtocolError: no whole, unfragmented UDP packet to it, or a wrong checksum.
    """
    if not packet:
        raise RemoteProtocolError("an empty packet")
    source, destination, udp = _parse_ipv6(packet) if packet[0] >> 4 == 6 else _parse_ipv4(packet)
    if len(udp) < _UDP_HEADER.size:
        raise RemoteProtocolError("a UDP header cut short")
    _, port, size, checksum = _UDP_HEADER.unpack_from(udp)
    if port != PORT or not _UDP_HEADER.size <= size <= len(udp):
        raise RemoteProtocolError("not for the control port")
    udp = udp[:size]
    if checksum == 0 and isinstance(source, IPv6Address):
        raise RemoteProtocolError("no UDP checksum over IPv6")
    if checksum and _checksum(_pseudo_header(source, destination, size) + udp) != 0:
        raise RemoteProtocolError("a wrong UDP checksum")
    return str(source), str(destination), udp[_UDP_HEADER.size :]


_Ip: TypeAlias = IPv4Address | IPv6Address


def _parse_ipv4(packet: bytes) -> tuple[_Ip, _Ip, bytes]:
    header_size = (packet[0] & 15) * 4
    if packet[0] >> 4 != 4 or header_size < 20 or len(packet) < header_size:
        raise RemoteProtocolError("not an IP packet")
    fields = _IPV4_HEADER.unpack_from(packet)
    total, fragment, protocol = fields[2], fields[4], fields[6]
    if fragment & 0x3FFF or protocol != _UDP or not header_size <= total <= len(packet):
        raise RemoteProtocolError("a fragment, not UDP, or cut short")
    if _checksum(packet[:header_size]) != 0:
        raise RemoteProtocolError("a wrong header checksum")
    return IPv4Address(fields[8]), IPv4Address(fields[9]), packet[header_size:total]


def _parse_ipv6(packet: bytes) -> tuple[_Ip, _Ip, bytes]:
    if len(packet) < _IPV6_HEADER.size:
        raise RemoteProtocolError("an IPv6 header cut short")
    _, size, protocol, _, source, destination = _IPV6_HEADER.unpack_from(packet)
    if protocol != _UDP or _IPV6_HEADER.size + size > len(packet):
        raise RemoteProtocolError("not UDP, or cut short")
    end = _IPV6_HEADER.size + size
    return IPv6Address(source), IPv6Address(destination), packet[_IPV6_HEADER.size : end]


def _pseudo_header(source: _Ip, destination: _Ip, size: int) -> bytes:
    if isinstance(source, IPv6Address):
        return source.packed + destination.packed + struct.pack("!IHBB", size, 0, 0, _UDP)
    return source.packed + destination.packed + struct.pack("!BBH", 0, _UDP, size)


def _checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\x00"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# --- messages ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """One part of a message."""

    kind: int
    request: bytes
    part: int
    parts: int
    body: bytes


def encode_message(kind: Kind, request: bytes, body: bytes = b"") -> list[bytes]:
    """Return the payloads, one a part, of a message."""
    chunks = [body[i : i + MAX_PART] for i in range(0, len(body), MAX_PART)] or [b""]
    return [
        _HEADER.pack(VERSION, kind, request, part, len(chunks)) + chunk
        for part, chunk in enumerate(chunks)
    ]


def decode_message(payload: bytes) -> Message | None:
    """Decode one part; None for another version.

    Raises:
        RemoteProtocolError: malformed; drop it.
    """
    longest = MAX_PROBE if payload[1:2] == bytes((Kind.MTU,)) else HEADER_SIZE + MAX_PART
    if not HEADER_SIZE <= len(payload) <= longest:
        raise RemoteProtocolError(f"a control message of {len(payload)} bytes")
    version, kind, request, part, parts = _HEADER.unpack_from(payload)
    if version != VERSION:
        return None
    if not 1 <= parts <= MAX_PARTS or part >= parts:
        raise RemoteProtocolError(f"part {part} of {parts}")
    return Message(kind, request, part, parts, payload[HEADER_SIZE:])


# --- the port ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Pending:
    token: int
    peer: bytes
    sent_at: float


class _Timer(Enum):
    PING = 1


class ControlPort:
    """Pings, answers pings, and carries envelope bodies; packets come out of `poll_packet`.

    Invariant: nothing is sent to an address that is not the peer's first overlay address, as
    given in the call, or the source of the packet that is answered.
    """

    def __init__(self, own_ips: tuple[str, ...], *, random_bytes: RandomBytes) -> None:
        self.drops: dict[ControlDrop, int] = {}
        self._own_ips = own_ips
        self._random_bytes = random_bytes
        self._pending: dict[bytes, _Pending] = {}
        self._partial: BoundedLru[tuple[bytes, bytes], dict[int, bytes]] = BoundedLru(
            MAX_REASSEMBLIES
        )
        self._rates: RateLimiter[bytes] = RateLimiter(
            MESSAGES_PER_S, MESSAGES_BURST, limit=RATE_KEYS
        )
        self._packets: deque[InnerPacket] = deque()
        self._events: deque[ControlEvent] = deque()
        self._timers: TimerTable[_Timer] = TimerTable()

    def ping(self, token: int, peer: bytes, ips: tuple[str, ...], *, now: float) -> None:
        """Ping a peer; ends in one `PongArrived` with the token."""
        if len(self._pending) >= MAX_PENDING_PINGS:
            self._events.append(PongArrived(token, peer, None))
            return
        request = self._random_bytes(REQUEST_SIZE)
        self._pending[request] = _Pending(token, peer, now)
        self._send(peer, ips, Kind.PING, request)
        self._timers.set_earlier(_Timer.PING, now + PING_TIMEOUT_S)

    def probe(
        self, token: int, peer: bytes, ips: tuple[str, ...], size: int, *, now: float
    ) -> None:
        """Ask a peer by an inner packet of `size` bytes; ends in one `PongArrived`."""
        if len(self._pending) >= MAX_PENDING_PROBES:
            self._events.append(PongArrived(token, peer, None))
            return
        request = self._random_bytes(REQUEST_SIZE)
        self._pending[request] = _Pending(token, peer, now)
        self._timers.set_earlier(_Timer.PING, now + PING_TIMEOUT_S)
        for ip in ips:
            own = next((o for o in self._own_ips if (":" in o) == (":" in ip)), None)
            if own is not None:
                head = _HEADER.pack(VERSION, Kind.MTU, request, 0, 1)
                overhead = len(build_packet(own, ip, head))
                packet = build_packet(own, ip, head + bytes(max(0, size - overhead)))
                self._packets.append(InnerPacket(peer, packet, is_probe=True))
                return

    def send_body(self, peer: bytes, ips: tuple[str, ...], body: bytes) -> None:
        """Send an envelope body to a peer with whom WireGuard is up."""
        self._send(peer, ips, Kind.ENVELOPE, self._random_bytes(REQUEST_SIZE), body)

    def on_packet(self, peer: bytes, packet: bytes, *, now: float) -> None:
        """Take an inner packet of a peer; never raises for its bytes."""
        if not self._rates.take(peer, now=now):
            self._drop(ControlDrop.RATE)
            return
        try:
            source, destination, payload = parse_packet(packet)
        except RemoteProtocolError:
            self._drop(ControlDrop.PACKET)
            return
        if destination not in self._own_ips:
            self._drop(ControlDrop.PACKET)
            return
        try:
            message = decode_message(payload)
        except RemoteProtocolError:
            self._drop(ControlDrop.MESSAGE)
            return
        if message is None:
            self._drop(ControlDrop.KIND)
            return
        self._on_message(peer, source, message, now=now)

    def handle_timeout(self, *, now: float) -> None:
        """Give up pings that were not answered."""
        for _ in self._timers.expire(now):
            for request, pending in list(self._pending.items()):
                if pending.sent_at + PING_TIMEOUT_S <= now:
                    del self._pending[request]
                    self._events.append(PongArrived(pending.token, pending.peer, None))
            if self._pending:
                first = min(p.sent_at for p in self._pending.values())
                self._timers.set(_Timer.PING, first + PING_TIMEOUT_S)

    def poll_packet(self) -> InnerPacket | None:
        """Return the next packet to send inside the tunnel; call until None."""
        return self._packets.popleft() if self._packets else None

    def poll_event(self) -> ControlEvent | None:
        """Return the next event; call until None."""
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when the first ping is given up."""
        return self._timers.deadline()

    def _on_message(self, peer: bytes, source: str, message: Message, *, now: float) -> None:
        match message.kind:
            case Kind.PING:
                self._send(peer, (source,), Kind.PONG, message.request, message.body)
            case Kind.MTU:  # its length said all
                self._send(peer, (source,), Kind.PONG, message.request)
            case Kind.PONG:
                pending = self._pending.get(message.request)
                if pending is None or pending.peer != peer:
                    self._drop(ControlDrop.UNASKED)
                    return
                del self._pending[message.request]
                seconds = now - pending.sent_at
                self._events.append(PongArrived(pending.token, peer, seconds))
            case Kind.ENVELOPE:
                self._on_part(peer, message)
            case _:
                self._drop(ControlDrop.KIND)

    def _on_part(self, peer: bytes, message: Message) -> None:
        if message.parts == 1:
            self._events.append(BodyArrived(peer, message.body))
            return
        key = (peer, message.request)
        parts = self._partial.get(key)
        if parts is None:
            parts = {}
            self._partial.put(key, parts)
        parts[message.part] = message.body
        if len(parts) == message.parts:
            self._partial.pop(key)
            body = b"".join(parts[index] for index in sorted(parts))
            self._events.append(BodyArrived(peer, body))

    def _send(
        self, peer: bytes, ips: tuple[str, ...], kind: Kind, request: bytes, body: bytes = b""
    ) -> None:
        for ip in ips:
            own = next((o for o in self._own_ips if (":" in o) == (":" in ip)), None)
            if own is not None:
                for payload in encode_message(kind, request, body):
                    self._packets.append(InnerPacket(peer, build_packet(own, ip, payload)))
                return

    def _drop(self, reason: ControlDrop) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1
