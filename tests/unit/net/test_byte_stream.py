"""Streams of bytes: what happens to descriptors and to the last words."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time

from ginnel.base.types import Deadline
from ginnel.net.byte_stream import MAX_DESCRIPTORS, TURN_TIME, ByteStream


class Echo:
    """A core that answers what it reads and is over after `!`."""

    def __init__(self) -> None:
        self.speaker = self
        self.is_closed = False
        self.is_write_finished = False
        self.error: str | None = None
        self.ended = asyncio.Event()
        self._out: list[bytes] = []

    def close(self, error: str | None = None) -> None:
        self.is_closed = True
        self.error = error
        self.ended.set()

    def handle_bytes(self, data: bytes, *, now: float) -> None:
        self._out.append(data)
        self.is_write_finished = data.endswith(b"!")

    def handle_eof(self, *, now: float) -> None:
        self.close()

    def handle_timeout(self, *, now: float) -> None:
        pass

    def poll_transmit(self) -> bytes | None:
        return self._out.pop(0) if self._out else None

    def poll_deadline(self) -> Deadline | None:
        return None


def test_too_many_descriptors_are_closed_and_so_are_those_that_nobody_took() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        read_fd, write_fd = os.pipe()
        core = Echo()
        stream = ByteStream(ours.fileno(), ours.detach(), core, lambda: None)
        with theirs:
            for _ in range(3):
                socket.send_fds(theirs, [b"x"], [write_fd] * MAX_DESCRIPTORS)
            theirs.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(20):
                await core.ended.wait()
            taken = stream.take_descriptor()
            assert taken is not None
            os.close(write_fd)
            stream.close()
        os.set_blocking(read_fd, False)
        os.write(taken, b"1")
        os.close(taken)
        assert os.read(read_fd, 10) == b"1"
        assert os.read(read_fd, 10) == b""  # no copy is left
        os.close(read_fd)

    asyncio.run(main())


def test_the_newest_descriptor_is_taken_and_older_ones_are_closed() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        (old_read, old_write), (new_read, new_write) = os.pipe(), os.pipe()
        core = Echo()
        stream = ByteStream(ours.fileno(), ours.detach(), core, lambda: None)
        with theirs:
            for write_fd in (old_write, new_write):
                socket.send_fds(theirs, [b"x"], [write_fd])
                os.close(write_fd)
            theirs.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(20):
                await core.ended.wait()
            taken = stream.take_descriptor()
            assert taken is not None
            os.set_blocking(old_read, False)
            assert os.read(old_read, 10) == b""
            os.write(taken, b"1")
            os.close(taken)
            assert os.read(new_read, 10) == b"1"
            stream.close()
        for read_fd in (old_read, new_read):
            os.close(read_fd)

    asyncio.run(main())


class Slow(Echo):
    """A core that takes its time over what it reads."""

    reads = 0

    def handle_bytes(self, data: bytes, *, now: float) -> None:
        self.reads += 1
        self.ended.set()
        until = time.monotonic() + 2 * TURN_TIME
        while time.monotonic() < until:
            pass


def test_a_slow_core_lets_others_have_their_turn() -> None:
    async def main() -> int:
        ours, theirs = socket.socketpair()
        core = Slow()
        stream = ByteStream(ours.fileno(), ours.detach(), core, lambda: None)
        with theirs:
            theirs.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    theirs.send(b"x" * 65_536)  # more than one read takes
            await core.ended.wait()
        stream.close()
        return core.reads

    assert asyncio.run(main()) == 1


def test_a_finished_core_closes_its_side_for_writing() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        core = Echo()
        stream = ByteStream(ours.fileno(), ours.detach(), core, lambda: None)
        with theirs:
            theirs.setblocking(False)
            loop = asyncio.get_running_loop()
            theirs.send(b"bye!")
            async with asyncio.timeout(20):
                assert await loop.sock_recv(theirs, 100) == b"bye!"
                assert await loop.sock_recv(theirs, 100) == b""
            assert not core.is_closed
            stream.close()

    asyncio.run(main())
