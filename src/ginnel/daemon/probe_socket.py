"""A fresh UDP socket with a node identity of its own, to find out what NATs and filters do.

It speaks discv5 with nodes that it is given and joins nothing. A port that is new has no history:
what arrives there from an address that it did not write to was let in by filters, not by us. The
shared port of a running tunnel could not tell: in a small DHT it has written to everybody.
"""

from __future__ import annotations

import asyncio
import os
import random
from types import TracebackType
from typing import Self, TypeAlias

from ginnel.base.types import Address, Secret, Transmit, make_address
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.enr import Enr
from ginnel.discv5.events import (
    DiscoveryEvent,
    PongReceived,
    RequestFailed,
    SessionOpened,
    TalkAnswered,
)
from ginnel.discv5.keys import new_private_key
from ginnel.discv5.protocol import DiscoveryCore
from ginnel.discv5.requests import Contact
from ginnel.net.driver import Driver
from ginnel.net.udp import UdpSocket

DISCARD_PORT = 9  # RFC 863: a packet there asks nobody for an answer
MAX_STRANGERS = 64  # addresses remembered that came unasked

_Outcome: TypeAlias = PongReceived | TalkAnswered | RequestFailed


class ProbeSocket:
    """One fresh socket; use it as `async with`, inside a running loop.

    Args:
        protocol_id: of the DHT whose nodes are asked.
        ipv6: over IPv6 instead of IPv4.

    Raises:
        SystemFailure: no socket can be had.
    """

    def __init__(self, protocol_id: str, *, ipv6: bool = False) -> None:
        self.strangers: dict[str, Address] = {}  # who came unasked, by IP
        self._arrived = asyncio.Event()
        self._waiting: dict[int, asyncio.Future[_Outcome]] = {}
        self._socket = UdpSocket.open(make_address("::" if ipv6 else "0.0.0.0", 0))
        self._discovery = DiscoveryCore(
            DiscoveryConfig(
                protocol_id=protocol_id.encode(),
                client_mode=True,
                talk_protocols=(),
                ip_versions=(6,) if ipv6 else (4,),
            ),
            Secret(new_private_key(os.urandom)),
            random_bytes=os.urandom,
            rng=random.Random(os.urandom(16)),
            now=asyncio.get_running_loop().time(),
        )
        self._driver: Driver[DiscoveryEvent] = Driver(self._discovery, self._socket, self._on_event)

    async def __aenter__(self) -> Self:
        """Begin to receive."""
        self._driver.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End, and close the socket."""
        self._driver.stop()
        self._socket.close()
        for future in self._waiting.values():
            future.cancel()

    @property
    def record(self) -> Enr:
        """Return the record of this socket's node; it holds no address."""
        return self._discovery.record

    @property
    def port(self) -> int:
        """Return the local port."""
        return self._socket.address.port

    def contact_at(self, address: Address) -> Contact:
        """Return how to reach this socket's node at one of its outer addresses."""
        return Contact(self.record.node_id, address, self.record.public_key)

    async def ping(self, contact: Contact) -> Address | None:
        """PING a node; return how it sees this socket, or None without an answer."""
        outcome = await self._ask(contact, self._discovery.ping(contact, now=self._driver.now()))
        return outcome.address if isinstance(outcome, PongReceived) else None

    async def talk(self, contact: Contact, protocol: bytes, payload: bytes) -> bytes | None:
        """Send a TALKREQ; return the answer, or None without one."""
        now = self._driver.now()
        number = self._discovery.talk_request(contact, protocol, payload, now=now)
        outcome = await self._ask(contact, number)
        return outcome.payload if isinstance(outcome, TalkAnswered) else None

    def open_filter(self, ip: str) -> None:
        """Write to another port of an IP: a filter that goes by IPs alone lets it in then."""
        self._socket.send([Transmit(b"\0", Address(ip, DISCARD_PORT))])

    async def wait_for_strangers(self, count: int, seconds: float) -> None:
        """Wait until so many came unasked, or the time is over."""
        try:
            async with asyncio.timeout(seconds):
                while len(self.strangers) < count:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return

    async def _ask(self, contact: Contact, number: int) -> _Outcome:
        future: asyncio.Future[_Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._driver.wake()
        try:
            return await future
        finally:
            self._waiting.pop(number, None)

    def _on_event(self, event: DiscoveryEvent) -> None:
        match event:
            case PongReceived() | TalkAnswered() | RequestFailed():
                future = self._waiting.get(event.request)
                if future is not None and not future.done():
                    future.set_result(event)
            case SessionOpened(initiated=False) if len(self.strangers) < MAX_STRANGERS:
                self.strangers.setdefault(event.address.ip, event.address)
                self._arrived.set()
            case _:
                pass
