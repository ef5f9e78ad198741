"""ICE on asyncio: `Agent` over any datagram source (a UDP socket, or what shares one).

    agent = Agent(UdpSocket.open(Address("192.0.2.1", 0)), controlling=True)
    async with agent:
        agent.add_local_candidate(make_host(agent_address))
        ... signal agent.ufrag, agent.pwd and the candidates; take the other side's
        agent.set_remote_credentials(ufrag, pwd)
        agent.add_remote_candidate(candidate)
        local, remote = await agent.connect()
        agent.send(b"hello")
        data = await agent.receive()

What is no STUN message is the user's data; it is taken from the selected remote address only.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import deque
from types import TracebackType
from typing import Self

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import DatagramSource
from ginnel.base.errors import GinnelError, UsageError
from ginnel.base.types import Address, Deadline, Transmit
from ginnel.ice import stun
from ginnel.ice.agent import AgentCore
from ginnel.ice.candidate import Candidate
from ginnel.ice.events import AgentConfig, IceEvent, IceState, StateChanged
from ginnel.net.driver import Driver

MAX_WAITING = 256  # datagrams of the user that wait for `receive`; more are dropped
MAX_EVENTS = 256  # kept for the user to read; the oldest go


class IceFailed(GinnelError):
    """No path was found, or it is gone; the text says why."""


class _Mux:
    """An agent core and the user's datagrams, as one core."""

    def __init__(self, core: AgentCore) -> None:
        self.core = core
        self.data: asyncio.Queue[bytes] = asyncio.Queue(MAX_WAITING)
        self.out: deque[Transmit] = deque()

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        try:
            message = stun.decode_message(data)
        except stun.StunError:
            selected = self.core.selected
            if selected is not None and source == selected[1].address and not self.data.full():
                self.data.put_nowait(data)
            return
        self.core.handle_message(message, source, now=now, local_ip=local_ip)

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
