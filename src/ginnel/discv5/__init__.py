"""discv5 v5.1: node discovery over UDP, as sans-IO cores and one asyncio facade.

Layers, in reading order: `keys` and `enr` (who a node is), `packet` (masking, headers),
`handshake` and `session` (keys of a session), `messages`, `wire` (sessions kept, packets in and
out), `requests` (what awaits an answer), `table`, `lookup`, `endpoint` (how others see us),
`protocol` (the core) and `aio` (`Discovery`).

Source: devp2p, discv5-wire.md, discv5-theory.md; EIP-778.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ginnel.discv5.aio import Discovery as Discovery


def __getattr__(name: str) -> Any:  # noqa: ANN401  (a module's attribute can be anything)
    if name == "Discovery":
        from ginnel.discv5.aio import Discovery

        return Discovery
    raise AttributeError(name)
