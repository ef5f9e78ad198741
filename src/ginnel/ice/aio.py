"""ICE on asyncio: `Agent` over any datagram source (a UDP socket, or what shares one).

    agent = Agent(UdpSocket.open(Address("192.0.2.1", 0)), controlling=True)
    async with agent:
        agent.add_local_candidate(make_host(agent_address))
        ... signal agent.describe(), sealed; take the other side's
        agent.take(description)
        local, remote = await agent.connect()
        agent.send(b"hello")
        data = await agent.receive()

What is no STUN message is the user's data; it is taken from the selected remote address only.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import deque
from types import TracebackType
from typing import Self

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import DatagramSource
from ginnel.base.errors import GinnelError, RemoteProtocolError, UsageError
from ginnel.base.types import Address, Deadline, Transmit, make_address
from ginnel.ice import stun
from ginnel.ice.agent import AgentCore
from ginnel.ice.candidate import (
    MAX_REMOTE_CANDIDATES,
    Candidate,
    CandidateKind,
    make_remote,
)
from ginnel.ice.events import AgentConfig, IceEvent, IceState, StateChanged
from ginnel.net.driver import Driver

MAX_WAITING = 256  # datagrams of the user that wait for `receive`; more are dropped
MAX_EARLY = 16  # datagrams kept until a pair is selected: the other side may be the first
MAX_DESCRIPTION = 16_384  # characters; 20 candidates have 2,000
MAX_EVENTS = 256  # kept for the user to read; the oldest go


class IceFailed(GinnelError):
    """No path was found, or it is gone; the text says why."""


class _Mux:
    """An agent core and the user's datagrams, as one core."""

    def __init__(self, core: AgentCore) -> None:
        self.core = core
        self.data: asyncio.Queue[bytes] = asyncio.Queue(MAX_WAITING)
        self.early: deque[tuple[bytes, Address]] = deque(maxlen=MAX_EARLY)
        self.out: deque[Transmit] = deque()

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        try:
            message = stun.decode_message(data)
        except stun.StunError:
            self.early.append((data, source))
            self._deliver()
            return
        self.core.handle_message(message, source, now=now, local_ip=local_ip)
        self._deliver()

    def _deliver(self) -> None:
        """Hand on what came from the selected pair; before there is one a few are kept."""
        selected = self.core.selected
        while selected is not None and self.early:
            data, source = self.early.popleft()
            if source == selected[1].address and not self.data.full():
                self.data.put_nowait(data)

    def handle_timeout(self, *, now: float) -> None:
        self.core.handle_timeout(now=now)

    def poll_transmit(self) -> Transmit | None:
        return self.out.popleft() if self.out else self.core.poll_transmit()

    def poll_event(self) -> IceEvent | None:
        return self.core.poll_event()

    def poll_deadline(self) -> Deadline | None:
        return self.core.poll_deadline()


class Agent:
    """One ICE agent on asyncio; see the module. The caller closes the source."""

    def __init__(
        self,
        source: DatagramSource,
        *,
        controlling: bool,
        config: AgentConfig | None = None,
        random_bytes: RandomBytes = os.urandom,
        rng: Rng | None = None,
    ) -> None:
        self._core = AgentCore(
            config or AgentConfig(),
            controlling=controlling,
            random_bytes=random_bytes,
            rng=rng or random.Random(),
        )
        self._mux = _Mux(self._core)
        self._driver: Driver[IceEvent] = Driver(self._mux, source, self._on_event)
        self._changed = asyncio.Event()
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

    async def __aenter__(self) -> Self:
        self._driver.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def add_local_candidate(self, candidate: Candidate) -> None:
        """Add an address of ours."""
        self._core.add_local_candidate(candidate, now=self._driver.now())
        self._driver.wake()

    def add_remote_candidate(self, candidate: Candidate) -> None:
        """Add an address of the other side."""
        self._core.add_remote_candidate(candidate, now=self._driver.now())
        self._driver.wake()

    def set_remote_credentials(self, ufrag: str, pwd: str) -> None:
        """Take the other side's credentials."""
        self._core.set_remote_credentials(ufrag, pwd, now=self._driver.now())
        self._driver.wake()

    def end_of_candidates(self) -> None:
        """Say that no candidate of either side will come any more."""
        self._core.end_local_candidates()
        self._core.end_remote_candidates()
        self._driver.wake()

    def describe(self) -> str:
        """Return our credentials and candidates as one line of JSON, to signal sealed."""
        candidates = [
            [int(c.kind), c.address.ip, c.address.port, c.priority, c.foundation]
            for c in self._core.local_candidates
        ]
        said = {"ufrag": self.ufrag, "pwd": self.pwd, "candidates": candidates}
        return json.dumps(said, separators=(",", ":"))

    def take(self, description: str) -> None:
        """Take what the other side's `describe` returned; candidates may also come later.

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

    def restart(self) -> None:
        """Begin a new session with new credentials; the path of now stays until it has its own.

        Signal `describe()` anew and take the other side's, who restarts too.
        """
        self._core.restart(now=self._driver.now())
        self._driver.wake()

    def check_now(self) -> bool:
        """Ask at once whether the path answers; the event `PathChecked` tells. False: no path."""
        result = self._core.check_now(now=self._driver.now())
        self._driver.wake()
        return result

    async def connect(self) -> tuple[Candidate, Candidate]:
        """Check until a pair is selected; return it (local, remote).

        Raises:
            IceFailed: no path, or closed meanwhile.
        """
        self._core.start(now=self._driver.now())
        self._driver.wake()
        while (selected := self._core.selected) is None:
            if self.state in (IceState.FAILED, IceState.CLOSED):
                raise IceFailed(self._core.why_failed() or "closed")
            self._changed.clear()
            await self._changed.wait()
        return selected

    def send(self, data: bytes) -> None:
        """Send a datagram on the selected pair.

        Raises:
            UsageError: there is none yet.
        """
        selected = self._core.selected
        if selected is None:
            raise UsageError("connect first")
        local, remote = selected
        self._mux.out.append(Transmit(data, remote.address, local.base.ip))
        self._driver.wake()

    async def receive(self) -> bytes:
        """Return the next datagram that came on the selected pair."""
        return await self._mux.data.get()

    def close(self) -> None:
        """Stop; harmless when stopped."""
        self._core.close()
        self._changed.set()
        self._driver.stop()

    def _on_event(self, event: IceEvent) -> None:
        self.events.append(event)
        if isinstance(event, StateChanged):
            self._changed.set()
