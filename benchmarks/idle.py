"""`make bench-idle`: what 50 connected peers cost a machine on which nothing happens.

    python -m benchmarks.idle [--peers N] [--seconds S] [--print]

One process has the product's data plane, driver and a peer connection for each peer; another one
has N data planes, one for each peer, each with a connection of its own. All talk over loopback.
After they are connected nothing is sent but what keeps the paths alive: ICE's consent and
WireGuard's keepalives and handshakes. Counted are the first process's CPU time and datagrams. What
a member does besides (its registration in the DHT, gossip every ten minutes) does not grow with its
peers and is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from benchmarks.common import below, cpu_seconds, publish
from ginnel.base.dataplane import CloseProxy, EngineEvent, InnerReceived
from ginnel.base.types import Address, Deadline, Secret, Transmit
from ginnel.engine.embedded import EmbeddedEngine
from ginnel.ice import stun
from ginnel.ice.candidate import make_host
from ginnel.ice.events import AgentConfig
from ginnel.net.driver import Driver
from ginnel.peer.conn import ConnCore
from ginnel.peer.events import ConnConfig, ConnEvent, Engine, SendAnswer, SendOffer
from ginnel.peer.signal import decode_offer, encode_offer
from ginnel.peer.status import ConnStatus
from ginnel.peer.table import ConnTable

CPU_LIMIT = 0.6  # per cent of a core for 50 peers
PACKETS_LIMIT = 1.0  # a second, sent to each peer
CONNECT_S = 120.0  # seconds until all peers are connected
SETTLE_S = 5.0  # seconds of rest before the count
NEAR = bytes([1]) * 32


def key_of(number: int) -> bytes:
    """Return the private key of the peer with this number, from 0."""
    return (number + 2).to_bytes(2, "big") * 16


def public(private: bytes) -> bytes:
    """Return the public key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


class Node:
    """A data plane with connections, as one core; `say` carries (remote key, kind, payload)."""

    def __init__(self, private: bytes, remotes: list[bytes], say: Callable[..., None]) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = Address(*self.socket.getsockname())
        self.engine = EmbeddedEngine(
            udp4_fd=self.socket.fileno(),
            private_key=Secret(private),
            control_ips=["100.64.0.1"],
            mtu=1420,
        )
        rng = random.Random(private)
        ice = AgentConfig(allow_loopback=True)
        self.conns = {
            remote: ConnCore(
                ConnConfig(
                    remote, public(private), (f"100.64.1.{i}/32",), ice=ice, lends_consent=True
                ),
                random_bytes=os.urandom,
                rng=rng,
            )
            for i, remote in enumerate(remotes)
        }
        self.table: ConnTable[bytes] = ConnTable()
        for remote, conn in self.conns.items():
            self.table.put(remote, conn)
        self._out: deque[Transmit] = deque()
        self._say = say
        self._events: deque[tuple[bytes, ConnEvent]] = deque()
        self.driver: Driver[tuple[bytes, ConnEvent]] = Driver(
            self, self.engine, self._on_event, after_receive=self._take_engine_events
        )

    def open(self) -> None:
        """Begin, inside a loop."""
        self.driver.start()
        now = self.driver.now()
        for conn in self.conns.values():
            conn.set_local_candidates([make_host(self.address)], now=now)
            conn.open(now)
        self._drain(*self.conns)
        self.driver.wake()

    def hear(self, remote: bytes, kind: str, payload: bytes) -> None:
        """Take what a peer signals."""
        conn, now = self.conns[remote], self.driver.now()
        take = conn.on_remote_offer if kind == "offer" else conn.on_remote_answer
        take(decode_offer(payload), now=now)
        self._drain(remote)
        self.driver.wake()

    @property
    def connected(self) -> int:
        """How many peers are connected."""
        states = [conn.state.status for conn in self.conns.values()]
        return states.count(ConnStatus.CONNECTED)

    def handle_datagram(
        self, data: bytes, source: Address, *, now: float, local_ip: str | None = None
    ) -> None:
        """Find the connection, as the mesh does."""
        try:
            message = stun.decode_message(data)
        except stun.StunError:
            return
        remote = self.table.find(message, source)
        if remote is not None:
            self.conns[remote].handle_message(message, source, now=now, local_ip=local_ip)
            self._drain(remote)

    def handle_timeout(self, *, now: float) -> None:
        """Do what is due."""
        for remote in self.table.take_due(now):
            self.conns[remote].handle_timeout(now=now)
            self._drain(remote)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram."""
        return self._out.popleft() if self._out else None

    def poll_event(self) -> tuple[bytes, ConnEvent] | None:
        """Return the next event and whose it is."""
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return the earliest deadline."""
        return self.table.poll_deadline()

    def _drain(self, *remotes: bytes) -> None:
        for remote in remotes:
            conn = self.conns[remote]
            while (transmit := conn.poll_transmit()) is not None:
                self.table.note_sent(remote, transmit)
                self._out.append(transmit)
            while (event := conn.poll_event()) is not None:
                self._events.append((remote, event))
            self.table.touch(remote)

    def _on_event(self, told: tuple[bytes, ConnEvent]) -> None:
        remote, event = told
        if isinstance(event, Engine) and not isinstance(event.command, CloseProxy):
            self.engine.apply(event.command)
        elif isinstance(event, SendOffer):
            self._say(remote, "offer", encode_offer(event.offer))
        elif isinstance(event, SendAnswer):
            self._say(remote, "answer", encode_offer(event.answer))

    def _take_engine_events(self) -> None:
        while (event := self.engine.poll_event()) is not None:
            self._on_engine_event(event)

    def _on_engine_event(self, event: EngineEvent) -> None:
        if not isinstance(event, InnerReceived):
            self.conns[event.public_key].on_engine_event(event, now=self.driver.now())
            self._drain(event.public_key)


