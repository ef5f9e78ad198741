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
    from ginnel.base.errors import GinnelError as GinnelError
    from ginnel.base.errors import RemoteProtocolError as RemoteProtocolError
    from ginnel.base.errors import SystemFailure as SystemFailure
    from ginnel.base.errors import UsageError as UsageError
    from ginnel.base.types import Address as Address
    from ginnel.base.types import NodeId as NodeId
    from ginnel.base.types import Secret as Secret
    from ginnel.base.types import parse_address as parse_address
    from ginnel.discv5.aio import Discovery as Discovery
    from ginnel.discv5.config import DiscoveryConfig as DiscoveryConfig
    from ginnel.discv5.enr import Enr as Enr
    from ginnel.discv5.enr import EnrBuilder as EnrBuilder
    from ginnel.discv5.errors import MessageTooLarge as MessageTooLarge
    from ginnel.discv5.errors import NoAddressError as NoAddressError
    from ginnel.discv5.errors import RequestError as RequestError
    from ginnel.discv5.errors import RequestRefused as RequestRefused
    from ginnel.discv5.errors import RequestTimeout as RequestTimeout
    from ginnel.discv5.events import AddressChanged as AddressChanged
    from ginnel.discv5.events import AddressDiffers as AddressDiffers
    from ginnel.discv5.events import DiscoveryEvent as DiscoveryEvent
    from ginnel.discv5.events import NodeAdded as NodeAdded
    from ginnel.discv5.events import NodeRemoved as NodeRemoved
    from ginnel.discv5.events import PongReceived as PongReceived
    from ginnel.discv5.events import ReflexiveChanged as ReflexiveChanged
    from ginnel.discv5.events import SessionOpened as SessionOpened
    from ginnel.discv5.events import TalkReceived as TalkReceived

_PLACES = {
    "GinnelError": "base.errors",
    "RemoteProtocolError": "base.errors",
    "SystemFailure": "base.errors",
    "UsageError": "base.errors",
    "Address": "base.types",
    "NodeId": "base.types",
    "Secret": "base.types",
    "parse_address": "base.types",
    "Discovery": "discv5.aio",
    "DiscoveryConfig": "discv5.config",
    "Enr": "discv5.enr",
    "EnrBuilder": "discv5.enr",
    "MessageTooLarge": "discv5.errors",
    "NoAddressError": "discv5.errors",
    "RequestError": "discv5.errors",
    "RequestRefused": "discv5.errors",
    "RequestTimeout": "discv5.errors",
    "AddressChanged": "discv5.events",
    "AddressDiffers": "discv5.events",
    "DiscoveryEvent": "discv5.events",
    "NodeAdded": "discv5.events",
    "NodeRemoved": "discv5.events",
    "PongReceived": "discv5.events",
    "ReflexiveChanged": "discv5.events",
    "SessionOpened": "discv5.events",
    "TalkReceived": "discv5.events",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  (a module's attribute can be anything)
    if name in _PLACES:
        return getattr(import_module(f"ginnel.{_PLACES[name]}"), name)
    raise AttributeError(name)


def __dir__() -> list[str]:
    return sorted(_PLACES)
