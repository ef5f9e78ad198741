"""Two engines with real TUNs: what goes in comes out, over MTUs, with and without offloads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from ginnel.lab import Lab, LabTopology, Link, Machine, PublicMachine, requirements
from support import bare_engine

pytestmark = pytest.mark.netns

LEFT, RIGHT, FAR = "left", "right", "far"  # the line to `far` loses packets
PROGRAM = (sys.executable, bare_engine.__file__)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lacking = requirements()
    if lacking:
        pytest.skip(f"no lab with a TUN on this machine: {'; '.join(lacking)}")
    far = PublicMachine(FAR, Link(delay_s=0.001, loss=0.005))
    with Lab.create(LabTopology(public=(PublicMachine(LEFT), PublicMachine(RIGHT), far))) as made:
        yield made


@contextmanager
def tunnel(left: Machine, right: Machine, headers: tuple[bool, bool], mtu: int) -> Iterator[None]:
    """Run an engine on both machines; say if their TUNs have offloads as asked for."""
    with ExitStack() as stack:
        engines = []
        for number, (machine, other) in enumerate(((left, right), (right, left)), 1):
            wanted = "1" if headers[number - 1] else "0"
            argv = [*PROGRAM, "engine", str(number), other.address, wanted, str(mtu)]
            pipe = subprocess.PIPE
            engine = stack.enter_context(machine.popen(argv, stdin=pipe, stdout=pipe))
            engines.append(engine)
        for engine, wanted_header in zip(engines, headers, strict=True):
            assert engine.stdout is not None
            assert engine.stdout.readline().split() == ["up", str(wanted_header)]
        yield
        for engine in engines:
            assert engine.stdin is not None
            engine.stdin.close()
        assert [engine.wait(10) for engine in engines] == [0, 0]


def transfer(sender: Machine, receiver: Machine, address: str, datagrams: int = 60) -> bool:
    """Send a stream and datagrams (few, for any socket buffer); say if they arrived unchanged."""
    argv = [*PROGRAM, "receive", address, str(datagrams)]
    with receiver.popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        sent = sender.run([*PROGRAM, "send", address, port, str(datagrams)]).stdout
        return process.stdout.readline() == sent


@pytest.mark.parametrize(
    ("headers", "mtu"),
    [
        ((True, True), 1420),
        ((True, False), 1280),
        ((False, True), 1280),
        ((False, False), 1420),
        ((True, True), 9000),  # larger than the wire's: outer packets are fragmented
    ],
)
def test_data_arrives_unchanged(lab: Lab, headers: tuple[bool, bool], mtu: int) -> None:
    left, right = lab.machine(LEFT), lab.machine(RIGHT)
    with tunnel(left, right, headers, mtu):
        for address in ("100.64.0.2", "fd00::2"):
            assert transfer(left, right, address), address
        assert transfer(right, left, "100.64.0.1")


def test_a_stream_survives_loss(lab: Lab) -> None:
    left, far = lab.machine(LEFT), lab.machine(FAR)
    with tunnel(left, far, (True, True), 1420):
        assert transfer(left, far, "100.64.0.2", datagrams=0)