async def far(count: int) -> None:
    """Be all the peers: lines `number kind hex` on standard input and output."""
    near = public(NEAR)

    def make(number: int) -> Node:
        def say(_remote: bytes, kind: str, payload: bytes) -> None:
            print(number, kind, payload.hex(), flush=True)

        return Node(key_of(number), [near], say)

    nodes = [make(number) for number in range(count)]
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    for node in nodes:
        node.open()
    while line := (await reader.readline()).decode().split():
        nodes[int(line[0])].hear(near, line[1], bytes.fromhex(line[2]))


async def measure(count: int, seconds: float) -> tuple[float, float]:
    """Return the per cent of a core, and the datagrams sent a second to each peer."""
    command = [sys.executable, "-m", "benchmarks.idle", "--far", "--peers", str(count)]
    pipe = subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    writer, lines = process.stdin, process.stdout
    keys = [public(key_of(number)) for number in range(count)]

    def say(remote: bytes, kind: str, payload: bytes) -> None:
        writer.write(f"{keys.index(remote)} {kind} {payload.hex()}\n".encode())

    async def listen(node: Node) -> None:
        while line := (await lines.readline()).decode().split():
            node.hear(keys[int(line[0])], line[1], bytes.fromhex(line[2]))

    node = Node(NEAR, keys, say)
    node.open()
    listening = asyncio.ensure_future(listen(node))
    try:
        async with asyncio.timeout(CONNECT_S):
            while node.connected < count:  # noqa: ASYNC110  # a look now and then costs least
                await asyncio.sleep(0.2)
        await asyncio.sleep(SETTLE_S)
        began = (cpu_seconds(os.getpid()), node.engine.stats().udp_tx_packets)
        await asyncio.sleep(seconds)
        spent = cpu_seconds(os.getpid()) - began[0]
        sent = node.engine.stats().udp_tx_packets - began[1]
        if node.connected < count:
            raise RuntimeError(f"only {node.connected} of {count} peers are still connected")
        return 100 * spent / seconds, sent / seconds / count
    finally:
        listening.cancel()
        process.terminate()
        await process.wait()
        node.driver.stop()
        node.engine.close()


def main() -> None:
    """Run the benchmark, or be the other side of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--print", action="store_true", dest="only_print")
    parser.add_argument("--far", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.far:
        asyncio.run(far(options.peers))
        return
    cpu, packets = asyncio.run(measure(options.peers, options.seconds))
    rows = [
        below(f"CPU, {options.peers} idle peers", "% of a core", [cpu], CPU_LIMIT, "limit"),
        below("datagrams sent to each", "a second", [packets], PACKETS_LIMIT, "limit"),
    ]
    load = os.getloadavg()[0]
    notes = [f"{options.seconds:g} s; load before the end {load:.1f}"]
    publish("idle", "What idle peers cost", rows, notes, options.only_print)


if __name__ == "__main__":
    main()
