"""Builds the local candidates of a shared port from addresses that others found.

Which interfaces count is decided by `net.interfaces`, reflexive addresses come from discv5's votes.

Source: RFC 8445 section 5.1.1; RFC 8421 section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

from ginnel.base.types import Address
from ginnel.ice.candidate import (
    MAX_LOCAL_CANDIDATES,
    Candidate,
    host_preferences,
    make_host,
    make_server_reflexive,
)


def gather_candidates(
    ips: Sequence[str], port: int, reflexive: Sequence[Address] = ()
) -> list[Candidate]:
    """Return host and server-reflexive candidates.

    Args:
        ips: our addresses in the order of preference; the first of a family is where reflexive
            addresses are taken to come from (so put the one of the default route first).
        port: of the shared socket.
        reflexive: our addresses as observers saw them; those that are our own add nothing.
    """
    preferences = host_preferences(ips)
    candidates = [make_host(Address(ip, port), preferences[ip]) for ip in ips]
    hosts = [candidate.address for candidate in candidates]
    for address in reflexive:
        base = next((host for host in hosts if host.is_ipv6 == address.is_ipv6), None)
        if base is not None and address not in hosts:
            candidates.append(make_server_reflexive(address, base, preferences[base.ip]))
    return candidates[:MAX_LOCAL_CANDIDATES]
