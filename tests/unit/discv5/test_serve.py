"""What we answer with."""

from __future__ import annotations

import pytest

from ginnel.base.errors import UsageError
from ginnel.base.types import Address, NodeId
from ginnel.discv5.messages import TalkRequest, TalkResponse, encode_message
from ginnel.discv5.packet import MAX_MESSAGE_SIZE
from ginnel.discv5.serve import (
    REMEMBERED_TALKS,
    Talks,
    check_distances,
    check_message_size,
    pack_nodes,
)
from ginnel.discv5.session import Session

SESSION = Session(NodeId(bytes(32)), b"", bytes(16), bytes(16))
HERE = Address("192.0.2.1", 9)


@pytest.mark.parametrize("size", [100, 144, 299, 300])
def test_nodes_fit_into_packets(size: int) -> None:
    records = [b"\xf9" + size.to_bytes(2, "big") + bytes([n]) * (size - 3) for n in range(16)]
    packets = pack_nodes(b"\xff" * 8, records)
    assert [r for packet in packets for r in packet.records] == records
    assert {packet.total for packet in packets} == {len(packets)}
    assert all(len(encode_message(packet)) <= MAX_MESSAGE_SIZE for packet in packets)
    assert len(packets) <= 6


def test_no_records_are_one_packet() -> None:
    (packet,) = pack_nodes(b"a", [])
    assert (packet.total, packet.records) == (1, ())


def test_message_size() -> None:
    check_message_size(TalkRequest(bytes(8), b"ginnel-rdv", bytes(1166)))
    with pytest.raises(UsageError):
        check_message_size(TalkRequest(bytes(8), b"ginnel-rdv", bytes(1167)))


def test_talks_are_bounded_and_end() -> None:
    talks = Talks(2, 4.0)
    requests = [TalkRequest(bytes([n]), b"x", b"") for n in range(3)]
    assert [talks.open(n, SESSION, HERE, requests[n], 0.0) for n in range(3)] == [True, True, False]
    assert talks.find(SESSION.node_id, requests[0], 1.0) is not None
    assert talks.find(SESSION.node_id, requests[0], 4.0) is None
    answered = talks.answer(0, b"yes", 1.0)
    assert answered is not None
    assert answered.answer == TalkResponse(b"\x00", b"yes")
    assert talks.answer(0, b"yes", 1.0) is None
    assert talks.answer(1, b"late", 4.0) is None
    assert talks.open(5, SESSION, HERE, requests[2], 5.0)


def test_a_refused_talk_is_as_if_it_had_never_come() -> None:
    talks = Talks(1, 4.0)
    request = TalkRequest(b"1", b"x", b"")
    assert talks.open(1, SESSION, HERE, request, 0.0)
    assert talks.refuse(1)
    assert not talks.refuse(1)
    assert talks.find(SESSION.node_id, request, 1.0) is None
    assert talks.open(2, SESSION, HERE, request, 1.0)


def test_an_open_talk_is_known_however_many_came_after_it() -> None:
    talks = Talks(1024, 4.0)
    requests = [TalkRequest(n.to_bytes(2, "big"), b"x", b"") for n in range(1024)]
    for token, request in enumerate(requests):
        assert talks.open(token, SESSION, HERE, request, 0.0)
    for token in range(1, 1024):
        talks.answer(token, b"yes", 1.0)
    first = talks.find(SESSION.node_id, requests[0], 1.0)
    assert first is not None
    assert first.answer is None
    known = [talks.find(SESSION.node_id, request, 1.0) is not None for request in requests[1:]]
    assert known == [False] * (1023 - REMEMBERED_TALKS) + [True] * REMEMBERED_TALKS


def test_a_talk_that_came_anew_after_its_time_is_known_by_its_new_one() -> None:
    talks = Talks(1024, 4.0)
    request = TalkRequest(b"1", b"x", b"")
    assert talks.open(0, SESSION, HERE, request, 0.0)
    assert talks.answer(0, b"yes", 1.0) is not None
    assert talks.open(1, SESSION, HERE, request, 5.0)
    for token in range(2, 2 + REMEMBERED_TALKS):
        other = TalkRequest(token.to_bytes(2, "big"), b"x", b"")
        assert talks.open(token, SESSION, HERE, other, 5.0)
        talks.answer(token, b"yes", 5.0)
    again = talks.find(SESSION.node_id, request, 5.0)
    assert again is not None
    assert again.answer is None


def test_distances_of_ours_are_checked() -> None:
    assert check_distances([256, 0, 256]) == (256, 0)
    assert check_distances([]) == ()
    for wrong in (-1, 257):
        with pytest.raises(UsageError, match=str(wrong)):
            check_distances([3, wrong])
