"""How an open connection ends: the four errors of seed 000.

`Conn.open` returns only by raising one of them.
"""

from __future__ import annotations

from ginnel.base.errors import GinnelError, UsageError


class ConnectionEnded(GinnelError):
    """Base of the four; `key` is the remote peer's WireGuard public key."""

    def __init__(self, key: bytes, text: str) -> None:
        super().__init__(f"connection to peer {key.hex()[:8]}: {text}")
        self.key = key
        self.text = text


class ConnectionTimeout(ConnectionEnded):
    """No offer and no answer came in time. Open it again later."""

    def __init__(self, key: bytes, timeout: float) -> None:
        super().__init__(key, f"no offer or answer within {timeout:g} s")
        self.timeout = timeout


class ConnectionClosed(ConnectionEnded):
    """It was closed from our side. It never opens again."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key, "closed")


class ConnectionDisconnected(ConnectionEnded):
    """The path is lost, was never found, or the data plane refused the peer. Open it again."""


class ConnectionAlreadyClosed(ConnectionEnded, UsageError):
    """`close` was called a second time."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key, "was already closed")
