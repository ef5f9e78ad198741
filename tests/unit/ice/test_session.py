"""What an agent does with requests, credentials and candidates, driven by hand."""

import random

import pytest

from ginnel.base.types import Address
from ginnel.ice import stun
from ginnel.ice.candidate import (
    MAX_LOCAL_CANDIDATES,
    MAX_REMOTE_CANDIDATES,
    CandidateKind,
    make_host,
    make_remote,
    make_server_reflexive,
)
from ginnel.ice.events import AgentConfig, CandidateFound, Drop, IceState, PairSelected
from ginnel.ice.session import MAX_EARLY_CHECKS, MAX_PEER_REFLEXIVE, SessionCore
from ginnel.ice.stun import Attribute, Message, MessageClass

LOCAL = Address("192.168.1.2", 4000)
REMOTE = Address("198.51.100.7", 5000)
REMOTE_UFRAG, REMOTE_PWD = "them", "p" * 22
TRANSACTION = bytes(range(12))


def make_agent(*, controlling: bool = False, ready: bool = True) -> SessionCore:
    rng = random.Random(5)
    agent = SessionCore(
        AgentConfig(), controlling=controlling, random_bytes=rng.randbytes, rng=rng, drops={}
    )
    agent.add_local_candidate(make_host(LOCAL), now=0.0)
    if ready:
        agent.set_remote_credentials(REMOTE_UFRAG, REMOTE_PWD, now=0.0)
        agent.start(now=0.0)
    return agent


def request(
    agent: SessionCore,
    *more: tuple[int, bytes],
    username: str = "",
    key: str = "",
    role: Attribute = Attribute.ICE_CONTROLLING,
    tie_breaker: int = 2**64 - 1,
    transaction: bytes = TRANSACTION,
) -> bytes:
    attributes = [
        (Attribute.USERNAME, (username or f"{agent.ufrag}:{REMOTE_UFRAG}").encode()),
        (Attribute.PRIORITY, (1000).to_bytes(4, "big")),
        (role, tie_breaker.to_bytes(8, "big")),
        *more,
    ]
    return stun.encode_message(
        MessageClass.REQUEST, transaction, attributes, key=(key or agent.pwd).encode()
    )


def sent(agent: SessionCore) -> list[tuple[Message, Address]]:
    found = []
    while (transmit := agent.poll_transmit()) is not None:
        found.append((stun.decode_message(transmit.data), transmit.destination))
    return found


def answer(agent: SessionCore, check: Message, mapped: Address = LOCAL) -> None:
    data = stun.encode_message(
        MessageClass.SUCCESS,
        check.transaction_id,
        [(Attribute.XOR_MAPPED_ADDRESS, stun.encode_address(mapped, check.transaction_id))],
        key=REMOTE_PWD.encode(),
    )
    agent.handle_datagram(data, REMOTE, now=0.1)


def test_a_check_is_answered_from_where_it_arrived_and_triggers_one() -> None:
    agent = make_agent()
    agent.handle_datagram(request(agent), REMOTE, now=0.0, local_ip=LOCAL.ip)
    transmit = agent.poll_transmit()
    assert transmit is not None
    assert (transmit.destination, transmit.source_ip) == (REMOTE, LOCAL.ip)
    response = stun.decode_message(transmit.data)
    assert response.mapped_address == REMOTE
    assert stun.check_integrity(response, agent.pwd.encode())
    (check, destination), *rest = sent(agent)
    assert not rest
    assert destination == REMOTE
    assert check.username == f"{REMOTE_UFRAG}:{agent.ufrag}"
    assert stun.check_integrity(check, REMOTE_PWD.encode())


def test_the_controlled_side_selects_what_was_nominated_once_its_check_succeeded() -> None:
    agent = make_agent()
    agent.handle_datagram(request(agent, (Attribute.USE_CANDIDATE, b"")), REMOTE, now=0.0)
    assert agent.selected is None
    _, (check, _) = sent(agent)
    answer(agent, check)
    assert agent.selected is not None
    assert agent.selected[1].kind is CandidateKind.PRFLX
    assert agent.state is IceState.CONNECTED
    agent.end_local_candidates()
    agent.end_remote_candidates()
    assert agent.state is IceState.COMPLETED
    events = []
    while (event := agent.poll_event()) is not None:
        events.append(event)
    assert sum(isinstance(event, PairSelected) for event in events) == 1
    assert sum(isinstance(event, CandidateFound) for event in events) == 1


