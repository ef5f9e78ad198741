"""The connections of one machine: one to each peer, and only so many connecting at once."""

from __future__ import annotations

from typing import Protocol

from ginnel.base.errors import UsageError
from ginnel.peer.turns import MAX_CONNECTING, Turns


class Member(Protocol):
    """What a group knows of a connection."""

    @property
    def key(self) -> bytes:
        """Return the remote peer's WireGuard public key."""
        ...

    def wake(self) -> None:
        """Carry on: its turn has come."""
        ...


class ConnGroup:
    """All connections of a machine; give the same one to each `Conn`."""

    def __init__(self, limit: int = MAX_CONNECTING) -> None:
        self.turns = Turns(limit)
        self._conns: dict[bytes, Member] = {}

    def add(self, conn: Member) -> None:
        """Take a connection (`Conn` calls this).

        Raises:
            UsageError: there is one to this peer, which was not closed.
        """
        if conn.key in self._conns:
            raise UsageError(f"there is a connection to peer {conn.key.hex()[:8]}; close it first")
        self._conns[conn.key] = conn

    def remove(self, conn: Member) -> None:
        """Forget a connection that was closed (`Conn` calls this)."""
        if self._conns.get(conn.key) is conn:
            del self._conns[conn.key]

    def on_turn(self, key: bytes) -> None:
        """Let a connection go on that waited for its turn (`Conn` calls this)."""
        conn = self._conns.get(key)
        if conn is not None:
            conn.wake()
