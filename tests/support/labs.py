"""Real UDP sockets on lab machines, steered from the test over a pipe."""

from __future__ import annotations

import json
import subprocess
import sys

from ginnel.lab import Machine

Answer = bool | int | float | str | list[str] | None
WAIT_S = 3.0  # seconds for a packet that has to come

_SCRIPT = r"""
import json, select, socket, sys, time
sockets = {}
def serve(verb, key, *rest):
    if verb == "open":
        s = sockets[key] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        s.bind(("0.0.0.0", rest[0]))
        return s.getsockname()[1]
    if verb == "connect":
        with socket.socket() as s:
            s.settimeout(rest[2])
            try:
                s.connect((rest[0], rest[1]))
            except OSError:
                return False
            return True
    if verb == "listen":
        s = sockets[key] = socket.create_server(("0.0.0.0", rest[0]))
        return True
    s = sockets[key]
    if verb == "send":
        for _ in range(rest[3]):
            s.sendto(rest[2].encode(), (rest[0], rest[1]))
        return True
    if verb == "echo":
        data, source = s.recvfrom(2048)
        s.sendto(data, source)
        return True
    if verb == "receive":
        if not select.select([s], [], [], rest[0])[0]:
            return None
        data, source = s.recvfrom(2048)
        return [data.decode(), *source]
    if verb == "count":
        found = 0
        while select.select([s], [], [], rest[0])[0]:
            s.recvfrom(2048)
            found += 1
        return found
    if verb == "rtt":
        start = time.monotonic()
        s.sendto(b"rtt", (rest[0], rest[1]))
        s.recvfrom(2048)
        return time.monotonic() - start
for line in sys.stdin:
    print(json.dumps(serve(*json.loads(line))), flush=True)
"""


class Agent:
    """Sockets on one machine, by name."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._process = machine.popen(
            [sys.executable, "-I", "-S", "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def post(self, *request: object) -> None:
        """Ask without waiting for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Answer:
        """Wait for the answer to the oldest request."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self, *request: object) -> Answer:
        self.post(*request)
        return self.answer()

    def open(self, name: str, port: int = 0) -> int:
        port = self.ask("open", name, port)
        return port

    def send(self, name: str, to: tuple[str, int], text: str = "x", count: int = 1) -> None:
        self.ask("send", name, *to, text, count)

    def receive(self, name: str, timeout: float = WAIT_S) -> tuple[str, tuple[str, int]] | None:
        found = self.ask("receive", name, timeout)
        return (found[0], (found[1], found[2])) if found else None

    def receive_text(self, name: str) -> str | None:
        found = self.receive(name)
        return found[0] if found else None

    def source_of_next(self, name: str) -> tuple[str, int]:
        found = self.receive(name)
        assert found is not None, f"nothing came to {self.machine.name}"
        return found[1]

    def can_connect(self, to: tuple[str, int], timeout: float) -> bool:
        return bool(self.ask("connect", "", *to, timeout))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def run_in_namespaces(script: str, *words: str) -> str:
    """Run Python code in new namespaces; return what it prints."""
    enter = "from ginnel.lab import enter_namespaces; import sys; enter_namespaces(sys.argv[1:])"
    python = [sys.executable, "-c"]
    done = subprocess.run(
        [*python, enter, *python, script, *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
