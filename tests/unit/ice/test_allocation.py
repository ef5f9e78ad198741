"""One TURN client over a connection: opened, cut into items, lost, and numbered anew."""

from __future__ import annotations

import random

from ginnel.base.links import (
    CloseLink,
    LinkBytes,
    LinkCommand,
    LinkLost,
    LinkOpened,
    OpenLink,
    SendLink,
)
from ginnel.base.servers import Transport
from ginnel.base.types import Address, Secret, Transmit
from ginnel.ice.allocation import Allocation
from ginnel.ice.framing import frame
from ginnel.ice.turn_events import Allocated, AllocationLost, TurnConfig, TurnEvent
from support.tiny_turn import TinyTurn

SERVER, RELAYED = Address("192.0.2.9", 3478), Address("192.0.2.9", 50000)
PEER = Address("198.51.100.7", 7)


class World:
    """An allocation, its connection and its server."""

    def __init__(self, transport: Transport) -> None:
        rng = random.Random(1)
        config = TurnConfig(SERVER, "user", Secret(b"pass"), transport=transport, host="h.example")
        numbers = iter(range(1, 100))
        self.core = Allocation(
            config, random_bytes=rng.randbytes, rng=rng, next_link=lambda: next(numbers)
        )
        self.turn = TinyTurn(RELAYED)
        self.commands: list[LinkCommand] = []
        self.sent: list[Transmit] = []
        self.core.client.start(now=0.0)

    def collect(self) -> list[TurnEvent]:
        return self.core.collect(self.sent.append, self.commands.append)

    def answer(self) -> None:
        self.turn.handle(self.commands[-1].data, PEER)  # type: ignore[union-attr]  # a SendLink
        data = frame(self.turn.answers.popleft())
        for half in (data[:7], data[7:]):
            self.core.on_link(LinkBytes(self.core.link, half), now=0.0)


def test_a_connection_is_asked_for_used_and_given_up() -> None:
    world = World(Transport.TLS)
    assert not world.collect()
    assert world.commands == [OpenLink(1, SERVER, Transport.TLS, "h.example")]
    assert not world.core.is_datagram
    world.core.on_link(LinkOpened(7), now=0.0)  # another's
    assert not world.collect()
    world.core.on_link(LinkOpened(1), now=0.0)
    world.collect()
    for _ in range(2):  # the challenge, then the allocation
        world.answer()
        events = world.collect()
    assert events == [Allocated(RELAYED, PEER)]
    assert world.core.relayed == RELAYED
    assert not world.core.knows_channel(SERVER, 0x4000)
    world.core.client.send(b"data", PEER, now=0.0)
    world.collect()
    world.answer()
    world.collect()
    assert [c.may_drop for c in world.commands if isinstance(c, SendLink)][-1]  # an indication
    world.core.on_link(LinkBytes(1, b"GET / HTTP/1.1\r\n"), now=0.0)
    [lost] = world.collect()
    assert isinstance(lost, AllocationLost)
    assert "speaks no TURN" in lost.reason
    assert world.commands[-1] == CloseLink(1)


def test_a_lost_connection_is_replaced_under_another_number() -> None:
    world = World(Transport.TCP)
    world.collect()
    world.core.on_link(LinkLost(1, "no route"), now=0.0)
    [lost] = world.collect()
    assert isinstance(lost, AllocationLost)
    assert lost.reason == "no route"
    world.core.client.handle_timeout(now=lost.retry_s)
    world.collect()
    assert world.commands[-1] == OpenLink(2, SERVER, Transport.TCP, "h.example")
    assert not world.sent
