"""What findings look like in words and JSON; the tests behind NATs are in the lab."""

from __future__ import annotations

import asyncio

from ginnel.base.types import Address
from ginnel.daemon.netcheck import (
    Finding,
    check_network,
    checks_of,
    clock_text,
    contacts_of,
    facts_of,
    mtu_towards,
    with_known,
)
from ginnel.ice.nat import Behaviour, Filtering, Mapping
from ginnel.net.portmap import Protocol
from support import rdv

SEEN = ((Address("198.51.100.1", 7), Address("203.0.113.5", 4000)),)
FULL = Finding(
    Behaviour(Mapping.INDEPENDENT, Filtering.ADDRESS),
    SEEN,
    hairpin=False,
    protocols=(Protocol.PCP, Protocol.UPNP),
    mtu=1492,
)


def test_in_words() -> None:
    facts = facts_of(FULL, ("192.168.1.2",), has_nodes=True)
    assert facts["UDP"] == "gets out and back"
    assert facts["IPv4"] == "works, seen as 203.0.113.5"
    assert facts["IPv6"] == "no address here"
    assert facts["filtering"] == "address-dependent"
    assert facts["hairpin"] == "no"
    assert facts["port mapping"] == "PCP, UPnP"
    assert facts["MTU"] == "1492 bytes"
    assert facts["observed"] == "198.51.100.1:7 saw 203.0.113.5:4000"
    facts = facts_of(Finding(), ("2001:db8::1",), has_nodes=True)
    assert facts["UDP"] == facts["IPv6"] == "no answer"
    assert facts["mapping"] == "unknown yet"
    assert facts["MTU"] == "unknown"
    assert facts_of(Finding(), (), has_nodes=False)["UDP"] == "not tested: no node is known"


def test_as_values() -> None:
    checks = checks_of(FULL)
    assert list(checks) == [
        "udp",
        "ipv4",
        "ipv6",
        "mapping",
        "filtering",
        "hairpin",
        "port_mapping",
        "mtu",
        "observed",
    ]
    assert checks["mapping"] == "independent"
    assert checks["port_mapping"] == ["PCP", "UPnP"]
    assert checks["observed"] == [{"observer": "198.51.100.1:7", "seen": "203.0.113.5:4000"}]
    assert (checks["udp"], checks["ipv6"]) == (True, False)


def test_what_was_known_fills_gaps_only() -> None:
    known = Behaviour(Mapping.NONE, Filtering.INDEPENDENT)
    assert with_known(FULL, known) == FULL
    assert with_known(Finding(), known).behaviour == known


def test_nodes_by_version_public_ones_first() -> None:
    public, private = rdv.record("198.51.100.1"), rdv.record("192.168.1.9")
    assert [c.address.ip for c in contacts_of([private, public], ipv6=False)] == ["198.51.100.1"]
    assert [c.address.ip for c in contacts_of([private], ipv6=False)] == ["192.168.1.9"]
    assert contacts_of([public], ipv6=True) == []


def test_without_nodes_nothing_is_claimed() -> None:
    finding = asyncio.run(check_network((), "ginnel", ("192.168.1.2",)))
    assert finding.behaviour == Behaviour()
    assert (finding.seen, finding.mtu, finding.hairpin) == ((), None, None)
    assert mtu_towards(Address("127.0.0.1", 9)) in (65535, 65536)
    assert clock_text(0) == "shows 1970-01-01 00:00 UTC"
