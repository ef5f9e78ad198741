"""Write the frames of devices into pcap files; needs no tcpdump.

Source: draft-ietf-opsawg-pcap (the classic format, microseconds, link type Ethernet).
"""

from __future__ import annotations

import select
import signal
import socket
import struct
import time
from collections.abc import Mapping
from typing import BinaryIO

from ginnel.lab.wire import MAX_FRAME, SOL_PACKET, open_packet_socket

MAGIC, VERSION, SNAP_LENGTH, ETHERNET = 0xA1B2C3D4, (2, 4), 262144, 1
PACKET_STATISTICS = 6


class Recording:
    """One device's frames on their way into one file."""

    def __init__(self, device: str, path: str) -> None:
        self.socket = open_packet_socket(device)
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115 - closed by close()
        self._file.write(struct.pack("<IHHiIII", MAGIC, *VERSION, 0, 0, SNAP_LENGTH, ETHERNET))
        self._file.flush()

    def read(self) -> None:
        """Write all frames that have come."""
        while True:
            try:
                frame = self.socket.recv(MAX_FRAME)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                continue  # the device went down: said once
            seconds, part = divmod(time.time_ns(), 10**9)
            size = len(frame)
            self._file.write(struct.pack("<IIII", seconds, part // 1000, size, size) + frame)
        self._file.flush()

    def close(self) -> int:
        """Write the rest and close; return how many frames the kernel had to drop."""
        self.read()
        self._file.close()
        statistics = self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        self.socket.close()
        dropped: int = struct.unpack("=II", statistics)[1]
        return dropped


def record_until_terminated(recordings: Mapping[str, Recording]) -> dict[str, int]:
    """Record until SIGTERM; return the drops by link. The caller lets nothing else use signals."""
    wake, wake_write = socket.socketpair()
    wake_write.setblocking(False)
    signal.set_wakeup_fd(wake_write.fileno())
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    sources = {recording.socket: recording for recording in recordings.values()}
    while True:
        readable, _, _ = select.select([wake, *sources], (), ())
        for source in readable:
            if source in sources:
                sources[source].read()
        if wake in readable:
            return {name: recording.close() for name, recording in recordings.items()}
