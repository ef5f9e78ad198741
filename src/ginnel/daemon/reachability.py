"""Whether strangers reach this machine, and what follows: the record's address, serving others.

Says `yes (how)`, `no (why)` or `unknown yet`. An address that was given (`--advertise`) or is held
by a port mapping needs no test; else fresh sockets are probed (`nat_tests.py`) at the start, every
ten minutes and after each change of the network. A port that was forwarded by hand can't be seen
that way: it has to be advertised.

Source: docs/formats.md (PROBE); DESIGN, "Finding a member" (client mode).
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass

from ginnel.base.addresses import is_public
from ginnel.base.errors import GinnelError
from ginnel.base.types import Address
from ginnel.daemon.nat_tests import NatTests, judge_filtering
from ginnel.daemon.node_core import NodeEvent
from ginnel.daemon.node_shell import NodeShell
from ginnel.discv5.events import NodeAdded, ReflexiveChanged
from ginnel.discv5.requests import Contact
from ginnel.ice.nat import Behaviour, Filtering, Mapping

AGAIN_S = 600.0  # seconds between two tests (Rendezvous)
FIRST_RETRY_S = 20.0  # seconds until another try while nothing could be told; doubles
SETTLE_S = 1.0  # seconds after a change until it is tested
ENOUGH_NODES = 3  # one is asked, two are sent
MAX_ASKED = 16  # nodes that a test chooses from

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outside:
    """What is known of how others reach this machine."""

    text: str = "unknown yet"
    address: Address | None = None  # under which anybody reaches us


class Reachability:
    """See the module's text.

    Args:
        shell: of the node; its core is told what was found.
        advertised: the address that was given, or None.
    """

    def __init__(self, shell: NodeShell, protocol_id: str, advertised: Address | None) -> None:
        self.behaviour = Behaviour()  # as tested, of NAT and filters without any mapped port
        self._shell = shell
        self._protocol_id = protocol_id
        self._advertised = advertised
        self._mapped: tuple[str, Address] | None = None
        self._changed = asyncio.Event()
        self._rng = random.Random()
        self._tested_at: tuple[object, ...] = ()  # the place that `behaviour` is of
        self._tested_as: tuple[object, ...] = ()  # the place, and how many could be asked

    @property
    def outside(self) -> Outside:
        """Return what is known now."""
        if self._advertised is not None:
            return Outside(f"yes (advertised as {self._advertised})", self._advertised)
        seen = self._seen()
        if self._mapped is not None:
            protocol, address = self._mapped
            if is_public(address.ip) and (seen is None or seen.ip == address.ip):
                return Outside(f"yes (mapped by {protocol}: {address})", address)
        mapping, filtering = self.behaviour.mapping, self.behaviour.filtering
        if filtering is Filtering.UNKNOWN or seen is None:
            return Outside()
        if not mapping.keeps_port:
            return Outside("no (behind a NAT that takes another port for each destination)")
        if filtering is Filtering.INDEPENDENT:
            return Outside(f"yes (strangers get in at {seen})", seen)
        what = "a firewall" if mapping is Mapping.NONE else "a NAT"
        return Outside(f"no (behind {what} that keeps strangers out)")

    def set_mapped(self, protocol: str, address: Address | None) -> None:
        """Take an address that a port mapping holds, or that there is none any more."""
        self._mapped = None if address is None else (protocol, address)
        self._tell_core()

    def on_event(self, event: NodeEvent) -> None:
        """Look at what may change the answer."""
        if isinstance(event, ReflexiveChanged):
            is_here = self._tested_at == self._place()
            filtering = self.behaviour.filtering if is_here else Filtering.UNKNOWN
            self.behaviour = Behaviour(self._mapping(), filtering)
            self._tell_core()
        if isinstance(event, ReflexiveChanged | NodeAdded):
            self._changed.set()

    async def run(self) -> None:
        """Test now and then, until cancelled."""
        retry = FIRST_RETRY_S
        while True:
            if self._nodes() and self._seen() is not None:
                await self._test()
                known = self.behaviour.filtering is not Filtering.UNKNOWN
                retry = FIRST_RETRY_S if known else min(AGAIN_S, 2 * retry)
                await self._wait(AGAIN_S * self._rng.uniform(0.9, 1.1) if known else retry)
            else:
                self._tested_as = self._network()
                await self._wait(AGAIN_S)

    async def _wait(self, seconds: float) -> None:
        """Wait so long, or until the network is another than the one that was tested."""
        try:
            async with asyncio.timeout(seconds):
                while self._tested_as == self._network():
                    self._changed.clear()
                    await self._changed.wait()
                await asyncio.sleep(SETTLE_S)  # what else changes with it
        except TimeoutError:
            return

    async def _test(self) -> None:
        self._tested_as = self._network()
        tests = NatTests(self._nodes(), self._protocol_id, self._rng)
        try:
            finding = await tests.test_filtering()
            by_address = None
            if finding.is_open is False:
                by_address = await tests.test_filtering(by_address=True)
        except GinnelError as error:
            logger.warning("reachability: %s", error)
            return
        filtering = judge_filtering(finding, by_address)
        if self._tested_as == self._network():
            self._tested_at = self._place()
            self.behaviour = Behaviour(self._mapping(), filtering)
            self._tell_core()

    def _tell_core(self) -> None:
        core, now, address = self._shell.core, self._shell.now, self.outside.address
        is_restricted = self.behaviour.filtering is Filtering.ADDRESS_AND_PORT
        core.set_nat(None if self._mapped is None else self._mapped[1], is_restricted, now=now)
        if address != core.discovery.record.address():
            logger.info("reachable from outside: %s", self.outside.text)
            core.set_outside(address, now=now)
        self._shell.changed()

    def _network(self) -> tuple[object, ...]:
        """Return what a test depends on."""
        return (*self._place(), min(len(self._nodes()), ENOUGH_NODES))

    def _place(self) -> tuple[object, ...]:
        """Return what is different in another network."""
        seen = self._seen()
        return (self._shell.host_ips, None if seen is None else seen.ip)

    def _seen(self) -> Address | None:
        event = self._shell.core.own.reflexive.get(False)
        return None if event is None else event.address

    def _mapping(self) -> Mapping:
        event = self._shell.core.own.reflexive.get(False)
        if event is None or event.address is None:
            return Mapping.UNKNOWN
        if event.symmetric:
            return Mapping.DEPENDENT
        if event.address.ip in self._shell.host_ips:
            return Mapping.NONE
        return Mapping.INDEPENDENT if event.observers > 1 else Mapping.UNKNOWN

    def _nodes(self) -> list[Contact]:
        records = self._shell.core.discovery.nodes()
        found = (Contact.from_record(record) for record in records)
        contacts = [contact for contact in found if contact is not None]
        wanted = [c for c in contacts if is_public(c.address.ip)] or contacts
        return wanted[:MAX_ASKED]
