"""A peer connection on asyncio: `Conn`, seed 000's.

    conn = Conn(config, socket, handlers, recorder=recorder)
    try:
        await conn.open()                  # until it ends
    except ConnectionTimeout: ...          # or ConnectionDisconnected: open it again
    except ConnectionClosed: ...           # we closed it

The handlers carry what is signalled and what the data plane is told; the caller brings back what
came. Addresses of this machine are found by `discover` (if the configuration names the port), and
the caller may tell more. The source must give STUN datagrams only (or a driver of the caller's runs
`ConnCore`).

Clean-up always runs, in this order: agent, proxy, peer, timers, `on_disconnected`, status,
statistics; each is attempted, and the first failure is `cleanup_error`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import DatagramSource
from ginnel.base.dataplane import (
    CloseProxy,
    DataUnanswered,
    EndpointRoamed,
    EngineCommand,
    HandshakeCompleted,
    RemovePeer,
)
from ginnel.base.errors import GinnelError
from ginnel.base.types import Address
from ginnel.ice.candidate import Candidate
from ginnel.ice.gather import gather_candidates
from ginnel.ice.reasons import NatKind
from ginnel.net.driver import Driver
from ginnel.net.interfaces import host_addresses
from ginnel.peer.conn import ConnCore
from ginnel.peer.errors import ConnectionAlreadyClosed, ConnectionClosed, ConnectionEnded
from ginnel.peer.events import (
    ConnConfig,
    Connected,
    ConnEvent,
    Disconnected,
    Ended,
    Engine,
    PathSuspected,
    PeerStateChanged,
    SendAnswer,
    SendCandidates,
    SendMessage,
    SendOffer,
)
from ginnel.peer.signal import ModeMessage, OfferAnswer
from ginnel.peer.status import ConnStatus, PeerState, Stage, StatusRecorder, WgStats

log = logging.getLogger(__name__)

OnConnected = Callable[[bytes, bytes, str, str], None]
OnDisconnected = Callable[[bytes, tuple[str, ...]], None]
InterfaceDiscover = Callable[[ConnConfig], Sequence[str]]


@dataclass(frozen=True)
class Handlers:
    """Where a connection's events go; all run inside the loop and must not block.

    `apply` is the engine's adapter; a `GinnelError` from it ends the path. One from a signalling
    handler counts as a loss: offers are repeated. `on_connected` gets the remote key, the Rosenpass
    key (empty: none), the overlay IP and the Rosenpass address; `on_disconnected` the remote key
    and the allowed IPs, only if it was connected.
    """

    signal_offer: Callable[[OfferAnswer], None]
    signal_answer: Callable[[OfferAnswer], None]
    signal_candidates: Callable[[bytes, tuple[Candidate, ...], NatKind], None]
    apply: Callable[[EngineCommand], None]
    send_signal_message: Callable[[ModeMessage], None] = lambda message: None
    on_connected: OnConnected = lambda key, rosenpass_key, ip, rosenpass_addr: None
    on_disconnected: OnDisconnected = lambda key, ips: None
    on_state: Callable[[PeerState], None] = lambda state: None


def discover_interfaces(config: ConnConfig) -> list[str]:
    """Return this machine's IPs that peers may be told of; the default `InterfaceDiscover`."""
    found = [address.ip for address in host_addresses(config.interface_blacklist)]
    return [ip for ip in found if not (config.disable_ipv6_discovery and ":" in ip)]


