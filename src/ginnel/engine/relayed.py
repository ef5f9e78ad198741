"""A data plane whose peers may also be reached through a relay.

Where a TURN server carries a peer in a channel (`OpenChannel`), the data plane speaks with the
server itself. Over TCP and TLS, and until there is a channel, a UDP socket on loopback stands for
the peer: what comes out of it is handed up to be wrapped for the relay (as seed 000's proxy does).
All else passes through to the engine below.

Invariant: neither addresses on loopback nor those of servers show in events or statistics; they
stand for pairs of (our address at the relay, the peer's address).
"""

from __future__ import annotations

import logging
import select
import socket
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ginnel.base.dataplane import (
    CloseChannel,
    CloseProxy,
    Endpoint,
    EndpointRoamed,
    EngineCommand,
    EngineEvent,
    HandshakeCompleted,
    OpenChannel,
    PeerStats,
    RemovePeer,
    SetPeer,
)
from ginnel.base.types import Address, Datagram, Transmit
from ginnel.engine.base import Engine, EngineStats

LOOPBACK = "127.0.0.1"
MAX_CHANNELS = 4096  # whose peers are known; as many as the data plane hears
MAX_PROXIES = 256  # pairs of relay and peer; the least recently used go
RECEIVE_BATCH = 64  # packets of each proxy for each wake-up
BUFFER = 1 << 20  # bytes asked of the kernel for each direction
MAX_PACKET = 2048  # bytes; WireGuard's are below the path's MTU

log = logging.getLogger(__name__)


