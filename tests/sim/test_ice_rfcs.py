"""What the RFCs say of an agent's clock, with figures computed by hand.

RFC 8445 14.2 (Ta) and 14.3 (RTO), RFC 8489 6.2.1 (retransmission), RFC 8421 (dual stack order), RFC
8863 (patience), RFC 7675 (consent).
"""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from ginnel.base.types import Address, Transmit
from ginnel.ice import stun
from ginnel.ice.agent import AgentCore
from ginnel.ice.candidate import CandidateKind, host_preferences, make_host, make_remote
from ginnel.ice.events import AgentConfig, IceState
from ginnel.ice.limiter import CheckLimiter
from ginnel.ice.stun import Attribute, Message, MessageClass

OURS, THEIRS = Address("198.51.100.1", 4000), Address("198.51.100.2", 4000)
PASSWORD = "p" * 24


class Agent:
    """One agent, what it sent and when; the other side is played by the test."""

    def __init__(self, config: AgentConfig | None = None, *, controlling: bool = True) -> None:
        rng = random.Random(7)
        self.config = config or AgentConfig()
        self.core = AgentCore(
            self.config, controlling=controlling, random_bytes=rng.randbytes, rng=rng
        )
        self.now = 100.0
        self.sent: list[tuple[float, Transmit, Message]] = []
        self.answers = False

    def begin(self, locals_: list[str], remotes: list[str]) -> None:
        ours, theirs = host_preferences(locals_), host_preferences(remotes)
        for ip in locals_:
            self.core.add_local_candidate(make_host(Address(ip, 4000), ours[ip]), now=self.now)
        self.core.set_remote_credentials("them", PASSWORD, now=self.now)
        for ip in remotes:
            host = make_host(Address(ip, 4000), theirs[ip])
            remote = make_remote(CandidateKind.HOST, host.address, host.priority, host.foundation)
            self.core.add_remote_candidate(remote, now=self.now)
        self.core.start(now=self.now)
        self.drain()

    def drain(self) -> None:
        while (out := self.core.poll_transmit()) is not None:
            message = stun.decode_message(out.data)
            if message.message_class is MessageClass.REQUEST:
                self.sent.append((round(self.now - 100.0, 6), out, message))
                if self.answers:
                    self.answer(message, out)
        while self.core.poll_event() is not None:
            pass

    def answer(self, message: Message, out: Transmit, code: int = 0) -> None:
        value = stun.encode_address(OURS, message.transaction_id)
        attributes: list[tuple[int, bytes]] = [(Attribute.XOR_MAPPED_ADDRESS, value)]
        if code:
            attributes = [(Attribute.ERROR_CODE, stun.encode_error(code, "no"))]
        kind = MessageClass.ERROR if code else MessageClass.SUCCESS
        data = stun.encode_message(kind, message.transaction_id, attributes, key=PASSWORD.encode())
        self.core.handle_datagram(data, out.destination, now=self.now, local_ip=out.source_ip)

    def request(self) -> None:
        """Let the other side check us, and nominate."""
        attributes = [
            (Attribute.USERNAME, f"{self.core.ufrag}:them".encode()),
            (Attribute.PRIORITY, (1000).to_bytes(4, "big")),
            (Attribute.ICE_CONTROLLING, bytes(8)),
            (Attribute.USE_CANDIDATE, b""),
        ]
        data = stun.encode_message(
            MessageClass.REQUEST, b"r" * 12, attributes, key=self.core.pwd.encode()
        )
        self.core.handle_datagram(data, THEIRS, now=self.now, local_ip=OURS.ip)
        self.drain()

    def run_until(self, seconds: float) -> None:
        end = 100.0 + seconds
        while (deadline := self.core.poll_deadline()) is not None and deadline.at <= end:
            self.now = max(self.now, deadline.at)
            self.core.handle_timeout(now=self.now)
            self.drain()
        self.now = end

    def times(self) -> list[float]:
        """Return when each request went out for the first time."""
        first: dict[bytes, float] = {}
        for at, _, message in self.sent:
            first.setdefault(message.transaction_id, at)
        return list(first.values())


