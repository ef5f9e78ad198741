"""The network's name server as the tunnel runs it: sockets of the manager, names of the roster.

Other names go to the servers of /etc/resolv.conf, since a system that has no better resolver asks
us for all. Where that file names systemd-resolved, which splits names, other names are refused.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from ginnel.daemon.wire_settings import zone_of
from ginnel.mesh.membership import Membership
from ginnel.net.dns_answers import Zone
from ginnel.net.dns_file import other_servers
from ginnel.net.dns_server import DnsServer

RESOLV_CONF = Path("/etc/resolv.conf")
RESOLVED_STUB = "127.0.0.53"  # it never asks us for other names
ZONE_AGE = 1.0  # seconds; a roster of thousands is not listed for each question
UPSTREAM_AGE = 5.0  # seconds between two looks at resolv.conf


def read_upstream(own: Sequence[str] = (), *, path: Path = RESOLV_CONF) -> tuple[str, ...]:
    """Return the system's name servers but ours; none if the file can't be read."""
    try:
        found = other_servers(path.read_text(errors="replace"), own)
    except OSError:
        return ()
    return () if RESOLVED_STUB in found else found


class NameService:
    """Answers on the given descriptors, which stay the caller's; make it inside a running loop."""

    def __init__(
        self, descriptors: Sequence[int], membership: Membership, upstream: Sequence[str]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._membership = membership
        sockets = [socket.socket(fileno=os.dup(descriptor)) for descriptor in descriptors]
        self._own = tuple(opened.getsockname()[0] for opened in sockets)
        self._zone: tuple[float, Zone] | None = None
        self._upstream = (self._loop.time(), tuple(ip for ip in upstream if ip not in self._own))
        self._server = DnsServer(sockets, self._current_zone, upstream=self._current_upstream)

    def close(self) -> None:
        """Stop answering."""
        self._server.close()

    def _current_zone(self) -> Zone:
        now = self._loop.time()
        if self._zone is None or now - self._zone[0] > ZONE_AGE:
            self._zone = now, zone_of(self._membership)
        return self._zone[1]

    def _current_upstream(self) -> tuple[str, ...]:
        now = self._loop.time()
        if now - self._upstream[0] > UPSTREAM_AGE:
            # The file may be a new one, which Landlock hides: then the last known servers stay.
            self._upstream = now, read_upstream(self._own) or self._upstream[1]
        return self._upstream[1]
