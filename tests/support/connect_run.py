"""Two processes that connect to each other, and the servers that they need, in a lab.

What the benchmark of connecting and the matrix of NATs have in common. An end speaks lines of JSON
(see `connect_end.py`); what it signals is carried to the other one late, as a rendezvous would do.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from ginnel.lab import Lab, Machine
from support.certificates import make_certificate

PORT = 3478  # of STUN, and of TURN over UDP and TCP
TLS_PORT = 443
USER, PASSWORD, REALM = "bench", "bench-word", "lab"
START_S = 60.0  # seconds until coturn answers
END = Path(__file__).parent / "connect_end.py"

_ASK = """
import os, socket, sys
message = bytes.fromhex("000100002112a442") + os.urandom(12)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
    asker.settimeout(0.2)
    for _ in range(int(sys.argv[3])):
        try:
            asker.sendto(message, (sys.argv[1], int(sys.argv[2])))
            asker.recvfrom(2048)
            sys.exit(0)
        except OSError:
            continue
sys.exit("no answer")
"""


class Servers(NamedTuple):
    """The addresses of both, and the file of the authority for TLS on the first."""

    addresses: list[str]
    authority: str


@contextmanager
def servers(lab: Lab) -> Iterator[Servers]:
    """Run coturn on `server1`, with a second address and TLS on port 443, and on `server2`."""
    first, second = lab.machine("server1"), lab.machine("server2")
    other = first.address.rpartition(".")[0] + ".3"
    first.run(["ip", "address", "add", f"{other}/24", "dev", "eth0"])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        certificate, key = make_certificate(folder, first.address)
        for machine, addresses in ((first, (first.address, other)), (second, (second.address,))):
            argv = ["turnserver", "-n", "--lt-cred-mech", f"--user={USER}:{PASSWORD}"]
            argv += [f"--realm={REALM}", f"--listening-port={PORT}", "--no-dtls"]
            argv += [f"--tls-listening-port={TLS_PORT}", f"--cert={certificate}", f"--pkey={key}"]
            argv += ["--no-cli", "--log-file=/run/coturn.log", "--pidfile=/run/coturn.pid"]
            argv += ["--userdb=/run/coturn.db", f"--relay-ip={addresses[0]}"]
            argv += [f"--listening-ip={address}" for address in addresses]
            if machine.address6 is not None:
                argv += [f"--listening-ip={machine.address6}", f"--relay-ip={machine.address6}"]
            process = machine.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        for machine in (first, second):
            tries = str(round(START_S / 0.2))
            machine.run([sys.executable, "-c", _ASK, machine.address, str(PORT), tries])
        yield Servers([first.address, second.address], str(certificate))


def end_command(
    role: str, mode: str, stun: Sequence[str], turn: str | None, authority: str = ""
) -> list[str]:
    """Return the arguments that start an end of ours; `stun`: as IP:port, `turn`: a URI or None."""
    options = {
        "role": role,
        "mode": mode,
        "stun": list(stun),
        "turn": None if turn is None else [turn, USER, PASSWORD],
        "authority": authority,
    }
    return [sys.executable, str(END), json.dumps(options)]


@contextmanager
def connecting(
    ends: Sequence[tuple[Machine, Sequence[str]]], signalling_s: float
) -> Iterator[Pipe]:
    """Start the two ends on their machines and end them with the block."""
    with ExitStack() as stack:
        processes = []
        for machine, argv in ends:
            process = stack.enter_context(
                machine.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            stack.callback(process.terminate)
            processes.append(process)
        pipe = Pipe(processes, signalling_s)
        stack.callback(pipe.close)
        yield pipe


class Pipe:
    """Both ends of a run, and what they signal on its way; `signalling_s`: one way."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]], signalling_s: float) -> None:
        self._processes = processes
        self._signalling_s = signalling_s
        self._selector = selectors.DefaultSelector()
        self._buffers = [b"", b""]
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._numbers = itertools.count()
        self.ready: set[int] = set()
        self.connected: dict[int, dict[str, Any]] = {}
        self.reasons: dict[int, str] = {}  # the last ones, of ends that tell
        self.failures: list[str] = []
        for number, process in enumerate(processes):
            assert process.stdout is not None
            self._selector.register(process.stdout.fileno(), selectors.EVENT_READ, number)

    def close(self) -> None:
        """Close what it opened itself."""
        self._selector.close()

    def go(self, late_s: float = 0.0) -> None:
        """Start both ends, the second one `late_s` later."""
        for number in range(2):
            entry = (time.monotonic() + number * late_s, next(self._numbers), number)
            heapq.heappush(self._under_way, (*entry, b'{"go": true}\n'))

    def run_until(self, is_done: Callable[[], bool], limit_s: float) -> None:
        """Carry lines until it is done, an end failed, or the time is up."""
        ends_at = time.monotonic() + limit_s
        while not is_done() and not self.failures:
            now = time.monotonic()
            if now >= ends_at:
                self.failures.append(f"not connected in {limit_s:g} s")
                return
            while self._under_way and self._under_way[0][0] <= now:
                _, _, target, data = heapq.heappop(self._under_way)
                self._write(target, data)
            wait = self._under_way[0][0] - now if self._under_way else ends_at - now
            for key, _ in self._selector.select(max(0.0, wait)):
                self._read(key.fd, key.data)

    def _read(self, fd: int, number: int) -> None:
        data = os.read(fd, 65536)
        if not data:
            self.failures.append(f"end {number} has ended")
            return
        *lines, self._buffers[number] = (self._buffers[number] + data).split(b"\n")
        for line in lines:
            got = json.loads(line)
            if "signal" in got:
                entry = (time.monotonic() + self._signalling_s, next(self._numbers), 1 - number)
                heapq.heappush(self._under_way, (*entry, line + b"\n"))
            elif "connected" in got:
                self.connected[number] = got["connected"]
            elif "reason" in got:
                if got["reason"]:  # an empty one says that it is over
                    self.reasons[number] = got["reason"]
            elif "ready" in got:
                self.ready.add(number)
            elif "failed" in got:
                self.failures.append(f"end {number}: {got['failed']}")

    def _write(self, number: int, data: bytes) -> None:
        pipe = self._processes[number].stdin
        assert pipe is not None
        try:
            os.write(pipe.fileno(), data)
        except BrokenPipeError:
            self.failures.append(f"end {number} has ended")
