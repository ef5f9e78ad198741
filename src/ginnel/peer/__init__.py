"""One remote peer's connection (seed 000): signalling, ICE, WireGuard's peer, status.

Reading order: `signal` (what is said), `events` (configuration and events), `status`, `attempt`,
`turns` (how many at once), `speaker`, `lifecycle`, `care` and `conn` (the core, from inside out),
`aio` (asyncio facade `Conn`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ginnel.peer.aio import Conn

__all__ = ["Conn"]


def __getattr__(name: str) -> object:
    """Import the asyncio facade only when it is asked for."""
    if name == "Conn":
        from ginnel.peer.aio import Conn

        return Conn
    raise AttributeError(name)
