"""Watches /etc/resolv.conf: whoever writes it anew must not break the network's names.

Its servers are passed on to the name server, which asks them for other names; where names are set
in that file and our block is gone, it is put in again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from ginnel.base.errors import SystemFailure
from ginnel.daemon.settings_apply import SettingsApplier
from ginnel.net.dns_upstream import RESOLV_CONF, UpstreamNote, read_upstream

LOOK_INTERVAL = 2.0  # seconds between two looks at the file's time

log = logging.getLogger(__name__)


class ResolverWatch:
    """Call `look` to look now; `run` looks until cancelled."""

    def __init__(
        self,
        applier: SettingsApplier,
        note: UpstreamNote,
        own: Sequence[str],
        *,
        path: Path = RESOLV_CONF,
    ) -> None:
        self._applier = applier
        self._note = note
        self._own = tuple(own)
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    async def run(self) -> None:
        """Look now and then."""
        while True:
            if self._stamp() != self._seen:
                await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_INTERVAL)

    def look(self) -> None:
        """Pass the servers on; put our block in again if somebody took it out."""
        try:
            self._applier.repair_dns()
        except SystemFailure as error:
            log.warning("%s", error)
        self._seen = self._stamp()
        self._note.write(read_upstream(self._own, path=self._path))

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns
