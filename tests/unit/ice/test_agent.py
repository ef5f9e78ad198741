"""Restarts, candidates of other sessions and quick checks of one agent, driven by hand."""

import random

import pytest

from ginnel.base.types import Address
from ginnel.ice import stun
from ginnel.ice.agent import MAX_EARLY_CANDIDATES, AgentCore
from ginnel.ice.candidate import CandidateKind, make_host, make_remote
from ginnel.ice.consent import QUICK_GAP, QUICK_PATIENCE
from ginnel.ice.events import (
    AgentConfig,
    CandidateFound,
    Drop,
    IceEvent,
    IceState,
    KeptPathLost,
    PairSelected,
    PathChecked,
    RestartFailed,
    StateChanged,
)
from ginnel.ice.stun import Attribute, Message, MessageClass

LOCAL = Address("192.168.1.2", 4000)
REMOTE = Address("198.51.100.7", 5000)
OTHER = Address("198.51.100.7", 6000)
UFRAG, PWD = "them", "p" * 22
NEW_UFRAG, NEW_PWD = "anew", "q" * 22


class Driven:
    """A controlling agent and the hand that answers its checks."""

    def __init__(self) -> None:
        rng = random.Random(5)
        self.agent = AgentCore(AgentConfig(), controlling=True, random_bytes=rng.randbytes, rng=rng)
        self.now = 0.0
        self.events: list[IceEvent] = []
        self.agent.add_local_candidate(make_host(LOCAL), now=0.0)

    def sent(self) -> list[tuple[Message, Address]]:
        found = []
        while (transmit := self.agent.poll_transmit()) is not None:
            found.append((stun.decode_message(transmit.data), transmit.destination))
        return found

    def told(self, kind: type[IceEvent]) -> list[IceEvent]:
        while (event := self.agent.poll_event()) is not None:
            self.events.append(event)
        return [event for event in self.events if isinstance(event, kind)]

    def answer(self, check: Message, pwd: str = PWD, source: Address = REMOTE) -> None:
        mapped = stun.encode_address(LOCAL, check.transaction_id)
        data = stun.encode_message(
            MessageClass.SUCCESS,
            check.transaction_id,
            [(Attribute.XOR_MAPPED_ADDRESS, mapped)],
            key=pwd.encode(),
        )
        self.agent.handle_datagram(data, source, now=self.now)

    def step(self, until: float) -> list[tuple[float, Message, Address]]:
        """Let time pass and return what was sent, unanswered."""
        found = [(self.now, *item) for item in self.sent()]
        while (deadline := self.agent.poll_deadline()) is not None and deadline.at <= until:
            self.now = max(self.now, deadline.at)
            self.agent.handle_timeout(now=self.now)
            found += [(self.now, *item) for item in self.sent()]
        self.now = until
        return found

    def connect(self, ufrag: str = UFRAG, pwd: str = PWD, address: Address = REMOTE) -> None:
        agent = self.agent
        agent.add_remote_candidate(make_remote(CandidateKind.HOST, address, 5, "f"), now=self.now)
        assert agent.set_remote_credentials(ufrag, pwd, now=self.now)
        agent.start(now=self.now)
        for _ in range(100):
            is_connected = agent.state in (IceState.CONNECTED, IceState.COMPLETED)
            for _, check, destination in self.step(self.now + 0.01):
                if destination == address and check.username.startswith(f"{ufrag}:"):
                    self.answer(check, pwd, address)
            if is_connected:
                return  # the nomination was answered too
        raise AssertionError("not connected")


@pytest.fixture
def driven() -> Driven:
    driven = Driven()
    driven.connect()
    return driven


def consent_request(agent_ufrag: str, agent_pwd: str) -> bytes:
    attributes = [
        (Attribute.USERNAME, f"{agent_ufrag}:{UFRAG}".encode()),
        (Attribute.PRIORITY, (1000).to_bytes(4, "big")),
        (Attribute.ICE_CONTROLLED, bytes(8)),
    ]
    return stun.encode_message(MessageClass.REQUEST, bytes(12), attributes, key=agent_pwd.encode())


