import random
import socket
from collections.abc import Callable, Iterator

import pytest

from ginnel.lab.wire import MAX_BURST, Direction, is_address_resolution

type_of_make = Callable[..., tuple[Direction, socket.socket, socket.socket]]


@pytest.fixture
def make() -> Iterator[type_of_make]:
    opened = []

    def build(
        loss: float, delay_s: float = 0.0, reorder: float = 0.0
    ) -> tuple[Direction, socket.socket, socket.socket]:
        outside_in, source = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        sink, outside_out = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        opened.extend([outside_in, source, sink, outside_out])
        for end in opened:
            end.setblocking(False)
        way = Direction(source, sink, delay_s, loss, random.Random(1), reorder)
        return way, outside_in, outside_out

    yield build
    for end in opened:
        end.close()


def test_address_resolution_is_never_lost(make: type_of_make) -> None:
    arp = bytes(12) + bytes.fromhex("0806") + bytes(28)
    neighbour = bytes(12) + bytes.fromhex("86dd") + bytes(6) + b"\x3a" + bytes(33) + b"\x87"
    ping = neighbour[:-1] + b"\x80"
    assert [is_address_resolution(frame) for frame in (arp, neighbour, ping, b"")] == [
        True,
        True,
        False,
        False,
    ]
    way, enter, leave = make(1.0)
    for frame in (ping, arp):
        enter.send(frame)
    way.read()
    way.write(float("inf"))
    assert leave.recv(99) == arp


def test_frames_come_after_the_delay_in_their_order(make: type_of_make) -> None:
    way, enter, leave = make(0.0, delay_s=0.5)
    assert way.due_at is None
    for frame in (b"one", b"two"):
        enter.send(frame)
    way.read()
    due_at = way.due_at
    assert due_at is not None
    way.write(due_at - 0.001)
    assert way.due_at == due_at
    way.write(due_at + 10)
    assert [leave.recv(99), leave.recv(99)] == [b"one", b"two"]
    assert way.due_at is None


def test_late_frames_are_overtaken_and_none_is_lost(make: type_of_make) -> None:
    way, enter, leave = make(0.0, delay_s=0.5, reorder=0.5)
    sent = [bytes([number]) for number in range(9)]
    for frame in sent:
        enter.send(frame)
    way.read()
    assert way.due_at is not None
    way.write(way.due_at + 0.4)
    way.write(float("inf"))
    got = [leave.recv(9) for _ in sent]
    assert sorted(got) == sent
    assert got != sent


def test_all_is_lost_or_nothing(make: type_of_make) -> None:
    for loss, left in ((1.0, False), (0.0, True)):
        way, enter, _leave = make(loss)
        enter.send(b"frame")
        way.read()
        assert (way.due_at is not None) == left


def test_one_reading_is_bounded(make: type_of_make) -> None:
    way, enter, leave = make(0.0)
    sent = 0
    for _ in range(MAX_BURST + 20):
        try:
            enter.send(b"frame")
        except BlockingIOError:
            break
        sent += 1
    way.read()
    way.write(float("inf"))
    got = 0
    while True:
        try:
            leave.recv(99)
        except BlockingIOError:
            break
        got += 1
    assert got <= min(sent, MAX_BURST)
