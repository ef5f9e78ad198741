"""An agent and a connection under hostile datagrams: they never raise, and nothing is believed."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Address
from ginnel.ice import stun
from ginnel.ice.agent import AgentCore
from ginnel.ice.candidate import CandidateKind, make_host, make_remote
from ginnel.ice.events import AgentConfig, IceState
from ginnel.ice.stun import Attribute, MessageClass
from ginnel.peer.signal import OfferAnswer, decode_candidates, decode_offer, encode_offer

REMOTE = Address("198.51.100.7", 5000)
sources = st.sampled_from(
    [REMOTE, Address("198.51.100.8", 1), Address("224.0.0.1", 5), Address("2001:db8::1", 6)]
)


def make_agent() -> AgentCore:
    rng = random.Random(1)
    agent = AgentCore(AgentConfig(), controlling=False, random_bytes=rng.randbytes, rng=rng)
    agent.add_local_candidate(make_host(Address("192.168.1.2", 4000)), now=0.0)
    agent.set_remote_credentials("them", "p" * 24, now=0.0)
    agent.start(now=0.0)
    agent.add_remote_candidate(make_remote(CandidateKind.HOST, REMOTE, 9, "f"), now=0.0)
    return agent


def valid_request(agent: AgentCore) -> bytes:
    attributes = [
        (Attribute.USERNAME, f"{agent.ufrag}:them".encode()),
        (Attribute.PRIORITY, (1000).to_bytes(4, "big")),
        (Attribute.ICE_CONTROLLING, bytes(8)),
        (Attribute.USE_CANDIDATE, b""),
    ]
    return stun.encode_message(
        MessageClass.REQUEST, bytes(12), attributes, key=agent.pwd.encode(), fingerprint=False
    )


def drain(agent: AgentCore) -> None:
    while agent.poll_transmit() is not None:
        pass
    while agent.poll_event() is not None:
        pass


@given(st.lists(st.tuples(st.binary(max_size=300), sources), max_size=20))
def test_random_datagrams_never_raise(datagrams: list[tuple[bytes, Address]]) -> None:
    agent = make_agent()
    for data, source in datagrams:
        agent.handle_datagram(data, source, now=0.1)
    assert agent.selected is None
    assert sum(agent.drops.values()) == len(datagrams)


@settings(max_examples=300)
@given(st.data())
def test_a_changed_request_is_never_believed(data: st.DataObject) -> None:
    agent = make_agent()
    drain(agent)
    request = bytearray(valid_request(agent))
    at = data.draw(st.integers(0, len(request) - 1))
    request[at] ^= data.draw(st.integers(1, 255))
    agent.handle_datagram(bytes(request), data.draw(sources), now=0.1)
    assert agent.poll_transmit() is None
    assert agent.state is IceState.CHECKING


@given(
    st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=24)), max_size=8),
    st.sampled_from(MessageClass),
    sources,
)
def test_signed_nonsense_never_raises(
    attributes: list[tuple[int, bytes]], message_class: MessageClass, source: Address
) -> None:
    agent = make_agent()
    while (transmit := agent.poll_transmit()) is not None:
        check = transmit.data
    username = (Attribute.USERNAME, f"{agent.ufrag}:them".encode())
    reserved = (Attribute.MESSAGE_INTEGRITY, Attribute.FINGERPRINT)
    items = [username, *(item for item in attributes if item[0] not in reserved)]
    for key in (agent.pwd, "p" * 24):
        data = stun.encode_message(message_class, check[8:20], items, key=key.encode())
        agent.handle_datagram(data, source, now=0.1)
        agent.handle_timeout(now=0.2)
    drain(agent)


@given(st.binary(max_size=300))
def test_random_payloads_are_refused_or_decoded(payload: bytes) -> None:
    for decode in (decode_offer, decode_candidates):
        try:
            decode(payload)
        except RemoteProtocolError:
            continue


@given(st.data())
def test_mutated_offers_are_refused_or_decoded(data: st.DataObject) -> None:
    candidate = make_remote(CandidateKind.HOST, REMOTE, 9, "f")
    payload = bytearray(encode_offer(OfferAnswer(b"s" * 16, "them", "p" * 24, (candidate,) * 3)))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)))
    try:
        offer = decode_offer(bytes(payload[:cut]))
    except RemoteProtocolError:
        return
    assert decode_offer(encode_offer(offer)) == offer