def test_a_restart_keeps_the_selected_pair_until_the_new_one_is_selected(driven: Driven) -> None:
    agent, before = driven.agent, driven.agent.selected
    old_ufrag, old_pwd = agent.ufrag, agent.pwd
    ufrag, pwd = agent.restart(now=driven.now)
    assert (ufrag, pwd) == (agent.ufrag, agent.pwd)
    assert old_ufrag != ufrag
    assert old_pwd != pwd
    assert agent.state is IceState.CHECKING
    assert agent.is_restarting
    assert agent.selected == before
    assert len(driven.told(CandidateFound)) == 2  # told again
    agent.handle_datagram(consent_request(old_ufrag, old_pwd), REMOTE, now=driven.now)
    ((response, _),) = driven.sent()
    assert stun.check_integrity(response, old_pwd.encode())

    (_, consent, _), *_ = driven.step(driven.now + 5.0)  # the old path is still cared for
    assert consent.username == f"{UFRAG}:{old_ufrag}"
    driven.answer(consent)

    driven.connect(NEW_UFRAG, NEW_PWD, OTHER)
    assert not agent.is_restarting
    assert agent.selected is not None
    assert agent.selected[1].address == OTHER
    assert agent.state is IceState.CONNECTED
    states = [event.state for event in driven.told(StateChanged)]
    assert states == [
        IceState.CHECKING,
        IceState.CONNECTED,
        IceState.CHECKING,
        IceState.CONNECTED,
    ]
    agent.handle_datagram(consent_request(old_ufrag, old_pwd), REMOTE, now=driven.now)
    assert agent.drops[Drop.FOREIGN] == 1  # the old session is over


def test_a_restart_that_finds_nothing_goes_back_to_the_old_path(driven: Driven) -> None:
    agent, before, ufrag = driven.agent, driven.agent.selected, driven.agent.ufrag
    agent.restart(now=driven.now)
    agent.set_remote_credentials(NEW_UFRAG, NEW_PWD, now=driven.now)
    agent.add_remote_candidate(make_remote(CandidateKind.HOST, OTHER, 5, "f"), now=driven.now)
    end = driven.now + 30.0
    while driven.now < end and agent.state is IceState.CHECKING:
        for _, check, destination in driven.step(driven.now + 0.1):
            if destination == REMOTE:
                driven.answer(check)
    assert agent.state is IceState.CONNECTED
    assert agent.selected == before
    assert agent.ufrag == ufrag
    (failed,) = driven.told(RestartFailed)
    assert isinstance(failed, RestartFailed)
    assert "no check was answered" in failed.reason


def test_a_restart_without_any_answer_can_be_cancelled(driven: Driven) -> None:
    agent, before, ufrag = driven.agent, driven.agent.selected, driven.agent.ufrag
    assert not agent.cancel_restart("none", now=driven.now)
    agent.restart(now=driven.now)
    agent.restart(now=driven.now)  # twice: the path is still the one of the beginning
    assert agent.cancel_restart("no answer to the offer", now=driven.now)
    assert (agent.selected, agent.ufrag) == (before, ufrag)
    assert agent.state is IceState.CONNECTED


def test_a_kept_path_that_dies_is_told_and_the_restart_goes_on(driven: Driven) -> None:
    agent = driven.agent
    agent.restart(now=driven.now)
    driven.step(driven.now + 13.0)
    assert driven.told(KeptPathLost)
    assert agent.selected is None
    assert agent.state is IceState.CHECKING
    driven.connect(NEW_UFRAG, NEW_PWD, OTHER)
    assert len(driven.told(PairSelected)) == 2


def test_a_failed_agent_can_restart_and_a_closed_one_not(driven: Driven) -> None:
    agent = driven.agent
    driven.step(driven.now + 13.0)
    assert agent.state is IceState.FAILED
    agent.restart(now=driven.now)
    assert agent.selected is None
    driven.connect(NEW_UFRAG, NEW_PWD)
    agent.close()
    same = agent.restart(now=driven.now)
    assert agent.state is IceState.CLOSED
    assert same == (agent.ufrag, agent.pwd)
    assert agent.poll_deadline() is None


