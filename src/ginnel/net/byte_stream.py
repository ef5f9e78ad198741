"""Moves bytes between two descriptors and a core that speaks over a stream: reads, writes, a timer.

Both descriptors belong to the stream. On a Unix socket descriptors may come along (SCM_RIGHTS):
at most MAX_DESCRIPTORS wait to be taken, the rest is closed. A stream that the other side does not
read is not written to: the core holds what waits, within its bounds.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
import stat
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ginnel.base.errors import UsageError
from ginnel.base.types import Deadline

READ_SIZE = 64 * 1024  # bytes a read; a frame may take many
READS_PER_WAKEUP = 8  # then other tasks get their turn
TURN_TIME = 0.05  # seconds of a wake-up; then they get it too: what was read may take long
MAX_DESCRIPTORS = 4  # received and not taken yet; a manager sends one

log = logging.getLogger(__name__)


class StreamEnd(Protocol):
    """What a stream must know of the protocol's state."""

    is_closed: bool

    @property
    def is_write_finished(self) -> bool:
        """Say whether the last byte was polled and the side should be closed for writing."""
        ...

    def close(self, error: str | None = None) -> None:
        """End the protocol: the stream failed."""
        ...


class ByteCore(Protocol):
    """A core with the five verbs over bytes; its events are polled by `on_change`."""

    @property
    def speaker(self) -> StreamEnd:
        """Return the protocol's state."""
        ...

    def handle_bytes(self, data: bytes, *, now: float) -> None:
        """Take bytes."""
        ...

    def handle_eof(self, *, now: float) -> None:
        """Take the end of the stream."""
        ...

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due."""
        ...

    def poll_transmit(self) -> bytes | None:
        """Return the next bytes to write."""
        ...

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        ...


class ByteStream:
    """Runs one core over one stream; make it inside a running loop."""

    def __init__(
        self, read_fd: int, write_fd: int, core: ByteCore, on_change: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._core = core
        self._on_change = on_change
        self._unwritten = memoryview(b"")
        self._is_writing = False
        self._is_write_closed = False
        self._is_write_fd_open = write_fd != read_fd
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._received: deque[int] = deque()
        self._to_send: list[int] = []
        self._reader = _unix_socket(read_fd)
        for descriptor in {read_fd, write_fd}:
            os.set_blocking(descriptor, False)
        self._loop.add_reader(read_fd, self._on_readable)

    @property
    def now(self) -> float:
        """Return the loop's time."""
        return self._loop.time()

    def take_descriptor(self) -> int | None:
        """Return the newest descriptor that came along, which is the caller's now, or None.

        Older ones came with requests that were refused, and are closed.
        """
        newest = self._received.pop() if self._received else None
        self._close_received()
        return newest

    def send_descriptor(self, descriptor: int) -> None:
        """Send a copy of a descriptor along with the next bytes.

        Raises:
            UsageError: the stream is no Unix socket.
        """
        if self._is_closed or _unix_socket_kind(self._write_fd) is None:
            raise UsageError("a descriptor can be sent over an open Unix socket only")
        self._to_send.append(os.dup(descriptor))

    def drain(self) -> None:
        """Write what can be written, tell of events, arm the timer."""
        if self._is_closed:
            self._on_change()  # what was asked too late fails
            return
        self._write()
        self._on_change()
        if not self._is_closed:
            self._write()
            self._arm()

    def close(self) -> None:
        """Write the last words as far as they go at once; close both descriptors."""
        if self._is_closed:
            return
        self._write()
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._read_fd)
        self._stop_writing()
        if self._reader is not None:
            self._reader.close()
        os.close(self._read_fd)
        if self._is_write_fd_open:
            os.close(self._write_fd)
        self._close_received()
        for descriptor in self._to_send:
            os.close(descriptor)
        self._to_send.clear()

    def _close_received(self) -> None:
        for descriptor in self._received:
            os.close(descriptor)
        self._received.clear()

    def _on_readable(self) -> None:
        turn_ends_at = self.now + TURN_TIME
        for _ in range(READS_PER_WAKEUP):
            if self.now > turn_ends_at:
                break
            try:
                data = self._read()
            except BlockingIOError:
                break
            except OSError as error:
                log.debug("stream: read failed: %s", error)
                data = b""
            if not data:
                self._loop.remove_reader(self._read_fd)
                self._core.handle_eof(now=self.now)
                break
            self._core.handle_bytes(data, now=self.now)
        self.drain()

    def _read(self) -> bytes:
        if self._reader is None:
            return os.read(self._read_fd, READ_SIZE)
        descriptors = array.array("i")
        room = socket.CMSG_LEN(MAX_DESCRIPTORS * descriptors.itemsize)
        # socket.recv_fds doesn't pass the flag on: a child would inherit what it receives
        data, parts, _, _ = self._reader.recvmsg(READ_SIZE, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in parts:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(content) - len(content) % descriptors.itemsize
                descriptors.frombytes(content[:whole])
        for descriptor in descriptors:
            if len(self._received) < MAX_DESCRIPTORS:
                self._received.append(descriptor)
            else:
                os.close(descriptor)
        return data

    def _write(self) -> None:
        if self._is_write_closed or self._is_closed:
            return
        try:
            while self._unwritten or self._next_data():
                written = self._write_some()
                self._unwritten = self._unwritten[written:]
        except BlockingIOError:
            if not self._is_writing:
                self._is_writing = True
                self._loop.add_writer(self._write_fd, self.drain)
            return
        except OSError as error:
            self._unwritten = memoryview(b"")
            self._is_write_closed = True
            self._stop_writing()
            self._core.speaker.close(f"writing failed: {error.strerror}")
            return
        self._stop_writing()
        if self._core.speaker.is_write_finished and not self._core.speaker.is_closed:
            self._close_write_side()

    def _write_some(self) -> int:
        if not self._to_send:
            return os.write(self._write_fd, self._unwritten)
        with socket.socket(fileno=os.dup(self._write_fd)) as duplicate:
            written = socket.send_fds(duplicate, [self._unwritten], self._to_send)
        for descriptor in self._to_send:
            os.close(descriptor)
        self._to_send.clear()
        return written

    def _next_data(self) -> bool:
        data = self._core.poll_transmit()
        self._unwritten = memoryview(data or b"")
        return data is not None

    def _close_write_side(self) -> None:
        self._is_write_closed = True
        if stat.S_ISSOCK(os.fstat(self._write_fd).st_mode):
            duplicate = socket.socket(fileno=os.dup(self._write_fd))
            with duplicate, contextlib.suppress(OSError):  # the other side is gone already
                duplicate.shutdown(socket.SHUT_WR)
        elif self._is_write_fd_open:
            self._is_write_fd_open = False
            os.close(self._write_fd)

    def _stop_writing(self) -> None:
        if self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._write_fd)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._core.poll_deadline()
        if deadline is not None:
            self._timer = self._loop.call_at(deadline.at, self._on_timer)

    def _on_timer(self) -> None:
        self._core.handle_timeout(now=self.now)
        self.drain()


def _unix_socket_kind(descriptor: int) -> int | None:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return None
    with socket.socket(fileno=os.dup(descriptor)) as duplicate:
        return int(duplicate.type) if duplicate.family == socket.AF_UNIX else None


def _unix_socket(descriptor: int) -> socket.socket | None:
    """Return a socket over a copy of the descriptor, or None if it is no Unix socket."""
    if _unix_socket_kind(descriptor) is None:
        return None
    return socket.socket(fileno=os.dup(descriptor))
