"""Sessions between two wires."""

from __future__ import annotations

import random

import pytest

from ginnel.base.types import Address, Secret
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.enr import Enr, RecordCache, sign_enr
from ginnel.discv5.events import Drop
from ginnel.discv5.packet import HandshakePacket, OrdinaryPacket, WhoAreYouPacket
from ginnel.discv5.requests import Contact
from ginnel.discv5.wire import Dropped, Wire

LEFT, RIGHT = Address("192.168.0.1", 1), Address("192.168.0.2", 2)


def make(seed: int) -> tuple[Wire, Enr]:
    key = bytes([seed]) * 32
    record = sign_enr(key, 1, {})
    wire = Wire(
        DiscoveryConfig(),
        Secret(key),
        records=RecordCache(),
        random_bytes=random.Random(seed).randbytes,
        local_record=lambda: record,
        known_record=lambda node_id: None,
    )
    return wire, record


def test_a_session_both_ways() -> None:
    (left, left_record), (right, right_record) = make(1), make(2)
    contact = Contact(right.node_id, RIGHT, right_record.public_key)
    knock = right.codec.decode(left.knock(right.node_id)[0])
    assert isinstance(knock, OrdinaryPacket)
    assert right.open_ordinary(knock, LEFT) is None
    challenge = left.codec.decode(right.challenge(knock, LEFT, 0.0).data)
    assert isinstance(challenge, WhoAreYouPacket)
    assert left.answer(challenge, contact, bytes(1000)) is None
    answer = left.answer(challenge, contact, b"hello")
    assert answer is not None
    handshake = right.codec.decode(answer[0].data)
    assert isinstance(handshake, HandshakePacket)
    with pytest.raises(Dropped) as caught:
        right.accept(handshake, Address("192.168.0.9", 1), 0.0)
    assert caught.value.reason is Drop.NO_CHALLENGE
    session, message = right.accept(handshake, LEFT, 0.0)
    assert (message, session.record) == (b"hello", left_record)
    back = left.codec.decode(right.seal(session, b"world")[0])
    assert isinstance(back, OrdinaryPacket)
    read = left.open_ordinary(back, RIGHT)
    assert read is not None
    assert read[1] == b"world"
    assert left.open_ordinary(back, LEFT) is None


def test_wrong_handshakes_use_up_a_challenge() -> None:
    (left, _), (right, right_record) = make(1), make(2)
    stranger = sign_enr(b"\x03" * 32, 1, {})
    contact = Contact(right.node_id, RIGHT, stranger.public_key)  # wrong key: wrong secret
    knock = right.codec.decode(left.knock(right.node_id)[0])
    assert isinstance(knock, OrdinaryPacket)
    challenge = left.codec.decode(right.challenge(knock, LEFT, 0.0).data)
    assert isinstance(challenge, WhoAreYouPacket)
    answer = left.answer(challenge, contact, b"hello")
    assert answer is not None
    handshake = right.codec.decode(answer[0].data)
    assert isinstance(handshake, HandshakePacket)
    reasons = []
    for _ in range(4):
        with pytest.raises(Dropped) as caught:
            right.accept(handshake, LEFT, 0.0)
        reasons.append(caught.value.reason)
    assert reasons == [Drop.BAD_HANDSHAKE_MESSAGE] * 3 + [Drop.NO_CHALLENGE]
    assert right_record.seq == 1
