"""The sockets of our relay's allocations: each holds a UDP port, none is ever read.

The tunnel binds them itself: ports above 1023 need no right. Packets between allocations come and
go by the shared port, so that the firewall need not let these ports in.

Source: RFC 8656 section 7.2; DESIGN, "Peer connection" (Relays).
"""

from __future__ import annotations

import socket

from ginnel.ice.turn_ports import FreePort, PortCommand

RECEIVE_BUFFER = 1  # bytes; the kernel takes its least: what comes from outside is not wanted


class RelayPorts:
    """The ports that are held now."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}

    def on_command(self, command: PortCommand) -> bool:
        """Hold or free a port; return whether it is held now."""
        if isinstance(command, FreePort):
            held = self._sockets.pop(command.port, None)
            if held is not None:
                held.close()
            return False
        family = socket.AF_INET6 if command.ipv6 else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_DGRAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            if command.ipv6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind(("", command.port))
        except OSError:  # another program has it, or there are too many files
            bound.close()
            return False
        self._sockets[command.port] = bound
        return True

    def close(self) -> None:
        """Free all."""
        for bound in self._sockets.values():
            bound.close()
        self._sockets.clear()
