"""The first line of a CoderVPN stream, in both dialects, and what is agreed from it.

Shape: the seed's `codervpn <major.minor> <role>\\n`, or what Coder ships,
`codervpn <role> <major.minor>[,<major.minor>...]\\n`: one entry per major (its highest minor),
ascending, majors from 1. The seed's single version counts as a list of one.

Source: seed 002; the shipped dialect as measured (vpn 1.0 to 1.3).
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from ginnel.base.errors import RemoteProtocolError, UsageError

MAX_HEADER_SIZE = 255  # bytes before the LF; what Coder's reader takes
PREAMBLE = "codervpn"
_VERSION = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})", re.ASCII)


class Role(Enum):
    """Which end of the stream one is."""

    MANAGER = "manager"
    TUNNEL = "tunnel"

    @property
    def other(self) -> Role:
        """Return the role of the other end."""
        return Role.TUNNEL if self is Role.MANAGER else Role.MANAGER


class Dialect(Enum):
    """Which order the header's words have."""

    SEED = "seed"
    SHIPPED = "shipped"


class Version(NamedTuple):
    """A protocol version; versions of one major are compatible upwards."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


SUPPORTED_VERSIONS = (Version(1, 3),)  # the highest minor of each major


@dataclass(frozen=True, slots=True)
class Header:
    """What one side says first."""

    role: Role
    versions: tuple[Version, ...]
    dialect: Dialect


def format_header(header: Header) -> bytes:
    """Return the line with its LF; the seed's form carries only the highest version.

    Raises:
        UsageError: there is no version, or the line would be too long.
    """
    if not header.versions:
        raise UsageError("a header needs at least one version")
    if header.dialect is Dialect.SEED:
        line = f"{PREAMBLE} {header.versions[-1]} {header.role.value}"
    else:
        line = f"{PREAMBLE} {header.role.value} {','.join(map(str, header.versions))}"
    if len(line) > MAX_HEADER_SIZE:
        raise UsageError(f"a header of {len(line)} bytes; the limit is {MAX_HEADER_SIZE}")
    return line.encode() + b"\n"


def parse_header(line: bytes) -> Header:
    """Parse a header line, given without its LF.

    Raises:
        RemoteProtocolError: the line has another form; close the stream.
    """
    if len(line) > MAX_HEADER_SIZE:
        raise RemoteProtocolError(f"header longer than {MAX_HEADER_SIZE} bytes")
    try:
        words = line.decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise RemoteProtocolError("header is not ASCII") from None
    if len(words) != 3 or words[0] != PREAMBLE:
        raise RemoteProtocolError(f"header is not of CoderVPN: {line[:40]!r}")
    if words[1][:1].isdigit():
        return Header(_parse_role(words[2]), (_parse_version(words[1]),), Dialect.SEED)
    return Header(_parse_role(words[1]), _parse_versions(words[2]), Dialect.SHIPPED)


def negotiate(ours: tuple[Version, ...], theirs: tuple[Version, ...]) -> Version:
    """Return the highest common major with the lower of the two minors.

    Raises:
        RemoteProtocolError: no major is common.
    """
    minors = dict(theirs)
    for version in sorted(ours, reverse=True):
        if version.major in minors:
            return Version(version.major, min(version.minor, minors[version.major]))
    text = ",".join(map(str, theirs))
    raise RemoteProtocolError(f"no common version: we have {','.join(map(str, ours))}, not {text}")


def _parse_role(word: str) -> Role:
    try:
        return Role(word)
    except ValueError:
        raise RemoteProtocolError(f"unknown role {word[:40]!r} in the header") from None


def _parse_version(word: str) -> Version:
    match = _VERSION.fullmatch(word)
    if match is None:
        raise RemoteProtocolError(f"bad version {word[:40]!r} in the header")
    version = Version(int(match[1]), int(match[2]))
    if version.major < 1:
        raise RemoteProtocolError(f"version {version} in the header: the major starts at 1")
    return version


def _parse_versions(word: str) -> tuple[Version, ...]:
    versions = tuple(_parse_version(part) for part in word.split(","))
    for before, after in itertools.pairwise(versions):
        if before.major >= after.major:
            raise RemoteProtocolError("versions in the header are not ascending by major")
    return versions
