from __future__ import annotations

import pytest

from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.codervpn.frame import MAX_FRAME_SIZE, FrameReader, encode_frame


def test_the_largest_frame_is_sent_and_read_and_one_byte_more_is_neither() -> None:
    body = bytes(MAX_FRAME_SIZE)
    reader = FrameReader()
    reader.feed(encode_frame(body))
    assert reader.next_frame() == body
    with pytest.raises(UsageError):
        encode_frame(body + b"x")
    reader.feed((MAX_FRAME_SIZE + 1).to_bytes(4, "big"))
    with pytest.raises(RemoteProtocolError):
        reader.next_frame()


def test_partial_says_so() -> None:
    reader = FrameReader()
    assert not reader.is_partial
    reader.feed(b"\0\0\0\1")
    assert reader.next_frame() is None
    assert reader.is_partial
    reader.feed(b"a")
    assert reader.next_frame() == b"a"
    assert not reader.is_partial


def test_clear_lets_go_of_what_is_buffered() -> None:
    reader = FrameReader()
    reader.feed(b"\0\0\0\5abc")
    reader.clear()
    assert not reader.is_partial
    reader.feed(b"\0\0\0\1a")
    assert reader.next_frame() == b"a"
