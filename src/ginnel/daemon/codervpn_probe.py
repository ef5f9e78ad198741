"""Checks a tunnel's or a manager's CoderVPN step by step, from outside: `ginnel codervpn probe`.

The program under test runs as a child on two pipes (`--rpc-read-fd 3 --rpc-write-fd 4` are added to
its command). The probe plays the other role with plain blocking reads and writes, so that a fault
of our own shell can't hide one of theirs; only the codecs are shared.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from ginnel.base.errors import GinnelError, RemoteProtocolError, SystemFailure
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.frame import FrameReader, encode_frame
from ginnel.codervpn.header import (
    MAX_HEADER_SIZE,
    Dialect,
    Header,
    Role,
    Version,
    format_header,
    negotiate,
    parse_header,
)
from ginnel.codervpn.messages import is_known
from ginnel.codervpn.speaker import HANDSHAKE_TIMEOUT, REQUEST_TIMEOUT

# Seconds for the first byte of a program that just starts, and for one answer: a manager waits as
# long for it, and who tests must not be stricter. A header that has begun has the handshake's 5.
STEP_TIMEOUT = REQUEST_TIMEOUT
_READ_FD, _WRITE_FD = 3, 4  # the child's
_SAFE_FD = 64  # above the child's numbers
_DEFAULT_VERSION = Version(1, 3)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was checked; `problem` None means as it should be."""

    name: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """What is probed, and how the probe speaks."""

    command: Sequence[str]
    role: Role  # the program's
    dialect: Dialect = Dialect.SEED
    version: Version = _DEFAULT_VERSION
    token: str = field(default="probe", repr=False)
    must_start: bool = False  # the token is a real one
    url: str = "https://probe.invalid"
    is_thorough: bool = True  # False: the whole conversation only, one child

    def run(self) -> list[Step]:
        """Run all steps; each of the last ones has a new child."""
        checks = self._tunnel_steps() if self.role is Role.TUNNEL else self._manager_steps()
        steps = self._whole_conversation(checks)
        for name, data in self._bad_beginnings() if self.is_thorough else ():
            steps.append(self._step(name, partial(self._is_cut_off, data)))
        return steps

    def _whole_conversation(self, checks: Sequence[tuple[str, _Check]]) -> list[Step]:
        steps: list[Step] = []
        try:
            with _child(self.command) as talk:
                for name, check in (("header", self._exchange_headers), *checks):
                    step = self._step(name, partial(check, talk))
                    steps.append(step)
                    if step.problem is not None:
                        break
        except OSError as error:
            steps.append(Step("start the program", error.strerror or str(error)))
        return steps

    @staticmethod
    def _step(name: str, check: Callable[[], None]) -> Step:
        try:
            check()
        except (GinnelError, OSError) as error:
            return Step(name, str(error))
        return Step(name)

    def _exchange_headers(self, talk: _Talk) -> None:
        talk.write(format_header(Header(self.role.other, (self.version,), self.dialect)))
        header = parse_header(talk.read_line())
        if header.role is not self.role:
            raise RemoteProtocolError(f"it says that it is a {header.role.value}")
        talk.version = negotiate((self.version,), header.versions)
        if self.role is Role.TUNNEL and header.dialect is not self.dialect:
            raise RemoteProtocolError(f"it answers in the {header.dialect.value} dialect")

    def _bad_beginnings(self) -> list[tuple[str, bytes]]:
        ours = format_header(Header(self.role.other, (self.version,), self.dialect))
        foreign = Header(self.role.other, (Version(99, 0),), self.dialect)
        return [
            (
                "a header of its own role",
                format_header(Header(self.role, (self.version,), self.dialect)),
            ),
            ("no common version", format_header(foreign)),
            ("silence in place of a header", b""),
            ("no header at all", b"GET / HTTP/1.1\r\n\r\n"),
            ("a header without end", b"codervpn " + b"x" * (2 * MAX_HEADER_SIZE)),
            ("a frame over the limit", ours + b"\x01\x00\x00\x01"),
            ("a frame that is no protobuf", ours + b"\x00\x00\x00\x01\xff"),
            ("the end in mid-frame", ours + b"\x00\x00"),
        ]

    def _is_cut_off(self, data: bytes) -> None:
        with _child(self.command) as talk:
            with contextlib.suppress(BrokenPipeError):
                talk.write(data)
            if data.endswith(b"\x00\x00"):
                talk.close_writing()
            talk.read_to_end()

    # We are the manager

    def _tunnel_steps(self) -> list[tuple[str, _Check]]:
        steps: list[tuple[str, _Check]] = [
            ("a full update before Start", _full_update),
            ("Start without URL and token is refused", _empty_start),
            ("Start is answered", self._start),
            ("two requests at once", _two_at_once),
            ("a request in single bytes", _byte_by_byte),
            ("an empty message, an unknown request, a stray response", _strays),
        ]
        if is_known("wake", self.version):
            steps.append(("Wake is answered", _wake))
        return [*steps, ("Stop is answered, then its side is closed", _stop)]

    def _start(self, talk: _Talk) -> None:
        request = pb.StartRequest(
            tunnel_file_descriptor=-1, coder_url=self.url, api_token=self.token
        )
        answer = talk.answer_of(talk.ask(pb.ManagerMessage(start=request)))
        if not answer.HasField("start"):
            raise RemoteProtocolError("the answer is no StartResponse")
        if not answer.start.success:
            if not answer.start.error_message:
                raise RemoteProtocolError("it failed without a reason")
            if self.must_start:
                raise RemoteProtocolError(f"it did not start: {answer.start.error_message}")

    # We are the tunnel

    def _manager_steps(self) -> list[tuple[str, _Check]]:
        return [
            ("Start comes with an id", _await_start),
            ("network settings are answered", _settings),
            ("a log record and an update are not answered", _one_way),
            ("Start's answer is taken, and our end too", _answer_start_and_leave),
        ]