def hosts(count: int) -> list[str]:
    return [f"203.0.113.{n}" for n in range(1, count + 1)]


def test_rfc_8445_14_2_ta_is_50_ms_with_who_proposes_none() -> None:
    agent = Agent()
    agent.begin([OURS.ip], hosts(8))
    agent.run_until(0.45)
    assert agent.times() == [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35]


@pytest.mark.parametrize(
    ("ours", "theirs", "ta"), [(0.01, 0.02, 0.02), (0.03, 0.005, 0.03), (0.001, 0.001, 0.005)]
)
def test_rfc_8445_14_2_the_larger_proposal_holds_and_5_ms_are_the_least(
    ours: float, theirs: float, ta: float
) -> None:
    agent = Agent(AgentConfig(pacing=ours))
    agent.core.set_remote_pacing(theirs)
    agent.begin([OURS.ip], hosts(5))
    agent.run_until(0.3)
    assert agent.times() == pytest.approx([0.0, ta, 2 * ta, 3 * ta, 4 * ta], abs=1e-6)


def test_rfc_8445_14_2_all_agents_together_send_a_new_check_each_5_ms_at_most() -> None:
    limiter = CheckLimiter()
    agents = [Agent(AgentConfig(pacing=0.01, limiter=limiter)) for _ in range(6)]
    for agent in agents:
        agent.core.set_remote_pacing(0.01)
        agent.begin([OURS.ip], hosts(6))
    for step in range(1, 400):
        for agent in agents:
            agent.run_until(step / 1000)
    times = sorted(at for agent in agents for at in agent.times())
    assert len(times) == 36  # none is forgotten
    assert min(b - a for a, b in pairwise(times)) >= 0.005 - 1e-6


@pytest.mark.parametrize(
    ("pairs", "rto"),
    [
        (1, 0.5),  # 50 ms x 1 = 50 ms, so 500 ms
        (10, 0.5),  # 50 ms x 10 = 500 ms
        (20, 1.0),  # 50 ms x 20
        (16, 0.8),
    ],
)
def test_rfc_8445_14_3_rto_grows_with_the_pairs_that_wait_or_are_asked(
    pairs: int, rto: float
) -> None:
    agent = Agent()
    agent.begin([OURS.ip], hosts(pairs))
    agent.run_until(2.0)
    first = agent.sent[0][2].transaction_id
    times = [at for at, _, message in agent.sent if message.transaction_id == first]
    assert times[1] == pytest.approx(rto, abs=1e-6)


def test_rfc_8489_6_2_1_gaps_double_and_the_id_stays() -> None:
    agent = Agent(AgentConfig(patience=39.5))
    agent.begin([OURS.ip], [THEIRS.ip])
    agent.run_until(9.99)
    assert [at for at, *_ in agent.sent] == [0.0, 0.5, 1.5, 3.5, 7.5]
    assert len(agent.times()) == 1
    assert agent.core.pairs[0].failure == ""
    agent.run_until(10.01)  # ours: 5 sends, then 2.5 s; the RFC's 7 would take 39.5 s
    assert "5 checks" in agent.core.pairs[0].failure


def test_rfc_8421_families_take_turns_from_the_first_check_on() -> None:
    agent = Agent()
    both = ["2001:db8::1", "2001:db8::2", "203.0.113.1", "203.0.113.2"]
    agent.begin(["2001:db8::9", "198.51.100.9"], both)
    agent.run_until(0.4)
    families = [6 if out.destination.is_ipv6 else 4 for _, out, _ in agent.sent[:4]]
    assert families == [6, 4, 6, 4]  # IPv6 first, and a broken one delays IPv4 by one Ta
    assert agent.times()[:2] == [0.0, 0.05]


def test_rfc_8421_preferences_are_unique_and_interleaved() -> None:
    found = host_preferences(["203.0.113.1", "203.0.113.2", "2001:db8::1", "203.0.113.3"])
    assert found == {
        "2001:db8::1": 65535,
        "203.0.113.1": 65534,
        "203.0.113.2": 65532,
        "203.0.113.3": 65530,
    }


