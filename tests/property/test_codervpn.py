"""Two cores joined by a stream that splits, delays and breaks as Hypothesis likes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Secret
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.frame import FrameReader, encode_frame
from ginnel.codervpn.header import Dialect, Header, Role, Version, format_header, parse_header
from ginnel.codervpn.manager_role import Answered, ManagerCore, SettingsRequested
from ginnel.codervpn.messages import LogLevel, LogRecord, Start
from ginnel.codervpn.speaker import LEAVE_TIMEOUT, StreamClosed
from ginnel.codervpn.tunnel_role import (
    SettingsAnswered,
    StartRequested,
    StopRequested,
    TunnelCore,
)


@given(st.lists(st.binary(max_size=50), max_size=10), st.lists(st.integers(1, 20)))
def test_frames_come_out_however_the_stream_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    data = b"".join(encode_frame(body) for body in bodies)
    reader = FrameReader()
    found = []
    while data:
        size = cuts.pop() if cuts else 7
        reader.feed(data[:size])
        data = data[size:]
        while (body := reader.next_frame()) is not None:
            found.append(body)
    assert found == bodies
    assert not reader.is_partial


@given(
    st.sampled_from(Role),
    st.lists(st.integers(1, 99), min_size=1, max_size=20, unique=True),
    st.integers(0, 99),
)
def test_headers_come_back(role: Role, majors: list[int], minor: int) -> None:
    versions = tuple(Version(major, minor) for major in sorted(majors))
    header = Header(role, versions, Dialect.SHIPPED)
    assert parse_header(format_header(header)[:-1]) == header


@given(st.binary(max_size=300))
def test_any_line_is_a_header_or_a_protocol_error(line: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert parse_header(line).versions


@given(st.booleans(), st.lists(st.binary(max_size=60), max_size=20), st.booleans())
def test_hostile_bytes_never_raise_and_end_at_most_once(
    is_manager: bool, chunks: list[bytes], is_framed: bool
) -> None:
    core = ManagerCore(now=0.0) if is_manager else TunnelCore(now=0.0)
    request = core.stop(now=0.0) if isinstance(core, ManagerCore) else None
    core.handle_bytes(
        b"codervpn 1.3 tunnel\n" if is_manager else b"codervpn 1.3 manager\n", now=0.0
    )
    for chunk in chunks:
        core.handle_bytes(encode_frame(chunk) if is_framed else chunk, now=0.0)
    core.handle_eof(now=0.0)
    core.handle_timeout(now=LEAVE_TIMEOUT)  # for requests among them, which nobody answers
    events: list[object] = []
    while (event := core.poll_event()) is not None:
        events.append(event)
    assert sum(isinstance(event, StreamClosed) for event in events) == 1
    if request is not None:
        assert sum(isinstance(e, Answered) and e.request == request for e in events) == 1


class Pair:
    """Both cores and the bytes between them; counts what was asked and what was answered."""

    def __init__(self, dialect: Dialect, minors: tuple[int, int]) -> None:
        above, below = ((Version(1, minor),) for minor in minors)
        self.manager = ManagerCore(now=0.0, dialect=dialect, versions=above)
        self.tunnel = TunnelCore(now=0.0, versions=below)
        self.wires = {self.manager: bytearray(), self.tunnel: bytearray()}  # to each
        self.open: dict[tuple[str, int], int] = {}
        self.now = 0.0

    def drain(self) -> None:
        for sender, receiver in ((self.manager, self.tunnel), (self.tunnel, self.manager)):
            while data := sender.poll_transmit():
                self.wires[receiver] += data
        while (below := self.tunnel.poll_event()) is not None:
            if isinstance(below, StartRequested):
                self.tunnel.finish_start(None)
            elif isinstance(below, StopRequested):
                self.tunnel.finish_stop()
            elif isinstance(below, SettingsAnswered):
                self.open[("tunnel", below.request)] -= 1
        while (above := self.manager.poll_event()) is not None:
            if isinstance(above, SettingsRequested):
                self.manager.finish_settings(above.request, None)
            elif isinstance(above, Answered):
                self.open[("manager", above.request)] -= 1

    def step(self, action: str, size: int) -> None:
        manager, tunnel = self.manager, self.tunnel
        if action == "start":
            self.ask("manager", manager.start(Start(4, "u", Secret(b"t")), now=self.now))
        elif action == "stop":
            self.ask("manager", manager.stop(now=self.now))
        elif action == "wake":
            self.ask("manager", manager.wake(now=self.now, timeout=size))
        elif action == "peers":
            self.ask("manager", manager.get_peers(now=self.now))
        elif action == "settings":
            request = tunnel.request_settings(pb.NetworkSettingsRequest(mtu=size), now=self.now)
            self.ask("tunnel", request)
        elif action == "cancel":
            manager.speaker.cancel(max((request for _, request in self.open), default=0))
        elif action == "log":
            tunnel.write_log(LogRecord(LogLevel.INFO, "x" * size))
        elif action == "wait":
            self.now += size
            manager.handle_timeout(now=self.now)
            tunnel.handle_timeout(now=self.now)
        else:
            core = manager if action == "up" else tunnel
            data = bytes(self.wires[core][:size])
            del self.wires[core][:size]
            core.handle_bytes(data, now=self.now)
        self.drain()

    def ask(self, who: str, request: int) -> None:
        self.open[(who, request)] = self.open.get((who, request), 0) + 1


ACTIONS = ["start", "stop", "wake", "peers", "settings", "cancel", "log", "wait", "up", "down"]
STEP = st.tuples(st.sampled_from([*ACTIONS, "up", "down", "up", "down"]), st.integers(0, 40))


MINORS = st.tuples(st.integers(0, 3), st.integers(0, 3))  # of both sides' versions
RUNS = (st.sampled_from(Dialect), MINORS, st.lists(STEP, max_size=60), st.booleans())


@settings(max_examples=400)
@given(*RUNS)
def test_every_request_ends_exactly_once(
    dialect: Dialect, minors: tuple[int, int], steps: list[tuple[str, int]], is_hung_up: bool
) -> None:
    check_run(Pair(dialect, minors), steps, is_hung_up)


@pytest.mark.soak
@settings(max_examples=10_000)
@given(*RUNS)
def test_every_request_ends_exactly_once_in_ten_thousand_runs(
    dialect: Dialect, minors: tuple[int, int], steps: list[tuple[str, int]], is_hung_up: bool
) -> None:
    check_run(Pair(dialect, minors), steps, is_hung_up)


def check_run(pair: Pair, steps: list[tuple[str, int]], is_hung_up: bool) -> None:
    pair.drain()
    for action, size in steps:
        pair.step(action, size)
    if not is_hung_up:
        for _ in range(4):
            pair.step("up", 100_000)
            pair.step("down", 100_000)
        is_over = pair.manager.speaker.is_closed or pair.tunnel.speaker.is_closed
        if not is_over and "stop" not in (action for action, _ in steps):  # then a tunnel is silent
            assert all(count == 0 for count in pair.open.values())  # answered, not only released
    pair.manager.handle_eof(now=pair.now)
    pair.tunnel.handle_eof(now=pair.now)
    pair.drain()
    assert all(count == 0 for count in pair.open.values())
