"""Finds out how NAT and firewall in front of this machine map and filter, by asking nodes.

Each test uses fresh sockets (`probe_socket.py`). What can't be told for want of nodes stays
unknown, never guessed. The whole takes some seconds where nothing is let in: silence needs time.

Source: RFC 5780 section 4 (the tests, with nodes for its server); docs/formats.md (PROBE).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Address
from ginnel.daemon.probe_socket import ProbeSocket
from ginnel.discv5.requests import Contact
from ginnel.ice.nat import Filtering, Mapping
from ginnel.mesh.probe import decode_probe_answer, encode_probe
from ginnel.mesh.rendezvous import PROTOCOL

WAIT_S = 3.0  # seconds for who was sent: two round trips, and sending a lost packet again
ROUNDS = 4  # nodes asked at most for one finding
NEEDED = 2  # arrivals, or silences, that make a finding (Rendezvous: two successes)
OBSERVERS = 4  # nodes asked how they see one socket


@dataclass(frozen=True, slots=True)
class FilterFinding:
    """Whether strangers got in: who did, and how often those who were sent did not."""

    arrived: tuple[str, ...] = ()
    silences: int = 0

    @property
    def is_open(self) -> bool | None:
        """Return whether anybody is let in; None: too few could be sent to say."""
        if self.arrived:
            return True if len(self.arrived) >= NEEDED else None
        return False if self.silences >= NEEDED else None


@dataclass(frozen=True, slots=True)
class MappingFinding:
    """How nodes saw one socket, and what follows."""

    mapping: Mapping = Mapping.UNKNOWN
    seen: tuple[tuple[Address, Address], ...] = field(default=())  # observer, what it saw


class NatTests:
    """Tests over one IP version.

    Args:
        nodes: that can be asked; those of the other IP version are to be left out.
        protocol_id: of their DHT.
        rng: draws whom to ask.
    """

    def __init__(
        self, nodes: Sequence[Contact], protocol_id: str, rng: random.Random, *, ipv6: bool = False
    ) -> None:
        self._protocol_id = protocol_id
        self._ipv6 = ipv6
        self._nodes = list(nodes)
        rng.shuffle(self._nodes)

    async def test_filtering(
        self, *, by_address: bool = False, rounds: int = ROUNDS
    ) -> FilterFinding:
        """Have strangers sent to fresh sockets until it is clear whether they get in.

        Args:
            by_address: the socket has written to other ports of all nodes' IPs before.
            rounds: nodes asked at most.
        """
        arrived: dict[str, None] = {}
        silences = 0
        for node in self._nodes[:rounds]:
            async with self._open() as socket:
                sent = await self._send_strangers(socket, node, by_address=by_address)
                came = [ip for ip in socket.strangers if ip in sent]
            arrived.update(dict.fromkeys(came))
            silences += bool(sent) and not came
            if len(arrived) >= NEEDED or silences >= NEEDED:
                break
        return FilterFinding(tuple(arrived), silences)

    async def test_mapping(self, own_ips: Sequence[str]) -> MappingFinding:
        """Ask several nodes how they see one socket."""
        seen: dict[Address, Address] = {}
        async with self._open() as socket:
            for node in self._nodes:
                if len(seen) >= OBSERVERS:
                    break
                view = await socket.ping(node)
                if view is not None:
                    seen[node.address] = view
            port = socket.port
        return MappingFinding(judge_mapping(seen, own_ips, port), tuple(seen.items()))

    async def test_hairpin(self) -> bool | None:
        """Say whether a socket here reaches another one here at its outer address."""
        async with self._open() as inner, self._open() as outer:
            for node in self._nodes[:OBSERVERS]:
                address = await inner.ping(node)
                if address is not None:
                    return await outer.ping(inner.contact_at(address)) is not None
        return None

    def _open(self) -> ProbeSocket:
        return ProbeSocket(self._protocol_id, ipv6=self._ipv6)

    async def _send_strangers(
        self, socket: ProbeSocket, node: Contact, *, by_address: bool
    ) -> tuple[str, ...]:
        """Ask a node to send others; return those of them who were not written to."""
        if by_address:
            for other in self._nodes:
                if other.address.ip != node.address.ip:
                    socket.open_filter(other.address.ip)
        payload = await socket.talk(node, PROTOCOL, encode_probe(socket.record))
        try:
            sent = decode_probe_answer(payload or b"")
        except RemoteProtocolError:
            return ()
        sent = tuple(ip for ip in sent if ip != node.address.ip)
        if sent:
            await socket.wait_for_strangers(len(sent), WAIT_S)
        return sent


def judge_filtering(finding: FilterFinding, by_address: FilterFinding | None) -> Filtering:
    """Return what the tests say; `by_address` after packets to other ports of the same IPs."""
    if finding.is_open is None:
        return Filtering.UNKNOWN
    if finding.is_open:
        return Filtering.INDEPENDENT
    is_open = None if by_address is None else by_address.is_open
    if is_open is None:
        return Filtering.DEPENDENT
    return Filtering.ADDRESS if is_open else Filtering.ADDRESS_AND_PORT


def judge_mapping(seen: dict[Address, Address], own_ips: Sequence[str], port: int) -> Mapping:
    """Return what views of one socket at `port` say of the mapping."""
    views = list(dict.fromkeys(seen.values()))
    if len(views) == 1:
        if views[0].ip in own_ips and views[0].port == port:
            return Mapping.NONE
        ips = dict.fromkeys(observer.ip for observer in seen)
        return Mapping.INDEPENDENT if len(ips) > 1 else Mapping.UNKNOWN
    by_ip: dict[str, list[Address]] = {}
    for observer, view in seen.items():
        by_ip.setdefault(observer.ip, []).append(view)
    twice = [found for found in by_ip.values() if len(found) > 1]
    if not views:
        return Mapping.UNKNOWN
    if not twice:
        return Mapping.DEPENDENT
    same = all(len(dict.fromkeys(found)) == 1 for found in twice)
    return Mapping.ADDRESS if same else Mapping.ADDRESS_AND_PORT
