"""A slow and lossy cable between two devices, in user space, for kernels without netem.

Frames are read from each of two devices by a packet socket, kept for the delay, and written to the
other. The devices at the far ends must have no offloads, or frames larger than the MTU would come.

Source: packet(7).
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import time
from collections import deque

from ginnel.lab.enter import set_timer_slack

MAX_FRAME = 65536  # bytes; more than any frame of a device without offloads
MAX_QUEUED = 20_000  # frames each way, 30 MB; what comes on top is lost, as in a real buffer
MAX_BURST = 64  # frames read at once before it is looked which are due
SOCKET_BUFFER = 8 << 20  # bytes, where the system lets us

_ARP, _IPV6 = b"\x08\x06", b"\x86\xdd"  # Ethernet types
_ICMPV6 = b"\x3a"
_NEIGHBOUR_MESSAGES = tuple(bytes([number]) for number in range(133, 138))  # RFC 4861, section 4
ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_IGNORE_OUTGOING = 23
SO_RCVBUFFORCE = 33


def open_packet_socket(device: str) -> socket.socket:
    """Open a non-blocking socket for all frames that come in from a device. Raises OSError."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER)
    except OSError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
    opened.setblocking(False)
    opened.bind((device, ETH_P_ALL))
    return opened


def is_address_resolution(frame: bytes) -> bool:
    """Say whether a frame is ARP or IPv6 neighbour discovery, which no real long line loses."""
    kind = frame[12:14]
    return kind == _ARP or (
        kind == _IPV6 and frame[20:21] == _ICMPV6 and frame[54:55] in _NEIGHBOUR_MESSAGES
    )


class Direction:
    """One way of a wire: the frames under way, in the order of their arrival.

    A share `reorder` of them takes twice the delay, so that what comes next overtakes them.
    """

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        delay_s: float,
        loss: float,
        rng: random.Random,
        reorder: float = 0.0,
    ) -> None:
        self._source, self._sink = source, sink
        self._delay_s, self._loss = delay_s, loss
        self._rng = rng
        self._reorder = reorder
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._late: deque[tuple[float, bytes]] = deque()

    @property
    def due_at(self) -> float | None:
        """Return when the next frame is to be written."""
        heads = [frames[0][0] for frames in (self._under_way, self._late) if frames]
        return min(heads, default=None)

    def read(self) -> None:
        """Take what has come."""
        for _ in range(MAX_BURST):
            try:
                frame = self._source.recv(MAX_FRAME)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                return  # the device went down; it may come back
            lost = not is_address_resolution(frame) and self._rng.random() < self._loss
            if lost or len(self._under_way) + len(self._late) >= MAX_QUEUED:
                continue
            if self._reorder and self._rng.random() < self._reorder:
                self._late.append((time.monotonic() + 2 * self._delay_s, frame))
            else:
                self._under_way.append((time.monotonic() + self._delay_s, frame))

    def write(self, now: float) -> None:
        """Deliver what is due."""
        for frames in (self._under_way, self._late):
            while frames and frames[0][0] <= now:
                _, frame = frames.popleft()
                with contextlib.suppress(OSError):  # a full or downed device loses the frame
                    self._sink.send(frame)


def run_wire(
    device_a: str, device_b: str, *, delay_s: float, loss: float, seed: int, reorder: float = 0.0
) -> None:
    """Carry frames until the process ends. Raises OSError if a device cannot be opened."""
    set_timer_slack(1)
    ends = [open_packet_socket(device) for device in (device_a, device_b)]
    for end in ends:
        end.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    rng = random.Random(seed)
    ways = {
        ends[0]: Direction(ends[0], ends[1], delay_s, loss, rng, reorder),
        ends[1]: Direction(ends[1], ends[0], delay_s, loss, rng, reorder),
    }
    while True:
        due = [way.due_at for way in ways.values() if way.due_at is not None]
        wait = max(0.0, min(due) - time.monotonic()) if due else None
        readable, _, _ = select.select(ends, (), (), wait)
        for end in readable:
            ways[end].read()
        now = time.monotonic()
        for way in ways.values():
            way.write(now)
