"""CoderVPN (seed 002): how a manager with rights and a tunnel without them talk over one stream.

Reading order: `header` (the first line, both dialects), `frame`, `vpn.proto` and `messages`,
`speaker` (requests, responses, deadlines), `manager_role` and `tunnel_role` (what each side must
do). All of them are sans-IO; `aio` offers `Manager` and `Tunnel` over a pair of descriptors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ginnel.codervpn.aio import Manager, Tunnel

__all__ = ["Manager", "Tunnel"]


def __getattr__(name: str) -> object:
    """Import the asyncio facades only when somebody asks for them."""
    if name in __all__:
        from ginnel.codervpn import aio

        return getattr(aio, name)
    raise AttributeError(name)
