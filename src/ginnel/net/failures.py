"""Datagrams that could not be sent: counted, and warned of now and then.

UDP may lose, so a failure is no error. Where every destination is one that should be reached, one
that goes on means that this host has no network or that its firewall is in the way, and somebody
wants to know; where addresses are only tried (ICE) it means nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

WARN_INTERVAL = 300.0  # seconds between two warnings of one socket

_log = logging.getLogger(__name__)


class SendFailures:
    """The failures of one socket.

    Args:
        warns: whether somebody is told of them.
    """

    def __init__(self, *, warns: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self._warns = warns
        self._clock = clock
        self._told = 0
        self._quiet_until = float("-inf")

    def add(self, reason: str) -> None:
        """Count one; the first is warned of at once, what follows together with a later one."""
        self.count += 1
        if not self._warns:
            return
        now = self._clock()
        if now >= self._quiet_until:
            new = self.count - self._told
            _log.warning("%d packet(s) could not be sent, the last one: %s", new, reason)
            self._told = self.count
            self._quiet_until = now + WARN_INTERVAL
