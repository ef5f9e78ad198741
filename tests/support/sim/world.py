"""The event queue and the clock of the simulated network.

Time passes only here: the earliest event is run, then the next. All chance of the network comes
from `rng`, that of the cores from `rng` and `random_bytes`; both from the seed. An error inside a
run carries a note with the seed.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

from support.sim.host import Host
from support.sim.link import Link, Packet, Realm
from support.sim.nat import NAT_KINDS, Dependence, Nat, NatKind

DEFAULT_MAX_STEPS = 1_000_000  # events of one `run`; a mesh that talks in circles ends here
PUBLIC_DELAY = 0.010  # seconds one way on a public host's access link
UNIX_START = 1_760_000_000.0  # wall time when `now` is 0


class StepsExceeded(AssertionError):
    """The run did not end within its steps."""


class Timer:
    """A scheduled call."""

    __slots__ = ("action", "at")

    def __init__(self, at: float, action: Callable[[], None]) -> None:
        self.at = at
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Never call it; harmless afterwards."""
        self.action = None


class World:
    """The network; `now` starts at 0.0 seconds."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.now = 0.0
        self.steps = 0
        self.rng = random.Random(f"rng {seed}")
        self.internet = Realm(self, "internet")
        self.hosts: dict[str, Host] = {}
        self.counts: dict[str, int] = {}  # packets that went nowhere, by reason
        self._bytes = random.Random(f"bytes {seed}")
        self._queue: list[tuple[float, int, Timer]] = []
        self._scheduled = 0
        self._watchers: list[Callable[[Packet], None]] = []

    @property
    def unix_now(self) -> float:
        """Return the wall time."""
        return UNIX_START + self.now

    def random_bytes(self, size: int) -> bytes:
        """Return bytes for keys and nonces: a stream of its own, from the seed."""
        return self._bytes.randbytes(size)

    def add_public(self, name: str, ip: str, *more: str, link: Link | None = None) -> Host:
        """Put a host with public addresses onto the Internet."""
        host = Host(self, name)
        shared = link or Link(delay=PUBLIC_DELAY)
        for each in (ip, *more):
            host.add_interface(each, self.internet, shared)
        self.keep_host(host)
        return host

    def add_nat(
        self,
        name: str,
        public_ip: str,
        kind: str | NatKind = "port-restricted",
        *,
        mapping: Dependence | None = None,
        filtering: Dependence | None = None,
        **behaviour: object,
    ) -> Nat:
        """Put a NAT onto the Internet: a kind by name, parts of it changed by keywords.

        Kind `cgnat` returns a home's router behind a carrier's NAT; `public_ip` is the carrier's.
        """
        outer = self.internet
        if kind == "cgnat":
            outer = Nat(self, f"{name}-carrier", public_ip, NAT_KINDS["cgnat"], outer).inner
            public_ip = "100.64.1.2"
        nat = Nat(self, name, public_ip, NAT_KINDS[kind] if isinstance(kind, str) else kind, outer)
        chosen = {"mapping": mapping, "filtering": filtering}
        behaviour |= {key: value for key, value in chosen.items() if value is not None}
        nat.change(**behaviour)
        return nat

    def keep_host(self, host: Host) -> None:
        """Know the host by its name.

        Raises:
            ValueError: there is one of that name.
        """
        if host.name in self.hosts:
            raise ValueError(f"there is a host {host.name}")
        self.hosts[host.name] = host

    def on_packet(self, watcher: Callable[[Packet], None]) -> None:
        """Show each packet to `watcher` as it is put on a wire (also those that get lost)."""
        self._watchers.append(watcher)

    def show(self, packet: Packet) -> None:
        """Show one packet to the watchers; called by realms."""
        for watcher in self._watchers:
            watcher(packet)

    def count(self, reason: str) -> None:
        """Count a packet that went nowhere; called by realms, NATs and hosts."""
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def call_at(self, at: float, action: Callable[[], None]) -> Timer:
        """Call `action` when the clock is at `at` (or now, if that is past)."""
        timer = Timer(max(at, self.now), action)
        self._scheduled += 1
        heapq.heappush(self._queue, (timer.at, self._scheduled, timer))
        return timer

    def call_later(self, delay: float, action: Callable[[], None]) -> Timer:
        """Call `action` in `delay` seconds."""
        return self.call_at(self.now + delay, action)

    def run(
        self,
        until: float | Callable[[], object] | None = None,
        *,
        timeout: float = 3600.0,
        max_steps: int = DEFAULT_MAX_STEPS,
    ) -> bool:
        """Run events; all attached cores are drained first, so commands need no wake.

        Args:
            until: a time of this clock; or a condition, asked after each event; or None: until
                nothing is left to happen.
            timeout: seconds of virtual time after which a condition is given up.
            max_steps: events after which StepsExceeded is raised.

        Returns:
            Whether the condition holds; for a time True; for None whether nothing is left.
        """
        condition = until if callable(until) else None
        end = float(until) if isinstance(until, int | float) else self.now + timeout
        try:
            for host in list(self.hosts.values()):
                for attachment in host.attachments():
                    attachment.wake()
            return self._run(condition, end, max_steps, is_timed=until is not None)
        except Exception as error:
            error.add_note(f"world seed {self.seed}, at {self.now:.3f} s, step {self.steps}")
            raise

    def run_for(self, seconds: float, *, max_steps: int = DEFAULT_MAX_STEPS) -> None:
        """Run events for so much virtual time."""
        self.run(self.now + seconds, max_steps=max_steps)

    def _run(
        self, condition: Callable[[], object] | None, end: float, max_steps: int, *, is_timed: bool
    ) -> bool:
        for _ in range(max_steps):
            if condition is not None and condition():
                return True
            if not self._step(end):
                break
        else:
            raise StepsExceeded(f"no end after {max_steps} steps")
        if is_timed:
            self.now = max(self.now, end)
        if condition is not None:
            return bool(condition())
        return is_timed or not self._queue

    def _step(self, end: float) -> bool:
        while self._queue:
            at, _, timer = self._queue[0]
            if timer.action is None:
                heapq.heappop(self._queue)
                continue
            if at > end:
                return False
            heapq.heappop(self._queue)
            self.now = at
            self.steps += 1
            timer.action()
            return True
        return False
