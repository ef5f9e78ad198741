"""Children with fixed descriptors: how they are started, watched, started again and ended.

A child gets exactly the descriptors that are named, under the numbers that are named; its output is
read here line by line. Whoever waits for its end waits on a pidfd, so no pid is ever mistaken.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ginnel.base.errors import SystemFailure

FIRST_BACKOFF = 1.0  # seconds until the first new start
MAX_BACKOFF = 30.0  # seconds between starts, at most
CALM_TIME = 60.0  # seconds of life after which the back-off starts anew
DEATH_WINDOW = 60.0  # seconds; three deaths within are reported
MANY_DEATHS = 3
STOP_TIMEOUT = 5.0  # seconds from one step of ending a child to the next
MAX_LINE = 4096  # bytes of one line of a child's output
MAX_LAST_LINES = 20  # kept to say why a child died
ENVIRONMENT_NAMES = ("PATH", "LANG", "TZ", "LD_LIBRARY_PATH")  # that children get
ENVIRONMENT_PREFIXES = ("GINNEL_", "PYTHON", "LC_")
_SAFE_FD = 64  # descriptors are moved above this first, so that targets can't collide


@dataclass(slots=True)
class Backoff:
    """When a child that died may start again, and whether it dies too often."""

    _deaths: deque[float] = field(default_factory=lambda: deque(maxlen=16))
    _delay: float = FIRST_BACKOFF
    count: int = 0

    def on_death(self, *, started_at: float, now: float) -> float:
        """Note a death; return how many seconds to wait before the next start."""
        self._deaths.append(now)
        self.count += 1
        if now - started_at >= CALM_TIME:
            self._delay = FIRST_BACKOFF
        delay = self._delay
        self._delay = min(MAX_BACKOFF, self._delay * 2)
        return delay

    def recent_deaths(self, *, now: float) -> int:
        """Return how often it died within the last minute."""
        return sum(now - at <= DEATH_WINDOW for at in self._deaths)

    def is_failing(self, *, now: float) -> bool:
        """Say whether it died three times within a minute."""
        return self.recent_deaths(now=now) >= MANY_DEATHS


class Child:
    """A running process; make it with `start_child` inside a running loop."""

    def __init__(self, name: str, pid: int, output_fd: int, on_line: Callable[[str], None]) -> None:
        self.name = name
        self.pid = pid
        self.last_lines: deque[str] = deque(maxlen=MAX_LAST_LINES)
        self._loop = asyncio.get_running_loop()
        self.started_at = self._loop.time()
        self._pidfd = os.pidfd_open(pid)
        self._output_fd: int | None = output_fd
        self._on_line = on_line
        self._partial = b""
        self._ended: asyncio.Future[int] = self._loop.create_future()
        os.set_blocking(output_fd, False)
        self._loop.add_reader(output_fd, self._on_output)
        self._loop.add_reader(self._pidfd, self._on_end)

    @property
    def is_running(self) -> bool:
        """Say whether its end was not seen yet."""
        return not self._ended.done()

    async def wait(self) -> int:
        """Wait for the end; return the exit code, or minus the signal."""
        return await asyncio.shield(self._ended)

    def describe_end(self) -> str:
        """Say how it ended and what it said last."""
        code = self._ended.result()
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        last = next((line for line in reversed(self.last_lines) if line.strip()), "")
        return f"{self.name} ended with {how}" + (f": {last}" if last else "")

    def send_signal(self, number: int) -> None:
        """Send a signal if it still runs."""
        if self.is_running:
            signal.pidfd_send_signal(self._pidfd, number)

    async def end(self, *, is_leaving: bool = True) -> None:
        """Wait a moment for a child that is leaving by itself, then SIGTERM, then SIGKILL."""
        for number in (None, signal.SIGTERM, signal.SIGKILL)[0 if is_leaving else 1 :]:
            if number is not None:
                self.send_signal(number)
            try:
                async with asyncio.timeout(STOP_TIMEOUT):
                    await self.wait()
                    return
            except TimeoutError:
                continue
        await self.wait()

    async def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)
        await self.wait()

    def _on_output(self) -> None:
        assert self._output_fd is not None
        try:
            data = os.read(self._output_fd, 16 * MAX_LINE)
        except BlockingIOError:
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > MAX_LINE or (not data and self._partial):
            lines.append(self._partial)
            self._partial = b""
        for line in lines:
            text = line[:MAX_LINE].decode(errors="replace")
            self.last_lines.append(text)
            self._on_line(text)
        if not data:
            self._loop.remove_reader(self._output_fd)
            os.close(self._output_fd)
            self._output_fd = None

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        _, status = os.waitpid(self.pid, 0)
        os.close(self._pidfd)
        if self._output_fd is not None:
            self._on_output()  # what it said last
        if self._output_fd is not None:  # a grandchild may hold the other end: don't wait for it
            self._loop.remove_reader(self._output_fd)
            os.close(self._output_fd)
            self._output_fd = None
        self._ended.set_result(os.waitstatus_to_exitcode(status))


def start_child(
    name: str,
    argv: Sequence[str],
    descriptors: Mapping[int, int],
    on_line: Callable[[str], None],
    *,
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start a program; `descriptors` maps the child's numbers (3 and up) to ours.

    Its stdin is /dev/null, stdout and stderr come to `on_line`. Ours stay open.

    Raises:
        SystemFailure: the program could not be started.
    """
    output_read, output_write = os.pipe()
    sources: list[int] = [output_write]
    try:
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output_write, 1),
            (os.POSIX_SPAWN_DUP2, output_write, 2),
        ]
        for target, ours in descriptors.items():
            sources.append(fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, _SAFE_FD))
            actions.append((os.POSIX_SPAWN_DUP2, sources[-1], target))
        actions += [(os.POSIX_SPAWN_CLOSE, number) for number in _inherited() - set(descriptors)]
        try:
            pid = os.posix_spawn(
                argv[0],
                list(argv),
                clean_environment(os.environ) if environment is None else dict(environment),
                file_actions=actions,
                setpgroup=0,  # a Ctrl-C is for us alone; we tell the child
                setsigmask=[],
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
            )
        except OSError as error:
            raise SystemFailure(f"{name} can't be started ({argv[0]}): {error.strerror}") from None
    except SystemFailure:
        os.close(output_read)
        raise
    finally:
        for descriptor in sources:
            os.close(descriptor)
    return Child(name, pid, output_read, on_line)


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a child needs: root's own variables may hold secrets."""
    return {
        name: value
        for name, value in environment.items()
        if name in ENVIRONMENT_NAMES or name.startswith(ENVIRONMENT_PREFIXES)
    }


def _inherited() -> set[int]:
    """Return our descriptors that a child would get unasked: those that we were started with."""
    found = set()
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            if number > 2 and os.get_inheritable(number):
                found.add(number)
        except OSError:
            continue  # the listing's own, closed by now
    return found


def is_descendant(pid: int, ancestor: int) -> bool:
    """Say whether `pid` is `ancestor` or was started by it, by the chain of parents in /proc.

    A process that is gone or whose chain can't be read counts as a descendant: refuse it.
    """
    for _ in range(4096):  # deeper than any real tree; parents that change can't loop us
        if pid == ancestor:
            return True
        if pid <= 1:
            return False
        try:
            text = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return True
        pid = int(text.rpartition(b")")[2].split()[1])
    return True
