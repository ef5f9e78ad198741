"""One machine and many peers: all its connections share places (`peer.turns`) on virtual time.

[hub] - port-restricted NAT - Internet (RTT 100 ms) - 199 public machines; signalling 150 ms one way

A good peer answers and is reached; a silent one hears nothing of us; a failing one answers, but
none of its addresses does.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from ginnel.base.core import earliest
from ginnel.base.types import Address, Deadline, Transmit
from ginnel.ice import stun
from ginnel.ice.candidate import make_host
from ginnel.ice.events import AgentConfig
from ginnel.ice.limiter import CheckLimiter
from ginnel.peer.conn import ConnCore
from ginnel.peer.events import ConnConfig, Engine, SendAnswer, SendCandidates, SendOffer
from ginnel.peer.status import ConnStatus, Stage
from ginnel.peer.table import ConnTable
from ginnel.peer.turns import MAX_CONNECTING, Place, Turns
from support.ice_world import PORT, make_machine
from support.peer_world import INITIATION, RESPONSE, PeerCore, ToyWireGuard
from support.sim import Attachment, World

SIGNAL_DELAY = 0.150  # seconds one way: through a storing node
HUB_KEY = b"\x80" * 32
NEGOTIATING = (Stage.CHECKING, Stage.CONFIGURING)


def key_of(number: int) -> bytes:
    """Half of the keys are larger than the hub's."""
    return bytes([number]) * 32


class HubCore:
    """Many connections and their WireGuards on one port, as one core."""

    def __init__(self, turns: Turns) -> None:
        self.table: ConnTable[int] = ConnTable(turns)
        self.peers: dict[int, PeerCore] = {}
        self.by_source: dict[Address, int] = {}
        self.out: deque[Transmit] = deque()
        self.events: deque[tuple[int, Any]] = deque()

    def add(self, number: int, conn: ConnCore) -> None:
        self.peers[number] = PeerCore(conn, ToyWireGuard(conn.config.key))
        self.table.put(number, conn)

    def drain(self, number: int) -> None:
        peer = self.peers[number]
        while (transmit := peer.poll_transmit()) is not None:
            self.by_source[transmit.destination] = number
            self.table.note_sent(number, transmit)
            self.out.append(transmit)
        while (event := peer.poll_event()) is not None:
            self.events.append((number, event))
        self.table.touch(number)

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        if data in (INITIATION, RESPONSE):
            number = self.by_source.get(source)
        else:
            number = self.table.find(stun.decode_message(data), source)
        if number is not None:
            self.peers[number].handle_datagram(data, source, now=now, local_ip=local_ip)
            self.drain(number)

    def handle_timeout(self, *, now: float) -> None:
        due = [n for n, peer in self.peers.items() if is_due(peer.wireguard.again_at, now)]
        for number in {**dict.fromkeys(self.table.take_due(now)), **dict.fromkeys(due)}:
            self.peers[number].handle_timeout(now=now)
            self.drain(number)

    def poll_transmit(self) -> Transmit | None:
        return self.out.popleft() if self.out else None

    def poll_event(self) -> tuple[int, Any] | None:
        return self.events.popleft() if self.events else None

    def poll_deadline(self) -> Deadline | None:
        again = [peer.wireguard.again_at for peer in self.peers.values()]
        toys = [Deadline(at, "wireguard") for at in again if at is not None]
        return earliest(self.table.poll_deadline(), *toys)


def is_due(at: float | None, now: float) -> bool:
    return at is not None and at <= now


