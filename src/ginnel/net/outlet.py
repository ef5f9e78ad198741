"""A `DatagramSource` of a caller who has the socket: it only sends, by a function of the caller's.

What comes in is given to the core directly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from ginnel.base.types import Address, Datagram, Transmit


class CallbackSource:
    """Sends by a function, whose OSErrors are counted; nothing is ever to be read from it."""

    def __init__(self, send: Callable[[Address, bytes], None]) -> None:
        self.failed = 0  # packets that the function could not send
        self._send = send
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # never readable

    def fileno(self) -> int:
        """Return a descriptor that is never readable."""
        return self._fd

    def receive(self, limit: int) -> Sequence[Datagram]:
        """Return nothing."""
        return ()

    def send(self, transmits: Sequence[Transmit]) -> int:
        """Hand each packet to the function; return how many it took: UDP may lose."""
        taken = 0
        for transmit in transmits:
            try:
                self._send(transmit.destination, transmit.data)
                taken += 1
            except OSError:  # of the caller's socket: no route, a firewall, a full buffer
                self.failed += 1
        return taken

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)