class Conn:
    """One peer's connection on asyncio; see the module."""

    def __init__(
        self,
        config: ConnConfig,
        source: DatagramSource,
        handlers: Handlers,
        *,
        recorder: StatusRecorder | None = None,
        discover: InterfaceDiscover = discover_interfaces,
        random_bytes: RandomBytes = os.urandom,
        rng: Rng | None = None,
    ) -> None:
        self._core = ConnCore(config, random_bytes=random_bytes, rng=rng or random.Random())
        self._source = source
        self._handlers = handlers
        self._recorder = recorder
        self._discover = discover
        self._driver: Driver[ConnEvent] | None = None
        self._told: tuple[Candidate, ...] = ()  # by the caller
        self._symmetric = False
        self._ended: ConnectionEnded | None = None
        self._engine_error: GinnelError | None = None
        self.cleanup_error: GinnelError | None = None

    # What others may know

    @property
    def config(self) -> ConnConfig:
        """Return the configuration as it is now."""
        return self._core.config

    @property
    def key(self) -> bytes:
        """Return the remote peer's WireGuard public key."""
        return self._core.config.key

    @property
    def status(self) -> ConnStatus:
        """Return disconnected, connecting or connected."""
        return self._core.state.status

    @property
    def state(self) -> PeerState:
        """Return what is known of the connection."""
        return self._core.state

    def set_handlers(self, **changes: Callable[..., None]) -> None:
        """Replace handlers by name: `conn.set_handlers(on_connected=...)`."""
        self._handlers = replace(self._handlers, **changes)

    # The life of a connection

    async def open(self) -> None:
        """Connect, and stay connected until the end; returns only by raising.

        Raises:
            ConnectionTimeout: no offer and no answer within `config.timeout`; open it again.
            ConnectionDisconnected: the path is lost or was never found; open it again.
            ConnectionClosed: `close` was called, perhaps before.
        """
        if self._core.is_closed:
            raise ConnectionClosed(self.key)
        self._ended = self._engine_error = self.cleanup_error = None
        if self._recorder is not None:
            self._recorder.add_peer(self.key)
        self._driver = Driver(self._core, self._source, self._on_event)
        self._gather()
        self._core.open(self._now())
        try:
            await self._driver.run()
        finally:
            if self._ended is None:  # cancelled
                self._core.close(self._now())
                while (event := self._core.poll_event()) is not None:
                    self._on_event(event)
        raise (self._ended or ConnectionClosed(self.key)) from self._engine_error

    def close(self) -> None:
        """End the connection and clean up; before `open` it makes that return at once.

        Raises:
            ConnectionAlreadyClosed: it was closed before.
        """
        if not self._core.close(self._now()):
            raise ConnectionAlreadyClosed(self.key)
        self._wake()

    def set_local_candidates(
        self, candidates: Sequence[Candidate], *, symmetric: bool = False
    ) -> None:
        """Tell addresses of ours as they are now, besides those of `discover`."""
        self._told, self._symmetric = tuple(candidates), symmetric
        self._gather()

    def update_stun_turn(self, urls: Iterable[str]) -> None:
        """Use other STUN and TURN servers from now on."""
        self._core.update_stun_turn(urls)
        self._gather()

    # What the peer signals; none of these blocks

    def on_remote_offer(self, offer: OfferAnswer) -> bool:
        """Take the peer's offer; return whether it was taken."""
        return self._woken(self._core.on_remote_offer(offer, now=self._now()))

    def on_remote_answer(self, answer: OfferAnswer) -> bool:
        """Take the peer's answer; return whether it was taken."""
        return self._woken(self._core.on_remote_answer(answer, now=self._now()))

    def on_remote_candidates(
        self, session: bytes, candidates: Sequence[Candidate], nat: NatKind = NatKind.UNKNOWN
    ) -> bool:
        """Take further candidates of the peer, at any time; return whether they were taken."""
        taken = self._core.on_remote_candidates(session, candidates, now=self._now(), nat=nat)
        return self._woken(taken)

    def on_remote_mode(self, message: ModeMessage) -> bool:
        """Take what the peer tells of its side of the path; return whether it was taken."""
        return self._woken(self._core.on_remote_mode(message, now=self._now()))

    def register_features(self, numbers: Iterable[int]) -> None:
        """Take which features the peer's program has (seed 000's RegisterProtoSupportMeta)."""
        self._core.register_features(numbers)

    def on_engine_event(self, event: HandshakeCompleted | EndpointRoamed | DataUnanswered) -> None:
        """Take what the data plane tells of the peer."""
        self._core.on_engine_event(event, now=self._now())
        self._wake()

    # Small things

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _gather(self) -> None:
        config = self.config
        found: list[Candidate] = []
        if config.local_wg_port and config.is_muxed:
            outer = [Address(ip, config.local_wg_port) for ip in config.nat_external_ips]
            found = gather_candidates(self._discover(config), config.local_wg_port, outer)
        candidates = [*found, *(c for c in self._told if c not in found)]
        self._core.set_local_candidates(candidates, now=self._now(), symmetric=self._symmetric)
        self._wake()

    def _wake(self) -> None:
        if self._driver is not None:
            self._driver.wake()

    def _woken(self, result: bool) -> bool:
        self._wake()
        return result

    def _on_event(self, event: ConnEvent) -> None:
        handlers = self._handlers
        match event:
            case SendOffer(offer):
                self._attempt(lambda: handlers.signal_offer(offer))
            case SendAnswer(answer):
                self._attempt(lambda: handlers.signal_answer(answer))
            case SendCandidates(session, candidates, nat):
                self._attempt(lambda: handlers.signal_candidates(session, candidates, nat))
            case SendMessage(message):
                self._attempt(lambda: handlers.send_signal_message(message))
            case Engine(command):
                self._apply(command)
            case Connected(key, rosenpass_pub_key=rosenpass, overlay_ip=ip, rosenpass_addr=addr):
                handlers.on_connected(key, rosenpass, ip, addr)
            case Disconnected(key, allowed_ips):
                self._clean(lambda: handlers.on_disconnected(key, allowed_ips))
            case PeerStateChanged(state):
                self._record(state)
                handlers.on_state(state)
            case PathSuspected():
                self._gather()
            case Ended(error):
                self._ended = error
                if self._driver is not None:
                    self._driver.stop()

    def _apply(self, command: EngineCommand) -> None:
        if isinstance(command, RemovePeer | CloseProxy):
            self._clean(lambda: self._handlers.apply(command))
            return
        try:
            self._handlers.apply(command)
        except GinnelError as error:
            self._engine_error = self._engine_error or error
            self._core.on_engine_refused(str(error), now=self._now())

    def _attempt(self, signal: Callable[[], None]) -> None:
        try:
            signal()
        except GinnelError as error:
            log.info("signalling to peer %s: %s", self.key.hex()[:8], error)

    def _clean(self, step: Callable[[], None]) -> None:
        try:
            step()
        except GinnelError as error:
            log.warning("cleaning up peer %s: %s", self.key.hex()[:8], error)
            self.cleanup_error = self.cleanup_error or error

    def _record(self, state: PeerState) -> None:
        if self._recorder is None:
            return
        self._recorder.update_peer_state(state)
        if state.stage is Stage.CLOSED:
            self._recorder.update_wireguard_stats(self.key, WgStats())
