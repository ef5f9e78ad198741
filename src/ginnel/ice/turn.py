"""CORE: a TURN client: one allocation at one server, from one socket or over one connection.

It allocates, keeps allocation, permissions and channels alive, and wraps what goes to a peer. When
the server has lost the allocation it makes a new one, with back-off. Which servers there are, and
what a relayed datagram means, is for others. Over TCP and TLS the same messages go: `framing` cuts
the stream, and the owner connects when `ConnectionWanted` asks for it.

Invariants:
- `relayed` is set exactly while an allocation is in force.
- Nothing of a datagram from another address than the server's is looked at.

Source: RFC 8656 (TURN); RFC 8489 section 9.2 (long-term credentials).
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import TimerTable
from ginnel.base.limits import BoundedLru
from ginnel.base.types import Address, Deadline, Transmit
from ginnel.ice import stun
from ginnel.ice.channels import split_channel_data, wrap_channel_data
from ginnel.ice.stun import Attribute, Message, MessageClass
from ginnel.ice.turn_events import (
    Allocated,
    AllocationLost,
    ChannelClosed,
    ChannelOpened,
    ConnectionOver,
    ConnectionWanted,
    PeerRefused,
    RelayReceived,
    TurnConfig,
    TurnDrop,
    TurnEvent,
)
from ginnel.ice.turn_requests import Request, Timer, TurnAsker, credentials_of

LIFETIME = 600  # s asked for (RFC 8656 section 7.2)
REFRESH_MARGIN = 60.0  # s before the end (section 8)
BIND_AGAIN = 240.0  # s; permissions live 300 s, channels 600 s (sections 9, 12)
UNUSED_AFTER = 600.0  # s without anything sent to a peer: its channel is not kept alive
MAX_PEERS = 256  # peers of one allocation; channels would allow 4096
MAX_EARLY = 8  # datagrams kept for each peer until its permission is there
CONNECT_TIMEOUT = 15.0  # s for TCP and TLS
RETRY_FIRST, RETRY_LAST = 2.0, 60.0  # s until allocating is tried again
UDP_TRANSPORT = b"\x11\0\0\0"  # REQUESTED-TRANSPORT (section 18.6)

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Peer:
    address: Address
    channel: int
    used_at: float
    is_permitted: bool = False
    is_bound: bool = False
    refused: bool = False
    early: deque[bytes] = field(default_factory=lambda: deque(maxlen=MAX_EARLY))


class TurnClient(TurnAsker):
    """One allocation; see the module's text."""

    def __init__(self, config: TurnConfig, *, random_bytes: RandomBytes, rng: Rng) -> None:
        super().__init__(config, random_bytes=random_bytes)
        self.relayed: Address | None = None
        self.mapped: Address | None = None
        self.failure = ""  # why there is no allocation, in words
        self._rng = rng
        self._peers: dict[Address, _Peer] = {}
        self._channels: dict[int, _Peer] = {}
        self._next_channel = config.channels.start
        self._past: BoundedLru[Address, int] = BoundedLru(MAX_PEERS)  # channels of the forgotten
        self._failures = 0
        self._is_closed = False
        self._is_connected = not config.transport.is_stream

    # Commands

    def start(self, *, now: float) -> None:
        """Ask for an allocation; over a stream: for a connection first."""
        if not self._is_connected:
            self._timers.set(Timer.CONNECT, now + CONNECT_TIMEOUT)
            self._events.append(ConnectionWanted())
            return
        attributes = [(Attribute.REQUESTED_TRANSPORT, UDP_TRANSPORT), _lifetime(LIFETIME)]
        self._ask(stun.ALLOCATE, attributes, now)

    def on_connected(self, *, now: float) -> None:
        """The connection that was wanted is there."""
        if self._is_closed or self._is_connected:
            return
        self._is_connected = True
        self._timers.stop(Timer.CONNECT)
        self.start(now=now)

    def on_disconnected(self, reason: str, *, now: float) -> None:
        """There is no connection (any more), or none could be made: `reason` says why."""
        if self._is_closed or not self.config.transport.is_stream:
            return
        is_waiting = self._timers.get(Timer.CONNECT) is not None
        if self._is_connected or is_waiting:
            self._is_connected = False
            self._lose(reason, now)

    def renew(self, config: TurnConfig) -> None:
        """Use new credentials of the same server from now on, where it lets them follow."""
        self.config = config
        self._credentials = credentials_of(config)

    def close(self, *, now: float) -> None:
        """Give the allocation back; harmless when repeated."""
        if self.relayed is not None:
            self._requests.clear()
            self._ask(stun.REFRESH, [_lifetime(0)], now)  # once; the answer is not waited for
            self._close_channels(self.relayed)
        self._disconnect()
        self._is_closed = True
        self.relayed = None
        self._requests.clear()
        self._timers = TimerTable()

    def send(self, data: bytes, peer: Address, *, now: float) -> bool:
        """Send to a peer through the relay; return whether it went out or waits for leave."""
        if self.relayed is None:
            return self._drop(TurnDrop.NO_ALLOCATION)
        known = self._peers.get(peer) or self._add_peer(peer, now)
        if known is None or known.refused:
            return self._drop(TurnDrop.FULL)
        known.used_at = now
        if known.is_bound:
            self._transmit(wrap_channel_data(known.channel, data))
        elif known.is_permitted:
            self._indicate(peer, data)
        else:
            known.early.append(data)
        return True

    def knows_channel(self, number: int) -> bool:
        """Say whether this channel is bound, or about to be."""
        return number in self._channels

    def owns(self, message: Message, source: Address) -> bool:
        """Say whether a message on a shared socket is for this client."""
        if source != self.config.server:
            return False
        is_data = message.method == stun.DATA
        return is_data or message.transaction_id in self._requests

    # The five verbs

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Take one datagram of the server: a STUN message or ChannelData."""
        if source != self.config.server:
            self._drop(TurnDrop.SOURCE)
            return
        channel = split_channel_data(data)
        if channel is not None:
            self._on_channel_data(*channel)
            return
        try:
            message = stun.decode_message(data)
        except stun.StunError as error:
            self._drop(TurnDrop.MALFORMED, str(error))
            return
        self.handle_message(message, now=now)

    def handle_message(self, message: Message, *, now: float) -> None:
        """Take one decoded message of the server."""
        if message.message_class is MessageClass.INDICATION:
            if message.method == stun.DATA:
                self._on_data(message)
            else:
                self._drop(TurnDrop.FOREIGN)
        elif message.message_class is MessageClass.REQUEST:
            self._drop(TurnDrop.FOREIGN)
        else:
            self._on_response(message, now)
        self._rearm()

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due."""
        for timer in self._timers.expire(now):
            if timer is Timer.RETRANSMIT:
                self._retransmit(now)
            elif timer is Timer.CONNECT:
                self._lose("the relay can't be reached", now)
            elif timer is Timer.REFRESH:
                self._ask(stun.REFRESH, [_lifetime(LIFETIME)], now)
            elif timer is Timer.BIND:
                self._bind_again(now)
            elif self.relayed is None:
                self.start(now=now)
        self._rearm()

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> TurnEvent | None:
        """Return the next event, or None."""
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted, or None."""
        return self._timers.deadline()

    # What answers mean

    def _on_success(self, request: Request, message: Message, now: float) -> None:
        if request.method == stun.ALLOCATE:
            self._on_allocated(message, now)
        elif request.method == stun.REFRESH:
            self._arm_refresh(message, now)
        else:
            peer = self._peers.get(request.peer) if request.peer else None
            if peer is not None:
                self._on_leave(peer, is_bound=request.method == stun.CHANNEL_BIND, now=now)

    def _on_allocated(self, message: Message, now: float) -> None:
        relayed = message.address(Attribute.XOR_RELAYED_ADDRESS)
        if relayed is None:
            self._lose("the relay's answer names no address", now)
            return
        self.relayed, self.mapped = relayed, message.mapped_address
        self._failures, self.failure = 0, ""
        self._timers.stop(Timer.RETRY)
        self._timers.set(Timer.BIND, now + BIND_AGAIN)
        self._arm_refresh(message, now)
        self._events.append(Allocated(relayed, self.mapped))

    def _arm_refresh(self, message: Message, now: float) -> None:
        if self.relayed is None:
            return  # an old allocation was ended
        lifetime = message.number(Attribute.LIFETIME, 4) or LIFETIME
        wait = max(lifetime / 2, lifetime - REFRESH_MARGIN) if lifetime > 1 else 1.0
        self._timers.set(Timer.REFRESH, now + wait)

    def _on_leave(self, peer: _Peer, *, is_bound: bool, now: float) -> None:
        if not peer.is_permitted:
            peer.is_permitted = True
            self._bind(peer, now)
        if is_bound and not peer.is_bound and self.relayed is not None:
            peer.is_bound = True
            self._events.append(ChannelOpened(self.relayed, peer.address, peer.channel))
        while peer.early:
            self._indicate(peer.address, peer.early.popleft())

    def _on_failed(self, request: Request, code: int, reason: str, now: float) -> None:
        if request.method == stun.ALLOCATE:
            if code == 437 and not self.config.transport.is_stream:  # end this port's first
                self._ask(stun.REFRESH, [_lifetime(0)], now)
            self._lose(reason, now)
        elif request.method == stun.REFRESH:
            if self.relayed is not None:
                self._lose(reason, now)
        elif code in (437, 441) or code == 0:
            self._lose(reason, now)
        else:
            peer = self._peers.get(request.peer) if request.peer else None
            if peer is None or (peer.is_permitted and request.method == stun.CHANNEL_BIND):
                return  # without a channel indications do
            peer.refused = True
            peer.early.clear()
            self._events.append(PeerRefused(peer.address, reason))

    def _lose(self, reason: str, now: float) -> None:
        """There is no allocation (any more): tell it, and try again after a while."""
        relayed, self.relayed = self.relayed, None
        if relayed is not None:
            self._close_channels(relayed)
        self._peers.clear()
        self._channels.clear()
        self._requests = {k: r for k, r in self._requests.items() if r.method == stun.REFRESH}
        for timer in (Timer.REFRESH, Timer.BIND, Timer.CONNECT):
            self._timers.stop(timer)
        self._disconnect()
        if self._is_closed:
            return
        wait = min(RETRY_LAST, RETRY_FIRST * 2 ** min(self._failures, 10))
        wait *= self._rng.uniform(0.9, 1.1)
        if relayed is not None:
            wait = 0.0  # it worked until now: at once
        self._failures += 1
        self.failure = reason
        self._timers.set(Timer.RETRY, now + wait)
        self._events.append(AllocationLost(relayed, reason, wait))

    def _disconnect(self) -> None:
        """Each allocation over a stream has a connection of its own."""
        if self.config.transport.is_stream:
            self._is_connected = False
            self._requests.clear()
            self._events.append(ConnectionOver())

    # Peers

    def _add_peer(self, address: Address, now: float) -> _Peer | None:
        if len(self._peers) >= MAX_PEERS or self._next_channel not in self.config.channels:
            stale = [p for p in self._peers.values() if now - p.used_at > UNUSED_AFTER]
            for peer in stale:
                self._forget(peer)
            if len(self._peers) >= MAX_PEERS:
                return None
        number = self._past.pop(address) or self._next_channel
        peer = self._peers[address] = _Peer(address, number, now)
        if number == self._next_channel < self.config.channels.stop:
            self._next_channel += 1
        self._ask(stun.CREATE_PERMISSION, [], now, address)
        return peer

    def _bind(self, peer: _Peer, now: float) -> None:
        if peer.channel not in self.config.channels:
            return  # used up: indications do, until the next allocation
        self._channels[peer.channel] = peer
        value = peer.channel.to_bytes(2, "big") + b"\0\0"
        self._ask(stun.CHANNEL_BIND, [(Attribute.CHANNEL_NUMBER, value)], now, peer.address)

    def _bind_again(self, now: float) -> None:
        """Keep permissions and channels alive that are in use."""
        self._timers.set(Timer.BIND, now + BIND_AGAIN)
        for peer in list(self._peers.values()):
            if now - peer.used_at > UNUSED_AFTER or peer.refused:
                self._forget(peer)
            elif peer.is_bound:
                self._bind(peer, now)  # renews the permission too (section 12)
            else:
                self._ask(stun.CREATE_PERMISSION, [], now, peer.address)

    def _forget(self, peer: _Peer) -> None:
        del self._peers[peer.address]
        # Nobody else gets its number: that would need 5 minutes of waiting (section 12). It may,
        # and while the server still knows its channel it may have no other.
        self._past.put(peer.address, peer.channel)
        self._channels.pop(peer.channel, None)
        if peer.is_bound and self.relayed is not None:
            self._events.append(ChannelClosed(self.relayed, peer.address, peer.channel))

    def _close_channels(self, relayed: Address) -> None:
        for peer in self._peers.values():
            if peer.is_bound:
                self._events.append(ChannelClosed(relayed, peer.address, peer.channel))

    # Data

    def _indicate(self, peer: Address, data: bytes) -> None:
        transaction_id = self._random_bytes(stun.TRANSACTION_ID_SIZE)
        attributes = [
            (Attribute.XOR_PEER_ADDRESS, stun.encode_address(peer, transaction_id)),
            (Attribute.DATA, data),
        ]
        self._transmit(
            stun.encode_message(
                MessageClass.INDICATION,
                transaction_id,
                attributes,
                method=stun.SEND,
                fingerprint=False,
            )
        )

    def _on_data(self, message: Message) -> None:
        peer = message.address(Attribute.XOR_PEER_ADDRESS)
        data = message.get(Attribute.DATA)
        if peer is None or data is None:
            self._drop(TurnDrop.MALFORMED)
        elif not any(known.ip == peer.ip for known in self._peers):  # permissions are for IPs
            self._drop(TurnDrop.NO_PERMISSION)
        else:
            self._events.append(RelayReceived(peer, data))

    def _on_channel_data(self, number: int, data: bytes) -> None:
        peer = self._channels.get(number)
        if peer is None:
            self._drop(TurnDrop.NO_PERMISSION)
        else:
            self._events.append(RelayReceived(peer.address, data))


def _lifetime(seconds: int) -> tuple[int, bytes]:
    return Attribute.LIFETIME, seconds.to_bytes(4, "big")
