from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.daemon.supervise import (
    MAX_LINE,
    Backoff,
    Child,
    clean_environment,
    is_descendant,
    start_child,
)

PYTHON = [sys.executable, "-I", "-c"]


def test_the_back_off_doubles_to_30_s_and_starts_anew_after_a_calm_minute() -> None:
    backoff = Backoff()
    delays = [backoff.on_death(started_at=now, now=now) for now in map(float, range(7))]
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert backoff.on_death(started_at=100.0, now=160.0) == 1.0
    assert backoff.count == 8


def test_three_deaths_in_a_minute_are_a_failure() -> None:
    backoff = Backoff()
    for now in (0.0, 30.0):
        backoff.on_death(started_at=now, now=now)
    assert not backoff.is_failing(now=30.0)
    backoff.on_death(started_at=59.0, now=59.0)
    assert backoff.is_failing(now=60.0)
    assert not backoff.is_failing(now=61.0)


def run_child(code: str, descriptors: dict[int, int] | None = None) -> tuple[Child, list[str]]:
    lines: list[str] = []

    async def main() -> Child:
        child = start_child("test", [*PYTHON, code], descriptors or {}, lines.append)
        async with asyncio.timeout(20):
            await child.wait()
        return child

    return asyncio.run(main()), lines


def test_exactly_the_named_descriptors_arrive_under_their_numbers() -> None:
    one, two = socket.socketpair()
    code = (
        "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))));"
        "os.write(3, b'3'); os.write(4, b'4')"
    )
    os.set_inheritable(one.fileno(), True)  # as a shell's redirection leaves it
    with one, two, open("/dev/null", "wb") as other:
        child, lines = run_child(code, {4: two.fileno(), 3: two.fileno(), 9: other.fileno()})
        assert one.recv(10) == b"34"
    assert lines == ["[0, 1, 2, 3, 4, 5, 9]"]  # 5 is of listdir itself
    assert child.describe_end() == f"test ended with exit code 0: {lines[0]}"


def test_descriptors_whose_numbers_cross_are_not_mixed_up() -> None:
    with open("/dev/null", "rb") as a, open("/dev/zero", "rb") as b:
        code = (
            f"import os; print(os.readlink('/proc/self/fd/{b.fileno()}'),"
            f" os.readlink('/proc/self/fd/{a.fileno()}'))"
        )
        _, lines = run_child(code, {b.fileno(): a.fileno(), a.fileno(): b.fileno()})
    assert lines == ["/dev/null /dev/zero"]


def test_output_is_cut_into_bounded_lines_and_the_last_one_is_told() -> None:
    code = f"import sys; print('x' * {MAX_LINE * 3}); sys.stderr.write('a\\xff\\nwhy'); sys.exit(3)"
    child, lines = run_child(code)
    assert max(map(len, lines)) <= MAX_LINE
    assert lines[-1] == "why"
    assert child.describe_end() == "test ended with exit code 3: why"


@pytest.fixture
def held() -> Iterator[int]:
    """Give the end of a pipe that a child reads from as long as the test goes on, and no longer."""
    end, ours = os.pipe()
    yield end
    os.close(end)
    os.close(ours)


def test_a_child_that_ignores_us_is_killed(held: int) -> None:
    async def main() -> str:
        ready = asyncio.Event()
        code = (
            "import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            "print('ready', flush=True); os.read(3, 1)"
        )
        child = start_child("test", [*PYTHON, code], {3: held}, lambda line: ready.set())
        async with asyncio.timeout(20):
            await ready.wait()
            child.send_signal(signal.SIGTERM)
            assert child.is_running
            await child.kill()
        child.send_signal(signal.SIGTERM)
        return child.describe_end()

    assert asyncio.run(main()) == "test ended with signal SIGKILL: ready"


def test_a_grandchild_that_holds_the_output_does_not_hold_us(held: int) -> None:
    code = "import os\nif os.fork() == 0:\n  os.read(3, 1)\nelse:\n  print('done')"
    child, lines = run_child(code, {3: held})
    assert lines == ["done"]
    assert not child.is_running


def test_a_program_that_is_not_there_says_so() -> None:
    async def main() -> None:
        start_child("test", ["/nonexistent/ginnel"], {}, print)

    with pytest.raises(SystemFailure, match="test can't be started"):
        asyncio.run(main())


def test_descendants_are_known_by_their_parents() -> None:
    me = os.getpid()
    assert is_descendant(me, me)
    assert not is_descendant(os.getppid(), me)
    assert not is_descendant(1, me)
    code = "import os, sys; sys.exit(0 if os.fork() else os._exit(0))"
    child, _ = run_child(code)
    assert is_descendant(child.pid, me)  # gone: refused


def test_a_child_gets_nothing_of_roots_environment_but_what_it_needs() -> None:
    given = {"PATH": "/bin", "GINNEL_DEBUG": "1", "LC_ALL": "C", "AWS_SECRET_ACCESS_KEY": "x"}
    assert clean_environment(given) == {"PATH": "/bin", "GINNEL_DEBUG": "1", "LC_ALL": "C"}