class RelayedEngine:
    """An `Engine` around another one; owns and closes it.

    Args:
        engine: the data plane.
        port: of its UDP socket of IPv4, which it must have.
        send: takes a packet for a relay (`relayed_from` is set); called inside `receive`.
    """

    def __init__(self, engine: Engine, *, port: int, send: Callable[[Transmit], None]) -> None:
        self._engine = engine
        self._port = port
        self._send = send
        self._proxies: OrderedDict[tuple[Address, Address], socket.socket] = OrderedDict()
        self._keys: dict[int, tuple[Address, Address]] = {}  # by the proxy's port
        self._by_fd: dict[int, tuple[Address, Address]] = {}
        self._peers: dict[bytes, SetPeer] = {}
        self._channels: dict[tuple[Address, Address], OpenChannel] = {}
        self._in_channel: OrderedDict[tuple[Address, int], Address] = OrderedDict()  # the peers
        self._drops = 0
        self._is_closed = False
        self._epoll = select.epoll()
        self._epoll.register(engine.fileno(), select.EPOLLIN)

    def deliver(self, relayed: Address, peer: Address, data: bytes) -> None:
        """Give the data plane a packet of a peer that came to our address at a relay."""
        if self._is_closed:
            return
        try:
            self._proxy(relayed, peer).send(data)
        except OSError:
            self._drops += 1

    def apply(self, command: EngineCommand) -> None:
        """Carry out a command: see `Engine.apply`."""
        if isinstance(command, CloseProxy):
            relayed = command.endpoint.relayed_from
            if relayed is not None and (relayed, command.endpoint.address) in self._proxies:
                self._close_proxy((relayed, command.endpoint.address))
            return
        if isinstance(command, SetPeer):
            self._set_peer(command)
            self._peers[command.public_key] = command
            return
        self._engine.apply(command)
        if isinstance(command, RemovePeer):
            self._peers.pop(command.public_key, None)
        elif isinstance(command, OpenChannel):
            self._channels[command.relayed, command.peer] = command
            self._note_channel(command)
            self._move(command)
        elif isinstance(command, CloseChannel):
            channel = command.channel
            if self._channels.get((channel.relayed, channel.peer)) == channel:
                del self._channels[channel.relayed, channel.peer]
                self._move(channel)

    def _note_channel(self, channel: OpenChannel) -> None:
        """Remember whose it is, also after its end: packets may be under way."""
        key = (channel.server, channel.number)
        self._in_channel[key] = channel.peer
        self._in_channel.move_to_end(key)
        while len(self._in_channel) > MAX_CHANNELS:
            self._in_channel.popitem(last=False)

    def _move(self, channel: OpenChannel) -> None:
        """Move who is there into the channel, or out of it."""
        for peer in self._peers.values():
            endpoint = peer.endpoint
            if endpoint and (endpoint.relayed_from, endpoint.address) == (
                channel.relayed,
                channel.peer,
            ):
                self._set_peer(peer)

    def _set_peer(self, command: SetPeer) -> None:
        endpoint = command.endpoint
        if endpoint is not None and endpoint.relayed_from is not None:
            channel = self._channels.get((endpoint.relayed_from, endpoint.address))
            if channel is None:
                proxy = self._proxy(endpoint.relayed_from, endpoint.address)
                endpoint = Endpoint(_address(proxy), LOOPBACK)
            else:
                endpoint = Endpoint(channel.server, channel.source_ip, channel=channel.number)
            command = replace(command, endpoint=endpoint)
        self._engine.apply(command)

    @property
    def peers(self) -> Mapping[bytes, SetPeer]:
        """The peers as they were last set."""
        return self._peers

    def fileno(self) -> int:
        """Return the descriptor that is readable while datagrams, events or packets wait."""
        return self._epoll.fileno()

    def receive(self, limit: int) -> Sequence[Datagram]:
        """Pass on what waits for relays, then return datagrams: see `Engine`."""
        for fd, _ in self._epoll.poll(0):
            key = self._by_fd.get(fd)
            if key is not None:
                self._pass_on(key)
        return self._engine.receive(limit)

    def send(self, transmits: Sequence[Transmit]) -> int:
        """Send datagrams on the shared port; return how many the sockets took."""
        return self._engine.send(transmits)

    def poll_event(self) -> EngineEvent | None:
        """Return the next event; call until None."""
        event = self._engine.poll_event()
        if isinstance(event, EndpointRoamed):
            return replace(event, address=self._shown(event.address, event.channel), channel=0)
        if isinstance(event, HandshakeCompleted) and event.address is not None:
            return replace(event, address=self._shown(event.address, event.channel), channel=0)
        return event

    def stats(self) -> EngineStats:
        """Return the counters of all traffic."""
        return self._engine.stats()

    def peer_stats(self) -> list[PeerStats]:
        """Return the counters of each peer."""
        return [
            item
            if item.endpoint is None
            else replace(item, endpoint=self._shown(item.endpoint, item.channel), channel=0)
            for item in self._engine.peer_stats()
        ]

    def drops(self) -> Mapping[str, int]:
        """Return how much was dropped or failed, by reason."""
        drops = dict(self._engine.drops())
        if self._drops:
            drops["relay_proxy"] = self._drops
        return drops

    def offloads(self) -> Mapping[str, bool]:
        """Return which offloads of the kernel are in use: see `Engine.offloads`."""
        return self._engine.offloads()

    def close(self) -> None:
        """End the engine and the proxies; harmless when closed."""
        if self._is_closed:
            return
        self._is_closed = True
        for key in list(self._proxies):
            self._close_proxy(key)
        self._epoll.close()
        self._engine.close()

    def _proxy(self, relayed: Address, peer: Address) -> socket.socket:
        key = (relayed, peer)
        proxy = self._proxies.get(key)
        if proxy is None:
            while len(self._proxies) >= MAX_PROXIES:
                self._close_proxy(next(iter(self._proxies)))
            proxy = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            proxy.setblocking(False)
            proxy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            proxy.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            proxy.bind((LOOPBACK, 0))
            proxy.connect((LOOPBACK, self._port))  # nobody else's packets are taken
            self._proxies[key] = proxy
            self._keys[_address(proxy).port] = key
            self._by_fd[proxy.fileno()] = key
            self._epoll.register(proxy.fileno(), select.EPOLLIN)
        self._proxies.move_to_end(key)
        return proxy

    def _close_proxy(self, key: tuple[Address, Address]) -> None:
        proxy = self._proxies.pop(key)
        self._epoll.unregister(proxy.fileno())
        del self._keys[_address(proxy).port]
        del self._by_fd[proxy.fileno()]
        proxy.close()

    def _pass_on(self, key: tuple[Address, Address]) -> None:
        relayed, peer = key
        proxy = self._proxies[key]
        self._proxies.move_to_end(key)
        for _ in range(RECEIVE_BATCH):
            try:
                data = proxy.recv(MAX_PACKET)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("proxy of %s: %s", peer, error)
                return
            self._send(Transmit(data, peer, relayed_from=relayed))

    def _shown(self, address: Address, channel: int) -> Address:
        if channel:
            return self._in_channel.get((address, channel), address)
        key = self._keys.get(address.port) if address.ip == LOOPBACK else None
        return address if key is None else key[1]


def _address(proxy: socket.socket) -> Address:
    ip, port = proxy.getsockname()
    return Address(ip, port)
