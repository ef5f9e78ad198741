"""A peer connection on asyncio: `Conn`, seed 000's.

    conn = Conn(config, socket, handlers, recorder=recorder)
    try:
        await conn.open()                  # until it ends
    except ConnectionTimeout: ...          # or ConnectionDisconnected: open it again
    except ConnectionClosed: ...           # we closed it

The handlers carry what is signalled and what the data plane is told; the caller brings back what
came. Addresses of this machine are found by `discover` (if the configuration names the port), the
STUN and TURN servers of the configuration are asked from that port, and the caller may tell more.
The source must give STUN datagrams and ChannelData only (or a driver of the caller's runs
`ConnCore`). What the data plane sends to an endpoint with `relayed_from` goes by `send_relayed`.

Clean-up always runs, in this order: agent, proxy, peer, timers, `on_disconnected`, status,
statistics; each is attempted, and the first failure is `cleanup_error`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import DatagramSource
from ginnel.base.dataplane import (
    CommandRefused,
    DataUnanswered,
    EndpointRoamed,
    EngineCommand,
    HandshakeCompleted,
    PathCommand,
)
from ginnel.base.errors import GinnelError, SystemFailure, UsageError
from ginnel.base.links import CloseLink, LinkEvent, OpenLink, SendLink
from ginnel.base.servers import Server, Transport
from ginnel.base.types import Address, Transmit
from ginnel.ice.candidate import Candidate
from ginnel.ice.reasons import NatKind
from ginnel.net.driver import Driver
from ginnel.net.interfaces import host_addresses
from ginnel.net.link import make_tls_context
from ginnel.net.links import StreamLinks
from ginnel.net.resolve import resolve
from ginnel.peer.conn import ConnCore
from ginnel.peer.errors import ConnectionAlreadyClosed, ConnectionClosed, ConnectionEnded
from ginnel.peer.events import (
    AddressesWanted,
    ConnConfig,
    Connected,
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
from ginnel.peer.gathering import (
    GatheringConn,
    GatheringEvent,
    RelayedData,
    TurnCame,
    settings_of,
)
from ginnel.peer.group import ConnGroup
from ginnel.peer.signal import ModeMessage, OfferAnswer
from ginnel.peer.status import ConnStatus, PeerState, Stage, StatusRecorder, WgStats

log = logging.getLogger(__name__)

OnConnected = Callable[[bytes, bytes, str, str], None]
OnDisconnected = Callable[[bytes, tuple[str, ...]], None]
InterfaceDiscover = Callable[[ConnConfig], Sequence[str]]


@dataclass(frozen=True)
class Handlers:
    """Where a connection's events go; all run inside the loop and must not block.

    `apply` is the engine's adapter; a `GinnelError` from it ends the path, with a `timeout` the
    open. One from a signalling handler counts as a loss: offers are repeated, and while no path
    works it is `state.reason`. Either is the cause of the error that ends an open, unless it was
    connected (or could signal) since.

    `on_connected` gets the remote key, the Rosenpass key (empty: none), the overlay IP and the
    Rosenpass address; `on_disconnected` the remote key and the allowed IPs, only if it was
    connected. `on_relayed` gets what came through a relay for the data plane: our address there,
    the peer's, the packet.
    """

    signal_offer: Callable[[OfferAnswer], None]
    signal_answer: Callable[[OfferAnswer], None]
    signal_candidates: Callable[[bytes, tuple[Candidate, ...], NatKind], None]
    apply: Callable[[EngineCommand], None]
    send_signal_message: Callable[[ModeMessage], None] = lambda message: None
    on_connected: OnConnected = lambda key, rosenpass_key, ip, rosenpass_addr: None
    on_disconnected: OnDisconnected = lambda key, ips: None
    on_state: Callable[[PeerState], None] = lambda state: None
    on_relayed: Callable[[Address, Address, bytes], None] = lambda relayed, peer, data: None


def discover_interfaces(config: ConnConfig) -> list[str]:
    """Return this machine's IPs that peers may be told of; the default `InterfaceDiscover`."""
    return [address.ip for address in host_addresses(config.interface_blacklist)]