def test_credentials_of_the_old_session_are_refused_after_a_restart(driven: Driven) -> None:
    agent = driven.agent
    assert not agent.set_remote_credentials(NEW_UFRAG, NEW_PWD, now=driven.now)
    agent.restart(now=driven.now)
    assert not agent.set_remote_credentials(UFRAG, PWD, now=driven.now)
    assert agent.set_remote_credentials(NEW_UFRAG, NEW_PWD, now=driven.now)
    assert agent.remote_ufrag == NEW_UFRAG


def test_candidates_of_an_old_session_are_refused_and_of_a_coming_one_kept(driven: Driven) -> None:
    agent, now = driven.agent, driven.now
    early = make_remote(CandidateKind.HOST, OTHER, 5, "f")
    late = make_remote(CandidateKind.HOST, Address(REMOTE.ip, 7), 5, "f")
    assert agent.add_remote_candidate(early, now=now, ufrag=NEW_UFRAG)
    assert not agent.add_remote_candidate(early, now=now, ufrag=NEW_UFRAG)  # twice
    agent.restart(now=now)
    assert not agent.add_remote_candidate(late, now=now, ufrag=UFRAG)
    assert agent.drops == {Drop.OLD_SESSION: 1}
    agent.set_remote_credentials(NEW_UFRAG, NEW_PWD, now=now)
    assert [pair.remote.address for pair in agent.pairs] == [OTHER]
    assert agent.add_remote_candidate(late, now=now, ufrag=NEW_UFRAG)
    assert len(agent.pairs) == 2


def test_early_candidates_are_bounded(driven: Driven) -> None:
    agent = driven.agent
    for port in range(1, MAX_EARLY_CANDIDATES + 30):
        candidate = make_remote(CandidateKind.HOST, Address(REMOTE.ip, port), 5, "f")
        agent.add_remote_candidate(candidate, now=driven.now, ufrag=f"ufrag{port}")
    agent.restart(now=driven.now)
    agent.set_remote_credentials("ufrag1", NEW_PWD, now=driven.now)
    assert not agent.pairs  # the oldest went


def test_a_restart_may_bring_other_addresses(driven: Driven) -> None:
    moved = make_host(Address("10.0.0.9", 4000))
    driven.agent.restart(now=driven.now, candidates=(moved,))
    assert driven.agent.local_candidates == (moved,)


def test_check_now_hears_an_answer(driven: Driven) -> None:
    agent = driven.agent
    driven.step(driven.now + 1.0)
    assert agent.check_now(now=driven.now)
    ((check, destination),) = driven.sent()
    assert destination == REMOTE
    driven.answer(check)
    assert driven.told(PathChecked) == [PathChecked(is_alive=True)]
    assert driven.step(driven.now + 2.0) == []
    assert agent.state is IceState.CONNECTED


def test_check_now_notices_a_dead_path_within_a_second(driven: Driven) -> None:
    agent = driven.agent
    driven.step(driven.now + 1.0)
    started_at = driven.now
    agent.check_now(now=driven.now)
    agent.check_now(now=driven.now)  # harmless
    checks = driven.step(driven.now + QUICK_PATIENCE)
    assert len(checks) == pytest.approx(QUICK_PATIENCE / QUICK_GAP, abs=1)
    assert driven.told(PathChecked) == [PathChecked(is_alive=False)]
    assert agent.state is IceState.DISCONNECTED
    (_, late, _), *_ = driven.step(started_at + 2.5)  # still asked, and comes back
    driven.answer(late)
    assert agent.state is IceState.CONNECTED
    agent.check_now(now=driven.now)
    driven.step(driven.now + 9.0)
    assert agent.state is IceState.FAILED
    assert not agent.check_now(now=driven.now)


def test_check_now_without_a_path_does_nothing() -> None:
    driven = Driven()
    assert not driven.agent.check_now(now=0.0)
    assert driven.sent() == []
