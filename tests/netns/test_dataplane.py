"""Two engines with real TUNs: what goes in comes out, over MTUs, with and without offloads."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict

import pytest

from ginnel.lab import Lab, LabTopology, Link, Machine, PublicMachine
from support import bare_engine, sweep_end
from support.older_kernel import UDP_GRO, UDP_SEGMENT, older

pytestmark = pytest.mark.netns

LEFT, RIGHT, FAR = "left", "right", "far"  # the line to `far` loses packets and mixes them up
MTUS = range(1280, 9001, int(os.environ.get("GINNEL_MTU_STEP", "1")))
SEED = os.environ.get("GINNEL_SEED", "7")
HEADERS = ((True, True), (True, False), (False, True), (False, False))
TRIES = 3  # of datagrams: a busy machine may lose some
BULKS = 40  # streams until one came in a bulk that fills more than 64 KiB
TAKES_BIG = tuple(map(int, re.findall(r"\d+", platform.release())[:2])) >= (6, 3)
PROGRESS_STEP = 100  # MTUs from one line of progress to the next
PROGRAM = (sys.executable, bare_engine.__file__)
SWEEP = (sys.executable, sweep_end.__file__)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    far = PublicMachine(FAR, Link(delay_s=0.001, loss=0.005, reorder=0.02))
    with Lab.create(LabTopology(public=(PublicMachine(LEFT), PublicMachine(RIGHT), far))) as made:
        yield made


@contextmanager
def tunnel(
    left: Machine,
    right: Machine,
    headers: tuple[bool, bool],
    mtu: int,
    lacking: Sequence[int] = (),
) -> Iterator[Callable[[str], list[str]]]:
    """Run an engine on both machines, TUN and socket with offloads as asked for; yield a way to
    tell both a line (an MTU, or `stats`) and hear their answers. The left one's kernel is `lacking`
    options of UDP sockets."""
    with ExitStack() as stack:
        engines = []
        for number, (machine, other) in enumerate(((left, right), (right, left)), 1):
            wanted = "1" if headers[number - 1] else "0"
            argv = [*PROGRAM, "engine", str(number), other.address, wanted, str(mtu)]
            if lacking and machine is left:
                argv = older(lacking, *argv)
            pipe = subprocess.PIPE
            engine = stack.enter_context(machine.popen(argv, stdin=pipe, stdout=pipe))
            engines.append(engine)
        for engine, wanted_header, lacks in zip(engines, headers, (lacking, ()), strict=True):
            assert engine.stdout is not None
            offloads = json.loads(engine.stdout.readline())
            assert offloads["tun_tcp"] == wanted_header
            assert offloads["tun_big"] == (wanted_header and TAKES_BIG)
            assert offloads["udp_send"] == (UDP_SEGMENT not in lacks)
            assert offloads["udp_receive"] == (UDP_GRO not in lacks)

        def tell(line: str) -> list[str]:
            answers = []
            for engine in engines:
                assert engine.stdin is not None
                assert engine.stdout is not None
                engine.stdin.write(f"{line}\n")
                engine.stdin.flush()
                answers.append(engine.stdout.readline())
            return answers

        yield tell
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


@pytest.mark.parametrize("headers", [(True, True), (True, False)])
def test_streams_to_this_host_cross_in_big_packets(lab: Lab, headers: tuple[bool, bool]) -> None:
    left, right = lab.machine(LEFT), lab.machine(RIGHT)
    with tunnel(left, right, headers, 1420) as tell:
        wanted = [header and TAKES_BIG for header in headers]
        found = [False, False]
        for _ in range(BULKS):
            assert transfer(left, right, "100.64.0.2")
            assert transfer(right, left, "100.64.0.1")
            found = [json.loads(answer)["tun_tx_big"] > 0 for answer in tell("stats")]
            if found == wanted:
                break
        assert found == wanted


@pytest.mark.parametrize("lacking", [(UDP_GRO,), (UDP_SEGMENT,), (UDP_GRO, UDP_SEGMENT)])
def test_a_kernel_without_trains_of_datagrams(lab: Lab, lacking: tuple[int, ...]) -> None:
    left, right = lab.machine(LEFT), lab.machine(RIGHT)
    with tunnel(left, right, (True, True), 1420, lacking):
        assert transfer(left, right, "100.64.0.2")
        assert transfer(right, left, "fd00::1")


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


class Ends:
    """Programs at both ends of a tunnel, for many transfers in a row."""

    def __init__(self, left: Machine, right: Machine, stack: ExitStack) -> None:
        ends = (("connect", left, 1), ("listen", right, 2))
        self._programs = []
        self._number = 0
        for role, machine, own in ends:
            addresses = [
                f"{prefix}{n}" for prefix in ("100.64.0.", "fd00::") for n in (own, 3 - own)
            ]
            pipe = subprocess.PIPE
            program = machine.popen([*SWEEP, role, *addresses], stdin=pipe, stdout=pipe)
            self._programs.append(stack.enter_context(program))
        for program in self._programs:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._programs:
            assert program.stdin is not None
            program.stdin.close()

    def transfer(self, mtu: int, *, ipv6: bool, lossy: bool) -> str:
        """Send data both ways; say what is wrong with what arrived."""
        self._number += 1
        seed = f"{SEED} {mtu}"
        order = sweep_end.Order(self._number, seed, mtu, ipv6, 0.05 if lossy else 3.0)
        for program in self._programs:
            assert program.stdin is not None
            program.stdin.write(json.dumps(asdict(order)) + "\n")
            program.stdin.flush()
        results = []
        for program in self._programs:
            assert program.stdout is not None
            line = program.stdout.readline()
            assert line, f"an end failed at {order}"
            results.append(sweep_end.Result(**json.loads(line)))
        there, back = results
        return describe(there, back, lossy) or describe(back, there, lossy)


def describe(sender: sweep_end.Result, receiver: sweep_end.Result, lossy: bool) -> str:
    """Say what is wrong with what came from one end to the other, if anything."""
    assert sender.stream_sent == receiver.stream_received, "the stream has changed"
    sent, received = sender.datagrams_sent, receiver.datagrams_received
    assert set(received) <= set(sent), "a datagram has changed"
    assert len(set(received)) == len(received), "a datagram came twice"
    if lossy:
        return "" if 2 * len(received) >= len(sent) else f"{len(received)} datagrams of {len(sent)}"
    order = [sent.index(digest) for digest in received]
    assert order == sorted(order), f"datagrams were mixed up: {order}"
    missing = [number for number, digest in enumerate(sent) if digest not in received]
    return f"datagrams {missing} are missing" if missing else ""


def combination(mtu: int) -> tuple[tuple[bool, bool], bool, bool]:
    """Return the headers, whether the line is lossy, and whether IPv6 is used at an MTU.

    Each comes up at each remainder of 16, by which packets are padded, 30 times or more.
    """
    block = mtu // 16
    return HEADERS[block % 4], block // 4 % 2 == 1, block // 8 % 2 == 1


@pytest.mark.soak
@pytest.mark.parametrize("far", [False, True], ids=["quiet", "lossy"])
@pytest.mark.parametrize("headers", HEADERS)
def test_every_mtu(
    lab: Lab, headers: tuple[bool, bool], far: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    left, right = lab.machine(LEFT), lab.machine(FAR if far else RIGHT)
    mtus = [mtu for mtu in MTUS if combination(mtu)[:2] == (headers, far)]
    name = f"seed {SEED}, TUN headers {headers}, {'lossy' if far else 'quiet'}"
    repeated = []
    began_at = time.monotonic()
    with tunnel(left, right, headers, mtus[0]) as tell, ExitStack() as stack:
        ends = stack.enter_context(Ends(left, right, stack))
        for done, mtu in enumerate(mtus):
            assert tell(str(mtu)) == [f"mtu {mtu}\n"] * 2
            try:
                for _ in range(TRIES):
                    wrong = ends.transfer(mtu, ipv6=combination(mtu)[2], lossy=far)
                    if not wrong:
                        break
                    repeated.append((mtu, wrong))
                assert not wrong, wrong
            except AssertionError as error:
                raise AssertionError(f"MTU {mtu}, {name}: {error}") from error
            if done % PROGRESS_STEP == 0 or mtu == mtus[-1]:
                with capsys.disabled():
                    took = f"{time.monotonic() - began_at:.0f} s"
                    print(f"{name}: {done + 1} of {len(mtus)} MTUs, {took}; repeated: {repeated}")


def test_a_stream_survives_loss_and_reordering(lab: Lab) -> None:
    left, far = lab.machine(LEFT), lab.machine(FAR)
    with tunnel(left, far, (True, True), 1420):
        assert transfer(left, far, "100.64.0.2", datagrams=0)
