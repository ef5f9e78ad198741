"""Which IPv4 prefixes this machine routes, and which way back it demands, without netlink.

Source: proc(5), /proc/net/route: addresses are hexadecimal in the machine's byte order; Linux,
ip-sysctl, rp_filter.
"""

from __future__ import annotations

import sys
from ipaddress import IPv4Address
from pathlib import Path

from ginnel.base.errors import SystemFailure

ROUTES = Path("/proc/net/route")
DEVICES = Path("/proc/sys/net/ipv4/conf")  # switches of each device, of `all` and of `default`
STRICT = 1  # value of rp_filter; 2 is loose and larger, and the larger of device and `all` holds


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


def strict_devices(*, besides: str, devices: Path = DEVICES) -> list[str]:
    """Return the devices that drop IPv4 packets whose answer would leave by another device."""
    common = _strictness(devices / "all")
    left_out = ("all", "default", "lo", besides)
    return sorted(
        path.name
        for path in devices.glob("*")
        if path.name not in left_out and max(common, _strictness(path)) == STRICT
    )


def _strictness(folder: Path) -> int:
    try:
        return int((folder / "rp_filter").read_text())
    except (OSError, ValueError):  # a device that has just gone
        return 0


def _address(text: str) -> IPv4Address:
    return IPv4Address(int.from_bytes(bytes.fromhex(text), sys.byteorder))
