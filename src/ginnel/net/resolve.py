"""Names of STUN and TURN servers to addresses, without blocking the loop."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # names are resolved in a thread; in a sandbox no file opens later
import encodings.idna  # of names, also in TLS; as above
import socket

from ginnel.base.errors import UsageError
from ginnel.base.types import Address, make_address

RESOLVE_TIMEOUT_S = 10.0  # seconds for one name

_IMPORTED_EARLY = (concurrent.futures.thread, encodings.idna)


async def resolve(host: str, port: int) -> list[Address]:
    """Return the first address of a name for each IP version; none if it does not resolve."""
    try:
        return [make_address(host, port)]
    except UsageError:
        pass
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return []
    first: dict[bool, Address] = {}
    for item in found:
        address = make_address(str(item[4][0]), port)
        first.setdefault(address.is_ipv6, address)
    return list(first.values())