def test_an_unknown_mapped_address_is_a_peer_reflexive_local_candidate() -> None:
    agent = make_agent()
    agent.handle_datagram(request(agent, (Attribute.USE_CANDIDATE, b"")), REMOTE, now=0.0)
    _, (check, _) = sent(agent)
    answer(agent, check, Address("203.0.113.5", 777))
    assert agent.selected is not None
    local = agent.selected[0]
    assert (local.kind, local.address, local.base) == (
        CandidateKind.PRFLX,
        Address("203.0.113.5", 777),
        LOCAL,
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"username": "other:them"}, Drop.FOREIGN),
        ({"key": "wrong"}, Drop.BAD_INTEGRITY),
    ],
)
def test_requests_that_are_not_ours_get_no_answer(options: dict[str, str], reason: Drop) -> None:
    agent = make_agent()
    agent.handle_datagram(request(agent, **options), REMOTE, now=0.0)  # type: ignore[arg-type]  # two keywords of text
    assert sent(agent) == []
    assert agent.drops == {reason: 1}


def test_early_checks_are_answered_kept_and_bounded() -> None:
    agent = make_agent(ready=False)
    for port in range(1, MAX_EARLY_CHECKS + 11):
        agent.handle_datagram(request(agent), Address(REMOTE.ip, port), now=0.0)
    assert len(sent(agent)) == MAX_EARLY_CHECKS + 10
    assert agent.state is IceState.NEW
    agent.set_remote_credentials(REMOTE_UFRAG, REMOTE_PWD, now=1.0)
    agent.start(now=1.0)
    assert len(sent(agent)) == 1
    assert len(agent.pairs) == MAX_PEER_REFLEXIVE


def test_a_request_sealed_by_sha256_is_answered_so() -> None:
    """RFC 8489 section 9.1.3."""
    agent = make_agent()
    for key, count in ((b"wrong", 0), (agent.pwd.encode(), 1)):
        attributes = [
            (Attribute.USERNAME, f"{agent.ufrag}:{REMOTE_UFRAG}".encode()),
            (Attribute.PRIORITY, (1000).to_bytes(4, "big")),
            (Attribute.ICE_CONTROLLING, bytes([255] * 8)),
        ]
        data = stun.encode_message(
            MessageClass.REQUEST, TRANSACTION, attributes, key=key, sha256=True
        )
        agent.handle_datagram(data, REMOTE, now=0.0)
        found = [m for m, _ in sent(agent) if m.message_class is MessageClass.SUCCESS]
        assert [stun.check_integrity_sha256(m, agent.pwd.encode()) for m in found] == [True] * count
    assert agent.drops == {Drop.BAD_INTEGRITY: 1}


def test_an_unknown_required_attribute_gives_420() -> None:
    agent = make_agent()
    agent.handle_datagram(request(agent, (0x7001, b"")), REMOTE, now=0.0)
    ((response, _),) = sent(agent)
    assert response.error_code == 420
    assert response.get(Attribute.UNKNOWN_ATTRIBUTES) == b"\x70\x01"


def test_a_role_conflict_makes_the_smaller_tie_breaker_yield() -> None:
    agent = make_agent(controlling=True)
    agent.handle_datagram(request(agent, tie_breaker=0), REMOTE, now=0.0)
    ((response, _),) = sent(agent)
    assert response.error_code == 487
    assert agent.controlling
    agent.handle_datagram(request(agent), REMOTE, now=0.0)
    assert not agent.controlling
    assert sent(agent)[0][0].message_class is MessageClass.SUCCESS


def test_a_487_switches_our_role_and_checks_again() -> None:
    agent = make_agent(controlling=True)
    agent.add_remote_candidate(make_remote(CandidateKind.HOST, REMOTE, 5, "f"), now=0.0)
    ((check, _),) = sent(agent)
    error = stun.encode_message(
        MessageClass.ERROR,
        check.transaction_id,
        [(Attribute.ERROR_CODE, stun.encode_error(487, "Role Conflict"))],
        key=REMOTE_PWD.encode(),
    )
    agent.handle_datagram(error, REMOTE, now=0.1)
    assert not agent.controlling
    ((again, _),) = sent(agent)
    assert again.get(Attribute.ICE_CONTROLLED) is not None


