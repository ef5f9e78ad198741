"""`ginnel netcheck`: what the network around this machine allows, tested with nodes and the router.

Works inside a running tunnel, which adds what it knows, and without one, where all that is needed
is a node or two. All tests run at once; where strangers are kept out the whole takes some seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from ginnel.base.addresses import is_public
from ginnel.base.errors import GinnelError, SystemFailure
from ginnel.base.types import Address
from ginnel.daemon.nat_tests import FilterFinding, MappingFinding, NatTests, judge_filtering
from ginnel.daemon.port_mapping import find_gateway, in_thread
from ginnel.daemon.report import Json
from ginnel.discv5.enr import Enr
from ginnel.discv5.requests import Contact
from ginnel.ice.nat import Behaviour, Filtering, Mapping, format_filtering, format_mapping
from ginnel.net import upnp
from ginnel.net.portmap import Protocol
from ginnel.net.portmap_wire import (
    SERVER_PORT,
    PcpAnnounced,
    PmpAddress,
    decode_response,
    encode_pcp_announce,
    encode_pmp_address,
)

GATEWAY_WAIT_S = 0.7  # seconds for one answer of the router
GATEWAY_TRIES = 2
MAX_ASKED = 16  # nodes that a test chooses from
_IP_MTU, _IPV6_MTU = 14, 24  # linux/in.h, linux/in6.h; Python does not name them


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found; None: it could not be told."""

    behaviour: Behaviour = field(default_factory=Behaviour)
    seen: tuple[tuple[Address, Address], ...] = ()  # IPv4: observer, what it saw
    seen6: tuple[tuple[Address, Address], ...] = ()
    hairpin: bool | None = None
    protocols: tuple[Protocol, ...] = ()  # of port mapping, that the router serves
    mtu: int | None = None  # bytes, of the line towards a node


async def check_network(
    records: Sequence[Enr | Contact], protocol_id: str, own_ips: Sequence[str]
) -> Finding:
    """Run all tests.

    Args:
        records: nodes that can be asked, or how to reach them.
        protocol_id: of their DHT.
        own_ips: addresses of this machine.
    """
    rng = random.Random()
    nodes = contacts_of(records, ipv6=False)
    nodes6 = contacts_of(records, ipv6=True)
    tests = [NatTests(nodes, protocol_id, rng) for _ in range(4)]
    tests6 = NatTests(nodes6, protocol_id, rng, ipv6=True)
    async with asyncio.TaskGroup() as tasks:
        mapping = tasks.create_task(_mapping(tests[0], own_ips))
        mapping6 = tasks.create_task(_mapping(tests6, own_ips))
        filtering = tasks.create_task(_filtering(tests[1], by_address=False))
        by_address = tasks.create_task(_filtering(tests[2], by_address=True))
        hairpin = tasks.create_task(_hairpin(tests[3]))
        protocols = tasks.create_task(find_protocols())
    return Finding(
        Behaviour(
            mapping.result().mapping, judge_filtering(filtering.result(), by_address.result())
        ),
        mapping.result().seen,
        mapping6.result().seen,
        hairpin.result() if mapping.result().mapping is not Mapping.NONE else None,
        protocols.result(),
        mtu_towards(nodes[0].address if nodes else None),
    )


def contacts_of(records: Sequence[Enr | Contact], *, ipv6: bool) -> list[Contact]:
    """Return how to reach these nodes over one IP version; public ones, if there are any."""
    found: dict[Address, Contact] = {}
    for record in records:
        contact = Contact.from_record(record, ipv6) if isinstance(record, Enr) else record
        if contact is not None and contact.address.is_ipv6 is ipv6:
            found[contact.address] = contact
    public = [contact for contact in found.values() if is_public(contact.address.ip)]
    return (public or list(found.values()))[:MAX_ASKED]


async def find_protocols() -> tuple[Protocol, ...]:
    """Return by which protocols the router maps ports; nothing is mapped."""
    way = find_gateway()
    if way is None:
        return ()
    gateway, local_ip = way
    async with asyncio.TaskGroup() as tasks:
        ours = tasks.create_task(in_thread(lambda: _ask_gateway(gateway, local_ip)))
        igd = tasks.create_task(in_thread(lambda: _has_igd(local_ip)))
    return (*ours.result(), *((Protocol.UPNP,) if igd.result() else ()))


