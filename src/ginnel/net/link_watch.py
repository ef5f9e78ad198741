"""Watches one device: its MTU, and whether it is still there.

Source: rtnetlink(7), netdevice(7).
"""

from __future__ import annotations

import fcntl
import socket
import struct

from ginnel.base.errors import SystemFailure

_LINK_GROUP = 1  # RTMGRP_LINK of linux/rtnetlink.h
_SIOCGIFMTU = 0x8921  # linux/sockios.h
_IFREQ = struct.Struct("16si20x")
_MESSAGE = 65_536  # bytes; what is in them does not matter


class LinkWatch:
    """Readable while something about some device has changed: then `drain`, and `mtu` again."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()
        try:
            self._events = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
                socket.NETLINK_ROUTE,
            )
            self._events.bind((0, _LINK_GROUP))
        except OSError as error:
            raise SystemFailure(f"{name} can't be watched: {error.strerror}") from None
        self._queries = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._events.fileno()

    def drain(self) -> None:
        """Forget what was reported, lost reports among them."""
        while True:
            try:
                self._events.recv(_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                continue  # ENOBUFS: reports were lost, which is as good as one

    def mtu(self) -> int | None:
        """Return the device's MTU in bytes, None if the device is gone."""
        try:
            answer = fcntl.ioctl(self._queries, _SIOCGIFMTU, _IFREQ.pack(self._name, 0))
        except OSError:
            return None
        mtu: int = _IFREQ.unpack(answer)[1]
        return mtu

    def close(self) -> None:
        """Close both sockets."""
        self._events.close()
        self._queries.close()
