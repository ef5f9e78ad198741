"""How a NAT or firewall maps and filters, and whether two such sides can be direct.

The numbers are those on the wire of offers.

Source: RFC 4787 sections 4.1 and 5; RFC 5780 section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Mapping(IntEnum):
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


class Filtering(IntEnum):
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


def can_be_direct(one: Behaviour, other: Behaviour) -> bool:
    """Say whether two sides can meet by addresses that observers told; unknown counts as yes.

    With one port for all on both sides each opens its filter towards the other's. A side that
    takes another port for us is heard only where filters don't look at ports; if both take other
    ports, one must let in anybody besides, because neither knows where to write to.
    """
    if one.mapping.keeps_port and other.mapping.keeps_port:
        return True
    if Mapping.UNKNOWN in (one.mapping, other.mapping):
        return True
    if not one.mapping.keeps_port and not other.mapping.keeps_port:
        keeps_out = [_keeps_out_ports(side) for side in (one, other)]
        lets_anybody = [
            side.filtering in (Filtering.INDEPENDENT, Filtering.UNKNOWN) for side in (one, other)
        ]
        return not any(keeps_out) and any(lets_anybody)
    return not _keeps_out_ports(one if one.mapping.keeps_port else other)


def _keeps_out_ports(side: Behaviour) -> bool:
    return side.filtering is Filtering.ADDRESS_AND_PORT
