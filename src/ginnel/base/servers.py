"""STUN and TURN servers as people write them (`stun:`, `turn:`, `turns:`), a relay's ports.

Source: RFC 7064, RFC 7065 (URIs); RFC 8656 sections 4, 7.2 (ports).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum

from ginnel.base.chance import Rng
from ginnel.base.errors import UsageError
from ginnel.base.types import Secret

STUN_PORT = 3478  # also TURN's, over UDP and TCP
TLS_PORT = 5349
FIRST_FREE_PORT = 1024  # below it binding needs a right that the tunnel doesn't have

_URI = re.compile(
    r"(?P<scheme>stun|turns?):(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]{1,253})"
    r"(?::(?P<port>[0-9]{1,5}))?(?:\?transport=(?P<transport>[a-z]{1,8}))?"
)
_LOGIN = re.compile(r"(?P<uri>\S{1,300}) (?P<user>\S{1,128}) (?P<password>\S{1,128})")


class Transport(Enum):
    """How a client speaks with a server."""

    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"  # over TCP

    @property
    def is_stream(self) -> bool:
        """Say whether it needs a connection, and loses nothing."""
        return self is not Transport.UDP


@dataclass(frozen=True, slots=True)
class Server:
    """One server; a STUN server has no user and is asked over UDP."""

    host: str
    port: int
    transport: Transport = Transport.UDP
    username: str = ""
    password: Secret = field(default=Secret(b""), repr=False)

    @property
    def is_turn(self) -> bool:
        """Say whether it relays: a STUN server has no user."""
        return bool(self.username)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{self.transport.value}"


def parse_stun(text: str) -> Server:
    """Return the server of `stun:HOST[:PORT]`.

    Raises:
        UsageError: another form.
    """
    match = _URI.fullmatch(text)
    if match is None or match["scheme"] != "stun" or match["transport"]:
        raise UsageError("write stun:HOST[:PORT]")
    return Server(_host(match), _port(match, STUN_PORT))


def parse_turn_uri(uri: str, username: str, password: str) -> Server:
    """Return the server of `turn:` (UDP, or TCP with `?transport=tcp`) or `turns:` (TLS).

    Raises:
        UsageError: another form, or a transport that is not served.
    """
    match = _URI.fullmatch(uri)
    if match is None or match["scheme"] == "stun":
        raise UsageError("write turn:HOST[:PORT][?transport=udp|tcp] or turns:HOST[:PORT]")
    is_tls = match["scheme"] == "turns"
    known = {"tcp": Transport.TLS} if is_tls else {"udp": Transport.UDP, "tcp": Transport.TCP}
    transport = known.get(match["transport"] or ("tcp" if is_tls else "udp"))
    if transport is None:
        raise UsageError(f"{match['scheme']}: has no transport {match['transport']}")
    port = _port(match, TLS_PORT if is_tls else STUN_PORT)
    return Server(_host(match), port, transport, username, Secret(password.encode()))


def parse_turn(text: str) -> Server:
    """Return the server of `URI USER PASSWORD`; see `parse_turn_uri`.

    Raises:
        UsageError: another form; it shows no password.
    """
    match = _LOGIN.fullmatch(text)
    if match is None:
        raise UsageError(
            "write turn:HOST[:PORT][?transport=udp|tcp] USER PASSWORD, or turns:HOST[:PORT] "
            "USER PASSWORD"
        )
    return parse_turn_uri(match["uri"], match["user"], match["password"])


def parse_server(text: str) -> Server:
    """Return the server of `stun:HOST[:PORT]`, or as `parse_turn` of another text.

    Raises:
        UsageError: another form; it shows no password.
    """
    return parse_stun(text) if text.startswith("stun:") else parse_turn(text)


def _host(match: re.Match[str]) -> str:
    return match["host"].strip("[]")


def _port(match: re.Match[str], default: int) -> int:
    port = int(match["port"] or default)
    if not 0 < port < 65_536:
        raise UsageError(f"{port} is no port")
    return port


@dataclass(frozen=True, slots=True)
class PortRange:
    """The ports of relayed addresses, both ends belong to it."""

    first: int
    last: int

    def draw(self, taken: Collection[int], rng: Rng) -> int | None:
        """Return a port by chance that is not among `taken`, or None if all are."""
        size = self.last - self.first + 1
        start = rng.randrange(0, size)
        for step in range(min(size, len(taken) + 1)):
            port = self.first + (start + step) % size
            if port not in taken:
                return port
        return None


DEFAULT_PORTS = PortRange(49152, 65535)  # RFC 8656 section 7.2


def parse_ports(text: str) -> PortRange:
    """Return the range of `FIRST-LAST`.

    Raises:
        UsageError: another form, or a port that can't be had.
    """
    first, dash, last = text.partition("-")
    if dash and all(part.isascii() and part.isdigit() and len(part) < 6 for part in (first, last)):
        ports = PortRange(int(first), int(last))
        if FIRST_FREE_PORT <= ports.first <= ports.last <= 65535:
            return ports
    raise UsageError(f"{text!r}: FIRST-LAST belongs here, from {FIRST_FREE_PORT} to 65535")
