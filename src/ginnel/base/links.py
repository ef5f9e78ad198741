"""Commands for connections to servers, and what becomes of them: values with a number for each.

A core asks for connections by these, `net.links.StreamLinks` makes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ginnel.base.servers import Transport
from ginnel.base.types import Address


@dataclass(frozen=True, slots=True)
class OpenLink:
    """Connect to a server over TCP or TLS, and tell what becomes of it.

    `host`: the server's name, which its certificate must show.
    """

    link: int
    server: Address
    transport: Transport
    host: str


@dataclass(frozen=True, slots=True)
class SendLink:
    """Send bytes on a connection; `may_drop`: they are a datagram's, better lost than late."""

    link: int
    data: bytes
    may_drop: bool


@dataclass(frozen=True, slots=True)
class CloseLink:
    """End a connection once all is sent."""

    link: int


@dataclass(frozen=True, slots=True)
class LinkOpened:
    """A connection to a TURN server is there."""

    link: int


@dataclass(frozen=True, slots=True)
class LinkBytes:
    """Bytes came on a connection."""

    link: int
    data: bytes


@dataclass(frozen=True, slots=True)
class LinkLost:
    """A connection is over, or could not be made."""

    link: int
    reason: str


LinkCommand: TypeAlias = OpenLink | SendLink | CloseLink
LinkEvent: TypeAlias = LinkOpened | LinkBytes | LinkLost