class Star:
    """The hub and its peers, by number from 1."""

    def __init__(
        self, seed: int, count: int, *, silent: int = 0, failing: int = 0, places: int | None = None
    ) -> None:
        self.world = World(seed)
        self.turns = Turns(MAX_CONNECTING if places is None else places)
        self.hub = HubCore(self.turns)
        self.spokes: dict[int, PeerCore] = {}
        self.attachments: dict[int, Attachment] = {}
        self.told: list[Any] = []  # by the hub's connections
        self.highest: Counter[str] = Counter()
        self.connected_at: dict[int, float] = {}
        self.machine = make_machine(self.world, "hub", "port-restricted", 201)
        candidates = self.machine.candidates(self.world)
        limiter = CheckLimiter()
        order = list(range(1, count + 1))
        self.world.rng.shuffle(order)
        self.silent = order[:silent]
        self.failing = order[silent : silent + failing]
        self.good = sorted(order[silent + failing :])
        for number in range(1, count + 1):
            conn = self._conn(key_of(number), HUB_KEY, AgentConfig(limiter=limiter), self.turns)
            conn.set_local_candidates(candidates, now=self.world.now)
            self.hub.add(number, conn)
            self.spokes[number] = self._add_spoke(number)
        self.attachment = self.machine.host.attach(self.hub, PORT, self._on_hub_event)
        self.started = self.world.now

    def _conn(self, remote: bytes, local: bytes, ice: AgentConfig, turns: Turns) -> ConnCore:
        config = ConnConfig(remote, local, ("100.64.7.1/32",), ice=ice, turns=turns)
        return ConnCore(config, random_bytes=self.world.random_bytes, rng=self.world.rng)

    def _add_spoke(self, number: int) -> PeerCore:
        conn = self._conn(HUB_KEY, key_of(number), AgentConfig(), Turns())
        core = PeerCore(conn, ToyWireGuard(HUB_KEY))
        machine = make_machine(self.world, f"peer-{number}", "public", number)
        ip = "192.0.2.9" if number in self.failing else machine.host.ip
        conn.set_local_candidates([make_host(Address(ip, PORT))], now=self.world.now)
        self.attachments[number] = machine.host.attach(core, PORT, self._teller(number, core))
        return core

    def _teller(self, number: int, core: PeerCore) -> Any:  # noqa: ANN401  # a callback
        return lambda event: self._on_spoke_event(number, core, event)

    # --- what happens ---------------------------------------------------------------------------

    def open_hub(self) -> None:
        """Let the hub connect to all at once."""
        for number, peer in self.hub.peers.items():
            peer.conn.open(self.world.now)
            self.hub.drain(number)
        self.attachment.wake()

    def open_spokes(self) -> None:
        """Let all others connect to the hub at once; it waits."""
        for number, spoke in self.spokes.items():
            spoke.conn.open(self.world.now)
            self.attachments[number].wake()

    def move_hub(self, ip: str) -> None:
        """Renumber the hub's NAT, and tell its connections what is seen of it now."""
        assert self.machine.nat is not None
        self.machine.nat.renumber(ip)
        candidates = self.machine.candidates(self.world)
        for number, peer in self.hub.peers.items():
            peer.conn.set_local_candidates(candidates, now=self.world.now)
            self.hub.drain(number)
        self.attachment.wake()

    def run(self, timeout: float) -> bool:
        """Run until the good ones are connected, and watch what is going on meanwhile."""

        def is_done() -> bool:
            self.watch()
            return all(number in self.connected_at for number in self.good)

        return self.world.run(until=is_done, timeout=timeout)

    def times(self) -> list[float]:
        """Return the seconds from the start until each was connected, sorted."""
        return sorted(at - self.started for at in self.connected_at.values())

    def watch(self) -> None:
        stages = Counter(peer.conn.state.stage for peer in self.hub.peers.values())
        negotiating = sum(stages[stage] for stage in NEGOTIATING)
        self.highest["negotiating"] = max(self.highest["negotiating"], negotiating)
        for place in Place:
            self.highest[place.value] = max(self.highest[place.value], self.turns.count(place))
        self.highest["waiting"] = max(self.highest["waiting"], self.turns.waiting)
        for number, peer in self.hub.peers.items():
            if peer.conn.state.status is ConnStatus.CONNECTED:
                self.connected_at.setdefault(number, self.world.now)

    def _on_hub_event(self, told: tuple[int, Any]) -> None:
        number, event = told
        self.told.append(event)
        if isinstance(event, Engine):
            self.hub.peers[number].wireguard.apply(event.command, self.world.now)
            self.hub.drain(number)
        elif number not in self.silent:
            self._signal(self.spokes[number].conn, event, lambda: self._wake_spoke(number))

    def _on_spoke_event(self, number: int, core: PeerCore, event: Any) -> None:  # noqa: ANN401
        if isinstance(event, Engine):
            core.wireguard.apply(event.command, self.world.now)
        else:
            self._signal(self.hub.peers[number].conn, event, lambda: self._wake_hub(number))

    def _wake_spoke(self, number: int) -> None:
        self.spokes[number].conn.open(self.world.now)
        self.attachments[number].wake()

    def _wake_hub(self, number: int) -> None:
        self.hub.peers[number].conn.open(self.world.now)
        self.hub.drain(number)
        self.attachment.wake()

    def _signal(self, conn: ConnCore, event: Any, wake: Any) -> None:  # noqa: ANN401
        def deliver() -> None:
            now = self.world.now
            if isinstance(event, SendOffer):
                conn.on_remote_offer(event.offer, now=now)
            elif isinstance(event, SendAnswer):
                conn.on_remote_answer(event.answer, now=now)
            elif isinstance(event, SendCandidates):
                conn.on_remote_candidates(event.session, event.candidates, now=now)
            wake()

        if isinstance(event, SendOffer | SendAnswer | SendCandidates):
            self.world.call_later(SIGNAL_DELAY, deliver)
