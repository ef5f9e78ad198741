"""CORE: one end of a CoderVPN stream: header, frames, requests and their responses.

It gives each request an id, finds the request of each response (out of order, late), ends every
request in exactly one event, and keeps all queues bounded. What the messages ask for is the roles'
matter. Bytes never raise: a fault of the other side ends in one `StreamClosed` with its reason.

Source: seed 002; the rules of the shipped protocol 1.0 to 1.3.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from google.protobuf.message import DecodeError

from ginnel.base.core import TimerTable, earliest
from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.base.types import Deadline
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.frame import FrameReader, encode_frame
from ginnel.codervpn.header import (
    MAX_HEADER_SIZE,
    SUPPORTED_VERSIONS,
    Dialect,
    Header,
    Role,
    Version,
    format_header,
    negotiate,
    parse_header,
)
from ginnel.codervpn.messages import (
    RESPONSE_KINDS,
    Message,
    fit_to_version,
    hide_token,
    is_known,
    kind_of,
    new_message,
)
from ginnel.codervpn.weigh import MAX_VALUES, is_light

HANDSHAKE_TIMEOUT = 5.0  # seconds until both headers are there
SILENT_TIMEOUT = 1.0  # seconds a tunnel waits for a header to mirror before it sends the seed's
LEAVE_TIMEOUT = 5.0  # seconds for our answers to who has ended its writing
REQUEST_TIMEOUT = 30.0  # seconds; network settings of a slow machine take some
MAX_SENT_REQUESTS = 256  # open at once; control traffic is light
MAX_RECEIVED_REQUESTS = 256  # unanswered at once; more is an attack or a fault
MAX_QUEUED_NOTICES = 1024  # frames waiting for the stream; then one-way messages are dropped
MAX_QUEUED = 2 * MAX_QUEUED_NOTICES  # frames with responses; who asks on without reading is cut off
MAX_QUEUED_BYTES = 4 * 1024 * 1024  # the same bound in bytes

log = logging.getLogger(__name__)


class Drop(Enum):
    """Why a message of the other side led to nothing."""

    EMPTY = "message without content"
    UNKNOWN_RESPONSE = "response to no open request"
    DOUBLE_REQUEST = "request id in use"
    TOO_NEW = "request newer than the version agreed on"
    TOO_LARGE = "message of ours over the frame's limit"
    TOO_LATE = "request after our last frame"
    UNEXPECTED = "message that this role doesn't take"
    OUT_OF_BOUNDS = "field beyond its limit"


class Failure(Enum):
    """Why a request got no response."""

    TIMEOUT = "no response in time"
    CLOSED = "stream closed"
    NOT_NEGOTIATED = "the other side's version doesn't know it"
    WRONG_KIND = "response of another kind"
    TOO_LARGE = "over the frame's limit"
    TOO_MANY = "too many open requests"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Negotiated:
    """Both headers are there; from now on messages flow."""

    version: Version
    dialect: Dialect


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """The other side asks; answer with `respond(msg_id, ...)`."""

    msg_id: int
    kind: str
    message: Message = field(repr=False)


@dataclass(frozen=True, slots=True)
class NoticeReceived:
    """A one-way message."""

    kind: str
    message: Message = field(repr=False)


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """The answer to our request."""

    request: int
    kind: str
    message: Message = field(repr=False)


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """Our request ended without an answer."""

    request: int
    reason: Failure


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """The stream is over; `error` is None after a clean end. The last event."""

    error: str | None


SpeakerEvent: TypeAlias = (
    Negotiated | RequestReceived | NoticeReceived | ResponseReceived | RequestFailed | StreamClosed
)


class _Timer(Enum):
    HANDSHAKE = 1
    SILENT = 2
    LEAVE = 3


@dataclass(frozen=True, slots=True)
class _Sent:
    kind: str
    due_at: float


class Speaker:
    """The protocol of one stream; a shell moves its bytes.

    `now` is monotonic seconds. `dialect` is the form of our header: a manager sends it at once, a
    tunnel (dialect None) mirrors the manager's and falls back to the seed's. Where the other side's
    process is only just started, `silence_timeout` may be more than the handshake's 5 s: it holds
    until the first byte, and from there on the handshake has its 5 s.
    """

    def __init__(
        self,
        role: Role,
        *,
        now: float,
        dialect: Dialect | None = None,
        versions: Sequence[Version] = SUPPORTED_VERSIONS,
        silence_timeout: float = HANDSHAKE_TIMEOUT,
    ) -> None:
        self.role = role
        self._silence_timeout = silence_timeout
        self.drops: dict[Drop, int] = dict.fromkeys(Drop, 0)
        self.lost_notices = 0  # one-way messages that found the queue full
        self.version: Version | None = None
        self.dialect = dialect or Dialect.SEED
        self._versions = tuple(versions)
        self._timers: TimerTable[_Timer] = TimerTable()
        self._timers.set(_Timer.HANDSHAKE, now + silence_timeout)
        self._events: deque[SpeakerEvent] = deque()
        self._transmits: deque[bytes] = deque()
        self._queued_bytes = 0
        self._waiting: deque[tuple[Message, int]] = deque()  # until the versions are known
        self._header = bytearray()
        self._frames = FrameReader()
        self._next_id = 1
        self._sent: dict[int, _Sent] = {}
        self._received: dict[int, str] = {}
        self._is_header_sent = False
        self._is_writing_over = False
        self._is_reading_over = False
        self.is_closed = False
        if role is Role.MANAGER or dialect is not None:
            self._send_header(self.dialect)
        else:
            self._timers.set(_Timer.SILENT, now + SILENT_TIMEOUT)

    # The five verbs

    def handle_bytes(self, data: bytes, *, now: float) -> None:
        """Take bytes of the stream, split anywhere."""
        if self.is_closed:
            return
        try:
            if self.version is None:
                data = self._read_header(data, now)
            self._frames.feed(data)
            while self.version is not None and not self.is_closed:
                body = self._frames.next_frame()
                if body is None:
                    break
                self._on_frame(body)
        except RemoteProtocolError as error:
            self._finish(str(error))

    def handle_eof(self, *, now: float) -> None:
        """Take the end of the stream; what a manager asked before it is still answered, if soon.

        A tunnel that ended its writing is on its way out: nothing is done for it any more.
        """
        if self.version is None:
            self._finish("the stream ended before the header")
        elif self._frames.is_partial:
            self._finish("the stream ended in the middle of a frame")
        elif self._received and self.role is Role.TUNNEL:
            self._is_reading_over = True
            self._timers.set(_Timer.LEAVE, now + LEAVE_TIMEOUT)
            for request in list(self._sent):
                self._fail(request, Failure.CLOSED)
        else:
            self._finish(None)

    def handle_timeout(self, *, now: float) -> None:
        """Send the header of a silent start, give up a handshake, fail requests that are due."""
        for timer in self._timers.expire(now):
            if timer is _Timer.SILENT:
                self._send_header(Dialect.SEED)
            elif timer is _Timer.LEAVE:
                self._finish(None)
            else:
                limit = HANDSHAKE_TIMEOUT if self._header else self._silence_timeout
                self._finish(f"no header within {limit:g} s")
        for request in [key for key, sent in self._sent.items() if sent.due_at <= now]:
            self._fail(request, Failure.TIMEOUT)

    def poll_transmit(self) -> bytes | None:
        """Return the next bytes to write: whole lines or frames; call only when there is room."""
        if not self._transmits:
            if self._is_reading_over and not self._received:
                self._finish(None)  # the last answer is written
            return None
        data = self._transmits.popleft()
        self._queued_bytes -= len(data)
        return data

    def poll_event(self) -> SpeakerEvent | None:
        """Return the next event, or None."""
        return self._events.popleft() if self._events else None

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        due = min((sent.due_at for sent in self._sent.values()), default=None)
        return earliest(self._timers.deadline(), None if due is None else Deadline(due, "response"))

    # Commands

    def request(self, message: Message, *, now: float, timeout: float = REQUEST_TIMEOUT) -> int:
        """Send a request and return its id; ends in one ResponseReceived or RequestFailed."""
        request = self._next_id
        self._next_id += 1
        kind = kind_of(message)
        if kind is None:
            raise UsageError("a request needs content")
        self._sent[request] = _Sent(kind, now + timeout)
        if self.is_closed or self._is_writing_over or self._is_reading_over:
            self._fail(request, Failure.CLOSED)
        elif len(self._sent) > MAX_SENT_REQUESTS:
            self._fail(request, Failure.TOO_MANY)
        else:
            message.rpc.msg_id = request
            self._send(message, request)
        return request

    def respond(self, msg_id: int, message: Message) -> bool:
        """Answer a request; False if it is not open (any more)."""
        if self._received.pop(msg_id, None) is None or self.is_closed or self._is_writing_over:
            return False
        message.rpc.response_to = msg_id
        self._send(message, 0)
        return True

    def notify(self, message: Message) -> bool:
        """Send a one-way message; False if it was dropped because the queue is full."""
        if self.is_closed or self._is_writing_over:
            return False
        if not self.has_room or len(self._waiting) >= MAX_QUEUED_NOTICES:
            self.lost_notices += 1
            return False
        message.ClearField("rpc")
        self._send(message, 0)
        return True

    def cancel(self, request: int) -> None:
        """Give up a request; its response will be dropped."""
        if request in self._sent:
            self._fail(request, Failure.CANCELLED)

    def end_writing(self) -> None:
        """Take no more messages to send; what is queued still goes out."""
        self._is_writing_over = True

    def close(self, error: str | None = None) -> None:
        """End the stream from our side; every open request fails."""
        self._finish(error)

    @property
    def is_write_finished(self) -> bool:
        """Say whether the last byte was polled and the shell should close its side for writing."""
        return (self._is_writing_over or self.is_closed) and not self._transmits

    @property
    def is_idle(self) -> bool:
        """Say whether all that was sent is written: a message would go out at once."""
        return self.version is not None and not self._transmits and not self.is_closed

    @property
    def has_room(self) -> bool:
        """Say whether the queue takes another one-way message."""
        return len(self._transmits) < MAX_QUEUED_NOTICES and self._queued_bytes < MAX_QUEUED_BYTES

    # Inside

    def _send_header(self, dialect: Dialect) -> None:
        if not self._is_header_sent:
            self.dialect = dialect
            self._is_header_sent = True
            self._queue(format_header(Header(self.role, self._versions, dialect)))

    def _read_header(self, data: bytes, now: float) -> bytes:
        self._timers.set_earlier(_Timer.HANDSHAKE, now + HANDSHAKE_TIMEOUT)  # it has started
        line, newline, rest = data.partition(b"\n")
        self._header += line
        if not newline and len(self._header) <= MAX_HEADER_SIZE:
            if not self._is_header_sent:
                self._timers.set(_Timer.SILENT, now + SILENT_TIMEOUT)  # it is speaking
            return b""
        try:
            header = parse_header(bytes(self._header))  # which refuses one that is too long
        except RemoteProtocolError:
            self._send_header(self.dialect)  # so that the other side can name the fault too
            raise
        if header.role is self.role:
            self._send_header(header.dialect)
            raise RemoteProtocolError(f"both sides are {self.role.value}")
        self._send_header(header.dialect)
        self.dialect = header.dialect if self.role is Role.TUNNEL else self.dialect
        self.version = negotiate(self._versions, header.versions)
        self._timers.stop(_Timer.HANDSHAKE)
        self._timers.stop(_Timer.SILENT)
        self._events.append(Negotiated(self.version, self.dialect))
        while self._waiting:
            self._send(*self._waiting.popleft())
        return rest

    def _send(self, message: Message, request: int) -> None:
        if self.version is None:
            self._waiting.append((message, request))
            return
        if request and request not in self._sent:
            return  # given up while it waited for the header
        if not fit_to_version(message, self.version, self.dialect):
            if request:
                self._fail(request, Failure.NOT_NEGOTIATED)
            return
        try:
            self._queue(encode_frame(message.SerializeToString()))
            if isinstance(message, pb.ManagerMessage) and message.HasField("start"):
                hide_token(message.start)
        except UsageError:
            self.count_drop(Drop.TOO_LARGE)
            if request:
                self._fail(request, Failure.TOO_LARGE)

    def _queue(self, data: bytes) -> None:
        self._transmits.append(data)
        self._queued_bytes += len(data)

    def _on_frame(self, body: bytes) -> None:
        message = new_message(self.role.other)
        if not is_light(body, message.DESCRIPTOR):
            raise RemoteProtocolError(f"a frame of more than {MAX_VALUES} values")
        try:
            message.ParseFromString(body)
        except DecodeError:
            raise RemoteProtocolError("a frame that is no protobuf message") from None
        kind = kind_of(message)
        if message.rpc.response_to:
            self._on_response(message.rpc.response_to, kind, message)
        elif kind is None:
            self.count_drop(Drop.EMPTY)
        elif message.rpc.msg_id:
            self._on_request(message.rpc.msg_id, kind, message)
        else:
            self._events.append(NoticeReceived(kind, message))

    def _on_response(self, request: int, kind: str | None, message: Message) -> None:
        sent = self._sent.get(request)
        if sent is None:
            self.count_drop(Drop.UNKNOWN_RESPONSE, kind)
        elif kind != RESPONSE_KINDS.get(sent.kind, sent.kind):
            self._fail(request, Failure.WRONG_KIND)
        else:
            del self._sent[request]
            self._events.append(ResponseReceived(request, kind, message))

    def _on_request(self, msg_id: int, kind: str, message: Message) -> None:
        if len(self._transmits) >= MAX_QUEUED or self._queued_bytes >= 2 * MAX_QUEUED_BYTES:
            raise RemoteProtocolError("it asks and does not read the answers")
        if msg_id in self._received:
            self.count_drop(Drop.DOUBLE_REQUEST, kind)
            return
        if len(self._received) >= MAX_RECEIVED_REQUESTS:
            raise RemoteProtocolError(f"more than {MAX_RECEIVED_REQUESTS} unanswered requests")
        if not is_known(kind, self.version):
            self.count_drop(Drop.TOO_NEW, kind)  # its response would be too: none is sent
            return
        if self._is_writing_over:
            self.count_drop(Drop.TOO_LATE, kind)
            return
        self._received[msg_id] = kind
        self._events.append(RequestReceived(msg_id, kind, message))

    def forget_request(self, msg_id: int) -> None:
        """Leave a request unanswered for good (of a kind that we don't know)."""
        self._received.pop(msg_id, None)

    def count_drop(self, reason: Drop, kind: str | None = None) -> None:
        """Count a message that led to nothing, or a field of one."""
        self.drops[reason] += 1
        log.debug("codervpn: dropped %s: %s", kind or "a message", reason.value)

    def _fail(self, request: int, reason: Failure) -> None:
        del self._sent[request]
        self._events.append(RequestFailed(request, reason))

    def _finish(self, error: str | None) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        for timer in _Timer:
            self._timers.stop(timer)
        for request in list(self._sent):
            self._fail(request, Failure.CLOSED)
        self._received.clear()
        self._waiting.clear()
        self._frames.clear()
        self._events.append(StreamClosed(None if self._is_reading_over else error))
