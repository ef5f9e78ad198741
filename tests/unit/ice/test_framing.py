"""STUN and ChannelData on a stream, cut anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ginnel.ice import stun
from ginnel.ice.channels import wrap_channel_data
from ginnel.ice.framing import MAX_ITEM, FramingError, StreamSplitter, frame
from ginnel.ice.stun import Attribute, MessageClass

REQUEST = stun.encode_message(MessageClass.REQUEST, bytes(12), [(Attribute.SOFTWARE, b"abc")])


@given(
    st.lists(
        st.one_of(
            st.just(REQUEST),
            st.binary(max_size=50).map(lambda data: wrap_channel_data(0x4001, data)),
        ),
        max_size=10,
    ),
    st.lists(st.integers(1, 40), min_size=1, max_size=10),
)
def test_items_come_out_as_they_went_in_however_the_stream_is_cut(
    items: list[bytes], sizes: list[int]
) -> None:
    stream = b"".join(map(frame, items))
    splitter, found, at, turn = StreamSplitter(), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        found += splitter.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert found == items


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 400", b"\x80\0\0\0", b"\x00\x01\x00\x05", b"\x50\0\0\0", b"\x40\0\xff\xff"]
)
def test_anything_else_ends_the_stream(data: bytes) -> None:
    with pytest.raises(FramingError):
        StreamSplitter().feed(data)


def test_an_item_that_never_ends_is_refused_before_it_is_kept() -> None:
    with pytest.raises(FramingError):
        StreamSplitter().feed(b"\x00\x01" + MAX_ITEM.to_bytes(2, "big"))


@given(st.binary(max_size=3000))
def test_random_bytes_are_cut_or_refused(data: bytes) -> None:
    try:
        items = StreamSplitter().feed(data)
    except FramingError:
        return
    assert all(len(item) <= MAX_ITEM for item in items)
