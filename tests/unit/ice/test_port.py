"""Several agents on one port: who gets which datagram, also through a relay."""

from __future__ import annotations

import random

import pytest

from ginnel.base.errors import UsageError
from ginnel.base.servers import parse_server
from ginnel.base.types import Address
from ginnel.ice import port as port_module
from ginnel.ice import stun
from ginnel.ice.agent import AgentCore
from ginnel.ice.candidate import CandidateKind, make_remote
from ginnel.ice.events import IceState, PairSelected
from ginnel.ice.port import (
    MAX_EARLY,
    MAX_WAITING,
    AgentEvent,
    DataArrived,
    Foreign,
    GatheringChanged,
    PortAgent,
    PortCore,
    PortEvent,
)
from ginnel.ice.settings import IceSettings
from support.tiny_turn import TinyTurn

HERE, THERE = Address("198.51.100.1", 4000), Address("198.51.100.2", 4000)
RELAY, RELAYED = Address("192.0.2.9", 3478), Address("192.0.2.9", 50000)


class End:
    """One port with one agent or more."""

    def __init__(self, address: Address, settings: IceSettings) -> None:
        self.rng = random.Random(address.ip)
        self.address = address
        self.settings = settings
        self.core = PortCore(settings, random_bytes=self.rng.randbytes, rng=self.rng)
        self.events: list[PortEvent] = []

    def add(self, controlling: bool, settings: IceSettings | None = None) -> PortAgent:
        settings = settings or self.settings
        core = AgentCore(
            settings, controlling=controlling, random_bytes=self.rng.randbytes, rng=self.rng
        )
        return self.core.add_agent(core, settings, now=0.0)

    def of(self, kind: type) -> list[PortEvent]:
        return [event for event in self.events if isinstance(event, kind)]


class Wire:
    """Two ports, joined without delay, and a TURN server."""

    def __init__(self, here: IceSettings, there: IceSettings) -> None:
        self.now = 0.0
        self.ends = {HERE: End(HERE, here), THERE: End(THERE, there)}
        self.turn = TinyTurn(RELAYED)
        self.is_direct = True
        for address, end in self.ends.items():
            end.core.start([address], now=0.0)
            for server in end.settings.servers:
                end.core.add_server(server, [Address(server.host, server.port)], now=0.0)
        self.pump()

    def pump(self) -> None:
        moved = True
        while moved:
            moved = False
            for source, end in self.ends.items():
                while (out := end.core.poll_transmit()) is not None:
                    moved = True
                    self.carry(out.data, source, out.destination)
                while (event := end.core.poll_event()) is not None:
                    end.events.append(event)
            while self.turn.answers:
                moved = True
                answer = self.turn.answers.popleft()
                self.ends[HERE].core.handle_datagram(answer, RELAY, now=self.now)
            while self.turn.sent:  # by HERE, to the other end
                moved = True
                peer, data = self.turn.sent.pop(0)
                assert peer == THERE or peer == 0x4000
                self.ends[THERE].core.handle_datagram(data, RELAYED, now=self.now)

    def carry(self, data: bytes, source: Address, destination: Address) -> None:
        if destination == RELAY:
            self.turn.handle(data, source)
        elif destination == RELAYED:
            self.turn.tell(source, data)
        elif self.is_direct:
            self.ends[destination].core.handle_datagram(data, source, now=self.now)

    def run_for(self, seconds: float) -> None:
        end_at = self.now + seconds
        while self.now < end_at:
            self.now += 0.05
            for end in self.ends.values():
                end.core.handle_timeout(now=self.now)
            self.pump()

    def introduce(self, a: PortAgent, b: PortAgent) -> None:
        for one, other in ((a.core, b.core), (b.core, a.core)):
            for c in other.local_candidates:
                remote = make_remote(c.kind, c.address, c.priority, c.foundation)
                one.add_remote_candidate(remote, now=self.now)
            one.set_remote_credentials(other.ufrag, other.pwd, now=self.now)
            one.start(now=self.now)
        for end in self.ends.values():
            end.core.settle(now=self.now)
        self.run_for(3.0)