def test_rfc_8863_an_agent_whose_pairs_have_all_failed_waits_for_the_other_side() -> None:
    agent = Agent(controlling=False)
    agent.begin([OURS.ip], [THEIRS.ip])
    _, out, message = agent.sent[0]
    agent.answer(message, out, code=500)
    agent.drain()
    assert all(pair.failure for pair in agent.core.pairs)
    agent.run_until(9.9)  # of our 10 s; the RFC's default is 39.5 s
    assert agent.core.state is IceState.CHECKING
    agent.answers = True
    agent.request()
    assert agent.core.state is IceState.CONNECTED


@pytest.mark.parametrize("patience", [10.0, 39.5])
def test_rfc_8863_no_candidates_at_all_fail_after_the_patience_and_not_before(
    patience: float,
) -> None:
    agent = Agent(AgentConfig(patience=patience), controlling=False)
    agent.begin([OURS.ip], [])
    agent.core.end_remote_candidates()
    agent.run_until(patience - 0.01)
    assert agent.core.state is IceState.CHECKING
    agent.run_until(patience)
    assert agent.core.state is IceState.FAILED


def connected(config: AgentConfig) -> Agent:
    agent = Agent(config)
    agent.answers = True
    agent.begin([OURS.ip], [THEIRS.ip])
    agent.run_until(0.2)
    assert agent.core.state is IceState.CONNECTED
    agent.sent.clear()
    return agent


@pytest.mark.parametrize("keepalive", [4.0, 5.0])
def test_rfc_7675_consent_is_asked_for_at_random_between_0_8_and_1_2_intervals(
    keepalive: float,
) -> None:
    agent = connected(AgentConfig(keepalive=keepalive))
    agent.run_until(600.0)
    gaps = [b - a for a, b in pairwise(at for at, *_ in agent.sent)]
    assert len(gaps) > 600 / keepalive / 1.2 - 2
    assert min(gaps) >= 0.8 * keepalive - 1e-6
    assert max(gaps) <= 1.2 * keepalive + 1e-6
    assert max(gaps) - min(gaps) > 0.3 * keepalive  # spread, not fixed
    assert len({message.transaction_id for *_, message in agent.sent}) == len(agent.sent)


def test_rfc_7675_unanswered_consent_ends_the_sending_well_before_30_s() -> None:
    agent = connected(AgentConfig())
    agent.run_until(20.0)
    last_answer = agent.sent[-1][0]
    agent.answers = False
    agent.run_until(last_answer + 5.99)
    assert agent.core.state is IceState.CONNECTED
    agent.run_until(last_answer + 6.01)
    assert agent.core.state is IceState.DISCONNECTED
    agent.run_until(last_answer + 11.99)
    assert agent.core.state is IceState.DISCONNECTED
    agent.run_until(last_answer + 12.01)
    assert agent.core.state is IceState.FAILED
    before = len(agent.sent)
    agent.run_until(60.0)
    assert len(agent.sent) == before
    ids = [message.transaction_id for *_, message in agent.sent]
    assert len(set(ids)) == len(ids)  # each check is a new one, none is sent again


def test_rfc_7675_only_a_signed_answer_of_the_other_end_renews_consent() -> None:
    agent = connected(AgentConfig())
    agent.run_until(20.0)
    last_answer = agent.sent[-1][0]
    agent.answers = False
    while agent.now < 100.0 + last_answer + 6.0:
        agent.run_until(agent.now - 100.0 + 0.2)
        _, out, message = agent.sent[-1]
        value = stun.encode_address(OURS, message.transaction_id)
        attributes = [(Attribute.XOR_MAPPED_ADDRESS, value)]
        for key in (b"wrong", None):
            data = stun.encode_message(
                MessageClass.SUCCESS, message.transaction_id, attributes, key=key
            )
            agent.core.handle_datagram(data, out.destination, now=agent.now)
    assert agent.core.state is IceState.DISCONNECTED
