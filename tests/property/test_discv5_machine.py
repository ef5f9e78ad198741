"""Two cores under everything a network does: loss, delay, reordering, duplicates, restarts, moves.

Whatever happens, each request ends exactly once, nothing is raised, and as soon as the network is
kind again the two talk.
"""

from __future__ import annotations

import heapq
import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ginnel.base.types import Address, Secret, Transmit
from ginnel.discv5.events import (
    LookupDone,
    NodesReceived,
    PongReceived,
    RequestFailed,
    Revalidated,
    TalkAnswered,
    TalkReceived,
)
from ginnel.discv5.keys import new_private_key
from ginnel.discv5.protocol import Contact, DiscoveryConfig, DiscoveryCore

SIDES = st.integers(0, 1)
ENDS = (NodesReceived, PongReceived, TalkAnswered, RequestFailed, Revalidated)
LONG = 30.0  # seconds; every request has ended and every session was opened again by then


class Side:
    """One node: its key stays, its memory and its address do not."""

    def __init__(self, index: int, rng: random.Random) -> None:
        self.index = index
        self.rng = rng
        self.key = Secret(new_private_key(rng.randbytes))
        self.seq = 0
        self.moves = 0
        self.asked: list[int] = []
        self.ended: list[int] = []
        self.served = 0
        self.restart(0.0)

    @property
    def address(self) -> Address:
        return Address(f"203.{self.index}.{self.moves}.7", 9000)

    @property
    def contact(self) -> Contact:
        return Contact(self.core.node_id, self.address, self.core.record.public_key)

    def restart(self, now: float) -> None:
        self.seq += 1
        self.asked, self.ended = [], []
        self.core = DiscoveryCore(
            DiscoveryConfig(),
            self.key,
            endpoint=self.address,
            random_bytes=self.rng.randbytes,
            rng=random.Random(self.rng.random()),
            now=now,
            enr_seq=self.seq,
        )
        self.core.start(now)


class TwoCores(RuleBasedStateMachine):
    """What may happen between two nodes."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 100.0
        self.wire: list[tuple[float, int, bytes, Address, Address]] = []
        self.count = 0
        self.loss = 0.0
        self.jitter = 0.0
        self.copies = 0.0
        self.sides = [Side(0, self.rng), Side(1, self.rng)]

    @rule(loss=st.sampled_from([0.0, 0.2, 0.5, 1.0]))
    def change_loss(self, loss: float) -> None:
        self.loss = loss

    @rule(jitter=st.sampled_from([0.0, 0.1, 1.0]), copies=st.sampled_from([0.0, 0.3]))
    def change_order(self, jitter: float, copies: float) -> None:
        self.jitter, self.copies = jitter, copies

    @rule(side=SIDES)
    def ping(self, side: int) -> None:
        one, other = self.sides[side], self.sides[1 - side]
        one.asked.append(one.core.ping(other.contact, now=self.now))
        self.drain()

    @rule(side=SIDES, distances=st.lists(st.integers(0, 256), max_size=3))
    def find_node(self, side: int, distances: list[int]) -> None:
        one, other = self.sides[side], self.sides[1 - side]
        one.asked.append(one.core.find_node(other.contact, distances, now=self.now))
        self.drain()

    @rule(side=SIDES, size=st.sampled_from([0, 100, 1160]))
    def talk(self, side: int, size: int) -> None:
        one, other = self.sides[side], self.sides[1 - side]
        number = one.core.talk_request(other.contact, b"p", bytes(size), now=self.now)
        one.asked.append(number)
        self.drain()

    @rule(side=SIDES)
    def revalidate(self, side: int) -> None:
        one, other = self.sides[side], self.sides[1 - side]
        one.core.add_node(other.core.record, self.now)
        one.asked.append(one.core.revalidate(other.core.record, now=self.now))
        self.drain()

    @rule(side=SIDES)
    def restart(self, side: int) -> None:
        self.sides[side].restart(self.now)
        self.drain()

    @rule(side=SIDES)
    def move(self, side: int) -> None:
        one = self.sides[side]
        one.moves += 1
        one.core.set_endpoint(one.address, now=self.now)

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0, 5.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.run_for(seconds)

    @precondition(lambda self: self.rng.random() < 0.3)
    @rule()
    def be_kind(self) -> None:
        self.loss = self.jitter = self.copies = 0.0
        self.run_for(LONG)
        for one in self.sides:
            assert sorted(one.ended) == sorted(one.asked)
            other = self.sides[1 - one.index]
            number = one.core.ping(other.contact, now=self.now)
            one.asked.append(number)
            self.drain()
            self.run_for(LONG)
            assert number in one.ended
            assert one.core.has_session(other.core.node_id, other.address)

    @invariant()
    def each_request_ends_once(self) -> None:
        for one in getattr(self, "sides", ()):
            assert len(set(one.ended)) == len(one.ended)
            assert set(one.ended) <= set(one.asked)

    def run_for(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            at = self.next_at()
            if at is None or at > end:
                break
            self.now = max(self.now, at)
            while self.wire and self.wire[0][0] <= self.now:
                _, _, data, source, to = heapq.heappop(self.wire)
                for one in self.sides:
                    if one.address == to:
                        one.core.handle_datagram(data, source, now=self.now)
            for one in self.sides:
                one.core.handle_timeout(now=self.now)
            self.drain()
        self.now = end

    def next_at(self) -> float | None:
        deadlines = [one.core.poll_deadline() for one in self.sides]
        instants = [deadline.at for deadline in deadlines if deadline is not None]
        instants += [self.wire[0][0]] if self.wire else []
        return min(instants, default=None)

    def drain(self) -> None:
        for one in self.sides:
            while (event := one.core.poll_event()) is not None:
                if isinstance(event, TalkReceived):
                    one.core.respond_talk(event.token, b"answer", now=self.now)
                    one.served += 1
                elif isinstance(event, ENDS):
                    one.ended.append(event.request)
                elif isinstance(event, LookupDone):
                    raise AssertionError("nobody looked anything up")
            while (transmit := one.core.poll_transmit()) is not None:
                self.carry(one, transmit)

    def carry(self, one: Side, transmit: Transmit) -> None:
        assert 63 <= len(transmit.data) <= 1280
        while self.rng.random() >= self.loss:
            at = self.now + 0.02 + self.rng.random() * self.jitter
            self.count += 1
            item = (at, self.count, transmit.data, one.address, transmit.destination)
            heapq.heappush(self.wire, item)
            if self.rng.random() >= self.copies:
                break


TestTwoCores = TwoCores.TestCase
TestTwoCores.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
