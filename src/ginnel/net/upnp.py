"""Maps a UDP port at a UPnP router (IGD), by the library miniupnpc; every call here blocks.

Meant for a thread. The library is a small C extension (0.3 ms and 0.3 MB to import; a Python one
would bring aiohttp with it); it speaks SSDP, HTTP and XML with whatever answers on the LAN, so it
belongs into a process without rights. Without it (no wheel for this machine) there is no UPnP.

Source: UPnP Forum, WANIPConnection:2, sections 2.5.16 to 2.5.18 (error 725: permanent leases only).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ginnel.base.errors import SystemFailure
from ginnel.base.types import Address, make_address

try:
    import miniupnpc
except ImportError:  # PCP and NAT-PMP are ours
    miniupnpc = None

DISCOVER_MS = 2000  # milliseconds that answers to the search are waited for
MAX_TRIES = 4  # outer ports asked for
PORT_STEP = 1009  # from one outer port that is taken to the next
FIRST_PORT, LAST_PORT = 1024, 65_535
PERMANENT = 0  # a lease that never ends
DESCRIPTION = "ginnel"
_ONLY_PERMANENT = "OnlyPermanentLeasesSupported"  # 725, in the library's words
_CONFLICT = "ConflictInMappingEntry"  # 718
_UDP = "UDP"


class Router(Protocol):
    """The part of the library that is used: one router that was found."""

    lanaddr: str

    def externalipaddress(self) -> str:
        """Return the outer IP."""
        ...

    def addportmapping(
        self,
        external_port: int,
        protocol: str,
        host: str,
        port: int,
        description: str,
        remote: str,
        lease: int,
        /,
    ) -> bool:
        """Map a port."""
        ...

    def deleteportmapping(self, external_port: int, protocol: str, /) -> bool:
        """Remove a mapping."""
        ...


@dataclass(frozen=True, slots=True)
class UpnpMapping:
    """A mapping at a router; a lifetime of 0 is permanent."""

    address: Address
    lifetime: int  # seconds


def find_router(local_ip: str) -> Router:
    """Search the LAN of this IP of ours for a router.

    Raises:
        SystemFailure: there is none, it is not connected, or the library is missing.
    """
    if miniupnpc is None:
        raise SystemFailure("UPnP: the library miniupnpc is not installed")
    client: Any = miniupnpc.UPnP(multicastif=local_ip, discoverdelay=DISCOVER_MS)
    try:
        client.discover()
        client.selectigd()
    except Exception as error:  # the library raises nothing narrower
        raise SystemFailure(f"UPnP: no router found ({error})") from None
    router: Router = client
    return router


def add_mapping(router: Router, port: int, wished: int, lease: int) -> UpnpMapping:
    """Map our UDP port, at the outer port that is wished for if it is free.

    A router that knows permanent leases only gets such a one: it has to be removed.

    Raises:
        SystemFailure: the router refused.
    """
    external = wished
    refusal = ""
    for _ in range(MAX_TRIES):
        refusal = _add(router, port, external, lease)
        if refusal == _ONLY_PERMANENT and lease != PERMANENT:
            lease = PERMANENT
            refusal = _add(router, port, external, lease)
        if not refusal:
            return UpnpMapping(_address(router, external), lease)
        if refusal != _CONFLICT:
            break
        span = LAST_PORT - FIRST_PORT + 1
        external = FIRST_PORT + (external - FIRST_PORT + PORT_STEP) % span
    raise SystemFailure(f"UPnP: the router refuses: {refusal}")


def remove_mapping(router: Router, external_port: int) -> None:
    """Remove a mapping.

    Raises:
        SystemFailure: the router refused, or is gone.
    """
    try:
        router.deleteportmapping(external_port, _UDP)
    except Exception as error:  # as above
        raise SystemFailure(f"UPnP: {error}") from None


def _add(router: Router, port: int, external: int, lease: int) -> str:
    """Return why the router refuses, or nothing."""
    try:
        router.addportmapping(external, _UDP, router.lanaddr, port, DESCRIPTION, "", lease)
    except Exception as error:  # as above
        return str(error) or "no reason given"
    return ""


def _address(router: Router, port: int) -> Address:
    try:
        return make_address(router.externalipaddress(), port)
    except Exception as error:  # as above, or no IP
        raise SystemFailure(f"UPnP: no outer address ({error})") from None
