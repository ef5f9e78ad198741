"""The network's name server as the tunnel runs it: sockets of the manager, names of the roster.

Other names go to the servers that this machine had before ours, since a system that has no better
resolver asks us for all. Where systemd-resolved splits names there are none, and they are refused.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence

from ginnel.daemon.wire_settings import zone_of
from ginnel.mesh.membership import Membership
from ginnel.net.dns_answers import Zone
from ginnel.net.dns_server import DnsServer
from ginnel.net.dns_tcp import DnsTcpServer
from ginnel.net.dns_upstream import read_note

ZONE_AGE = 1.0  # seconds; a roster of thousands is not listed for each question


class NameService:
    """Answers on the given descriptors, which stay the caller's; make it inside a running loop.

    `upstream_fd` is the manager's list of other servers; without it other names are refused.
    """

    def __init__(
        self, descriptors: Sequence[int], membership: Membership, upstream_fd: int | None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._membership = membership
        self._upstream_fd = upstream_fd
        sockets = [socket.socket(fileno=os.dup(descriptor)) for descriptor in descriptors]
        datagrams = [opened for opened in sockets if opened.type == socket.SOCK_DGRAM]
        listeners = [opened for opened in sockets if opened.type == socket.SOCK_STREAM]
        self._zone: tuple[float, Zone] | None = None
        self._servers = (
            DnsServer(datagrams, self._current_zone, upstream=self._upstream),
            DnsTcpServer(listeners, self._current_zone, upstream=self._upstream),
        )

    def close(self) -> None:
        """Stop answering."""
        for server in self._servers:
            server.close()

    def _current_zone(self) -> Zone:
        now = self._loop.time()
        if self._zone is None or now - self._zone[0] > ZONE_AGE:
            self._zone = now, zone_of(self._membership)
        return self._zone[1]

    def _upstream(self) -> tuple[str, ...]:
        return () if self._upstream_fd is None else read_note(self._upstream_fd)
