"""Two machines behind NATs of a simulated network, with candidates and signalling for ICE tests.

[host a] - NAT a - (50 ms each way with NAT b) - NAT b - [host b]
                      observer (public): shows reflexive addresses
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ginnel.base.types import Address, Transmit
from ginnel.ice.agent import AgentCore
from ginnel.ice.candidate import Candidate, make_host, make_server_reflexive
from ginnel.ice.events import AgentConfig, PairSelected
from ginnel.ice.limiter import CheckLimiter
from support.sim import Host, Nat, Packet, World

PORT = 30_000
ACCESS_DELAY = 0.025  # seconds one way on each home's link: RTT 100 ms between homes
SIGNAL_DELAY = 0.050  # seconds one way


@dataclass
class Machine:
    """A host with its NAT, if any."""

    host: Host
    nat: Nat | None = None
    symmetric: bool = False

    def candidates(self, world: World) -> list[Candidate]:
        """Return the host candidate, and the reflexive one as the observer sees it."""
        base = Address(self.host.ip, PORT)
        found = [make_host(base)]
        if self.nat is not None:
            seen = observe(world, self.host)
            if seen is not None:
                found.append(make_server_reflexive(seen, base))
        return found


def observe(world: World, host: Host) -> Address | None:
    """Return the address that the observer sees of the host's port."""
    seen: list[Address] = []
    observer = Address(world.hosts["observer"].ip, 9)

    def watch(packet: Packet) -> None:
        if packet.realm == "internet" and packet.destination == observer:
            seen.append(packet.source)

    world.on_packet(watch)
    host.send(Transmit(b"hello", observer), PORT)
    world.run_for(0.5)
    return seen[0] if seen else None


def make_machine(world: World, name: str, kind: str, number: int) -> Machine:
    """Make a machine: `public`, `lan` (all on one home's LAN), or behind a NAT of this kind."""
    if "observer" not in world.hosts:
        world.add_public("observer", "192.0.2.200")
    if kind == "public":
        host = world.add_public(name, f"198.51.100.{number}")
        host.link.delay = ACCESS_DELAY
        return Machine(host)
    nat = world.add_nat(f"nat-{name}", f"203.0.113.{number}", kind)
    nat.link.delay = ACCESS_DELAY
    return Machine(nat.add_host(name, f"192.168.{number}.2"), nat, kind.startswith("symmetric"))


def make_lan_pair(world: World) -> tuple[Machine, Machine]:
    """Make two machines of one home."""
    first = make_machine(world, "a", "port-restricted", 1)
    assert first.nat is not None
    return first, Machine(first.nat.add_host("b", "192.168.1.3"), first.nat)


@dataclass
class IceSide:
    """One agent on a machine, and what it told."""

    core: AgentCore
    machine: Machine
    candidates: list[Candidate]
    events: list[Any] = field(default_factory=list)
    selected_at: float | None = None

    def selected(self) -> tuple[str, str] | None:
        """Return the kinds of the selected pair in lower case."""
        pair = self.core.selected
        return (pair[0].kind.name.lower(), pair[1].kind.name.lower()) if pair else None


class IcePair:
    """Two agents and a pipe between them; `a` offers and controls."""

    def __init__(
        self,
        world: World,
        a: Machine,
        b: Machine,
        *,
        both_controlling: bool = False,
        config: Callable[[], AgentConfig] | None = None,
    ) -> None:
        self.world = world
        self.limiter = CheckLimiter()
        make = config or (lambda: AgentConfig(limiter=self.limiter))
        self.sides: list[IceSide] = []
        for machine, controlling in ((a, True), (b, both_controlling)):
            candidates = machine.candidates(world)
            core = AgentCore(
                make(), controlling=controlling, random_bytes=world.random_bytes, rng=world.rng
            )
            side = IceSide(core, machine, candidates)
            machine.host.attach(core, PORT, self._listener(side))
            self.sides.append(side)
        self.a, self.b = self.sides
        self.started_at = world.now

    def _listener(self, side: IceSide) -> Callable[[Any], None]:
        def listen(event: Any) -> None:  # noqa: ANN401  # any event of the agent
            side.events.append(event)
            if isinstance(event, PairSelected) and side.selected_at is None:
                side.selected_at = self.world.now

        return listen

    def start(self, *, trickle: bool = False) -> None:
        """Offer, answer and candidates take `SIGNAL_DELAY` each."""
        for side in self.sides:
            for candidate in side.candidates:
                side.core.add_local_candidate(candidate, now=self.world.now)
            side.core.end_local_candidates()
        self.started_at = self.world.now
        self.a.core.start(now=self.world.now)
        self.signal(self.a, self.b, 1, trickle=trickle)
        self.signal(self.b, self.a, 2, trickle=trickle)

    def signal(self, source: IceSide, target: IceSide, hops: int, *, trickle: bool) -> None:
        """Carry credentials and candidates of one side to the other."""

        def credentials() -> None:
            core = target.core
            now = self.world.now
            if not trickle:
                candidates()
            core.set_remote_credentials(source.core.ufrag, source.core.pwd, now=now)
            core.start(now=now)

        def candidates() -> None:
            for candidate in source.candidates:
                target.core.add_remote_candidate(candidate, now=self.world.now)
            target.core.end_remote_candidates()

        self._later(hops * SIGNAL_DELAY, credentials, target)
        if trickle:
            self._later(hops * SIGNAL_DELAY + 0.2, candidates, target)

    def restart(
        self,
        first: IceSide | None = None,
        second: IceSide | None = None,
        *,
        is_heard: bool = True,
        is_answered: bool = True,
    ) -> None:
        """`first` restarts and offers; `second` restarts when the offer comes, and answers."""
        first, second = first or self.a, second or self.b
        self._restart(first)
        if is_heard:
            self._later(SIGNAL_DELAY, lambda: self._restart(second), second)
            self.signal(first, second, 1, trickle=False)
        if is_answered:
            self.signal(second, first, 2, trickle=False)

    def _restart(self, side: IceSide) -> None:
        side.core.restart(now=self.world.now, candidates=tuple(side.candidates))
        side.core.end_local_candidates()
        for attachment in side.machine.host.attachments():
            attachment.wake()

    def _later(self, delay: float, action: Callable[[], None], side: IceSide) -> None:
        def act() -> None:
            action()
            for attachment in side.machine.host.attachments():
                attachment.wake()

        self.world.call_later(delay, act)

    def run(self, timeout: float = 30.0) -> bool:
        """Run until both sides selected a pair."""
        return self.world.run(
            until=lambda: all(side.core.selected for side in self.sides), timeout=timeout
        )

    @property
    def seconds(self) -> float:
        """Return how long both sides took."""
        return max(side.selected_at or 1e9 for side in self.sides) - self.started_at