def test_each_agent_gets_its_own_messages_and_data() -> None:
    wire = Wire(IceSettings(), IceSettings())
    here, there = wire.ends.values()
    agents = here.add(True), there.add(False)
    wire.introduce(*agents)
    assert all(agent.core.state is IceState.CONNECTED for agent in agents)
    assert any(isinstance(e.event, PairSelected) for e in here.of(AgentEvent))  # type: ignore[attr-defined]
    here.core.send(agents[0], b"hello", now=wire.now)
    wire.pump()
    assert list(agents[1].waiting) == [b"hello"]
    assert there.of(DataArrived) == [DataArrived(agents[1])]
    there.core.handle_datagram(b"stranger's", Address("203.0.113.9", 9), now=wire.now)
    request = stun.encode_message(stun.MessageClass.REQUEST, bytes(12), [])
    there.core.handle_datagram(request, HERE, now=wire.now)
    wire.pump()
    assert [event.data for event in there.of(Foreign)] == [b"stranger's", request]  # type: ignore[attr-defined]
    assert list(agents[1].waiting) == [b"hello"]


def test_a_relayed_pair_carries_data_both_ways() -> None:
    wire = Wire(IceSettings(urls=(f"turn:{RELAY.ip} user pass",), force_relay=True), IceSettings())
    wire.is_direct = False
    here, there = wire.ends.values()
    a, b = here.add(True), there.add(False)
    assert here.of(GatheringChanged)
    wire.introduce(a, b)
    assert a.core.selected is not None
    assert a.core.selected[0].kind is CandidateKind.RELAY
    here.core.send(a, b"through the relay", now=wire.now)
    there.core.send(b, b"and back", now=wire.now)
    wire.pump()
    assert (list(b.waiting), list(a.waiting)) == ([b"through the relay"], [b"and back"])
    here.core.handle_datagram(b"forged", THERE, now=wire.now)  # not through the relay
    assert list(a.waiting) == [b"and back"]


def test_an_agent_gets_only_the_kinds_that_its_settings_want() -> None:
    wire = Wire(IceSettings(urls=(f"turn:{RELAY.ip} user pass",)), IceSettings())
    here = wire.ends[HERE]
    assert len(here.add(True).core.local_candidates) == 2
    relayed = here.add(True, IceSettings(force_relay=True))
    assert [c.kind for c in relayed.core.local_candidates] == [CandidateKind.RELAY]


def test_early_and_waiting_data_are_bounded() -> None:
    wire = Wire(IceSettings(), IceSettings())
    here, there = wire.ends.values()
    a, b = here.add(True), there.add(False)
    with pytest.raises(UsageError, match="connect first"):
        here.core.send(a, b"too early", now=0.0)
    for number in range(MAX_EARLY + 3):
        there.core.handle_datagram(b"%d" % number, HERE, now=0.0)
        there.core.handle_datagram(b"stranger's", Address("203.0.113.9", 9), now=0.0)
    wire.introduce(a, b)
    assert b.waiting
    assert len(b.waiting) <= MAX_EARLY
    assert b"stranger's" not in b.waiting
    for _ in range(MAX_WAITING + 5):
        there.core.handle_datagram(b"x", HERE, now=wire.now)
    assert len(b.waiting) == MAX_WAITING
    assert b.dropped >= 5


def test_agents_leave_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_module, "MAX_AGENTS", 1)
    end = End(HERE, IceSettings())
    agent = end.add(True)
    with pytest.raises(UsageError, match="at most"):
        end.add(True)
    end.core.remove_agent(agent, now=0.0)
    end.core.remove_agent(agent, now=0.0)
    assert agent.core.state is IceState.CLOSED
    end.add(True)
    end.core.close(now=0.0)
    assert end.core.poll_deadline() is None


def test_a_server_whose_name_does_not_resolve_is_told() -> None:
    end = End(HERE, IceSettings(urls=("stun:h",)))
    end.core.start([HERE], now=0.0)
    end.core.add_server(parse_server("stun:h"), [], now=0.0)
    assert end.core.gatherer.is_settled
    assert end.core.poll_event() == GatheringChanged()
