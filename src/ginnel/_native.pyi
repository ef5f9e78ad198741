"""The parts in Rust: the data plane (use `ginnel.engine.embedded`, which speaks in values), and
what discv5 needs of ciphers (`ginnel.base.ciphers`) and keys (`ginnel.base.secp256k1`).
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from ginnel.base.types import Address, Datagram, Transmit

__version__: str

_Place: TypeAlias = tuple[str, int, int]  # IP, port, TURN channel (0: none)
_Kind: TypeAlias = Literal["inner", "handshake", "roamed", "unanswered", "missed", "answered"]

_Unmasked: TypeAlias = tuple[bytes, int, int, bytes, bytes | None, bytes, bytes]

def unmask(node_id: bytes, data: bytes, /) -> _Unmasked | None:
    """Take the mask off a packet to this node; None if it is shorter than a header.

    Returns protocol id, version, flag, nonce, authdata (None: longer than the packet), what the
    message's tag covers besides it (masking IV and header), and the encrypted message.
    """

def mask(node_id: bytes, start: bytes, /) -> bytes:
    """Return `start` (masking IV and header) with the header masked for this node."""

def seal(node_id: bytes, start: bytes, key: bytes, nonce: bytes, message: bytes, /) -> bytes:
    """Return the packet to this node that begins with `start`, masked, and has a message.

    Raises ValueError for a key that is not of 16 or a nonce that is not of 12 bytes.
    """

def seal_next(
    node_id: bytes, header: bytes, key: bytes, count: int, random: bytes, message: bytes, /
) -> tuple[bytes, bytes]:
    """Return an ordinary packet and its nonce: `count` (4 bytes) and the last 8 of `random`.

    header: of any ordinary packet, its nonce is replaced; the first 16 bytes of `random` are the
    masking IV. Raises ValueError as `seal`.
    """

def open(key: bytes, nonce: bytes, ciphertext: bytes, authenticated: bytes, /) -> bytes | None:
    """Return a message, or None if it was not sealed with this key, nonce and header.

    Raises ValueError as `seal`.
    """

def public_key_of(private_key: bytes, /) -> bytes:
    """Return the compressed public key, 33 bytes; ValueError for an invalid private key."""

def sign(private_key: bytes, digest: bytes, /) -> bytes:
    """Return the deterministic signature r || s of a 32-byte digest; ValueError if none exists."""

def keccak(data: bytes, /) -> bytes:
    """Return Keccak-256, 32 bytes."""

class PublicKey:
    """A point of secp256k1, from its compressed form; ValueError if it is none."""

    def __init__(self, compressed: bytes, /) -> None: ...
    def node_id(self) -> bytes:
        """Return keccak256 of the uncompressed point without its first byte."""
    def verify(self, digest: bytes, signature: bytes, /) -> bool:
        """Say whether r || s signs the digest; a high s is refused."""
    def agree(self, private_key: bytes, /) -> bytes:
        """Return the compressed product point, 33 bytes; ValueError for an invalid private key."""

class UdpBatches:
    """Receives and sends UDP datagrams by the batch, on any non-blocking socket, in one thread."""

    def __init__(
        self, address: type[Address], datagram: type[Datagram], max_datagram: int, /
    ) -> None: ...
    def receive(
        self, fd: int, limit: int, size: int, only_ip: str | None, /
    ) -> tuple[list[Datagram], list[int], int]:
        """Return datagrams that wait, errors (errno), and how many were longer than `size`.

        only_ip: told as their local address; None: the kernel was asked to tell it.
        """

    @staticmethod
    def send(
        fd: int, is_ipv6: bool, transmits: Sequence[Transmit], only_ip: str | None, /
    ) -> list[tuple[int, int]]:
        """Send; return number and errno of each that the kernel refused.

        Raises ValueError for an address that is none.
        """

def cipher() -> str:
    """Name the code that seals and opens packets on this machine."""

class DataPlane:
    """A running data plane: sockets, TUN and peers on threads of its own.

    Every method but `close` raises ValueError for a wrong argument and when closed, and
    RuntimeError when a thread has panicked.
    """

    def __init__(
        self,
        *,
        udp4_fd: int | None,
        udp6_fd: int | None,
        tun_fd: int | None,
        private_key: bytes,
        control_ips: Sequence[str],
        mtu: int,
        big_for: Sequence[str],
    ) -> None: ...
    def fileno(self) -> int: ...
    def receive(self, limit: int) -> list[tuple[bytes, str, int, str | None]]:
        """Return up to `limit` datagrams: data, remote IP, port, local IP."""
    def send(self, datagrams: Sequence[tuple[bytes, str, int, str | None]]) -> int:
        """Send datagrams (data, remote IP, port, local IP); return how many the sockets took."""
    def set_peer(
        self,
        public_key: bytes,
        allowed_ips: Sequence[str],
        endpoint: tuple[str, int, str | None, int] | None,
        keepalive: int | None,
        preshared_key: bytes | None,
    ) -> None: ...
    def set_mtu(self, mtu: int) -> None: ...
    def remove_peer(self, public_key: bytes) -> None: ...
    def start_handshake(self, public_key: bytes) -> None: ...
    def send_inner(self, public_key: bytes, packet: bytes) -> None: ...
    def watch_consent(
        self,
        public_key: bytes,
        pair: tuple[str, int, str | None],
        username: bytes,
        passwords: tuple[bytes, bytes],
        attributes: bytes,
        controlling: bool,
        interval: float,
        patience: float,
    ) -> None:
        """Hold a pair's consent: remote IP, port and local IP; our password, then the other's."""
    def forget_consent(self, public_key: bytes) -> None: ...
    def set_path_mtu(self, public_key: bytes, mtu: int | None) -> None: ...
    def send_probe(self, public_key: bytes, packet: bytes) -> None: ...
    def open_channel(self, ip: str, port: int, number: int) -> None: ...
    def close_channel(self, ip: str, port: int, number: int) -> None: ...
    def forward(
        self,
        client: tuple[str, int, int],
        target: tuple[str, int, str | None, int],
        life: float,
        quota: tuple[int, int],
    ) -> None:
        """Pass on a client's channel for `life` seconds; quota: bytes a second, bytes at once."""
    def end_forwards(self, ip: str, port: int) -> None: ...
    def poll_event(self) -> tuple[_Kind, bytes, _Place | None, bytes | None] | None:
        """Return the next event: its kind, the peer, its address, the packet."""
    def peer_stats(self) -> list[tuple[bytes, _Place | None, int, int, float | None]]:
        """Return for each peer: key, endpoint, bytes in, bytes out, age of the handshake."""
    def peer_count(self) -> int: ...
    def offloads(self) -> Sequence[tuple[str, bool]]:
        """Return which offloads of the kernel are in use, by name."""
    def counters(self) -> list[tuple[str, int]]: ...
    def close(self) -> None:
        """End the threads and wait for them; harmless when closed."""
