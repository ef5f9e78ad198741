"""CORE: one UDP port with any number of agents, what gathers for them, and their users' data.

Candidates go to every agent, but for kinds that its own settings don't want. A STUN message goes to
whom it answers or names; other datagrams go to the agent whose selected pair they came on, and what
is nobody's comes out as `Foreign`.

Invariant: no agent's user sees data from another address than its selected remote one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import earliest
from ginnel.base.errors import UsageError
from ginnel.base.links import LinkCommand, LinkEvent
from ginnel.base.servers import Server
from ginnel.base.types import Address, Deadline, Transmit
from ginnel.ice import stun
from ginnel.ice.agent import AgentCore
from ginnel.ice.candidate import Candidate
from ginnel.ice.events import IceEvent
from ginnel.ice.gatherer import (
    Gathered,
    Gatherer,
    GathererEvent,
    RelayedDatagram,
    RelayGone,
)
from ginnel.ice.settings import IceSettings
from ginnel.ice.stun import Message

MAX_AGENTS = 256  # of one port
MAX_WAITING = 256  # datagrams that wait for an agent's user; more are dropped
MAX_EARLY = 16  # datagrams kept until a pair is selected: the other side may be the first


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """An agent tells something."""

    agent: PortAgent
    event: IceEvent


@dataclass(frozen=True, slots=True)
class DataArrived:
    """There is data for an agent's user, in `waiting`."""

    agent: PortAgent