_Check = Callable[["_Talk"], None]


class _Talk:
    """One conversation: blocking, with a limit for each wait."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.version = Version(1, 0)
        self.start_id = 0
        self._read_fd = read_fd
        self._write_fd: int | None = write_fd
        self._frames = FrameReader()
        self._next_id = 1

    def write(self, data: bytes) -> None:
        assert self._write_fd is not None
        view = memoryview(data)
        while view:
            view = view[os.write(self._write_fd, view) :]

    def close_writing(self) -> None:
        if self._write_fd is not None:
            os.close(self._write_fd)
            self._write_fd = None

    def read_line(self) -> bytes:
        line = self._read(1)
        ends_at = time.monotonic() + HANDSHAKE_TIMEOUT
        while len(line) <= MAX_HEADER_SIZE:
            data = self._read(1, HANDSHAKE_TIMEOUT, ends_at)
            if data == b"\n":
                return line
            if not data:
                raise RemoteProtocolError(f"the stream ended in the header: {line!r}")
            line += data
        raise RemoteProtocolError("the header is too long")

    def read_to_end(self) -> None:
        ends_at = time.monotonic() + STEP_TIMEOUT
        while self._read(65_536, STEP_TIMEOUT, ends_at):
            pass

    def ask(self, message: pb.ManagerMessage) -> int:
        message.rpc.msg_id = self._next_id
        self._next_id += 1
        self.write(encode_frame(message.SerializeToString()))
        return int(message.rpc.msg_id)

    def answer_of(self, request: int) -> pb.TunnelMessage:
        """Return the response; settings are granted, one-way messages skipped."""
        while True:
            message = self.next_message()
            if message.rpc.response_to == request:
                if message.rpc.msg_id:
                    raise RemoteProtocolError("a response with both ids")
                return message
            if message.rpc.response_to:
                raise RemoteProtocolError(f"a response to {message.rpc.response_to}, not asked")
            if message.rpc.msg_id:
                self._grant(message)

    def next_message(self) -> pb.TunnelMessage:
        message = pb.TunnelMessage()
        message.ParseFromString(self.next_frame())
        return message

    def next_frame(self) -> bytes:
        while (body := self._frames.next_frame()) is None:
            data = self._read(65_536)
            if not data:
                raise RemoteProtocolError("the stream ended")
            self._frames.feed(data)
        return body

    def _grant(self, request: pb.TunnelMessage) -> None:
        if request.WhichOneof("msg") != "network_settings":
            raise RemoteProtocolError(
                f"a request that tunnels don't make: {request.WhichOneof('msg')}"
            )
        answer = pb.ManagerMessage(network_settings=pb.NetworkSettingsResponse(success=True))
        answer.rpc.response_to = request.rpc.msg_id
        self.write(encode_frame(answer.SerializeToString()))

    def _read(self, size: int, limit: float = STEP_TIMEOUT, ends_at: float | None = None) -> bytes:
        left = limit if ends_at is None else max(0.0, ends_at - time.monotonic())
        if not select.select([self._read_fd], [], [], left)[0]:
            raise SystemFailure(f"not within {limit:g} s")
        return os.read(self._read_fd, size)


def _full_update(talk: _Talk) -> None:
    request = talk.ask(pb.ManagerMessage(get_peer_update=pb.GetPeerUpdate()))
    if not talk.answer_of(request).HasField("peer_update"):
        raise RemoteProtocolError("the answer is no PeerUpdate")


def _empty_start(talk: _Talk) -> None:
    answer = talk.answer_of(talk.ask(pb.ManagerMessage(start=pb.StartRequest()))).start
    if answer.success or not answer.error_message:
        raise RemoteProtocolError("it succeeded, or gave no reason")


def _two_at_once(talk: _Talk) -> None:
    first = talk.ask(pb.ManagerMessage(get_peer_update=pb.GetPeerUpdate()))
    second = talk.ask(pb.ManagerMessage(get_peer_update=pb.GetPeerUpdate()))
    answered: list[int] = []
    while len(answered) < 2:
        message = talk.next_message()
        if message.rpc.response_to:
            answered.append(message.rpc.response_to)
    if sorted(answered) != [first, second]:
        raise RemoteProtocolError(f"the answers are to {answered}")


def _byte_by_byte(talk: _Talk) -> None:
    message = pb.ManagerMessage(get_peer_update=pb.GetPeerUpdate())
    message.rpc.msg_id = 1_000_000
    for byte in encode_frame(message.SerializeToString()):
        talk.write(bytes([byte]))
    talk.answer_of(1_000_000)


def _strays(talk: _Talk) -> None:
    talk.write(encode_frame(b""))
    talk.write(encode_frame(bytes.fromhex("0a04 0880897a 7a00".replace(" ", ""))))  # field 15
    talk.write(encode_frame(bytes.fromhex("0a04 1080897a".replace(" ", ""))))
    _full_update(talk)


def _wake(talk: _Talk) -> None:
    if not talk.answer_of(talk.ask(pb.ManagerMessage(wake=pb.WakeRequest()))).wake.success:
        raise RemoteProtocolError("it failed")


def _stop(talk: _Talk) -> None:
    if not talk.answer_of(talk.ask(pb.ManagerMessage(stop=pb.StopRequest()))).stop.success:
        raise RemoteProtocolError("it failed")
    talk.read_to_end()


def _await_start(talk: _Talk) -> None:
    message = pb.ManagerMessage()
    message.ParseFromString(talk.next_frame())
    if not message.HasField("start") or not message.rpc.msg_id or message.rpc.response_to:
        raise RemoteProtocolError("the first message is no Start with an id")
    talk.start_id = message.rpc.msg_id


def _settings(talk: _Talk) -> None:
    request = pb.TunnelMessage(network_settings=pb.NetworkSettingsRequest(mtu=1))
    request.rpc.msg_id = 7
    talk.write(encode_frame(request.SerializeToString()))
    answer = pb.ManagerMessage()
    answer.ParseFromString(talk.next_frame())
    if answer.rpc.response_to != 7 or not answer.HasField("network_settings"):
        raise RemoteProtocolError("no NetworkSettingsResponse to our request")
    if not answer.network_settings.success and not answer.network_settings.error_message:
        raise RemoteProtocolError("a refusal without a reason")


def _one_way(talk: _Talk) -> None:
    talk.write(encode_frame(pb.TunnelMessage(log=pb.Log(message="probe")).SerializeToString()))
    update = pb.TunnelMessage(peer_update=pb.PeerUpdate())
    talk.write(encode_frame(update.SerializeToString()))
    _settings(talk)  # the next that it says is the answer to this


def _answer_start_and_leave(talk: _Talk) -> None:
    answer = pb.TunnelMessage(start=pb.StartResponse(success=True))
    answer.rpc.response_to = talk.start_id
    talk.write(encode_frame(answer.SerializeToString()))
    talk.close_writing()
    talk.read_to_end()


@contextlib.contextmanager
def _child(command: Sequence[str]) -> Iterator[_Talk]:
    """Run the program on two pipes; end it afterwards."""
    their_read, our_write = os.pipe()
    our_read, their_write = os.pipe()
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _SAFE_FD) for fd in (their_read, their_write)]
    argv = [*command, "--rpc-read-fd", str(_READ_FD), "--rpc-write-fd", str(_WRITE_FD)]
    talk = _Talk(our_read, our_write)
    pid = None
    previous = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        pid = os.posix_spawnp(
            argv[0],
            argv,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, high[0], _READ_FD),
                (os.POSIX_SPAWN_DUP2, high[1], _WRITE_FD),
            ],
            setsigdef=[signal.SIGPIPE],
        )
        for descriptor in (their_read, their_write, *high):
            os.close(descriptor)
        high.clear()
        yield talk
    finally:
        signal.signal(signal.SIGPIPE, previous)
        talk.close_writing()
        os.close(our_read)
        if pid is None:
            for descriptor in (their_read, their_write, *high):
                os.close(descriptor)
        else:
            _end(pid)


def _end(pid: int) -> None:
    """Wait for a child that has lost its stream; kill it if it stays."""
    watch = os.pidfd_open(pid)
    try:
        if not select.select([watch], [], [], STEP_TIMEOUT)[0]:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    finally:
        os.close(watch)
