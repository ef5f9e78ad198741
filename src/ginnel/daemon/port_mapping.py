"""Keeps the shared UDP port mapped at the router while the tunnel runs.

Runs the core for PCP and NAT-PMP on a socket of its own, searches a UPnP router in a thread at the
same time, maps there where the router serves neither of the two, and tells of each change. Nothing
is mapped where this machine has a public address, or no router. A mapping is renewed at half of its
life and removed at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

from ginnel.base.addresses import is_public
from ginnel.base.errors import GinnelError, SystemFailure
from ginnel.base.types import Address, make_address
from ginnel.net import upnp
from ginnel.net.driver import Driver
from ginnel.net.interfaces import default_routes
from ginnel.net.portmap import (
    AGAIN_S,
    LEASE_S,
    Mapped,
    PortMapConfig,
    PortMapCore,
    PortMapEvent,
    Protocol,
)
from ginnel.net.portmap_wire import SERVER_PORT
from ginnel.net.udp import UdpSocket

LEAVE_S = 1.0  # seconds for the removal at the end
PERMANENT_CHECK_S = 3600.0  # seconds until a permanent mapping is asked for again
SEARCH_LIFE_S = 60.0  # seconds for which a router that was found is taken to be there
LOOK_AGAIN_S = 60.0  # seconds until a machine without a router looks for one again
CHOICES: dict[str, tuple[Protocol, ...]] = {  # of the setting `port_mapping`
    "auto": tuple(Protocol),
    "pcp": (Protocol.PCP,),
    "nat-pmp": (Protocol.NAT_PMP,),
    "upnp": (Protocol.UPNP,),
    "off": (),
}

OnChange = Callable[[Protocol | None, Address | None], None]
ResultT = TypeVar("ResultT")
logger = logging.getLogger(__name__)


class PortMapping:
    """See the module's text.

    Args:
        port: the shared port.
        choice: the setting `port_mapping`.
        on_change: told the protocol and the outer address, or twice None.
    """

    def __init__(self, port: int, choice: str, on_change: OnChange) -> None:
        self.reason = "not tried yet"  # why there is none
        self.protocol: Protocol | None = None
        self.address: Address | None = None
        self._port = port
        self._protocols = CHOICES[choice]
        self._on_change = on_change
        self._way: tuple[str, str] | None = None  # the router, and our address towards it
        self._moved = asyncio.Event()
        self._events: asyncio.Queue[PortMapEvent] = asyncio.Queue()

    def on_network_changed(self) -> None:
        """This machine's addresses or routes may have changed: begin anew if the router did."""
        if find_gateway() != self._way:
            self._moved.set()

    def text(self) -> str:
        """Return what is held, or why nothing is."""
        if self.protocol is not None:
            return f"held by {self.protocol.value}: {self.address}"
        return f"none held: {self.reason}" if self.reason else ""

    async def run(self) -> None:
        """Keep the port mapped, until cancelled; then remove the mapping."""
        if not self._protocols:
            self.reason = "switched off (setting port_mapping)"
            return
        while True:
            self._moved.clear()
            self._way = way = find_gateway()
            if way is None:
                self.reason = "no router: this machine has a public address or no default route"
                await self._wait_for_move(LOOK_AGAIN_S)
                continue
            gateway, local_ip = way
            try:
                await self._serve(gateway, local_ip)
            except GinnelError as error:
                self.reason = str(error)
                await self._wait_for_move(LOOK_AGAIN_S)
            finally:
                self._tell(None, None)

    async def _serve(self, gateway: str, local_ip: str) -> None:
        """Map by what the router serves, until the network changes."""
        ours = tuple(p for p in self._protocols if p is not Protocol.UPNP)
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        search = None if Protocol.UPNP not in self._protocols else _RouterSearch(local_ip)
        try:
            if ours:
                is_moved = await self._serve_datagrams(gateway, local_ip, ours)
                if is_moved:
                    return
            if search is not None:
                if loop.time() - began_at > SEARCH_LIFE_S:  # a mapping was held meanwhile
                    search.close()
                    search = _RouterSearch(local_ip)
                await self._serve_upnp(await search.router)
        finally:
            if search is not None:
                search.close()
        if not self._moved.is_set():
            await self._wait_for_move(AGAIN_S)

    async def _serve_datagrams(
        self, gateway: str, local_ip: str, protocols: tuple[Protocol, ...]
    ) -> bool:
        """Map by PCP or NAT-PMP; return whether it ended because the network changed."""
        source = UdpSocket.open(Address(local_ip, 0))
        config = PortMapConfig(
            Address(gateway, SERVER_PORT),
            local_ip,
            self._port,
            protocols=protocols,
            gives_up_soon=Protocol.UPNP in self._protocols,
        )
        core = PortMapCore(
            config,
            random_bytes=os.urandom,
            rng=random.Random(os.urandom(16)),
            now=asyncio.get_running_loop().time(),
        )
        driver: Driver[PortMapEvent] = Driver(core, source, self._events.put_nowait)
        driver.start()
        try:
            return await self._follow(core)
        finally:
            core.close(now=driver.now())
            driver.stop()
            source.close()
            self._events = asyncio.Queue()

    async def _follow(self, core: PortMapCore) -> bool:
        while True:
            event = await self._next_event()
            if event is None:
                return True
            if isinstance(event, Mapped):
                self._tell(event.protocol, event.address)
                continue
            self.reason = event.reason
            self._tell(None, None)
            if core.mapped is None:
                return False

    async def _next_event(self) -> PortMapEvent | None:
        """Return the core's next event, or None when the network has changed."""
        moved = asyncio.ensure_future(self._moved.wait())
        event = asyncio.ensure_future(self._events.get())
        try:
            await asyncio.wait((moved, event), return_when=asyncio.FIRST_COMPLETED)
            return None if moved.done() else event.result()
        finally:
            moved.cancel()
            event.cancel()

    async def _serve_upnp(self, router: upnp.Router) -> None:
        """Map by UPnP until the network changes or the router refuses."""
        mapping = await in_thread(lambda: upnp.add_mapping(router, self._port, self._port, LEASE_S))
        external = mapping.address.port
        try:
            while not self._moved.is_set():
                self._tell(Protocol.UPNP, mapping.address)
                await self._wait_for_move(mapping.lifetime / 2 or PERMANENT_CHECK_S)
                if not self._moved.is_set():
                    mapping = await in_thread(
                        lambda: upnp.add_mapping(router, self._port, external, LEASE_S)
                    )
        finally:
            with contextlib.suppress(GinnelError, TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await in_thread(lambda: upnp.remove_mapping(router, external))

    async def _wait_for_move(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._moved.wait()

    def _tell(self, protocol: Protocol | None, address: Address | None) -> None:
        if (protocol, address) == (self.protocol, self.address):
            return
        self.protocol, self.address = protocol, address
        if protocol is not None:
            self.reason = ""
            logger.info("the router maps this port by %s", protocol.value)
        self._on_change(protocol, address)


class _RouterSearch:
    """A search for a UPnP router, begun at once, beside what else is tried."""

    def __init__(self, local_ip: str) -> None:
        self.router = asyncio.ensure_future(in_thread(lambda: upnp.find_router(local_ip)))

    def close(self) -> None:
        """Forget it; that nobody wants its outcome is no error."""
        if self.router.done() and not self.router.cancelled():
            self.router.exception()
        self.router.cancel()


def find_gateway() -> tuple[str, str] | None:
    """Return the router's IPv4 address and ours towards it; None without a router or a NAT."""
    try:
        routes = [route for route in default_routes() if not route.is_ipv6]
    except SystemFailure:
        return None
    if not routes or routes[0].gateway is None:
        return None
    gateway = routes[0].gateway
    try:
        local_ip = local_ip_towards(gateway)
    except OSError:
        return None
    return None if is_public(local_ip) else (gateway, local_ip)


def local_ip_towards(ip: str) -> str:
    """Return the address of ours that packets to this IP leave from; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((ip, SERVER_PORT))
        return make_address(probe.getsockname()[0], 0).ip


async def in_thread(work: Callable[[], ResultT]) -> ResultT:
    """Run blocking work in a thread that nobody waits for at the end of the process.

    Raises:
        Exception: what the work raised.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[ResultT] = loop.create_future()

    def finish(result: ResultT | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # the work's own result

    def run() -> None:
        result: ResultT | None = None
        error: Exception | None = None
        try:
            result = work()
        except Exception as caught:  # the top of a thread; raised again where it is awaited
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, name="upnp", daemon=True).start()
    return await future
