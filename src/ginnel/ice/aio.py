"""ICE on asyncio: `Agent` with sockets of its own, or on a `Port` that several agents share.

    settings = IceSettings(urls=("stun:stun.example.org", "turn:turn.example.org USER PASSWORD"))
    async with Agent(controlling=True, settings=settings) as agent:
        await agent.gather()
        ... signal agent.describe(), sealed; take the other side's
        agent.take(description)
        local, remote = await agent.connect()
        agent.send(b"hello")
        data = await agent.receive()

What is no STUN message is the user's data; it is taken from the selected remote address only. The
environment wins over the settings (`GINNEL_ICE_KEEPALIVE` and so on).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import DatagramSource
from ginnel.base.errors import GinnelError, RemoteProtocolError, UsageError
from ginnel.base.links import CloseLink, LinkEvent, OpenLink, SendLink
from ginnel.base.servers import Server, Transport
from ginnel.base.types import Address, make_address
from ginnel.ice.agent import AgentCore
from ginnel.ice.candidate import (
    MAX_REMOTE_CANDIDATES,
    Candidate,
    CandidateKind,
    make_remote,
)
from ginnel.ice.events import CandidateFound, IceEvent, IceState, StateChanged
from ginnel.ice.port import AgentEvent, DataArrived, Foreign, PortAgent, PortCore, PortEvent
from ginnel.ice.settings import IceSettings
from ginnel.net.driver import Driver
from ginnel.net.dual import DualSocket, open_same_port
from ginnel.net.interfaces import addresses_at, default_routes, list_addresses, usable_addresses
from ginnel.net.link import make_tls_context
from ginnel.net.links import StreamLinks
from ginnel.net.resolve import resolve
from ginnel.net.udp import UdpSocket

MAX_DESCRIPTION = 16_384  # characters; 20 candidates have 2,000
MAX_EVENTS = 256  # kept for the user to read; the oldest go
GATHER_WAIT_S = 5.0  # seconds that `gather` waits for servers, at most
GATHER_GRACE_S = 0.3  # seconds more for slower servers once there is a candidate of each kind


class IceFailed(GinnelError):
    """No path was found, or it is gone; the text says why."""


class Port:
    """One UDP port: what gathers for it, and its agents; use it with `async with`.

    Args:
        source: an external socket, shared with other protocols or not, that the caller closes;
            None: sockets of its own, one for each IP version.
        settings: what is gathered.
        bound: where an external source is bound, unless it has an `address` that says so.
        on_foreign: takes the datagrams that are no agent's, inside the loop.
        environ: variables that win over the settings.
    """

    def __init__(
        self,
        source: DatagramSource | None = None,
        settings: IceSettings | None = None,
        *,
        bound: Sequence[Address] = (),
        on_foreign: Callable[[bytes, Address], None] = lambda data, source: None,
        random_bytes: RandomBytes = os.urandom,
        rng: Rng | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.settings = (settings or IceSettings()).with_environment(environ)
        self.random_bytes = random_bytes
        self.rng = rng or random.Random(random_bytes(16))
        self._tls = _tls_for(self.settings)
        self._core = PortCore(self.settings, random_bytes=random_bytes, rng=self.rng)
        self._own: UdpSocket | DualSocket | None = None
        if source is None:
            any_ips = self.settings.allowed_ips(["0.0.0.0", "::"])
            self._own, bound = open_same_port(any_ips)
            source = self._own
        elif isinstance(source, UdpSocket) and not bound:
            bound = (source.address,)
        self._bound = tuple(bound)
        self._driver: Driver[PortEvent] = Driver(self._core, source, self._on_event)
        self._on_foreign = on_foreign
        self._agents: dict[PortAgent, Agent] = {}
        self._links = StreamLinks(self._tls, self._on_link)
        self._changed = asyncio.Event()
        self._stack = AsyncExitStack()
        self._tasks: asyncio.TaskGroup | None = None
        self._jobs: list[asyncio.Task[None]] = []

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Return what was gathered."""
        return self._core.gatherer.candidates

    @property
    def failures(self) -> dict[str, str]:
        """Return the servers that gave nothing, and why, in words."""
        return dict(self._core.gatherer.failures)

    async def __aenter__(self) -> Self:
        self._tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._driver.start()
        self._jobs.append(self._tasks.create_task(self._links.run()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for agent in list(self._agents.values()):
            agent.close()
        self._core.close(now=self._driver.now())
        self._driver.wake()
        self._driver.stop()
        self._links.close()
        for job in self._jobs:
            job.cancel()
        await self._stack.aclose()  # the user's exception goes on as it is, in no group
        if self._own is not None:
            self._own.close()

    def start_gathering(self) -> None:
        """Begin to gather; harmless when begun. Candidates reach all agents as they are found.

        Raises:
            SystemFailure: the kernel does not tell this machine's addresses.
            UsageError: not inside `async with`, or nobody said where the socket is bound.
        """
        if self._tasks is None:
            raise UsageError("use the port with `async with`")
        if len(self._jobs) > 1:
            return
        self._core.start(find_bases(self._bound, self.settings), now=self._driver.now())
        self._jobs += [self._tasks.create_task(self._add(s)) for s in self.settings.servers]
        self._driver.wake()

    async def gathered(self, wait_s: float = GATHER_WAIT_S) -> None:
        """Wait until every server has answered or failed, or others have and it takes too long."""
        loop = asyncio.get_running_loop()
        gatherer, until, has_enough = self._core.gatherer, loop.time() + wait_s, False
        while not gatherer.is_settled:
            if gatherer.is_enough and not has_enough:
                has_enough, until = True, min(until, loop.time() + GATHER_GRACE_S)
            self._changed.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._changed.wait()
            except TimeoutError:
                return

    # For agents

    def now(self) -> float:
        """Return the clock of the cores: monotonic seconds."""
        return self._driver.now()

    def join(self, agent: Agent, core: AgentCore, settings: IceSettings) -> PortAgent:
        """Let an agent use the port (`Agent` calls this)."""
        joined = self._core.add_agent(core, settings, now=self.now())
        self._agents[joined] = agent
        self._driver.wake()
        return joined

    def leave(self, joined: PortAgent) -> None:
        """End an agent's use (`Agent` calls this)."""
        self._core.remove_agent(joined, now=self.now())
        self._driver.wake()
        self._agents.pop(joined, None)

    def send(self, joined: PortAgent, data: bytes) -> None:
        """Send on an agent's selected pair (`Agent` calls this)."""
        self._core.send(joined, data, now=self.now())
        self._driver.wake()

    def wake(self) -> None:
        """Carry on after a command to an agent's core (`Agent` calls this)."""
        self._core.settle(now=self.now())
        self._driver.wake()

    # Inside

    async def _add(self, server: Server) -> None:
        addresses = await resolve(server.host, server.port)
        self._core.add_server(server, addresses, now=self.now())
        self._driver.wake()

    def _on_link(self, event: LinkEvent) -> None:
        self._core.on_link(event, now=self.now())
        self._driver.wake()

    def _on_event(self, event: PortEvent) -> None:
        if isinstance(event, Foreign):
            self._on_foreign(event.data, event.source)
        elif isinstance(event, OpenLink | SendLink | CloseLink):
            self._links.on_command(event)
        elif isinstance(event, AgentEvent | DataArrived):
            agent = self._agents.get(event.agent)
            if agent is not None:
                agent.on_event(event)
        else:
            self._changed.set()


class Agent:
    """One ICE agent on asyncio; see the module.

    Args:
        port: a port that several agents share, or a source that this one alone uses (the caller
            closes either); None: sockets of its own.
        controlling: exactly one side; a conflict is resolved.
        settings: timeouts, kinds of candidates, servers; the port's are its own.
    """

    def __init__(
        self,
        port: Port | DatagramSource | None = None,
        *,
        controlling: bool,
        settings: IceSettings | None = None,
        random_bytes: RandomBytes = os.urandom,
        rng: Rng | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._is_sharing = isinstance(port, Port)
        if not isinstance(port, Port):
            port = Port(port, settings, random_bytes=random_bytes, rng=rng, environ=environ)
        self._port = port
        self._settings = (settings or port.settings).with_environment(environ)
        self._core = AgentCore(
            self._settings, controlling=controlling, random_bytes=random_bytes, rng=port.rng
        )
        self._joined: PortAgent | None = None
        self._changed = asyncio.Event()
        self._arrived = asyncio.Event()
        self._found: asyncio.Queue[Candidate] = asyncio.Queue()
        self.events: deque[IceEvent] = deque(maxlen=MAX_EVENTS)  # the last ones

    @property
    def ufrag(self) -> str:
        """Return our user name fragment, to signal."""
        return self._core.ufrag

    @property
    def pwd(self) -> str:
        """Return our password, to signal sealed."""
        return self._core.pwd

    @property
    def state(self) -> IceState:
        """Return the agent's state."""
        return self._core.state

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Return our candidates."""
        return self._core.local_candidates

    @property
    def port(self) -> Port:
        """Return the port: what it gathered, and which servers failed."""
        return self._port

    async def __aenter__(self) -> Self:
        if not self._is_sharing:
            await self._port.__aenter__()
        self._joined = self._port.join(self, self._core, self._settings)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        if not self._is_sharing:
            await self._port.__aexit__(kind, error, traceback)

    # Candidates

    async def gather(self, wait_s: float = GATHER_WAIT_S) -> tuple[Candidate, ...]:
        """Gather, and wait for servers up to so many seconds; later candidates come all the same.

        A silent server is waited for only until the others have given a candidate of each kind.
        To signal each candidate when it is found, call it in a task and use `next_candidate`.
        """
        self._port.start_gathering()
        await self._port.gathered(wait_s)
        self._core.end_local_candidates()
        self._port.wake()
        return self.candidates

    async def next_candidate(self) -> Candidate:
        """Return the next candidate of ours, once it is found: to signal it alone (trickle)."""
        return await self._found.get()

    def add_local_candidate(self, candidate: Candidate) -> None:
        """Add an address of ours that was found by other means."""
        self._core.add_local_candidate(candidate, now=self._port.now())
        self._port.wake()

    def add_remote_candidate(self, candidate: Candidate) -> None:
        """Add an address of the other side."""
        self._core.add_remote_candidate(candidate, now=self._port.now())
        self._port.wake()

    def set_remote_credentials(self, ufrag: str, pwd: str) -> None:
        """Take the other side's credentials."""
        self._core.set_remote_credentials(ufrag, pwd, now=self._port.now())
        self._port.wake()

    def end_of_candidates(self) -> None:
        """Say that no candidate of either side will come any more."""
        self._core.end_local_candidates()
        self._core.end_remote_candidates()
        self._port.wake()

    def describe(self) -> str:
        """Return our credentials and candidates as one line of JSON, to signal sealed.

        It may be signalled again when there are more candidates.
        """
        candidates = [
            [int(c.kind), c.address.ip, c.address.port, c.priority, c.foundation]
            for c in self._core.local_candidates
        ]
        said = {"ufrag": self.ufrag, "pwd": self.pwd, "candidates": candidates}
        return json.dumps(said, separators=(",", ":"))

    def take(self, description: str) -> None:
        """Take what the other side's `describe` returned, once or again.

        Raises:
            RemoteProtocolError: it is no description.
        """
        try:
            said = json.loads(description[:MAX_DESCRIPTION])
            ufrag, pwd = str(said["ufrag"]), str(said["pwd"])
            candidates = [
                make_remote(CandidateKind(kind), make_address(ip, port), int(priority), str(name))
                for kind, ip, port, priority, name in said["candidates"][:MAX_REMOTE_CANDIDATES]
            ]
        except (ValueError, TypeError, KeyError, UsageError) as error:
            raise RemoteProtocolError(f"no description of an agent: {error}") from None
        for candidate in candidates:
            self.add_remote_candidate(candidate)
        self.set_remote_credentials(ufrag, pwd)

    # The path

    def restart(self) -> None:
        """Begin a new session with new credentials; the path of now stays until it has its own.

        Signal `describe()` anew and take the other side's, who restarts too.
        """
        self._core.restart(now=self._port.now())
        self._port.wake()

    def check_now(self) -> bool:
        """Ask at once whether the path answers; the event `PathChecked` tells. False: no path."""
        result = self._core.check_now(now=self._port.now())
        self._port.wake()
        return result

    async def connect(self) -> tuple[Candidate, Candidate]:
        """Check until a pair is selected; return it (local, remote).

        Raises:
            IceFailed: no path, or closed meanwhile.
        """
        self._core.start(now=self._port.now())
        self._port.wake()
        while (selected := self._core.selected) is None:
            if self.state in (IceState.FAILED, IceState.CLOSED):
                raise IceFailed(self._core.why_failed() or "closed")
            self._changed.clear()
            await self._changed.wait()
        return selected

    def send(self, data: bytes) -> None:
        """Send a datagram on the selected pair, through the relay where it is relayed.

        Raises:
            UsageError: there is none yet.
        """
        if self._joined is None:
            raise UsageError("connect first")
        self._port.send(self._joined, data)

    async def receive(self) -> bytes:
        """Return the next datagram that came on the selected pair.

        Raises:
            UsageError: not inside `async with`.
            IceFailed: the path is gone, or closed.
        """
        if self._joined is None:
            raise UsageError("use the agent with `async with`")
        while not self._joined.waiting:
            if self.state in (IceState.FAILED, IceState.CLOSED):
                raise IceFailed(self._core.why_failed() or "closed")
            self._arrived.clear()
            await self._arrived.wait()
        return self._joined.waiting.popleft()

    def close(self) -> None:
        """Stop; harmless when stopped."""
        if self._joined is not None:
            self._port.leave(self._joined)
        else:
            self._core.close()
        self._changed.set()
        self._arrived.set()

    def on_event(self, event: AgentEvent | DataArrived) -> None:
        """Take what the port tells (`Port` calls this)."""
        if isinstance(event, DataArrived):
            self._arrived.set()
            return
        self.events.append(event.event)
        if isinstance(event.event, StateChanged):
            self._changed.set()
            self._arrived.set()
        elif isinstance(event.event, CandidateFound):
            self._found.put_nowait(event.event.candidate)


def find_bases(bound: Sequence[Address], settings: IceSettings) -> list[Address]:
    """Return this machine's addresses at the bound ports, those of default routes first.

    Containers' bridges and other VPNs are left out (`net.interfaces`).

    Raises:
        SystemFailure: the kernel does not tell them.
        UsageError: nothing is bound.
    """
    if not bound:
        raise UsageError("say where the socket is bound")
    addresses = list_addresses()
    if settings.interface_filter is not None:
        addresses = [a for a in addresses if settings.interface_filter(a.name)]
    preferred = [route.name for route in default_routes()]
    usable = usable_addresses(
        addresses, exclude_names=settings.interface_blacklist, preferred=preferred
    )
    if settings.allow_loopback:
        usable += [a for a in addresses if a.is_loopback]
    return addresses_at(bound, [address.ip for address in usable])


def _tls_for(settings: IceSettings) -> ssl.SSLContext | None:
    """Read the authorities if a server is reached over TLS."""
    if all(server.transport is not Transport.TLS for server in settings.servers):
        return None
    try:
        return make_tls_context(Path(settings.ca_file) if settings.ca_file else None)
    except OSError as error:
        raise UsageError(f"ca_file = {settings.ca_file!r}: {error.strerror or error}") from None
