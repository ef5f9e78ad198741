"""One remote peer's connection (seed 000): signalling, ICE, WireGuard's peer, status.

Reading order: `signal` (what is said), `events` (configuration and events), `status`, `attempt`,
`turns` (how many at once), `speaker`, `lifecycle`, `care` and `conn` (the core, from inside out),
`gathering` (its own STUN and TURN servers), `group` (all of a machine), `aio` (asyncio facade
`Conn`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ginnel.peer.aio import Conn
    from ginnel.peer.group import ConnGroup

__all__ = ["Conn", "ConnGroup"]


def __getattr__(name: str) -> object:
    """Import the asyncio facade only when it is asked for."""
    if name in __all__:
        from ginnel.peer import aio

        return getattr(aio, name)
    raise AttributeError(name)
