"""discv5 v5.1: node discovery over UDP, as sans-IO cores and one asyncio facade.

Layers, in reading order: `keys` and `enr` (who a node is), `packet` (masking, headers),
`handshake` and `session` (keys of a session), `messages`, `wire` (sessions kept, packets in and
out), `requests` and `exchange` (what awaits an answer), `verify`, `responder` and `serve` (what we
answer), `table`, `lookup` and `query` (one search as a value), `searches`, `neighbourhood` (the
table kept alive), `endpoint` and `views` (how others see us), `guard` (rates, bans), `metrics`,
`protocol` (the core), `view`, `questions` and `aio` (`Discovery`). docs/discv5.md is the guide.

Source: devp2p, discv5-wire.md, discv5-theory.md; EIP-778.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ginnel.discv5.aio import Discovery as Discovery
    from ginnel.discv5.config import DiscoveryConfig as DiscoveryConfig
    from ginnel.discv5.enr import Enr as Enr
    from ginnel.discv5.enr import EnrBuilder as EnrBuilder
    from ginnel.discv5.errors import MessageTooLarge as MessageTooLarge
    from ginnel.discv5.errors import NoAddressError as NoAddressError
    from ginnel.discv5.errors import RequestError as RequestError
    from ginnel.discv5.errors import RequestRefused as RequestRefused
    from ginnel.discv5.errors import RequestTimeout as RequestTimeout

_PLACES = {
    "Discovery": "aio",
    "DiscoveryConfig": "config",
    "Enr": "enr",
    "EnrBuilder": "enr",
    "MessageTooLarge": "errors",
    "NoAddressError": "errors",
    "RequestError": "errors",
    "RequestRefused": "errors",
    "RequestTimeout": "errors",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  (a module's attribute can be anything)
    if name in _PLACES:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(name)
