"""One WireGuard interface without a mesh, set up through its configuration socket.

What `wireguard-go -f IFNAME` is: the TUN, the data plane behind it, the socket that `wg` speaks to.
A change of private key or port starts the data plane anew, so that peers shake hands again. It ends
when its device is removed, or by SIGINT or SIGTERM.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from ginnel.base.dataplane import Endpoint, PeerStats, RemovePeer, SetPeer
from ginnel.base.errors import SystemFailure, UsageError
from ginnel.base.types import Address
from ginnel.daemon.admin_socket import listen_unix
from ginnel.daemon.resources import UAPI_FOLDER, bind_udp, bind_udp6
from ginnel.daemon.uapi_server import UapiServer
from ginnel.engine.embedded import EmbeddedEngine
from ginnel.engine.uapi import Change, Configuration, UapiError, format_get
from ginnel.net.link_watch import LinkWatch
from ginnel.net.tun import TunDevice, open_tun
from ginnel.storage.files import make_open_folder

PORT_TRIES = 16  # ports that the kernel chose for IPv4 and that are taken for IPv6
RECEIVE_BATCH = 64  # datagrams that are not WireGuard's, to throw away
MIN_MTU, MAX_MTU = 576, 65_535  # bytes; what the data plane takes

logger = logging.getLogger(__name__)


class WireguardDevice:
    """A device and its data plane; `close` ends both."""

    def __init__(self, device: TunDevice) -> None:
        self._device = device
        self._watch = LinkWatch(device.name)
        self._configuration = Configuration()
        self._sockets: list[socket.socket] = []
        self._engine: EmbeddedEngine | None = None
        self._reader = -1
        self._mtu = self._watch.mtu() or MAX_MTU
        self._bind(0)

    def close(self) -> None:
        """Close the sockets; `run` has ended the data plane. Harmless when closed."""
        for opened in self._sockets:
            opened.close()
        self._sockets.clear()
        self._watch.close()

    def describe(self) -> str:
        """Return the answer to `get=1`."""
        return format_get(self._configuration, self._stats())

    def change(self, change: Change) -> None:
        """Carry out a request.

        Raises:
            UapiError: the port is in use, or a mark is refused; earlier parts of the request stay.
        """
        if change.listen_port is not None and change.listen_port != self._configuration.listen_port:
            self._bind(change.listen_port)
            change.listen_port = self._configuration.listen_port
        elif change.listen_port == 0:
            change.listen_port = None
        if change.fwmark is not None:
            self._mark(change.fwmark)
        endpoints = {item.public_key: item.endpoint for item in change.peers if item.endpoint}
        touched = self._configuration.apply(change)
        if self._engine is None or change.private_key is not None:
            self._start()
            return
        for public_key in touched:
            self._tell(self._engine, public_key, endpoints.get(public_key))

    async def run(self, listener: socket.socket, on_ready: Callable[[], None]) -> None:
        """Serve the socket until the device is gone or a signal comes."""
        server = UapiServer(self.describe, self.change)
        await server.start(listener)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        loop.add_reader(self._watch.fileno(), self._follow_link, ended)
        try:
            on_ready()
            await ended.wait()
        finally:
            loop.remove_reader(self._watch.fileno())
            self._stop()
            server.close()

    def _follow_link(self, ended: asyncio.Event) -> None:
        self._watch.drain()
        mtu = self._watch.mtu()
        if mtu is None:
            ended.set()
        elif mtu != self._mtu and MIN_MTU <= mtu <= MAX_MTU:
            self._mtu = mtu
            if self._engine is not None:
                self._engine.set_mtu(mtu)

    def _drain(self) -> None:
        """Throw away what is not WireGuard's; a data plane that failed is started anew."""
        if self._engine is None:
            return
        try:
            while self._engine.poll_event() is not None:
                pass
            while len(self._engine.receive(RECEIVE_BATCH)) == RECEIVE_BATCH:
                pass
        except SystemFailure as error:  # a thread of it panicked
            logger.error("the data plane is started anew: %s", error)
            self._start()

    def _start(self) -> None:
        """Start the data plane with the present key, sockets and peers, or end it without key."""
        learned = {key: item.endpoint for key, item in self._stats().items()}
        self._stop()
        if self._configuration.private_key is None:
            return
        self._engine = EmbeddedEngine(
            udp4_fd=self._sockets[0].fileno(),
            udp6_fd=self._sockets[1].fileno() if len(self._sockets) > 1 else None,
            tun_fd=self._device.fd,
            private_key=self._configuration.private_key,
            control_ips=(),
            mtu=self._mtu,
        )
        self._reader = self._engine.fileno()  # asked now: an engine that failed tells nothing
        asyncio.get_running_loop().add_reader(self._reader, self._drain)
        for public_key, peer in self._configuration.peers.items():
            self._tell(self._engine, public_key, learned.get(public_key) or peer.endpoint)

    def _stop(self) -> None:
        if self._engine is not None:
            asyncio.get_running_loop().remove_reader(self._reader)
            self._engine.close()
            self._engine = None

    def _tell(self, engine: EmbeddedEngine, public_key: bytes, endpoint: Address | None) -> None:
        peer = self._configuration.peers.get(public_key)
        try:
            if peer is None:
                engine.apply(RemovePeer(public_key))
                return
            engine.apply(
                SetPeer(
                    public_key,
                    tuple(peer.allowed_ips),
                    None if endpoint is None else Endpoint(endpoint),
                    peer.keepalive_s,
                    peer.preshared_key,
                )
            )
        except UsageError as error:
            # Removed before it was added, or our own key: wireguard-go is silent then, too.
            logger.debug("a peer is left out: %s", error)

    def _stats(self) -> dict[bytes, PeerStats]:
        if self._engine is None:
            return {}
        try:
            return {item.public_key: item for item in self._engine.peer_stats()}
        except SystemFailure:
            return {}  # `_drain` is about to see to it

    def _bind(self, port: int) -> None:
        """Take sockets of a port, 0 for any, in place of the present ones."""
        try:
            opened = _open_sockets(port)
        except SystemFailure as error:
            raise UapiError(str(error), errno.EADDRINUSE) from None
        old, self._sockets = self._sockets, opened
        self._configuration.listen_port = opened[0].getsockname()[1]
        self._mark(self._configuration.fwmark)
        if self._engine is not None:
            self._start()
        for stale in old:
            stale.close()

    def _mark(self, mark: int) -> None:
        try:
            for opened in self._sockets:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        except OSError as error:
            raise UapiError("sockets can't be marked", error.errno or errno.EPERM) from None


def run_device(name: str, on_ready: Callable[[], None], *, folder: Path = UAPI_FOLDER) -> None:
    """Make the device and its socket, and run until one of them is to end.

    Raises:
        SystemFailure: one of them can't be had.
    """
    with ExitStack() as stack:
        tun = open_tun(name, vnet_header=True)
        stack.callback(os.close, tun.fd)
        device = stack.enter_context(closing(WireguardDevice(tun)))
        make_open_folder(folder)
        path = folder / f"{tun.name}.sock"
        listener = listen_unix(path, mode=0o600)
        stack.callback(path.unlink, missing_ok=True)
        asyncio.run(device.run(listener, on_ready))


def _open_sockets(port: int) -> list[socket.socket]:
    """Return sockets of both families, or of IPv4 alone, on one port."""
    for attempt in range(PORT_TRIES):
        first = bind_udp(socket.AF_INET, port)
        try:
            second = bind_udp6(first.getsockname()[1])
        except SystemFailure:
            first.close()
            if port or attempt + 1 == PORT_TRIES:
                raise
            continue
        return [first] if second is None else [first, second]
    raise SystemFailure("no UDP port is free for both families")
