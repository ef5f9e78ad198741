"""ICE (RFC 8445) as a sans-IO library: one component, trickle, regular nomination, consent.

Reading order: `stun` (bytes), `candidate`, `pair`, `checklist`, `transactions`, `consent`,
`events`, `checker` and `session` (one session's two halves), `agent` (the core), `reasons` (why it
failed, in words), `limiter` and `gather` (what all agents on a port share), `channels`, `turn` and
`turn_server` (relays), `aio` (asyncio facade `Agent`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ginnel.ice.aio import Agent

__all__ = ["Agent"]


def __getattr__(name: str) -> object:
    """Import the asyncio facade only when it is asked for."""
    if name == "Agent":
        from ginnel.ice.aio import Agent

        return Agent
    raise AttributeError(name)
