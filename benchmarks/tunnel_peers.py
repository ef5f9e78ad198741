"""`make bench-tunnel`, its last part: what a thousand peers cost, and adding one more.

    python -m benchmarks.tunnel_peers [--peers N] [--seconds S] [--rounds N] [--print]

One process has the data plane, its TUN being a socket whose other end is a second one's; a third
has N data planes, one for each peer, each at a loopback address of its own. All shake hands, then
all talk both ways at once, packets of a whole MTU, as fast as it goes. The peak of the first
process's memory (PSS) counts, less that of the same interpreter with the same imports and no
engine. Peers that are added meanwhile are timed: the call, after which the peer is there for all
that follows. A node's peers are other machines, so the third process has half of the cores here
and the node with its programs the other half. The same with all on all cores is printed beside it,
without a target: the kernel takes the core from some calls then, for threads of the peers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from benchmarks.common import Row, below, proportional_mb, publish
from ginnel.base.dataplane import Endpoint, HandshakeCompleted, SendInner, SetPeer
from ginnel.base.types import Address, Secret
from ginnel.engine.embedded import EmbeddedEngine

LIMIT_MIB = 48.0
ADDING_LIMIT_US = 1000.0
ADDED = 500  # peers more, under load
FEWEST_ADDED = 100  # that say something of a p99
FIRST_ADDED = IPv4Address("10.9.0.0")
MTU = 1420  # bytes
HUB = IPv4Address("10.7.0.1")
FIRST_PEER = IPv4Address("10.8.0.0")
FIRST_LOOPBACK = IPv4Address("127.8.0.0")  # an address each: cookies are asked of sources
HUB_KEY = b"hub!" * 8
ADDED_KEY = b"other!" * 5  # and a number
HANDSHAKE_PAUSE_S = 0.004  # half of the handshakes a second that make all show a cookie
HANDSHAKE_LIMIT_S = 120.0
SAMPLE_S = 0.05  # seconds between two looks at memory
ADDING_PAUSE_S = 0.01  # as in a node, the thread that adds peers mostly sleeps
BURST = 100  # packets between two looks at what came back


@dataclass(frozen=True)
class Added:
    """One peer more, under load."""

    took_us: float
    waits: int  # for another thread
    interruptions: int  # by the kernel's scheduler


@dataclass(frozen=True)
class Round:
    """What one measurement gave."""

    quiet_mib: float  # after all handshakes
    peak_mib: float  # while all talk
    sent: int
    received: int
    added: list[Added]

    def adding_us(self, percentile: int) -> float:
        """How long adding a peer took."""
        times = sorted(one.took_us for one in self.added)
        return times[len(times) * percentile // 100]


@dataclass(frozen=True)
class Cores:
    """Which ones the node with its programs has, and which ones its peers."""

    node: tuple[str, ...]
    peers: tuple[str, ...]

    @classmethod
    def half(cls) -> Cores:
        """Return half of this machine's each."""
        cores = [str(number) for number in sorted(os.sched_getaffinity(0))]
        if len(cores) < 2:
            raise RuntimeError("a node and its peers need a core each; there is only one here")
        return cls(tuple(cores[: len(cores) // 2]), tuple(cores[len(cores) // 2 :]))

    @classmethod
    def shared(cls) -> Cores:
        """Return all of them for both."""
        cores = tuple(str(number) for number in sorted(os.sched_getaffinity(0)))
        return cls(cores, cores)


def key_of(number: int) -> bytes:
    """Return the private key of a peer, from 0."""
    return (number + 2).to_bytes(2, "big") * 16


def public(private: bytes) -> bytes:
    """Return the public key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def packet(source: IPv4Address, destination: IPv4Address) -> bytes:
    """Return an IPv4 packet of a whole MTU."""
    head = b"\x45\0" + MTU.to_bytes(2, "big") + bytes(4) + b"\x40\xfd\0\0"
    return (head + source.packed + destination.packed).ljust(MTU, b"\0")


def start_engine(
    ip: IPv4Address, private: bytes, tun_fd: int | None = None
) -> tuple[EmbeddedEngine, socket.socket]:
    """Return a data plane and its UDP socket."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((str(ip), 0))
    engine = EmbeddedEngine(
        udp4_fd=udp.fileno(),
        tun_fd=tun_fd,
        private_key=Secret(private),
        control_ips=[],
        mtu=MTU,
    )
    return engine, udp


def peer_at(private: bytes, overlay: IPv4Address, ip: str, port: int) -> SetPeer:
    """Return the command that adds a peer."""
    return SetPeer(public(private), (f"{overlay}/32",), Endpoint(Address(ip, port)))


def drain(end: socket.socket) -> None:
    """Take what came out of the TUN."""
    with suppress(BlockingIOError):
        while end.recv(MTU, socket.MSG_DONTWAIT):
            pass


def run_hub(tun_fd: int) -> None:
    """Be the process that is measured: one line with all peers in, lines of JSON out."""
    engine, udp = start_engine(IPv4Address("127.0.0.1"), HUB_KEY, tun_fd)
    print(json.dumps(udp.getsockname()[1]), flush=True)
    places: list[tuple[str, int]] = json.loads(sys.stdin.readline())
    for number, (ip, port) in enumerate(places):
        engine.apply(peer_at(key_of(number), FIRST_PEER + number, ip, port))
        engine.apply(SendInner(public(key_of(number)), packet(HUB, FIRST_PEER + number)))
        time.sleep(HANDSHAKE_PAUSE_S)
    missing = {public(key_of(number)) for number in range(len(places))}
    until = time.monotonic() + HANDSHAKE_LIMIT_S
    while missing and time.monotonic() < until:
        event = engine.poll_event()
        if isinstance(event, HandshakeCompleted):
            missing.discard(event.public_key)
        elif event is None:
            time.sleep(HANDSHAKE_PAUSE_S)
    print(json.dumps(len(missing)), flush=True)
    adding = list[tuple[float, int, int]]()
    is_loaded = False
    while not select.select([sys.stdin], [], [], ADDING_PAUSE_S)[0]:
        while engine.poll_event() is not None:
            pass
        if is_loaded and len(adding) < ADDED:
            adding.append(add_another(engine, len(adding)))
        elif not is_loaded:  # not asked again: it takes the lock that adding might wait for
            stats = engine.stats()
            is_loaded = stats.tun_rx_packets > 0 and stats.tun_tx_packets > 0
    heard = sum(peer.rx_bytes >= MTU for peer in engine.peer_stats())
    stats = engine.stats()
    counts = [stats.tun_rx_packets, stats.tun_tx_packets, heard]
    print(json.dumps([counts, adding]), flush=True)
    engine.close()


def run_apps(count: int, end_fd: int) -> None:
    """Be the programs that talk to the peers: a line out; a line in, and they talk."""
    packets = [packet(HUB, FIRST_PEER + number) for number in range(count)]
    print(json.dumps(count), flush=True)
    sys.stdin.readline()
    with socket.socket(fileno=end_fd) as end:
        for batch in itertools.cycle(packets[at : at + BURST] for at in range(0, count, BURST)):
            for one in batch:
                end.send(one)
            drain(end)


def add_another(engine: EmbeddedEngine, number: int) -> tuple[float, int, int]:
    """Add a peer that never says anything; return what `Added` is made of."""
    command = peer_at(ADDED_KEY + number.to_bytes(2, "big"), FIRST_ADDED + number, "127.0.0.1", 9)
    before = resource.getrusage(resource.RUSAGE_THREAD)
    began = time.perf_counter()
    engine.apply(command)
    took = (time.perf_counter() - began) * 1e6
    after = resource.getrusage(resource.RUSAGE_THREAD)
    return took, after.ru_nvcsw - before.ru_nvcsw, after.ru_nivcsw - before.ru_nivcsw


def run_far(count: int, port: int) -> None:
    """Be all the peers: a line with their places out; a line in, and they talk."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    engines, places = [], []
    for number in range(count):
        engine, udp = start_engine(FIRST_LOOPBACK + number + 1, key_of(number))
        engine.apply(peer_at(HUB_KEY, HUB, "127.0.0.1", port))
        engines.append((engine, udp, packet(FIRST_PEER + number, HUB)))
        places.append(udp.getsockname())
    print(json.dumps(places), flush=True)
    sys.stdin.readline()
    key = public(HUB_KEY)
    for engine, _, one in itertools.cycle(engines):
        engine.apply(SendInner(key, one))


def run_idle() -> None:
    """Be the interpreter without an engine."""
    print(json.dumps(0), flush=True)
    sys.stdin.readline()


class Child:
    """This program in another role."""

    def __init__(self, cores: Sequence[str], *role: str, fds: Sequence[int] = ()) -> None:
        program = [sys.executable, "-m", "benchmarks.tunnel_peers"]
        command = [*program, "--cores", *cores, "--role", *role]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, pass_fds=fds)

    def ask(self, *words: object) -> object:
        """Send a line of JSON, if there is one, and return the next one."""
        assert self.process.stdout is not None
        for word in words:
            self.tell(word)
        return json.loads(self.process.stdout.readline())

    def tell(self, word: object) -> None:
        """Send a line of JSON."""
        assert self.process.stdin is not None
        print(json.dumps(word), file=self.process.stdin, flush=True)

    @property
    def memory_mib(self) -> float:
        """Its memory just now."""
        return proportional_mb(self.process.pid)


@contextmanager
def child(cores: Sequence[str], *role: str, fds: Sequence[int] = ()) -> Iterator[Child]:
    """Run a role until the block ends."""
    started = Child(cores, *role, fds=fds)
    with started.process:
        try:
            yield started
        finally:
            started.process.terminate()


def measure(cores: Cores, count: int, seconds: float) -> Round:
    """Return what one round gives."""
    end, tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    own, peers = ["--fd", str(tun.fileno())], ["--peers", str(count)]
    with (
        end,
        tun,
        child(cores.node, "idle") as idle,
        child(cores.node, "hub", *own, fds=[tun.fileno()]) as hub,
    ):
        idle.ask()
        with child(cores.peers, "far", *peers, "--port", str(hub.ask())) as far:
            missing = hub.ask(far.ask())
            if missing:
                raise RuntimeError(f"{missing} of {count} peers did not shake hands")
            quiet = peak = hub.memory_mib - idle.memory_mib
            end_fd = end.fileno()
            with child(cores.node, "apps", *peers, "--fd", str(end_fd), fds=[end_fd]) as apps:
                apps.ask()
                for talker in (far, apps):
                    talker.tell("talk")
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    peak = max(peak, hub.memory_mib - idle.memory_mib)
                    time.sleep(SAMPLE_S)
                said = hub.ask("end")
        assert isinstance(said, list)
        (sent, received, heard), added = said
        if heard < count:
            raise RuntimeError(f"only {heard} of {count} peers were heard")
        if len(added) < FEWEST_ADDED:
            raise RuntimeError(f"only {len(added)} peers were added under load: more --seconds")
        return Round(quiet, peak, sent, received, [Added(*one) for one in added])


def adding_rows(name: str, rounds: list[Round], *, target: float | None) -> list[Row]:
    """Compare how long adding a peer took with its limit."""
    rows = []
    for figure, percentile in (("median", 50), ("p99", 99)):
        us = [one.adding_us(percentile) for one in rounds]
        row_name = f"adding a peer, {name}, {figure}"
        rows.append(below(row_name, "us", us, ADDING_LIMIT_US, "our limit", target=target))
    return rows


def counted(rounds: list[Round], seconds: float) -> str:
    """Say how much was said, and how often something else ran meanwhile."""
    sent, received = sum(one.sent for one in rounds), sum(one.received for one in rounds)
    added = [one for result in rounds for one in result.added]
    return (
        f"in {len(rounds)} times {seconds:g} s {sent} packets sent, {received} received; "
        f"of {len(added)} calls {sum(one.waits > 0 for one in added)} waited for another thread, "
        f"{sum(one.interruptions > 0 for one in added)} were interrupted by the kernel's scheduler"
    )


def main() -> None:
    """Run the benchmark, or be one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--print", action="store_true", dest="only_print")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cores:
        os.sched_setaffinity(0, options.cores)
    match options.role:
        case "hub":
            return run_hub(options.fd)
        case "apps":
            return run_apps(options.peers, options.fd)
        case "far":
            return run_far(options.peers, options.port)
        case "idle":
            return run_idle()
    count, busy = options.peers, os.getloadavg()[0]
    apart, shared = list[Round](), list[Round]()
    for _ in range(options.rounds):
        apart.append(measure(Cores.half(), count, options.seconds))
        shared.append(measure(Cores.shared(), count, options.seconds))
    figures = {
        f"{count} peers after their handshakes": [one.quiet_mib for one in shared],
        f"{count} peers, all talking: peak": [one.peak_mib for one in shared],
    }
    rows = [below(name, "MiB", mib, LIMIT_MIB, "our limit") for name, mib in figures.items()]
    rows += adding_rows("peers on other cores", apart, target=1.0)
    rows += adding_rows("cores shared", shared, target=None)
    notes = [
        f"PSS less that of the interpreter with the same imports, cores shared; packets of {MTU} "
        f"bytes; load before the start {busy:.1f}",
        f"peers on other cores: {counted(apart, options.seconds)}",
        f"cores shared: {counted(shared, options.seconds)}",
        f"Linux {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores",
    ]
    title = "Tunnel: memory of the data plane with many peers"
    return publish("tunnel_peers", title, rows, notes, options.only_print)


if __name__ == "__main__":
    main()
