"""Two peers on a simulated network: their connections, a toy WireGuard and a lossy signalling pipe.

The toy WireGuard has the real one's behaviour as far as a connection sees it: it answers a
handshake if it knows the peer, follows the address that it was heard from, asks again every 5 s
and rekeys every 120 s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ginnel.base.core import earliest
from ginnel.base.dataplane import (
    Endpoint,
    EngineCommand,
    HandshakeCompleted,
    RemovePeer,
    SetPeer,
    StartHandshake,
)
from ginnel.base.types import Address, Deadline, Transmit
from ginnel.ice.candidate import Candidate
from ginnel.ice.events import AgentConfig
from ginnel.peer.conn import ConnCore
from ginnel.peer.events import (
    ConnConfig,
    Engine,
    PeerStateChanged,
    SendAnswer,
    SendCandidates,
    SendOffer,
)
from ginnel.peer.signal import (
    decode_candidates,
    decode_offer,
    encode_candidates,
    encode_offer,
)
from ginnel.peer.status import ConnStatus, Stage
from support.ice_world import PORT, SIGNAL_DELAY, Machine
from support.sim import World

INITIATION, RESPONSE = b"\x01\0\0\0", b"\x02\0\0\0"
HANDSHAKE_RETRY, REKEY = 5.0, 120.0
ROUNDING = 1e-6  # s; more than a difference of two clocks loses


class ToyWireGuard:
    """One peer's WireGuard; `is_dead` makes it deaf."""

    def __init__(self, remote_key: bytes) -> None:
        self.remote_key = remote_key
        self.peer: SetPeer | None = None
        self.endpoint: Endpoint | None = None
        self.is_dead = False
        self.commands: list[EngineCommand] = []
        self.out: deque[Transmit] = deque()
        self.again_at: float | None = None

    def apply(self, command: EngineCommand, now: float) -> None:
        self.commands.append(command)
        if isinstance(command, SetPeer):
            self.peer = command
            self.endpoint = command.endpoint or self.endpoint
        elif isinstance(command, RemovePeer):
            self.peer = self.endpoint = self.again_at = None
        elif isinstance(command, StartHandshake):
            self.initiate(now)

    def initiate(self, now: float) -> None:
        if self.peer is not None and self.endpoint is not None and not self.is_dead:
            self.out.append(Transmit(INITIATION, self.endpoint.address, self.endpoint.source_ip))
            self.again_at = now + HANDSHAKE_RETRY

    def receive(self, data: bytes, source: Address, local_ip: str | None, now: float) -> bool:
        """Return whether a handshake completed."""
        if self.peer is None or self.is_dead:
            return False
        self.endpoint = Endpoint(source, local_ip)
        if data == INITIATION:
            self.out.append(Transmit(RESPONSE, source, local_ip))
            self.again_at = None
        else:
            self.again_at = now + REKEY
        return True


class PeerCore:
    """A connection and its WireGuard on one port, as one core."""

    def __init__(self, conn: ConnCore, wireguard: ToyWireGuard) -> None:
        self.conn = conn
        self.wireguard = wireguard
        self._now = 0.0

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        self._now = now
        if data not in (INITIATION, RESPONSE):
            self.conn.handle_datagram(data, source, now=now, local_ip=local_ip)
        elif self.wireguard.receive(data, source, local_ip, now):
            event = HandshakeCompleted(self.wireguard.remote_key, source)
            self.conn.on_engine_event(event, now=now)

    def handle_timeout(self, *, now: float) -> None:
        self._now = now
        again_at = self.wireguard.again_at
        if again_at is not None and now >= again_at:
            self.wireguard.again_at = None
            self.wireguard.initiate(now)
        self.conn.handle_timeout(now=now)

    def poll_transmit(self) -> Transmit | None:
        if self.wireguard.out:
            return self.wireguard.out.popleft()
        return self.conn.poll_transmit()

    def poll_event(self) -> Any:  # noqa: ANN401  # any event of the connection
        return self.conn.poll_event()

    def poll_deadline(self) -> Deadline | None:
        again_at = self.wireguard.again_at
        toy = Deadline(again_at, "wireguard") if again_at is not None else None
        return earliest(toy, self.conn.poll_deadline())


class BehindCore:
    """A core on a machine whose clock is behind the world's."""

    def __init__(self, core: PeerCore, behind: float) -> None:
        self._core = core
        self._behind = behind

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        self._core.handle_datagram(data, source, now=now - self._behind, local_ip=local_ip)

    def handle_timeout(self, *, now: float) -> None:
        self._core.handle_timeout(now=now - self._behind)

    def poll_transmit(self) -> Transmit | None:
        return self._core.poll_transmit()

    def poll_event(self) -> Any:  # noqa: ANN401  # any event of the connection
        return self._core.poll_event()

    def poll_deadline(self) -> Deadline | None:
        deadline = self._core.poll_deadline()
        return (
            None
            if deadline is None
            else Deadline(deadline.at + self._behind + ROUNDING, deadline.reason)
        )


@dataclass
class PeerSide:
    """One machine's end of the connection; may be restarted."""

    name: str
    machine: Machine
    key: bytes
    candidates: list[Candidate]
    core: PeerCore
    events: list[Any] = field(default_factory=list)
    slept: float = 0.0  # seconds by which its clock is behind

    @property
    def conn(self) -> ConnCore:
        return self.core.conn

    @property
    def commands(self) -> list[EngineCommand]:
        return self.core.wireguard.commands

    def stages(self) -> list[Stage]:
        """Return the stages that were told, without repeats."""
        stages: list[Stage] = []
        for event in self.events:
            if isinstance(event, PeerStateChanged) and stages[-1:] != [event.state.stage]:
                stages.append(event.state.stage)
        return stages


