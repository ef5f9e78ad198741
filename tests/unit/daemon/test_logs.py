from __future__ import annotations

import errno
import io
import logging
import socket
from pathlib import Path

import pytest

from ginnel.codervpn.bounds import MAX_LOG_MESSAGE
from ginnel.codervpn.messages import LogLevel
from ginnel.daemon import logs
from ginnel.daemon.logs import (
    MAX_FIELDS,
    MAX_MESSAGE,
    RECORD_BURST,
    RECORD_SIZE,
    LogSink,
    RateLimited,
    SinkHandler,
    escape_control,
    level_of,
    split_level,
)

NOWHERE = Path("/nonexistent/journal")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢", "plain é 漢"),
        ("a\nb\x1b[31m\x7f", "a\\x0ab\\x1b[31m\\x7f"),
        ("\x9b1m", "\\x9b1m"),
        ("a\u2028b\u202ec", "a\\u2028b\\u202ec"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert escape_control(text) == shown


def test_without_a_journal_lines_go_to_the_stream() -> None:
    stream = io.StringIO()
    sink = LogSink("ginnel", journal=NOWHERE, stream=stream)
    sink.write(LogLevel.WARN, "one\ntwo", source="tunnel", fields=[("Peer Name", "pi\n"), ("", "")])
    sink.write(LogLevel.DEBUG, "not shown")
    sink.write(LogLevel.INFO, "x" * (MAX_MESSAGE + 1))
    sink.close()
    first, second = stream.getvalue().splitlines()
    assert first == "warn tunnel: one\\x0atwo peer_name=pi\\x0a"
    assert len(second) == MAX_MESSAGE + len("info manager: ")


def test_the_journal_gets_fields_that_cannot_pass_for_its_own(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        sink = LogSink("ginnel", journal=path)
        sink.write(
            LogLevel.ERROR,
            "down\n_UID=0",
            source="tunnel",
            fields=[
                ("_SYSTEMD_UNIT", "ssh"),
                ("MESSAGE", "a\nPRIORITY=0"),
                ("process", "manager"),
                ("_Process", "manager"),
            ],
        )
        lines = journal.recv(4096).decode().splitlines()
        sink.close()
    assert lines == [
        "PRIORITY=3",
        "SYSLOG_IDENTIFIER=ginnel",
        "GINNEL_PROCESS=tunnel",
        "MESSAGE=tunnel: down\\x0a_UID=0",
        "GINNEL_SYSTEMD_UNIT=ssh",
        "GINNEL_MESSAGE=a\\x0aPRIORITY=0",
        "GINNEL_PROCESS_=manager",
        "GINNEL_PROCESS_=manager",
    ]


PRIORITIES = {  # syslog(3)
    LogLevel.UNSPECIFIED: 6,
    LogLevel.DEBUG: 7,
    LogLevel.INFO: 6,
    LogLevel.WARN: 4,
    LogLevel.ERROR: 3,
    LogLevel.CRITICAL: 2,
    LogLevel.FATAL: 1,
}


@pytest.mark.parametrize("level", LogLevel)
def test_each_level_has_its_priority(tmp_path: Path, level: LogLevel) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        sink = LogSink("ginnel", journal=path, least=LogLevel.DEBUG)
        sink.write(level, "text")
        assert journal.recv(4096).decode().startswith(f"PRIORITY={PRIORITIES[level]}\n")
        sink.close()


def test_a_record_at_all_limits_reaches_the_journal_with_its_message_whole(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    text = "\x1b" * MAX_MESSAGE  # four bytes each, when escaped
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        sink = LogSink("ginnel", journal=path)
        fields = [(f"F{n}", text) for n in range(1, MAX_FIELDS)]
        sink.write(LogLevel.INFO, text, fields=[*fields, ("peer", "pi")])
        assert sink.lost == 0
        record = journal.recv(1 << 20)
        sink.close()
    lines = record.decode().splitlines()
    assert lines[3] == "MESSAGE=manager: " + "\\x1b" * MAX_MESSAGE
    assert lines[4:] == ["GINNEL_PEER=pi", f"GINNEL_LEFT_OUT={MAX_FIELDS - 1}"]


def test_lost_records_are_told_at_the_end() -> None:
    class Full(io.StringIO):
        is_full = True

        def write(self, text: str, /) -> int:
            if self.is_full:
                raise OSError(errno.ENOSPC, "full")
            return super().write(text)

    stream = Full()
    sink = LogSink("ginnel", journal=NOWHERE, stream=stream)
    sink.write(LogLevel.INFO, "one")
    sink.write(LogLevel.INFO, "two")
    stream.is_full = False
    sink.close()
    assert stream.getvalue() == "warn manager: 2 log records were lost\n"


def test_a_journal_that_is_gone_costs_the_line_only(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        sink = LogSink("ginnel", journal=path)
    sink.write(LogLevel.ERROR, "lost")
    assert sink.lost == 1
    sink.close()


def test_a_flood_is_held_back_and_counted() -> None:
    stream = io.StringIO()
    limited = RateLimited(LogSink("ginnel", journal=NOWHERE, stream=stream), "tunnel", now=0.0)
    for _ in range(int(RECORD_BURST) + 7):
        limited.write(LogLevel.INFO, "again", now=0.0)
    assert len(stream.getvalue().splitlines()) == RECORD_BURST
    limited.write(LogLevel.INFO, "last", now=1.0)
    *_, notice, last = stream.getvalue().splitlines()
    assert notice == "warn tunnel: 7 log records were held back"
    assert last == "info tunnel: last"


def test_a_long_record_counts_as_several() -> None:
    stream = io.StringIO()
    limited = RateLimited(LogSink("ginnel", journal=NOWHERE, stream=stream), "tunnel", now=0.0)
    for _ in range(int(RECORD_BURST)):
        limited.write(LogLevel.INFO, "", now=0.0, fields=[("a", "x" * 4 * RECORD_SIZE)])
    assert len(stream.getvalue().splitlines()) == RECORD_BURST // 5


def test_the_longest_record_comes_through() -> None:
    """What is cut off does not count."""
    stream = io.StringIO()
    limited = RateLimited(LogSink("ginnel", journal=NOWHERE, stream=stream), "tunnel", now=0.0)
    for _ in range(10):
        limited.write(LogLevel.FATAL, "x" * MAX_LOG_MESSAGE, now=0.0)
    assert len(stream.getvalue().splitlines()) == 10


def test_only_a_file_of_ours_is_begun_anew_when_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_FILE", 1000)
    ours, other = tmp_path / "ours", tmp_path / "other"
    for path in (ours, other):
        with path.open("a") as stream:
            sink = LogSink("ginnel", journal=NOWHERE, stream=stream, file=ours)
            for number in range(100):
                sink.write(LogLevel.INFO, f"record {number}")
    assert len(other.read_text().splitlines()) == 100
    first, *rest = ours.read_text().splitlines()
    assert first == "warn manager: this log was full, and was begun anew"
    assert rest[-1] == "info manager: record 99"
    assert len(rest) < 60


def test_records_of_logging_are_passed_on() -> None:
    seen: list[tuple[LogLevel, str, str]] = []
    handler = SinkHandler(lambda level, text, name: seen.append((level, text, name)))
    logger = logging.Logger("ginnel.test")
    logger.addHandler(handler)
    logger.warning("%d peers", 3)
    assert seen == [(LogLevel.WARN, "3 peers", "ginnel.test")]


def test_levels() -> None:
    assert [level_of(level) for level in (5, 10, 20, 30, 40, 50)] == [
        LogLevel.DEBUG,
        LogLevel.DEBUG,
        LogLevel.INFO,
        LogLevel.WARN,
        LogLevel.ERROR,
        LogLevel.CRITICAL,
    ]


def test_the_level_of_a_childs_line() -> None:
    assert split_level("INFO ready") == (LogLevel.INFO, "ready")
    assert split_level("Traceback (most recent call last):") == (
        LogLevel.WARN,
        "Traceback (most recent call last):",
    )
