"""Questions to STUN servers: pacing, retransmission, what is believed, keeping alive."""

import random

import pytest

from ginnel.base.types import Address
from ginnel.ice import stun
from ginnel.ice.stun import Attribute, MessageClass
from ginnel.ice.stun_client import (
    MAX_QUESTIONS,
    ReflexiveFound,
    ReflexiveLost,
    StunClient,
    StunDrop,
)

SERVER, OTHER = Address("192.0.2.3", 3478), Address("192.0.2.4", 3478)
BASE, SECOND = Address("192.168.1.2", 4000), Address("10.0.0.2", 4000)
SEEN = Address("203.0.113.5", 6000)


class World:
    """One client and what it sent, with the time of each."""

    def __init__(self) -> None:
        rng = random.Random(1)
        self.core = StunClient(random_bytes=rng.randbytes, rng=rng)
        self.now = 0.0
        self.sent: list[tuple[float, Address, str | None, bytes]] = []
        self.events: list[object] = []

    def ask(self, servers: list[Address], bases: list[Address]) -> None:
        self.core.ask(servers, bases, now=self.now)
        self.drain()

    def drain(self) -> None:
        while (out := self.core.poll_transmit()) is not None:
            self.sent.append((self.now, out.destination, out.source_ip, out.data))
        while (event := self.core.poll_event()) is not None:
            self.events.append(event)

    def run_until(self, end: float) -> None:
        while (deadline := self.core.poll_deadline()) is not None and deadline.at <= end:
            self.now = deadline.at
            self.core.handle_timeout(now=self.now)
            self.drain()
        self.now = end

    def answer(
        self,
        seen: Address = SEEN,
        *,
        source: Address | None = None,
        kind: MessageClass = MessageClass.SUCCESS,
        more: tuple[tuple[int, bytes], ...] = (),
    ) -> None:
        _, server, _, request = self.sent[-1]
        transaction_id = request[8:20]
        value = stun.encode_address(seen, transaction_id)
        attributes = [(int(Attribute.XOR_MAPPED_ADDRESS), value), *more]
        data = stun.encode_message(kind, transaction_id, attributes)
        self.core.handle_datagram(data, source or server, now=self.now)
        self.drain()


def test_an_unanswered_question_follows_rfc_8489_section_6_2_1() -> None:
    world = World()
    world.ask([SERVER], [BASE])
    assert not world.core.is_settled
    world.run_until(39.4)
    assert [at for at, *_ in world.sent] == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert len({data for *_, data in world.sent}) == 1
    assert not world.events
    world.run_until(39.5)
    [lost] = world.events
    assert isinstance(lost, ReflexiveLost)
    assert "does not answer" in lost.reason
    assert world.core.is_settled
    world.run_until(39.5 + 33.0)  # asked again after 30 s, give or take a tenth
    assert 8 <= len(world.sent) <= 10


def test_an_answer_ends_it_and_is_asked_for_again() -> None:
    world = World()
    world.ask([SERVER], [BASE])
    assert world.sent[0][1:3] == (SERVER, BASE.ip)
    world.answer()
    assert world.events == [ReflexiveFound(SERVER, BASE, SEEN)]
    assert world.core.answers == ((SEEN, BASE),)
    world.run_until(15.0)
    assert len(world.sent) == 2
    world.answer()
    assert len(world.events) == 1  # nothing new
    world.run_until(30.0)
    world.answer(Address("203.0.113.9", 7))
    assert world.core.answers == ((Address("203.0.113.9", 7), BASE),)


def test_new_questions_are_paced_by_ta_and_rto_grows_with_their_number() -> None:
    world = World()
    servers = [Address("192.0.2.3", 3000 + n) for n in range(12)]
    world.ask(servers, [BASE])
    world.run_until(0.56)
    assert [round(at, 3) for at, *_ in world.sent] == [round(0.05 * n, 3) for n in range(12)]
    world.run_until(0.61)  # RTO = max(500 ms, 50 ms x 12) = 600 ms (RFC 8445 section 14.3)
    assert round(world.sent[12][0], 3) == 0.6


def test_a_dead_server_does_not_delay_another() -> None:
    world = World()
    world.ask([SERVER, OTHER], [BASE])
    world.run_until(0.06)
    assert world.sent[-1][1] == OTHER
    world.answer()
    assert world.core.answers == ((SEEN, BASE),)
    assert not world.core.is_settled


def test_only_the_asked_server_s_own_answer_counts() -> None:
    world = World()
    world.ask([SERVER], [BASE])
    world.answer(source=OTHER)
    world.answer(kind=MessageClass.INDICATION)
    world.core.handle_datagram(b"\0\1", SERVER, now=0.0)
    foreign = stun.encode_message(MessageClass.SUCCESS, bytes(12), [])
    world.core.handle_datagram(foreign, SERVER, now=0.0)
    assert world.core.drops == {
        StunDrop.SOURCE: 1,
        StunDrop.FOREIGN: 2,
        StunDrop.MALFORMED: 1,
    }
    assert world.core.answers == ()
    assert world.core.owns(stun.decode_message(world.sent[0][3]), SERVER)
    assert not world.core.owns(stun.decode_message(world.sent[0][3]), OTHER)


@pytest.mark.parametrize("seen", ["224.0.0.1", "0.0.0.0", "127.0.0.1"])
def test_an_address_of_no_use_is_refused(seen: str) -> None:
    world = World()
    world.ask([SERVER], [BASE])
    world.answer(Address(seen, 5))
    [lost] = world.events
    assert isinstance(lost, ReflexiveLost)
    assert "no usable address" in lost.reason


def test_refusals_and_unknown_required_attributes_fail_it() -> None:
    for kind, more, text in (
        (MessageClass.ERROR, ((9, stun.encode_error(500, "no")),), "refused (500)"),
        (MessageClass.SUCCESS, ((0x7777, b"abcd"),), "don't know"),
    ):
        world = World()
        world.ask([SERVER], [BASE])
        world.answer(kind=kind, more=more)
        [lost] = world.events
        assert isinstance(lost, ReflexiveLost)
        assert text in lost.reason


def test_other_servers_and_bases_replace_those_of_before() -> None:
    world = World()
    world.ask([SERVER], [BASE])
    world.answer()
    world.ask([SERVER], [BASE, SECOND])
    world.run_until(0.2)
    assert [source for *_, source, _ in world.sent] == [BASE.ip, SECOND.ip]
    world.ask([Address("2001:db8::3", 3478)], [BASE])  # another IP version: nothing to ask
    assert world.core.answers == ()
    assert world.core.poll_deadline() is None


def test_questions_are_bounded() -> None:
    world = World()
    servers = [Address("192.0.2.3", 3000 + n) for n in range(100)]
    world.ask(servers, [BASE])
    world.run_until(30.0)
    assert len({destination for _, destination, *_ in world.sent}) == MAX_QUESTIONS