def mtu_towards(address: Address | None) -> int | None:
    """Return the path MTU to an address as the kernel knows it, in bytes; sends nothing."""
    if address is None:
        return None
    family = socket.AF_INET6 if address.is_ipv6 else socket.AF_INET
    level, option = (
        (socket.IPPROTO_IPV6, _IPV6_MTU) if address.is_ipv6 else (socket.IPPROTO_IP, _IP_MTU)
    )
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(tuple(address))
        return probe.getsockopt(level, option)
    return None


def facts_of(finding: Finding, own_ips: Sequence[str], *, has_nodes: bool) -> dict[str, str]:
    """Return the finding in words, by what it is about."""
    silent = "no answer" if has_nodes else "not tested: no node is known"
    has_ipv6 = any(":" in ip for ip in own_ips)
    views = (*finding.seen, *finding.seen6)
    hairpin = {True: "yes", False: "no", None: "not tested"}[finding.hairpin]
    no_nat = finding.behaviour.mapping is Mapping.NONE
    return {
        "UDP": "gets out and back" if views else silent,
        "IPv4": _family_text(finding.seen, silent),
        "IPv6": _family_text(finding.seen6, silent if has_ipv6 else "no address here"),
        "mapping": format_mapping(finding.behaviour.mapping),
        "filtering": format_filtering(finding.behaviour.filtering),
        "hairpin": "no NAT" if no_nat else hairpin,
        "port mapping": ", ".join(p.value for p in finding.protocols) or "none found",
        "MTU": "unknown" if finding.mtu is None else f"{finding.mtu} bytes",
        "observed": "; ".join(f"{by} saw {seen}" for by, seen in views) or "by nobody",
    }


def clock_text(unix_now: float) -> str:
    """Return what the clock shows, for a person to compare."""
    return f"shows {datetime.fromtimestamp(unix_now, UTC):%Y-%m-%d %H:%M} UTC"


def checks_of(finding: Finding) -> Json:
    """Return the finding as JSON values."""
    return {
        "udp": bool(finding.seen or finding.seen6),
        "ipv4": bool(finding.seen),
        "ipv6": bool(finding.seen6),
        "mapping": finding.behaviour.mapping.name.lower(),
        "filtering": finding.behaviour.filtering.name.lower(),
        "hairpin": finding.hairpin,
        "port_mapping": [protocol.value for protocol in finding.protocols],
        "mtu": finding.mtu,
        "observed": [
            {"observer": str(by), "seen": str(seen)} for by, seen in (*finding.seen, *finding.seen6)
        ],
    }


def with_known(finding: Finding, known: Behaviour) -> Finding:
    """Fill in what a tunnel found out before, where nodes were asked too often to tell again."""
    mapping, filtering = finding.behaviour.mapping, finding.behaviour.filtering
    behaviour = Behaviour(
        known.mapping if mapping is Mapping.UNKNOWN else mapping,
        known.filtering if filtering is Filtering.UNKNOWN else filtering,
    )
    return replace(finding, behaviour=behaviour)


def _family_text(seen: tuple[tuple[Address, Address], ...], otherwise: str) -> str:
    ips = dict.fromkeys(view.ip for _, view in seen)
    return f"works, seen as {', '.join(ips)}" if ips else otherwise


async def _mapping(tests: NatTests, own_ips: Sequence[str]) -> MappingFinding:
    try:
        return await tests.test_mapping(own_ips)
    except GinnelError:  # no socket of this IP version
        return MappingFinding()


async def _filtering(tests: NatTests, *, by_address: bool) -> FilterFinding:
    try:
        return await tests.test_filtering(by_address=by_address)
    except GinnelError:
        return FilterFinding()


async def _hairpin(tests: NatTests) -> bool | None:
    try:
        return await tests.test_hairpin()
    except GinnelError:
        return None


def _ask_gateway(gateway: str, local_ip: str) -> tuple[Protocol, ...]:
    found: dict[Protocol, None] = {}
    questions = (encode_pcp_announce(local_ip), encode_pmp_address())
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(GATEWAY_WAIT_S)
        asker.connect((gateway, SERVER_PORT))
        for _ in range(GATEWAY_TRIES):
            for question in questions:
                asker.send(question)
            with contextlib.suppress(TimeoutError):
                while len(found) < len(questions):
                    match decode_response(asker.recv(2048)):
                        case PcpAnnounced():
                            found[Protocol.PCP] = None
                        case PmpAddress():
                            found[Protocol.NAT_PMP] = None
                        case _:
                            pass
    return tuple(protocol for protocol in Protocol if protocol in found)


def _has_igd(local_ip: str) -> bool:
    try:
        upnp.find_router(local_ip)
    except SystemFailure:
        return False
    return True
