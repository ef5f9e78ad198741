"""A small discv5 network on virtual time: cores joined by links with delay and loss."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ginnel.base.types import Address, Secret, Transmit
from ginnel.discv5.enr import Enr, FieldValue, RecordCache
from ginnel.discv5.keys import new_private_key
from ginnel.discv5.protocol import Contact, DiscoveryConfig, DiscoveryCore

DELAY = 0.02  # seconds, one way


@dataclass
class Host:
    """One node at one address."""

    core: DiscoveryCore
    address: Address
    key: Secret
    events: list[Any] = field(default_factory=list)
    is_up: bool = True
    is_mute: bool = False  # all it sends is lost, what is sent to it arrives

    @property
    def contact(self) -> Contact:
        return Contact(self.core.node_id, self.address, self.core.record.public_key)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@dataclass
class Nat:
    """What is between one host and the others, as RFC 4787 names it."""

    mapping: str  # endpoint-independent, or address-and-port-dependent: a symmetric NAT
    filtering: str  # endpoint-independent, address-dependent, address-and-port-dependent
    outside: str  # its address
    lifetime: float = 60.0  # seconds without sending until a mapping ends
    ports: dict[object, tuple[int, float]] = field(default_factory=dict)
    sent_to: dict[object, float] = field(default_factory=dict)
    last_port: int = 20_000

    def out(self, to: Address, now: float) -> Address:
        key = to if self.mapping.startswith("address") else None
        port, at = self.ports.get(key, (0, 0.0))
        if not port or now > at + self.lifetime:
            self.last_port += 1
            port = self.last_port
        self.ports[key] = (port, now)
        for remote in (to, to.ip):
            self.sent_to[remote] = now
        return Address(self.outside, port)

    def lets_in(self, source: Address, outer: Address, now: float) -> bool:
        is_open = [at for port, at in self.ports.values() if port == outer.port]
        if not is_open or now > max(is_open) + self.lifetime:
            return False
        if self.filtering == "endpoint-independent":
            return True
        remote = source.ip if self.filtering == "address-dependent" else source
        return now <= self.sent_to.get(remote, -1e9) + self.lifetime


class Net:
    """An event queue, a clock and hosts; deterministic from its seed."""

    def __init__(self, seed: int = 1, loss: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.loss = loss
        self.now = 1000.0
        self.sent = 0
        self.hosts: dict[Address, Host] = {}
        self.translate: dict[Address, Callable[[Address], Address]] = {}  # by inner address
        self.records = RecordCache(100_000)
        self.nats: dict[Address, Nat] = {}  # by inner address
        self._inner: dict[Address, Address] = {}
        self._queue: list[tuple[float, int, str, Address, Any]] = []
        self._count = 0
        self._armed: dict[Address, float] = {}

    def random_bytes(self, count: int) -> bytes:
        return self.rng.randbytes(count)

    def add(
        self,
        index: int,
        *,
        bootstrap: Sequence[Enr] = (),
        public: bool = True,
        advertise: bool | None = True,
        key: Secret | None = None,
        config: Mapping[str, Any] | None = None,
        address: Address | None = None,
        start: bool = True,
        enr_seq: int = 1,
        fields: Mapping[str, FieldValue] | None = None,
    ) -> Host:
        address = address or Address(f"203.{index // 250}.{index % 250}.7", 9000)
        key = key or Secret(new_private_key(self.random_bytes))
        core = DiscoveryCore(
            DiscoveryConfig(client_mode=not public, **(config or {})),
            key,
            fields=fields,
            endpoint=address if advertise else None,
            bootstrap=bootstrap,
            random_bytes=self.random_bytes,
            rng=random.Random(self.rng.random()),
            now=self.now,
            enr_seq=enr_seq,
            records=self.records,
        )
        host = Host(core, address, key)
        self.hosts[address] = host
        self._armed.pop(address, None)
        if start:
            core.start(self.now)
            self.drain(host)
        return host

    def restart(self, host: Host, *, public: bool = True, bootstrap: Sequence[Enr] = ()) -> Host:
        """Return the same node with the same key and no memory."""
        return self.add(
            0, bootstrap=bootstrap, public=public, key=host.key, address=host.address, enr_seq=2
        )

    def drain(self, host: Host) -> None:
        while (transmit := host.core.poll_transmit()) is not None:
            self._send(host, transmit)
        while (event := host.core.poll_event()) is not None:
            host.events.append(event)
        deadline = host.core.poll_deadline()
        if deadline is not None and deadline.at < self._armed.get(host.address, float("inf")):
            self._armed[host.address] = deadline.at
            self._push(deadline.at, "timer", host.address, host)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            at, _, kind, address, what = heapq.heappop(self._queue)
            self.now = max(self.now, at)
            host = self.hosts.get(address)
            if host is None or not host.is_up:
                if kind == "timer" and self._armed.get(address) == at:
                    del self._armed[address]
                continue
            if kind == "timer":
                if what is not host:
                    continue
                if self._armed.get(address) == at:
                    del self._armed[address]
                host.core.handle_timeout(now=self.now)
            else:
                data, source, outer = what
                nat = self.nats.get(address)
                if nat is not None and not nat.lets_in(source, outer, self.now):
                    continue
                host.core.handle_datagram(data, source, now=self.now)
            self.drain(host)
        self.now = end

    def run_until(self, done: Callable[[], bool], limit: float = 60.0) -> float:
        """Run until `done()`; return how long it took."""
        start = self.now
        while not done():
            assert self.now - start < limit, "nothing happened"
            self.run(0.01)
        return self.now - start

    def closest(self, target: bytes, hosts: Iterable[Host], count: int) -> list[bytes]:
        number = int.from_bytes(target, "big")
        ids = [host.core.node_id for host in hosts]
        return sorted(ids, key=lambda i: int.from_bytes(i, "big") ^ number)[:count]

    def _send(self, host: Host, transmit: Transmit) -> None:
        self.sent += 1
        assert 63 <= len(transmit.data) <= 1280
        if self.rng.random() >= self.loss and not host.is_mute:
            at = self.now + DELAY * self.rng.uniform(0.8, 1.2)
            source, destination = host.address, transmit.destination
            if host.address in self.translate:
                source = self.translate[host.address](destination)
                self._inner[source] = host.address
            if host.address in self.nats:
                source = self.nats[host.address].out(destination, self.now)
                self._inner[source] = host.address
            inner = self._inner.get(destination, destination)
            self._push(at, "data", inner, (transmit.data, source, destination))

    def _push(self, at: float, kind: str, address: Address, what: object) -> None:
        self._count += 1
        heapq.heappush(self._queue, (at, self._count, kind, address, what))
