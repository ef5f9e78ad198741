"""A peer connection on asyncio: `Conn`, in the shape of seed 000.

    conn = Conn(config, socket, handlers)
    async with asyncio.TaskGroup() as group:
        group.create_task(conn.open())     # until it is closed
        conn.set_local_candidates(candidates)
        ...
        conn.close()

The handlers carry what is signalled and what the data plane is told; the caller brings back what
came. The source must give STUN datagrams only (or a driver of the caller's runs `ConnCore`).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.core import DatagramSource
from ginnel.base.dataplane import EndpointRoamed, EngineCommand, HandshakeCompleted
from ginnel.base.errors import UsageError
from ginnel.ice.candidate import Candidate
from ginnel.net.driver import Driver
from ginnel.peer.conn import ConnCore
from ginnel.peer.events import (
    ConnConfig,
    Connected,
    ConnEvent,
    Disconnected,
    Engine,
    PeerStateChanged,
    SendAnswer,
    SendCandidates,
    SendOffer,
)
from ginnel.peer.signal import OfferAnswer
from ginnel.peer.status import PeerState


@dataclass(frozen=True)
class Handlers:
    """Where a connection's events go; all run inside the loop and must not block."""

    signal_offer: Callable[[OfferAnswer], None]
    signal_answer: Callable[[OfferAnswer], None]
    signal_candidates: Callable[[bytes, tuple[Candidate, ...]], None]
    apply: Callable[[EngineCommand], None]
    on_connected: Callable[[bytes, str], None] = lambda key, ip: None
    on_disconnected: Callable[[bytes, tuple[str, ...]], None] = lambda key, ips: None
    on_state: Callable[[PeerState], None] = lambda state: None


class Conn:
    """One peer's connection on asyncio; see the module."""

    def __init__(
        self,
        config: ConnConfig,
        source: DatagramSource,
        handlers: Handlers,
        *,
        random_bytes: RandomBytes = os.urandom,
        rng: Rng | None = None,
    ) -> None:
        self._core = ConnCore(config, random_bytes=random_bytes, rng=rng or random.Random())
        self._handlers = handlers
        self._driver: Driver[ConnEvent] = Driver(self._core, source, self._on_event)

    @property
    def state(self) -> PeerState:
        """Return what is known of the connection."""
        return self._core.state

    async def open(self) -> None:
        """Connect, and stay connected until `close`.

        Raises:
            UsageError: it was closed before.
        """
        if not self._core.open(self._driver.now()):
            raise UsageError("this connection was closed; make a new one")
        await self._driver.run()

    def close(self) -> None:
        """End the connection and clean up; harmless when closed."""
        self._core.close(self._driver.now())
        self._driver.stop()

    def set_local_candidates(
        self, candidates: Sequence[Candidate], *, symmetric: bool = False
    ) -> None:
        """Tell all addresses of ours as they are now."""
        now = self._driver.now()
        self._core.set_local_candidates(candidates, now=now, symmetric=symmetric)
        self._driver.wake()

    def on_remote_offer(self, offer: OfferAnswer) -> bool:
        """Take the peer's offer; never blocks; return whether it was taken."""
        return self._woken(self._core.on_remote_offer(offer, now=self._driver.now()))

    def on_remote_answer(self, answer: OfferAnswer) -> bool:
        """Take the peer's answer; never blocks; return whether it was taken."""
        return self._woken(self._core.on_remote_answer(answer, now=self._driver.now()))

    def on_remote_candidates(self, session: bytes, candidates: Sequence[Candidate]) -> bool:
        """Take further candidates of the peer; return whether the session is ours."""
        now = self._driver.now()
        return self._woken(self._core.on_remote_candidates(session, candidates, now=now))

    def on_engine_event(self, event: HandshakeCompleted | EndpointRoamed) -> None:
        """Take what the data plane tells of the peer."""
        self._core.on_engine_event(event, now=self._driver.now())
        self._driver.wake()

    def _woken(self, result: bool) -> bool:
        self._driver.wake()
        return result

    def _on_event(self, event: ConnEvent) -> None:
        handlers = self._handlers
        if isinstance(event, SendOffer):
            handlers.signal_offer(event.offer)
        elif isinstance(event, SendAnswer):
            handlers.signal_answer(event.answer)
        elif isinstance(event, SendCandidates):
            handlers.signal_candidates(event.session, event.candidates)
        elif isinstance(event, Engine):
            handlers.apply(event.command)
        elif isinstance(event, Connected):
            handlers.on_connected(event.remote_key, event.overlay_ip)
        elif isinstance(event, Disconnected):
            handlers.on_disconnected(event.remote_key, event.allowed_ips)
        elif isinstance(event, PeerStateChanged):
            handlers.on_state(event.state)
