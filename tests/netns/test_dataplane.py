"""Two engines with real TUNs: what goes in comes out, over MTUs, with and without offloads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

import pytest

from ginnel.lab import Lab, LabTopology, Link, Machine, PublicMachine
from support import bare_engine

pytestmark = pytest.mark.netns

LEFT, RIGHT, FAR = "left", "right", "far"  # the line to `far` loses packets and mixes them up
MTUS = (1280, 9000)  # all of them with GINNEL_MTU_STEP=1, which takes hours
MTU_STEP = int(os.environ.get("GINNEL_MTU_STEP", "193"))  # a prime: all remainders of 16 come up
PROGRAM = (sys.executable, bare_engine.__file__)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    far = PublicMachine(FAR, Link(delay_s=0.001, loss=0.005, reorder=0.02))
    with Lab.create(LabTopology(public=(PublicMachine(LEFT), PublicMachine(RIGHT), far))) as made:
        yield made


SetMtu: TypeAlias = Callable[[int], None]


@contextmanager
def tunnel(left: Machine, right: Machine, headers: tuple[bool, bool], mtu: int) -> Iterator[SetMtu]:
    """Run an engine on both machines, TUN and socket with offloads as asked for; yield a way to
    change the MTU of both."""
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

        def set_mtu(mtu: int) -> None:
            for engine in engines:
                assert engine.stdin is not None
                assert engine.stdout is not None
                engine.stdin.write(f"{mtu}\n")
                engine.stdin.flush()
                assert engine.stdout.readline().split() == ["mtu", str(mtu)]

        yield set_mtu
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


@pytest.mark.parametrize("headers", [(True, True), (False, False)])
def test_several_flows_keep_their_order_each(lab: Lab, headers: tuple[bool, bool]) -> None:
    left, right = lab.machine(LEFT), lab.machine(RIGHT)
    with tunnel(left, right, headers, 1420):
        # What comes before the handshake is over is kept in part only.
        assert transfer(left, right, "100.64.0.2")
        for address in ("100.64.0.2", "fd00::2"):
            argv = [*PROGRAM, "receive-flows", address]
            with right.popen(argv, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                port = process.stdout.readline().strip()
                left.run([*PROGRAM, "send-flows", address, port])
                flows = json.loads(process.stdout.readline())
            assert len(flows) == bare_engine.FLOWS
            whole = list(range(bare_engine.ROUNDS * bare_engine.TRAIN))
            assert all(numbers == whole for numbers in flows)


@pytest.mark.soak
@pytest.mark.parametrize("far", [False, True], ids=["quiet", "lossy"])
@pytest.mark.parametrize("headers", [(True, True), (True, False), (False, True), (False, False)])
def test_every_mtu(lab: Lab, headers: tuple[bool, bool], far: bool) -> None:
    left, right = lab.machine(LEFT), lab.machine(FAR if far else RIGHT)
    datagrams = 0 if far else 60  # a lossy line loses some
    with tunnel(left, right, headers, MTUS[0]) as set_mtu:
        for mtu in sorted({*range(MTUS[0], MTUS[1], MTU_STEP), 1420, 1500, MTUS[1]}):
            set_mtu(mtu)
            address = "100.64.0.2" if mtu % 2 else "fd00::2"
            assert transfer(left, right, address, datagrams), mtu
            assert transfer(right, left, "100.64.0.1", datagrams), mtu


def test_a_stream_survives_loss_and_reordering(lab: Lab) -> None:
    left, far = lab.machine(LEFT), lab.machine(FAR)
    with tunnel(left, far, (True, True), 1420):
        assert transfer(left, far, "100.64.0.2", datagrams=0)
