"""Nomination: the best pair, without waiting for what can't come."""

import random

from ginnel.base.types import Address, Transmit
from ginnel.ice import stun
from ginnel.ice.agent import AgentCore
from ginnel.ice.candidate import CandidateKind, make_host, make_remote
from ginnel.ice.checker import NOMINATION_PATIENCE
from ginnel.ice.events import AgentConfig, IceEvent, PairSelected, PairUsable
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


def check_from(agent: AgentCore, source: Address, now: float) -> None:
    """Let the other side check from an address."""
    attributes = [
        (Attribute.USERNAME, f"{agent.ufrag}:them".encode()),
        (Attribute.PRIORITY, (1000).to_bytes(4, "big")),
        (Attribute.ICE_CONTROLLED, bytes(8)),
    ]
    data = stun.encode_message(MessageClass.REQUEST, bytes(12), attributes, key=agent.pwd.encode())
    agent.handle_datagram(data, source, now=now, local_ip=LOCAL.ip)


def take_until(agent: AgentCore, until: float) -> list[Transmit]:
    """Let time pass and return what was sent, unanswered."""
    found = take(agent)
    while (deadline := agent.poll_deadline()) is not None and deadline.at <= until:
        agent.handle_timeout(now=deadline.at)
        found += take(agent)
    return found


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


def test_an_unknown_address_that_may_be_a_relay_waits_until_it_is_signalled() -> None:
    for kind, nominated in ((CandidateKind.HOST, [GOOD]), (CandidateKind.RELAY, [])):
        agent = make_agent()
        agent.add_remote_candidate(make_remote(CandidateKind.SRFLX, BAD, 99, "b"), now=0.0)
        take(agent)
        check_from(agent, GOOD, 0.02)
        *_, check = (each for each in take_until(agent, 0.1) if each.destination == GOOD)
        answer(agent, check, 0.12)
        assert nominations(take(agent)) == []
        agent.add_remote_candidate(make_remote(kind, GOOD, 9, "g"), now=0.2)
        assert nominations(take_until(agent, 0.5)) == nominated


def test_a_symmetric_nat_shows_another_port_and_need_not_wait() -> None:
    agent = make_agent()
    agent.add_remote_candidate(make_remote(CandidateKind.SRFLX, BAD, 99, "b"), now=0.0)
    take(agent)
    other = Address(BAD.ip, 6000)
    check_from(agent, other, 0.02)
    *_, check = (each for each in take_until(agent, 0.1) if each.destination == other)
    answer(agent, check, 0.12)
    assert nominations(take_until(agent, 0.5)) == [other]


def test_a_selected_address_that_turns_out_to_be_a_relay_is_told_again() -> None:
    agent = make_agent()
    check_from(agent, GOOD, 0.02)
    *_, check = (each for each in take_until(agent, 0.1) if each.destination == GOOD)
    answer(agent, check, 0.12)
    take_until(agent, 2.5)
    assert agent.selected is not None
    events(agent)
    agent.add_remote_candidate(make_remote(CandidateKind.RELAY, GOOD, 9, "g"), now=2.6)
    (told,) = (event for event in events(agent) if isinstance(event, PairSelected))
    assert told.remote.kind is CandidateKind.RELAY
