"""Frozen values that every layer shares.

Nothing here knows a protocol. What is made or looked up for each packet is a NamedTuple: that takes
a third of a frozen dataclass's time.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple, NewType

from ginnel.base.errors import UsageError

NodeId = NewType("NodeId", bytes)  # 32 bytes, names a node of the DHT
MemberId = NewType("MemberId", bytes)  # 32 bytes, names a member of one network

IPV4_SIZE = 4  # bytes


class Address(NamedTuple):
    """A UDP address: canonical text of the IP (no zone, never v4-mapped), and a port."""

    ip: str
    port: int

    @property
    def packed_ip(self) -> bytes:
        """Return the IP as 4 or 16 bytes."""
        if ":" in self.ip:
            return ip_address(self.ip).packed
        return bytes(map(int, self.ip.split(".")))

    @property
    def is_ipv6(self) -> bool:
        """Say whether the IP is of version 6."""
        return ":" in self.ip

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.is_ipv6 else f"{self.ip}:{self.port}"


def make_address(ip: str | bytes | IPv4Address | IPv6Address, port: int) -> Address:
    """Return the canonical Address of an IP (text, packed or parsed) and a port.

    A v4-mapped IPv6 address becomes its IPv4 address; a zone (`%eth0`) is dropped.

    Raises:
        UsageError: not an IP address, or the port is not 0 to 65535.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"port {port} is not in 0..65535")
    if isinstance(ip, bytes) and len(ip) == IPV4_SIZE:  # quicker
        return Address("{}.{}.{}.{}".format(*ip), port)
    try:
        parsed = ip_address(ip.split("%", 1)[0] if isinstance(ip, str) else ip)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return Address(str(parsed), port)


def parse_address(text: str) -> Address:
    """Parse `192.0.2.1:7` or `[2001:db8::1]:7`.

    Raises:
        UsageError: the text has another form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        raise UsageError(f"{text!r} is not IP:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"{text!r}: write an IPv6 address in brackets, [ADDRESS]:PORT")
    return make_address(host, int(port))


class Transmit(NamedTuple):
    """One datagram to send; `source_ip` is the local IP to send from, or None for the kernel's.

    `relayed_from`: our address at a relay; who owns the relay's client wraps it.
    """

    data: bytes
    destination: Address
    source_ip: str | None = None
    relayed_from: Address | None = None


class Datagram(NamedTuple):
    """One datagram that arrived; `local_ip` is the IP it was sent to, where the socket can tell."""

    data: bytes
    source: Address
    local_ip: str | None = None


class Deadline(NamedTuple):
    """When a core wants `handle_timeout`: monotonic seconds, and why (for logs)."""

    at: float
    reason: str


class Secret:
    """Bytes that must not be shown: repr, str, format and pickle give `<secret>` in their place."""

    __slots__ = ("_value",)

    SHOWN = "<secret>"

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """Return the bytes; call it only where they are used."""
        return self._value

    def __repr__(self) -> str:
        return self.SHOWN

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> tuple[type[Secret], tuple[bytes]]:
        return Secret, (self.SHOWN.encode(),)

    def __copy__(self) -> Secret:
        return self  # else `copy` would take the way of pickle, and the bytes were lost

    def __deepcopy__(self, memo: object) -> Secret:
        return self
