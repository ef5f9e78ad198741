"""Where log lines go: the journal in its native protocol when it is there, else stderr.

Remote text (a tunnel's, a child's) is not trusted: control characters are escaped, sizes and rates
bounded, and its fields get the prefix GINNEL_ so that they can't pass for the journal's own.

Source: systemd, "Native Journal Protocol".
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TextIO

from ginnel.base.limits import TokenBucket
from ginnel.codervpn.messages import LogLevel

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
MAX_MESSAGE = 8192  # characters of one line; the rest is cut off
MAX_FIELDS = 32  # of one record
MAX_RECORD = 64 * 1024  # bytes of message and fields; a datagram to the journal takes 208 KiB
MAX_FIELD_NAME = 56  # characters; the journal takes 64 with our prefix
RECORDS_PER_SECOND = 50.0  # of a tunnel that logs without end; a long one counts as several
RECORD_BURST = 1000.0
RECORD_SIZE = 1024  # characters of a record that counts once
MAX_FILE = 16 * 1024 * 1024  # bytes of a log file of ours, which may lie in memory (/run)
_OWN_FIELDS = ("PROCESS", "LEFT_OUT")  # ours to say

_PRIORITIES = {  # syslog's
    LogLevel.UNSPECIFIED: 6,
    LogLevel.DEBUG: 7,
    LogLevel.INFO: 6,
    LogLevel.WARN: 4,
    LogLevel.ERROR: 3,
    LogLevel.CRITICAL: 2,
    LogLevel.FATAL: 1,
}
_BY_LOGGING = (
    (logging.CRITICAL, LogLevel.CRITICAL),
    (logging.ERROR, LogLevel.ERROR),
    (logging.WARNING, LogLevel.WARN),
    (logging.INFO, LogLevel.INFO),
)
# C0, DEL, C1, line separators, and what turns the direction of text
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_control(text: str, limit: int = MAX_MESSAGE) -> str:
    """Return the text with control characters as `\\xNN` or `\\uNNNN`, cut at `limit`."""
    return _CONTROL.sub(_escape, text[:limit])


def level_of(levelno: int) -> LogLevel:
    """Return the protocol's level of a level of `logging`."""
    return next((level for least, level in _BY_LOGGING if levelno >= least), LogLevel.DEBUG)


def split_level(line: str, default: LogLevel = LogLevel.WARN) -> tuple[LogLevel, str]:
    """Return level and text of a child's line (`WARNING text`), the whole line without a level."""
    word, _, text = line.partition(" ")
    levelno = logging.getLevelNamesMapping().get(word)
    return (default, line) if levelno is None else (level_of(levelno), text)


class LogSink:
    """Writes records of the manager and of its children to the journal, or to a text stream."""

    def __init__(
        self,
        identifier: str,
        *,
        journal: Path = JOURNAL_SOCKET,
        stream: TextIO | None = None,
        file: Path | None = None,
        least: LogLevel = LogLevel.INFO,
    ) -> None:
        """Make one; a stream that is `file`, opened to append, is begun anew when it is full."""
        self.identifier = identifier
        self.least = least
        self.lost = 0  # records that the journal, or the stream, didn't take
        self._stream = stream or sys.stderr
        self._is_bounded = file is not None and _is_same(self._stream, file)
        self._journal = _connect(journal)

    def write(
        self,
        level: LogLevel,
        message: str,
        *,
        source: str = "manager",
        fields: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Write one record; `source` says which process it is from."""
        if (LogLevel.INFO if level is LogLevel.UNSPECIFIED else level) < self.least:
            return
        message = escape_control(message)
        named = [(_field_name(name), value) for name, value in list(fields)[:MAX_FIELDS]]
        pairs = _fitting(message, [(name, escape_control(value)) for name, value in named if name])
        if self._journal is not None:
            self._write_journal(level, message, source, pairs)
            return
        tail = "".join(f" {name.lower()}={value}" for name, value in pairs)
        self._write_stream(f"{level.name.lower()} {source}: {message}{tail}\n")

    def close(self) -> None:
        """Say how many records were lost, if any, and close the journal's socket."""
        if self.lost:
            self.write(LogLevel.WARN, f"{self.lost} log records were lost")
        if self._journal is not None:
            self._journal.close()

    def _write_stream(self, line: str) -> None:
        try:
            if self._is_bounded and os.fstat(self._stream.fileno()).st_size > MAX_FILE:
                os.ftruncate(self._stream.fileno(), 0)
                self._stream.write("warn manager: this log was full, and was begun anew\n")
            self._stream.write(line)
            self._stream.flush()
        except OSError:
            self.lost += 1  # the disk is full, or nobody reads our stderr any more

    def _write_journal(
        self, level: LogLevel, message: str, source: str, pairs: Sequence[tuple[str, str]]
    ) -> None:
        assert self._journal is not None
        lines = [
            f"PRIORITY={_PRIORITIES[level]}",
            f"SYSLOG_IDENTIFIER={self.identifier}",
            f"GINNEL_PROCESS={source}",
            f"MESSAGE={source}: {message}",
            *(f"GINNEL_{name}={value}" for name, value in pairs),
        ]
        try:
            self._journal.send("\n".join([*lines, ""]).encode())
        except OSError:
            self.lost += 1


class RateLimited:
    """Lets a child's records through at a bounded rate and says how many it held back."""

    def __init__(self, sink: LogSink, source: str, *, now: float) -> None:
        self._sink = sink
        self._source = source
        self._bucket = TokenBucket(RECORDS_PER_SECOND, RECORD_BURST, now=now)
        self._held_back = 0

    def write(
        self,
        level: LogLevel,
        message: str,
        *,
        now: float,
        fields: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Write one record if the rate allows."""
        fields = list(fields)
        size = len(message) + sum(len(name) + len(value) for name, value in fields)
        written = min(size, MAX_RECORD)  # no more is, whatever was sent
        if not self._bucket.take(now=now, amount=1 + written // RECORD_SIZE):
            self._held_back += 1
            return
        if self._held_back:
            text = f"{self._held_back} log records were held back"
            self._sink.write(LogLevel.WARN, text, source=self._source)
            self._held_back = 0
        self._sink.write(level, message, source=self._source, fields=fields)


class SinkHandler(logging.Handler):
    """Passes records of `logging` to a function: `LogSink.write`, or `Tunnel.log`."""

    def __init__(self, write: Callable[[LogLevel, str, str], object]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        """Format one record and pass it on with its level and logger's name."""
        try:
            self._write(level_of(record.levelno), self.format(record), record.name)
        except (ValueError, TypeError):  # a format string that doesn't fit its arguments
            self.handleError(record)


def _connect(path: Path) -> socket.socket | None:
    if not path.exists():
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        return None
    return connection


def _is_same(stream: TextIO, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), file.stat())
    except (OSError, ValueError):  # no file, or a stream without a descriptor
        return False


def _fitting(message: str, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the fields that a record has room for, then how many it has none for."""
    room = MAX_RECORD - len(message.encode())
    kept: list[tuple[str, str]] = []
    for name, value in pairs:
        size = len(f"GINNEL_{name}={value}\n".encode())
        if size <= room:
            room -= size
            kept.append((name, value))
    left_out = len(pairs) - len(kept)
    return [*kept, ("LEFT_OUT", str(left_out))] if left_out else kept


def _field_name(name: str) -> str:
    letters = re.sub(r"[^A-Z0-9_]", "_", name.upper()[:MAX_FIELD_NAME]).lstrip("_")
    return f"{letters}_" if letters in _OWN_FIELDS else letters


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
