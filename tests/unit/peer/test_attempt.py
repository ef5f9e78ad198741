"""The schedule of retries, and what an attempt knows of itself."""

import random

from ginnel.base.types import Address
from ginnel.ice.agent import AgentCore
from ginnel.ice.candidate import CandidateKind, make_host, make_remote, make_server_reflexive
from ginnel.ice.events import AgentConfig
from ginnel.ice.reasons import NatKind
from ginnel.peer.attempt import Attempt, Backoff

BASE = Address("192.168.1.2", 7)
HOST = make_host(BASE)
SRFLX = make_server_reflexive(Address("203.0.113.1", 7), BASE)
REMOTE = make_remote(CandidateKind.HOST, Address("198.51.100.1", 8), 5, "f")


def test_the_intervals_grow_to_half_a_minute_and_stay_there() -> None:
    backoff = Backoff(random.Random(3))
    intervals = [backoff.next() for _ in range(200)]
    assert intervals[0] == 3.0
    for number, interval in enumerate(intervals[1:7]):
        assert 0.9 * 0.8 * 2**number <= interval <= 1.1 * 0.8 * 2**number
    assert all(30.0 <= interval <= 45.0 for interval in intervals[7:])
    backoff.reset()
    assert backoff.next() == 3.0


def make_attempt() -> Attempt:
    rng = random.Random(1)
    agent = AgentCore(AgentConfig(), controlling=True, random_bytes=rng.randbytes, rng=rng)
    return Attempt(b"s" * 16, agent, 0.0)


def test_an_attempt_has_all_its_session_ids() -> None:
    attempt = make_attempt()
    attempt.sessions.append(b"t" * 16)
    assert attempt.knows(b"s" * 16)
    assert attempt.knows(b"t" * 16)
    assert not attempt.knows(b"u" * 16)


def test_an_attempt_notices_that_its_local_address_is_gone() -> None:
    attempt = make_attempt()
    assert attempt.is_from([], NatKind.CONE)
    assert attempt.endpoint is None
    attempt.path = (SRFLX, REMOTE)
    assert attempt.is_from([HOST, SRFLX], NatKind.CONE)
    assert not attempt.is_from([HOST], NatKind.CONE)
    assert attempt.is_from([HOST], NatKind.SYMMETRIC)
    assert not attempt.is_from([make_host(Address("10.0.0.1", 7))], NatKind.CONE)
    assert attempt.endpoint is not None
    assert attempt.endpoint.source_ip == BASE.ip
    assert attempt.remote_address == REMOTE.address
    assert not attempt.is_healthy