class Conn:
    """One peer's connection on asyncio; see the module.

    `group`: the machine's other connections; with it a second one to a peer is refused until the
    first is closed, and connecting is under the group's limit.

    Variables of the environment (`GINNEL_ICE_KEEPALIVE`, `GINNEL_FORCE_RELAY` and so on) win over
    `config.ice`.

    Raises:
        UsageError: a variable is no duration or no switch, a server's URL has another form or
            there is no port to ask it from, or the group has a connection to the peer.
    """

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
        environ: Mapping[str, str] = os.environ,
        group: ConnGroup | None = None,
    ) -> None:
        self._group = group or ConnGroup()
        config = replace(config, turns=self._group.turns)
        config = replace(config, ice=settings_of(config).with_environment(environ))
        self._random_bytes, self._rng = random_bytes, rng or random.Random()
        self._core = ConnCore(config, random_bytes=random_bytes, rng=self._rng)
        self._gathering: GatheringConn | None = None
        self._stack: AsyncExitStack | None = None  # while it is open
        self._tasks: asyncio.TaskGroup | None = None
        self._jobs: list[asyncio.Task[None]] = []
        self._links: StreamLinks | None = None
        self._source = source
        self._handlers = handlers
        self._recorder = recorder
        self._discover = discover
        self._driver: Driver[GatheringEvent] | None = None
        self._told: tuple[Candidate, ...] = ()  # by the caller
        self._ips: tuple[str, ...] = ()  # by `discover`
        self._symmetric = False
        self._failures: dict[str, str] = {}  # of the last open
        self._ended: ConnectionEnded | None = None
        self._engine_error: GinnelError | None = None
        self._signal_error: GinnelError | None = None
        self.cleanup_error: GinnelError | None = None
        self._group.add(self)

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

    @property
    def failures(self) -> dict[str, str]:
        """Return the servers that gave nothing in this open or the last one, and why, in words."""
        return self._failures if self._gathering is None else self._gathering.failures

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
            UsageError: it is open.
            SystemFailure: a server is reached by TLS, and the system's authorities can't be read,
                or the kernel does not tell this machine's addresses.
        """
        if self._core.is_closed:
            raise ConnectionClosed(self.key)
        if self._gathering is not None:
            raise UsageError(f"the connection to peer {self.key.hex()[:8]} is open already")
        self._ended = self._engine_error = self._signal_error = self.cleanup_error = None
        if self._recorder is not None:
            self._recorder.add_peer(self.key)
        servers = settings_of(self.config).servers
        links = StreamLinks(None, self._on_link)
        _read_authorities(links, servers)
        self._ips, self._links = self._find_ips(), links
        self._gathering = GatheringConn(self._core, random_bytes=self._random_bytes, rng=self._rng)
        self._driver = Driver(self._gathering, self._source, self._on_event)
        self._tell_addresses()
        self._core.open(self._now())
        try:
            async with AsyncExitStack() as self._stack:
                await self._use(servers, links)
                await self._driver.run()
        finally:
            self._end()
        cause = self._engine_error or self._signal_error
        raise (self._ended or ConnectionClosed(self.key)) from cause

    def close(self) -> None:
        """End the connection and clean up; before `open` it makes that return at once.

        Raises:
            ConnectionAlreadyClosed: it was closed before.
        """
        if not self._core.close(self._now()):
            raise ConnectionAlreadyClosed(self.key)
        self._group.remove(self)
        self.wake()

    def set_local_candidates(
        self, candidates: Sequence[Candidate], *, symmetric: bool = False
    ) -> None:
        """Tell addresses of ours as they are now, besides those of `discover`."""
        self._told, self._symmetric = tuple(candidates), symmetric
        self._gather()

    def update_stun_turn(self, urls: Iterable[str]) -> None:
        """Use further STUN and TURN servers at once, and only these from the next open on.

        Raises:
            UsageError: a URL of another form, or no port to ask from; nothing changes.
            SystemFailure: a server is reached by TLS, and the system's authorities can't be read.
        """
        before, urls = self.config, tuple(urls)
        servers = settings_of(replace(before, stun_turn=urls)).servers
        if self._links is not None:
            _read_authorities(self._links, servers)
        self._core.update_stun_turn(urls)
        self._gather()
        for url, server in zip(urls, servers, strict=True):
            if url not in before.stun_turn and self._tasks is not None:
                self._jobs.append(self._tasks.create_task(self._add(server)))

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

    def send_relayed(self, transmit: Transmit) -> bool:
        """Send a packet of the data plane from our address at a relay; False: it is gone."""
        gathering = self._gathering
        sent = gathering is not None and gathering.send_relayed(transmit, now=self._now())
        return self._woken(sent)

    def register_features(self, numbers: Iterable[int]) -> None:
        """Take which features the peer's program has (seed 000's RegisterProtoSupportMeta)."""
        self._core.register_features(numbers)

    def on_engine_event(self, event: HandshakeCompleted | EndpointRoamed | DataUnanswered) -> None:
        """Take what the data plane tells of the peer."""
        self._core.on_engine_event(event, now=self._now())
        self.wake()

    # Small things

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _gather(self) -> None:
        """Learn our addresses anew while it is open; what fails leaves those that are known."""
        if self._gathering is not None:
            try:
                self._ips = self._find_ips()
            except GinnelError as error:
                log.warning("addresses of this machine: %s", error)
            self._tell_addresses()

    def _find_ips(self) -> tuple[str, ...]:
        return tuple(self._discover(self.config)) if self.config.knows_port else ()

    def _tell_addresses(self) -> None:
        if self._gathering is not None:
            told, symmetric = self._told, self._symmetric
            self._gathering.set_addresses(self._ips, told, now=self._now(), symmetric=symmetric)
            self.wake()

    async def _use(self, servers: Sequence[Server], links: StreamLinks) -> None:
        """Ask the servers as soon as their names are resolved; inside `open`."""
        assert self._stack is not None
        self._tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._stack.callback(self._cancel_jobs)
        self._jobs = [self._tasks.create_task(links.run())]
        self._jobs += [self._tasks.create_task(self._add(server)) for server in servers]

    def _cancel_jobs(self) -> None:
        self._tasks = None
        if self._links is not None:
            self._links.close()
            self._links = None
        for job in self._jobs:
            job.cancel()

    async def _add(self, server: Server) -> None:
        addresses = await resolve(server.host, server.port)
        if self._gathering is not None:
            self._gathering.add_server(server, addresses, now=self._now())
            self.wake()

    def _on_link(self, event: LinkEvent) -> None:
        if self._gathering is not None:
            self._gathering.on_link(event, now=self._now())
            self.wake()

    def _end(self) -> None:
        """Clean up after an open that was cancelled, too."""
        if self._ended is None:
            self._core.close(self._now())
            self._group.remove(self)
            while (event := self._core.poll_event()) is not None:
                self._on_event(event)
        self._failures, self._gathering = self.failures, None

    def wake(self) -> None:
        """Carry on after a command; harmless at any time (`ConnGroup` calls this)."""
        if self._driver is not None:
            self._driver.wake()

    def _woken(self, result: bool) -> bool:
        self.wake()
        return result

    def _on_event(self, event: GatheringEvent) -> None:
        handlers = self._handlers
        match event:
            case SendOffer() | SendAnswer() | SendCandidates() | SendMessage():
                self._signal(event)
            case Engine(command):
                self._apply(command)
            case Connected(key, rosenpass_pub_key=rosenpass, overlay_ip=ip, rosenpass_addr=addr):
                self._engine_error = None
                handlers.on_connected(key, rosenpass, ip, addr)
            case Disconnected(key, allowed_ips):
                self._clean(lambda: handlers.on_disconnected(key, allowed_ips))
            case PeerStateChanged(state):
                self._record(state)
                handlers.on_state(state)
            case PathSuspected() | AddressesWanted():
                self._gather()
            case RelayedData(relayed, peer, data):
                handlers.on_relayed(relayed, peer, data)
            case OpenLink() | SendLink() | CloseLink():
                if self._links is not None:
                    self._links.on_command(event)
            case TurnCame(key):
                self._group.on_turn(key)
            case Ended(error):
                self._on_ended(error)

    def _on_ended(self, error: ConnectionEnded) -> None:
        self._ended = error
        if self._gathering is not None:
            self._gathering.close(now=self._now())
        if self._driver is not None:
            self._driver.stop()

    def _apply(self, command: EngineCommand) -> None:
        if not isinstance(command, PathCommand):
            self._clean(lambda: self._handlers.apply(command))
            return
        try:
            self._handlers.apply(command)
        except GinnelError as error:
            self._engine_error = self._engine_error or error
            refused = CommandRefused(self.key, str(error))
            self._core.on_engine_event(refused, now=self._now())

    def _signal(self, event: SendOffer | SendAnswer | SendCandidates | SendMessage) -> None:
        handlers = self._handlers
        try:
            match event:
                case SendOffer(offer):
                    handlers.signal_offer(offer)
                case SendAnswer(answer):
                    handlers.signal_answer(answer)
                case SendCandidates(session, candidates, nat):
                    handlers.signal_candidates(session, candidates, nat)
                case SendMessage(message):
                    handlers.send_signal_message(message)
        except GinnelError as error:
            log.info("signalling to peer %s: %s", self.key.hex()[:8], error)
            self._signal_error = error
            self._core.on_signal_failed(str(error), now=self._now())
        else:
            self._signal_error = None
            self._core.on_signalled(now=self._now())

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


def _read_authorities(links: StreamLinks, servers: Sequence[Server]) -> None:
    """Read the system's authorities when the first server is reached by TLS."""
    if links.tls is not None or all(server.transport is not Transport.TLS for server in servers):
        return
    try:
        links.tls = make_tls_context()
    except OSError as error:
        raise SystemFailure(f"the system's authorities for TLS: {error}") from error
