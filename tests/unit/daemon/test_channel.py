import asyncio
import socket

import pytest

from ginnel.base import rlp
from ginnel.base.errors import SystemFailure, UsageError
from ginnel.base.types import NodeId
from ginnel.daemon.channel import (
    MAX_MESSAGE,
    MAX_POINTS,
    Channel,
    ChannelMessage,
    Delivered,
    DeliverTo,
    Envelope,
    NewObjects,
    Nodes,
    Points,
    Stage,
    decode_message,
    encode_message,
    split_points,
)
from ginnel.mesh import derive
from support.members import NetworkFactory, seed

POINT = derive.invite_point(NetworkFactory().network_id, seed("invite"), 500_000)
WATCHED = derive.Point(POINT.location, POINT.loc_pub, None, POINT.presence_key, POINT.tag, 5)
MESSAGES: list[ChannelMessage] = [
    Points((POINT, WATCHED)),
    Points((), is_last=False),
    DeliverTo(WATCHED, b"e" * 1088),
    Envelope(b"t" * 16, b"e" * 1088),
    Nodes((b"r" * 300,) * 8),
    Stage("searching"),
    Delivered(NodeId(bytes(32)), True),
    NewObjects((b"o" * 640,) * 4),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_come_back(message: ChannelMessage) -> None:
    data = encode_message(message)
    assert len(data) <= MAX_MESSAGE
    assert decode_message(data) == message


@pytest.mark.parametrize("message", MESSAGES)
def test_truncated_messages_are_refused(message: ChannelMessage) -> None:
    data = encode_message(message)
    for size in range(0, len(data), 17):
        with pytest.raises(rlp.RlpError):
            decode_message(data[:size])


@pytest.mark.parametrize(
    "items",
    [
        [0, b""],
        [8, b""],
        [1, []],
        [1, [[b""] * 6], 1],
        [2, b"", b""],
        [3, b"t" * 16, b"e" * 1089],
        [4, [b"r" * 301]],
        [4, [b"r"] * 9],
        [5, b"\xff"],
        [5, b"\x1b]0;title\x07"],
        [6, bytes(32), 2],
        [7, [b"o"] * 5],
        [7, b""],
    ],
)
def test_wrong_messages_are_refused(items: list) -> None:
    with pytest.raises(rlp.RlpError):
        decode_message(rlp.encode(items))


def test_many_points_are_split_and_an_empty_set_is_told() -> None:
    messages = split_points([POINT] * (2 * MAX_POINTS + 1))
    assert [len(message.points) for message in messages] == [MAX_POINTS, MAX_POINTS, 1]
    assert [message.is_last for message in messages] == [False, False, True]
    assert all(len(encode_message(message)) <= MAX_MESSAGE for message in messages)
    assert split_points([]) == [Points(())]


def test_a_message_too_long_is_not_sent() -> None:
    with pytest.raises(UsageError):
        encode_message(NewObjects((b"o" * 640,) * 7))


def test_a_channel_carries_messages_until_one_end_closes() -> None:
    async def run() -> None:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        near, far = Channel(ends[0]), Channel.from_fd(ends[1].detach())
        for message in MESSAGES:
            await near.send(message)
        assert [await far.receive() for _ in MESSAGES] == MESSAGES
        near.close()
        with pytest.raises(SystemFailure):
            await far.receive()
        with pytest.raises(SystemFailure):
            await far.send(MESSAGES[0])
        far.close()

    asyncio.run(run())
