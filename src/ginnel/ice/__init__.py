"""ICE (RFC 8445) as a sans-IO library: one component, trickle, regular nomination, consent.

Reading order: `stun` (bytes), `candidate`, `pair`, `checklist`, `transactions`, `consent`,
`events`, `checker` and `session` (one session's two halves), `agent` (the core), `reasons` (why it
failed, in words), `limiter` and `gather` (what all agents on a port share), `channels`, `turn` and
`turn_server` (relays), `allocation` (a TURN client and its connection), `stun_client`, `settings`,
`gatherer` and `port` (the agents of one socket and what gathers for them), `aio` (asyncio facade:
`Agent`, `Port`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ginnel.ice.aio import Agent, IceFailed, Port
    from ginnel.ice.settings import IceSettings

__all__ = ["Agent", "IceFailed", "IceSettings", "Port"]


def __getattr__(name: str) -> object:
    """Import the asyncio facade only when it is asked for."""
    if name == "IceSettings":
        from ginnel.ice.settings import IceSettings

        return IceSettings
    if name in __all__:
        from ginnel.ice import aio

        return getattr(aio, name)
    raise AttributeError(name)