@dataclass(frozen=True, slots=True)
class GatheringChanged:
    """A candidate was found, or a server answered or failed."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """A datagram of the shared socket that is no agent's and no server's."""

    data: bytes
    source: Address


PortEvent: TypeAlias = AgentEvent | DataArrived | GatheringChanged | Foreign | LinkCommand


class PortAgent:
    """One agent of a port, and the datagrams of its user."""

    def __init__(
        self, core: AgentCore, settings: IceSettings, is_relay: Callable[[Address], bool]
    ) -> None:
        self.core = core
        self._is_relay = is_relay
        self.settings = settings
        self.waiting: deque[bytes] = deque()
        self.dropped = 0  # datagrams that found no room
        self._early: deque[tuple[bytes, Address, Address | None]] = deque(maxlen=MAX_EARLY)

    def take(self, data: bytes, source: Address, relayed: Address | None) -> bool:
        """Take data if it came on the selected pair; before there is one, keep it for then."""
        selected = self.core.selected
        if selected is None:
            self._early.append((data, source, relayed))
            return False
        local, remote = selected
        path = local.base if self._is_relay(local.base) else None
        if (source, relayed) != (remote.address, path):
            return False
        if len(self.waiting) >= MAX_WAITING:
            self.dropped += 1
        else:
            self.waiting.append(data)
        return True

    def deliver(self) -> bool:
        """Take what came before a pair was selected; return whether there was any."""
        if self.core.selected is None or not self._early:
            return False
        early = list(self._early)
        self._early.clear()
        return any([self.take(*item) for item in early])


class PortCore:
    """See the module's text; `settings` say what is gathered."""

    def __init__(self, settings: IceSettings, *, random_bytes: RandomBytes, rng: Rng) -> None:
        self.gatherer = Gatherer(settings, random_bytes=random_bytes, rng=rng)
        self._agents: list[PortAgent] = []
        self._out: deque[Transmit] = deque()
        self._events: deque[PortEvent] = deque()

    # Commands

    def add_agent(self, core: AgentCore, settings: IceSettings, *, now: float) -> PortAgent:
        """Let an agent use the port.

        Raises:
            UsageError: there are too many.
        """
        if len(self._agents) >= MAX_AGENTS:
            raise UsageError(f"one port serves at most {MAX_AGENTS} agents")
        agent = PortAgent(core, settings, self.gatherer.is_relay)
        self._agents.append(agent)
        for candidate in self.gatherer.candidates:
            self._offer(agent, candidate, now)
        self.settle(now=now)
        return agent

    def remove_agent(self, agent: PortAgent, *, now: float) -> None:
        """End an agent; harmless when ended."""
        agent.core.close()
        self.settle(now=now)
        if agent in self._agents:
            self._agents.remove(agent)

    def start(self, bases: Sequence[Address], *, now: float) -> None:
        """Gather from these addresses of the port."""
        self.gatherer.start(bases, now=now)
        self.settle(now=now)

    def add_server(self, server: Server, addresses: Sequence[Address], *, now: float) -> None:
        """Use a server whose name resolved to these addresses, or did not."""
        self.gatherer.add_server(server, addresses, now=now)
        self._events.append(GatheringChanged())
        self.settle(now=now)

    def send(self, agent: PortAgent, data: bytes, *, now: float) -> None:
        """Send a datagram of the user on the agent's selected pair.

        Raises:
            UsageError: there is none yet.
        """
        selected = agent.core.selected
        if selected is None:
            raise UsageError("connect first")
        local, remote = selected
        if self.gatherer.is_relay(local.base):
            self._send(Transmit(data, remote.address, relayed_from=local.base), now)
        else:
            self._out.append(Transmit(data, remote.address, local.base.ip))

    def on_link(self, event: LinkEvent, *, now: float) -> None:
        """Take what became of a connection to a TURN server."""
        self.gatherer.on_link(event, now=now)
        self.settle(now=now)

    def close(self, *, now: float) -> None:
        """End all agents and give allocations back."""
        for agent in self._agents:
            agent.core.close()
        self.settle(now=now)
        self._agents.clear()
        self.gatherer.close(now=now)

    def settle(self, *, now: float) -> None:
        """Carry on after a command was given to an agent's core directly."""
        while (event := self.gatherer.poll_event()) is not None:
            self._on_gatherer(event, now)
        for agent in list(self._agents):
            while (transmit := agent.core.poll_transmit()) is not None:
                self._send(transmit, now)
            while (told := agent.core.poll_event()) is not None:
                self._events.append(AgentEvent(agent, told))
            if agent.deliver():
                self._events.append(DataArrived(agent))

    # The five verbs

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Take one datagram; see `base.core.Core`."""
        try:
            message = stun.decode_message(data)
        except stun.StunError:
            if not self.gatherer.handle_channel_data(data, source, now=now):
                self._on_data(data, source, None)
        else:
            is_settled = self.gatherer.is_settled
            if not self.gatherer.handle_message(message, source, now=now):
                self._on_message(message, data, source, now, local_ip)
            elif self.gatherer.is_settled != is_settled:
                self._events.append(GatheringChanged())
        self.settle(now=now)

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due."""
        is_settled = self.gatherer.is_settled
        self.gatherer.handle_timeout(now=now)
        if self.gatherer.is_settled != is_settled:
            self._events.append(GatheringChanged())
        for agent in list(self._agents):
            deadline = agent.core.poll_deadline()
            if deadline is not None and deadline.at <= now:
                agent.core.handle_timeout(now=now)
        self.settle(now=now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self._out.popleft() if self._out else self.gatherer.poll_transmit()

    def poll_event(self) -> PortEvent | None:
        """Return the next event or command for connections, or None."""
        return self.gatherer.poll_link() or (self._events.popleft() if self._events else None)

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted, or None."""
        agents = [agent.core.poll_deadline() for agent in self._agents]
        return earliest(self.gatherer.poll_deadline(), *agents)

    # Inside

    def _offer(self, agent: PortAgent, candidate: Candidate, now: float) -> None:
        if agent.settings.wants(candidate.kind):
            agent.core.add_local_candidate(candidate, now=now)

    def _on_gatherer(self, event: GathererEvent, now: float) -> None:
        if isinstance(event, RelayedDatagram):
            self._on_relayed(event, now)
            return
        for agent in self._agents:
            if isinstance(event, Gathered):
                self._offer(agent, event.candidate, now)
            elif isinstance(event, RelayGone):
                agent.core.remove_relay(event.relayed, event.reason, now=now)
            else:
                agent.core.on_relay_refused(event.relayed, event.peer, event.reason, now=now)
        self._events.append(GatheringChanged())

    def _on_relayed(self, event: RelayedDatagram, now: float) -> None:
        try:
            message = stun.decode_message(event.data)
        except stun.StunError:
            self._on_data(event.data, event.peer, event.relayed)
            return
        for agent in self._agents:
            if agent.core.owns(message, event.peer):
                agent.core.handle_message(message, event.peer, now=now, relayed=event.relayed)
                return

    def _on_message(
        self, message: Message, data: bytes, source: Address, now: float, local_ip: str | None
    ) -> None:
        for agent in self._agents:
            if agent.core.owns(message, source):
                agent.core.handle_message(message, source, now=now, local_ip=local_ip)
                return
        self._events.append(Foreign(data, source))

    def _on_data(self, data: bytes, source: Address, relayed: Address | None) -> None:
        for agent in reversed(self._agents):  # of two with the same path the newer one
            if agent.take(data, source, relayed):
                self._events.append(DataArrived(agent))
                return
        if relayed is None:
            self._events.append(Foreign(data, source))

    def _send(self, transmit: Transmit, now: float) -> None:
        if transmit.relayed_from is None:
            self._out.append(transmit)
        else:
            self.gatherer.send(transmit, now=now)