class PeerPair:
    """Two peers; `a` has the larger key and controls."""

    def __init__(
        self,
        world: World,
        a: Machine,
        b: Machine,
        *,
        loss: float = 0.0,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.world = world
        self.settings = settings or {}  # of both ConnConfigs
        self.signal_loss = loss
        self.signalled: list[tuple[str, str]] = []
        keys = {"a": b"\x02" * 32, "b": b"\x01" * 32}
        self.sides: dict[str, PeerSide] = {}
        for name, machine in (("a", a), ("b", b)):
            remote = keys["b" if name == "a" else "a"]
            candidates = machine.candidates(world)
            core = self._make_core(keys[name], remote)
            self.sides[name] = PeerSide(name, machine, keys[name], candidates, core)
            self._attach(self.sides[name])
        self.a, self.b = self.sides["a"], self.sides["b"]

    def _make_core(self, key: bytes, remote: bytes) -> PeerCore:
        config = ConnConfig(
            remote,
            key,
            ("100.64.7.1/32",),
            version="t",
            **{"ice": AgentConfig(), **self.settings},
        )
        conn = ConnCore(config, random_bytes=self.world.random_bytes, rng=self.world.rng)
        return PeerCore(conn, ToyWireGuard(remote))

    def now_of(self, side: PeerSide) -> float:
        """Return the time by the side's own clock."""
        return self.world.now - side.slept

    def sleep(self, side: PeerSide, seconds: float) -> None:
        """Let a machine sleep: it does nothing, and its monotonic clock stands still."""
        attachment = side.machine.host.attachment_at(PORT)
        assert attachment is not None
        attachment.detach()
        self.world.run_for(seconds)
        side.slept += seconds
        core = side.core
        behind = BehindCore(core, side.slept)
        side.machine.host.attach(behind, PORT, lambda event: self._on_event(side, core, event))

    def is_healthy(self) -> bool:
        """Say whether both are connected and believe in their path."""
        return all(s.conn.state.stage is Stage.CONNECTED for s in self.sides.values())

    def _attach(self, side: PeerSide) -> None:
        core = side.core
        side.machine.host.attach(core, PORT, lambda event: self._on_event(side, core, event))
        self.tell_candidates(side)

    def tell_candidates(
        self, side: PeerSide, candidates: Sequence[Candidate] | None = None
    ) -> None:
        """Tell a side its own addresses (again)."""
        if candidates is not None:
            side.candidates = list(candidates)
        side.conn.set_local_candidates(
            side.candidates, now=self.now_of(side), symmetric=side.machine.symmetric
        )
        self.wake(side)

    def restart(self, side: PeerSide) -> None:
        """Kill the process and start it anew, without a word to the other side."""
        attachment = side.machine.host.attachment_at(PORT)
        assert attachment is not None
        attachment.detach()
        side.core = self._make_core(side.key, side.conn.config.key)
        side.events = []
        self._attach(side)
        self.open(side)

    def open(self, *sides: PeerSide) -> None:
        """Open these sides (both if none is named)."""
        for side in sides or (self.a, self.b):
            side.conn.open(self.now_of(side))
            self.wake(side)

    def close(self, side: PeerSide) -> None:
        side.conn.close(self.now_of(side))
        self.wake(side)

    def wake(self, side: PeerSide) -> None:
        attachment = side.machine.host.attachment_at(PORT)
        if attachment is not None:
            attachment.wake()

    def is_connected(self) -> bool:
        return all(s.conn.state.status is ConnStatus.CONNECTED for s in self.sides.values())

    def run(self, timeout: float = 60.0) -> bool:
        """Run until both sides are connected."""
        return self.world.run(until=self.is_connected, timeout=timeout)

    def run_until(self, condition: Callable[[], object], timeout: float = 60.0) -> bool:
        return self.world.run(until=condition, timeout=timeout)

    def _on_event(self, side: PeerSide, core: PeerCore, event: Any) -> None:  # noqa: ANN401
        side.events.append(event)
        if isinstance(event, Engine):
            core.wireguard.apply(event.command, self.now_of(side))
        elif isinstance(event, SendOffer):
            self._signal(side, "offer", encode_offer(event.offer))
        elif isinstance(event, SendAnswer):
            self._signal(side, "answer", encode_offer(event.answer))
        elif isinstance(event, SendCandidates):
            payload = encode_candidates(event.session, event.candidates, event.nat)
            self._signal(side, "candidates", payload)

    def _signal(self, side: PeerSide, kind: str, payload: bytes) -> None:
        self.signalled.append((side.name, kind))
        if self.world.rng.random() < self.signal_loss:
            return
        other = self.sides["b" if side.name == "a" else "a"]
        self.world.call_later(SIGNAL_DELAY, lambda: self._deliver(other, kind, payload))

    def _deliver(self, side: PeerSide, kind: str, payload: bytes) -> None:
        now = self.now_of(side)
        if side.machine.host.attachment_at(PORT) is None:
            return  # killed, or asleep
        if kind == "offer":
            side.conn.on_remote_offer(decode_offer(payload), now=now)
        elif kind == "answer":
            side.conn.on_remote_answer(decode_offer(payload), now=now)
        else:
            session, candidates, nat = decode_candidates(payload)
            side.conn.on_remote_candidates(session, candidates, now=now, nat=nat)
        self.wake(side)
