"""How a NAT or firewall maps and filters, in the terms of RFC 5780.

Offers carry what follows from it as one number (`reasons.NatKind`).

Source: RFC 4787 sections 4.1 and 5; RFC 5780 section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Mapping(Enum):
    """Which outer port a NAT takes for further destinations (RFC 4787 section 4.1)."""

    UNKNOWN = 0
    NONE = 1  # no NAT: the outer address is our own
    INDEPENDENT = 2  # one for all destinations
    ADDRESS = 3  # another for each IP
    ADDRESS_AND_PORT = 4  # another for each IP and port
    DEPENDENT = 5  # one of the two above

    @property
    def keeps_port(self) -> bool:
        """Say whether every destination sees the same port."""
        return self in (Mapping.NONE, Mapping.INDEPENDENT)


class Filtering(Enum):
    """Whose packets a NAT or firewall lets in (RFC 4787 section 5)."""

    UNKNOWN = 0
    INDEPENDENT = 2  # anybody's
    ADDRESS = 3  # of IPs that were written to
    ADDRESS_AND_PORT = 4  # of IPs and ports that were written to
    DEPENDENT = 5  # one of the two above


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What was observed of one side."""

    mapping: Mapping = Mapping.UNKNOWN
    filtering: Filtering = Filtering.UNKNOWN


_MAPPING_TEXT = {
    Mapping.UNKNOWN: "unknown yet",
    Mapping.NONE: "none: no NAT",
    Mapping.INDEPENDENT: "endpoint-independent",
    Mapping.ADDRESS: "address-dependent",
    Mapping.ADDRESS_AND_PORT: "address- and port-dependent",
    Mapping.DEPENDENT: "address-dependent or address- and port-dependent",
}
_FILTERING_TEXT = {
    Filtering.UNKNOWN: "unknown yet",
    Filtering.INDEPENDENT: "endpoint-independent",
    Filtering.ADDRESS: "address-dependent",
    Filtering.ADDRESS_AND_PORT: "address- and port-dependent",
    Filtering.DEPENDENT: "address-dependent or address- and port-dependent",
}


def format_mapping(mapping: Mapping) -> str:
    """Return the term of RFC 5780."""
    return _MAPPING_TEXT[mapping]


def format_filtering(filtering: Filtering) -> str:
    """Return the term of RFC 5780."""
    return _FILTERING_TEXT[filtering]
