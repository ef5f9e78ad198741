"""Which IPv4 prefixes this machine routes, without any netlink library.

Source: proc(5), /proc/net/route: addresses are hexadecimal in the machine's byte order.
"""

from __future__ import annotations

import sys
from ipaddress import IPv4Address
from pathlib import Path

from ginnel.base.errors import SystemFailure

ROUTES = Path("/proc/net/route")


def parse_routes(text: str) -> list[str]:
    """Return the table's prefixes but the default route; what does not parse is skipped."""
    found: dict[str, None] = {}
    for line in text.splitlines()[1:]:
        columns = line.split()
        try:
            destination, mask = (_address(columns[index]) for index in (1, 7))
        except (IndexError, ValueError):
            continue
        bits = int(mask).bit_count()
        if bits:
            found[f"{destination}/{bits}"] = None
    return list(found)


def ipv4_routes() -> list[str]:
    """Return the prefixes of the main table, without the default route.

    Raises:
        SystemFailure: /proc does not show them.
    """
    try:
        return parse_routes(ROUTES.read_text())
    except OSError as error:
        raise SystemFailure(f"{ROUTES} can't be read: {error.strerror}") from None


def _address(text: str) -> IPv4Address:
    return IPv4Address(int.from_bytes(bytes.fromhex(text), sys.byteorder))