def test_an_answer_from_elsewhere_fails_the_pair() -> None:
    agent = make_agent(controlling=True)
    agent.add_remote_candidate(make_remote(CandidateKind.HOST, REMOTE, 5, "f"), now=0.0)
    ((check, _),) = sent(agent)
    data = stun.encode_message(
        MessageClass.SUCCESS,
        check.transaction_id,
        [(Attribute.XOR_MAPPED_ADDRESS, stun.encode_address(LOCAL, check.transaction_id))],
        key=REMOTE_PWD.encode(),
    )
    agent.handle_datagram(data, Address("198.51.100.99", 1), now=0.1)
    assert agent.drops == {Drop.ASYMMETRIC: 1}
    assert agent.selected is None


def test_nothing_is_sent_before_the_credentials() -> None:
    agent = make_agent(ready=False)
    agent.start(now=0.0)
    agent.add_remote_candidate(make_remote(CandidateKind.HOST, REMOTE, 5, "f"), now=0.0)
    agent.handle_timeout(now=5.0)
    assert sent(agent) == []
    assert agent.poll_deadline() is None


def test_remote_candidates_are_bounded_and_filtered() -> None:
    agent = make_agent()
    results = [
        agent.add_remote_candidate(
            make_remote(CandidateKind.HOST, Address(REMOTE.ip, port), port, str(port)), now=0.0
        )
        for port in range(1, MAX_REMOTE_CANDIDATES + 6)
    ]
    assert results.count(True) == MAX_REMOTE_CANDIDATES
    for ip in ("127.0.0.1", "224.0.0.1", LOCAL.ip):
        address = Address(ip, LOCAL.port)
        refused = make_remote(CandidateKind.HOST, address, 5, "f")
        assert not agent.add_remote_candidate(refused, now=0.0)


def test_local_candidates_are_bounded_and_reflexive_ones_share_their_base() -> None:
    agent = make_agent()
    agent.add_remote_candidate(make_remote(CandidateKind.HOST, REMOTE, 5, "f"), now=0.0)
    srflx = make_server_reflexive(Address("203.0.113.1", 9), LOCAL)
    assert agent.add_local_candidate(srflx, now=0.0)
    assert not agent.add_local_candidate(srflx, now=0.0)
    assert len(agent.pairs) == 1
    added = [
        agent.add_local_candidate(make_host(Address(f"10.0.0.{n}", 1)), now=0.0)
        for n in range(1, 40)
    ]
    assert added.count(True) == MAX_LOCAL_CANDIDATES - 2


@pytest.mark.parametrize(("proposed", "pacing"), [(None, 0.05), (0.02, 0.02), (0.001, 0.01)])
def test_new_checks_are_as_far_apart_as_both_propose(proposed: float | None, pacing: float) -> None:
    agent = make_agent()
    if proposed is not None:
        agent.set_remote_pacing(proposed)
    for port in range(1, 6):
        remote = make_remote(CandidateKind.HOST, Address(REMOTE.ip, port), port, str(port))
        agent.add_remote_candidate(remote, now=0.0)
    times = [0.0]
    assert len(sent(agent)) == 1
    while len(times) < 5:
        deadline = agent.poll_deadline()
        assert deadline is not None
        agent.handle_timeout(now=deadline.at)
        times += [deadline.at] * len(sent(agent))
    assert times == pytest.approx([number * pacing for number in range(5)])


def test_ownership_on_a_shared_socket() -> None:
    agent, other = make_agent(), make_agent(ready=False)
    other.ufrag = "somebody"
    message = stun.decode_message(request(agent))
    assert agent.owns(message, REMOTE)
    assert not other.owns(message, REMOTE)


def test_an_agent_that_never_hears_anything_fails_after_its_patience() -> None:
    agent = make_agent(controlling=True)
    agent.add_remote_candidate(make_remote(CandidateKind.HOST, REMOTE, 5, "f"), now=0.0)
    now = 0.0
    while agent.state is IceState.CHECKING and now < 20.0:
        deadline = agent.poll_deadline()
        assert deadline is not None
        now = max(now, deadline.at)
        agent.handle_timeout(now=now)
    assert agent.state is IceState.FAILED
    assert now == 10.0
    assert agent.poll_deadline() is None
    assert agent.why_failed() is not None


def test_a_closed_agent_is_silent() -> None:
    agent = make_agent()
    agent.close()
    agent.close()
    agent.handle_datagram(request(agent), REMOTE, now=0.0)
    assert agent.drops == {Drop.CLOSED: 1}
    assert not agent.add_remote_candidate(make_remote(CandidateKind.HOST, REMOTE, 5, "f"), now=0.0)
    assert sent(agent) == []
    assert agent.why_failed() is None
