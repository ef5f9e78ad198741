"""Nomination: the best pair, without waiting for what can't come."""

import random

from ginnel.base.types import Address, Transmit
from ginnel.ice import stun
from ginnel.ice.agent import AgentCore
from ginnel.ice.candidate import CandidateKind, make_host, make_remote
from ginnel.ice.checker import NOMINATION_PATIENCE
from ginnel.ice.events import AgentConfig, IceEvent, PairUsable
from ginnel.ice.limiter import UNANSWERED_PER_MINUTE, CheckLimiter
from ginnel.ice.reasons import NatKind
from ginnel.ice.stun import Attribute, MessageClass

LOCAL = Address("192.168.1.2", 4000)
GOOD, BAD = Address("198.51.100.7", 5000), Address("198.51.100.8", 5000)
PWD = "p" * 22


def make_agent(limiter: CheckLimiter | None = None, *, controlling: bool = True) -> AgentCore:
    rng = random.Random(5)
    config = AgentConfig(limiter=limiter or CheckLimiter())
    agent = AgentCore(config, controlling=controlling, random_bytes=rng.randbytes, rng=rng)
    agent.add_local_candidate(make_host(LOCAL), now=0.0)
    agent.set_remote_credentials("them", PWD, now=0.0)
    agent.start(now=0.0)
    return agent


def take(agent: AgentCore) -> list[Transmit]:
    found = []
    while (transmit := agent.poll_transmit()) is not None:
        found.append(transmit)
    return found


def answer(agent: AgentCore, transmit: Transmit, now: float) -> None:
    key = transmit.data[8:20]
    data = stun.encode_message(
        MessageClass.SUCCESS,
        key,
        [(Attribute.XOR_MAPPED_ADDRESS, stun.encode_address(LOCAL, key))],
        key=PWD.encode(),
    )
    agent.handle_datagram(data, transmit.destination, now=now)


def events(agent: AgentCore) -> list[IceEvent]:
    found = []
    while (event := agent.poll_event()) is not None:
        found.append(event)
    return found


def nominations(transmits: list[Transmit]) -> list[Address]:
    return [
        transmit.destination
        for transmit in transmits
        if stun.decode_message(transmit.data).get(Attribute.USE_CANDIDATE) is not None
    ]


def test_the_only_pair_is_nominated_at_once() -> None:
    agent = make_agent()
    agent.add_remote_candidate(make_remote(CandidateKind.HOST, GOOD, 9, "g"), now=0.0)
    (check,) = take(agent)
    assert nominations([check]) == []
    answer(agent, check, 0.02)
    (nomination,) = take(agent)
    assert nominations([nomination]) == [GOOD]
    assert agent.selected is not None  # data may go there from now on
    agent.handle_timeout(now=0.53)
    assert nominations(take(agent)) == [GOOD]  # and it is asked again until it is answered


def test_the_controlled_side_tells_a_usable_pair_once_and_does_not_select_it() -> None:
    agent = make_agent(controlling=False)
    agent.add_remote_candidate(make_remote(CandidateKind.HOST, GOOD, 9, "g"), now=0.0)
    (check,) = take(agent)
    answer(agent, check, 0.02)
    told = [event for event in events(agent) if isinstance(event, PairUsable)]
    assert [pair.remote.address for pair in told] == [GOOD]
    assert agent.selected is None
    assert nominations(take(agent)) == []


def test_a_relayed_pair_waits_only_while_a_direct_one_may_come() -> None:
    nats = (NatKind.SYMMETRIC, NatKind.RESTRICTED)
    for known_at, nominated in ((None, []), (0.1, [GOOD])):
        agent = make_agent()
        agent.add_remote_candidate(make_remote(CandidateKind.SRFLX, BAD, 99, "b"), now=0.0)
        agent.add_remote_candidate(make_remote(CandidateKind.RELAY, GOOD, 9, "g"), now=0.0)
        agent.handle_timeout(now=0.05)
        (relayed,) = (each for each in take(agent) if each.destination == GOOD)
        answer(agent, relayed, 0.1)
        if known_at is not None:
            agent.set_nats(*nats, now=known_at)
        assert nominations(take(agent)) == nominated


def test_a_better_pair_gets_a_short_chance() -> None:
    agent = make_agent()
    agent.add_remote_candidate(make_remote(CandidateKind.SRFLX, GOOD, 9, "g"), now=0.0)
    agent.add_remote_candidate(make_remote(CandidateKind.HOST, BAD, 99, "b"), now=0.0)
    (first,) = take(agent)
    agent.handle_timeout(now=0.05)
    (second,) = take(agent)
    good, _ = sorted((first, second), key=lambda t: t.destination != GOOD)
    answer(agent, good, 0.06)
    assert nominations(take(agent)) == []
    agent.handle_timeout(now=0.05 + NOMINATION_PATIENCE + 0.02)
    assert nominations(take(agent)) == [GOOD]


def test_checks_beyond_the_limit_are_not_sent() -> None:
    limiter = CheckLimiter()
    for _ in range(UNANSWERED_PER_MINUTE):
        limiter.take(GOOD.ip, now=0.0)
    agent = make_agent(limiter)
    agent.add_remote_candidate(make_remote(CandidateKind.HOST, GOOD, 9, "g"), now=0.0)
    assert take(agent) == []
    agent.handle_timeout(now=0.5)
    assert take(agent) == []
    for _ in range(20):
        deadline = agent.poll_deadline()
        assert deadline is not None
        agent.handle_timeout(now=deadline.at)
        if found := take(agent):
            break
    assert [transmit.destination for transmit in found] == [GOOD]
    assert 1.2 <= deadline.at <= 2.0
