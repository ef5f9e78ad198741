"""A `DatagramSource` of a caller who has the socket: it only sends, by a function of the caller's.

What comes in is given to the core directly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from ginnel.base.types import Address, Datagram, Transmit
from ginnel.net.failures import SendFailures


class CallbackSource:
    """Sends by a function, whose OSErrors are counted; nothing is ever to be read from it."""

    def __init__(self, send: Callable[[Address, bytes], None]) -> None:
        self._send = send
        self._failures = SendFailures(warns=True)
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # never readable

    @property
    def failed(self) -> int:
        """Return how many packets the function could not send."""
        return self._failures.count

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
            except OSError as error:  # of the caller's socket: no route, a firewall, a full buffer
                self._failures.add(error.strerror or "the caller's socket failed")
        return taken

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)
