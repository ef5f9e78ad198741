"""The Rust data plane; use `ginnel.engine.embedded`, which speaks in values."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

__version__: str

_Place: TypeAlias = tuple[str, int, int]  # IP, port, TURN channel (0: none)
_Kind: TypeAlias = Literal["inner", "handshake", "roamed", "unanswered", "missed", "answered"]

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
