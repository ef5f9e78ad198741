"""An engine on a loopback socket, for tests: what it said, and waiting for more."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ginnel.base.dataplane import Endpoint, EngineEvent, SetPeer
from ginnel.base.types import Address, Datagram, Secret
from ginnel.engine.embedded import EmbeddedEngine

PATIENCE_S = 30.0  # seconds; the longest wait of a test, on a machine that is busy
CONTROL_PORT = 41641


def udp_socket(family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
    return made


def inner_packet(source: str, destination: str, port: int, payload: bytes) -> bytes:
    """Return an IPv4 packet with UDP; the data plane checks no checksums."""
    udp = port.to_bytes(2, "big") * 2 + (8 + len(payload)).to_bytes(2, "big") + b"\0\0" + payload
    size = (20 + len(udp)).to_bytes(2, "big")
    header = b"\x45\0" + size + b"\0\0\0\0\x40\x11\0\0"
    return header + ip_address(source).packed + ip_address(destination).packed + udp


@dataclass
class Node:
    """One engine, its socket, and what it has said so far."""

    overlay: str
    family: socket.AddressFamily = socket.AF_INET
    key: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)

    def __post_init__(self) -> None:
        self.socket = udp_socket(self.family)
        self.engine = EmbeddedEngine(
            udp4_fd=self.socket.fileno() if self.family == socket.AF_INET else None,
            udp6_fd=self.socket.fileno() if self.family == socket.AF_INET6 else None,
            private_key=Secret(self.key.private_bytes_raw()),
            control_ips=[self.overlay],
            mtu=1420,
        )
        self.events: list[EngineEvent] = []
        self.datagrams: list[Datagram] = []

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    @property
    def address(self) -> Address:
        return Address(*self.socket.getsockname()[:2])

    def add(self, other: Node, *, endpoint: bool = True, psk: Secret | None = None) -> None:
        where = Endpoint(other.address) if endpoint else None
        self.engine.apply(SetPeer(other.public_key, (f"{other.overlay}/32",), where, None, psk))

    def wait(self, done: Callable[[], bool]) -> None:
        """Take what comes until `done`; wakes by the engine's descriptor only."""
        while not done():
            readable, _, _ = select.select([self.engine.fileno()], [], [], PATIENCE_S)
            assert readable, f"nothing came; events {self.events}, drops {self.engine.drops()}"
            self.drain()

    def drain(self) -> None:
        while batch := self.engine.receive(64):
            self.datagrams.extend(batch)
        while (event := self.engine.poll_event()) is not None:
            self.events.append(event)

    def has(self, kind: type[EngineEvent], count: int = 1) -> Callable[[], bool]:
        return lambda: sum(isinstance(event, kind) for event in self.events) >= count

    def wait_drop(self, reason: str, probe: socket.socket) -> None:
        """Wait until a drop is counted: a datagram that is passed on comes after it."""
        seen = len(self.datagrams)
        probe.sendto(b"\xd5" * 63, self.address)
        self.wait(lambda: len(self.datagrams) > seen)
        assert self.engine.drops().get(reason), self.engine.drops()

    def close(self) -> None:
        self.engine.close()
        self.socket.close()
