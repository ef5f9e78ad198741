"""Which servers a system asked before ours, and how they reach the name server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ginnel.net.dns_upstream import UpstreamNote, read_note, read_upstream


def test_upstream_is_what_stands_behind_us(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    assert read_upstream(path=path) == ()
    path.write_text("nameserver 100.64.0.1\nnameserver 192.0.2.1\nnameserver 192.0.2.1\nnameserver")
    assert read_upstream(["100.64.0.1"], path=path) == ("192.0.2.1",)
    path.write_text("nameserver 127.0.0.53\noptions edns0\n")
    assert read_upstream(path=path) == ()
    path.write_text("nameserver nonsense\nnameserver ::1\n")
    assert read_upstream(path=path) == ("::1",)


def test_the_reader_sees_each_change_and_can_not_write() -> None:
    note = UpstreamNote()
    try:
        assert read_note(note.reader_fd) == ()
        for servers in (("192.0.2.1", "2001:db8::1"), ("192.0.2.2",), ()):
            note.write(servers)
            assert read_note(note.reader_fd) == servers
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(note.reader_fd, b"x")
    finally:
        note.close()
