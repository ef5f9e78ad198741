"""RLP: the examples of the Yellow Paper's wiki, and each way to be not canonical."""

import pytest

from ginnel.base import rlp
from ginnel.base.rlp import RlpError

LOREM = b"Lorem ipsum dolor sit amet, consectetur adipisicing elit"
EXAMPLES: list[tuple[rlp.Encodable, bytes]] = [
    (b"dog", b"\x83dog"),
    ([b"cat", b"dog"], b"\xc8\x83cat\x83dog"),
    (b"", b"\x80"),
    ([], b"\xc0"),
    (0, b"\x80"),
    (b"\x00", b"\x00"),
    (15, b"\x0f"),
    (127, b"\x7f"),
    (128, b"\x81\x80"),
    (1024, b"\x82\x04\x00"),
    ([[], [[]], [[], [[]]]], bytes.fromhex("c7c0c1c0c3c0c1c0")),
    (LOREM, b"\xb8\x38" + LOREM),
    ("dög", b"\x84d\xc3\xb6g"),
    ([b"x" * 55], b"\xf8\x38\xb7" + b"x" * 55),
    (b"y" * 1024, b"\xb9\x04\x00" + b"y" * 1024),
]


@pytest.mark.parametrize(("item", "encoded"), EXAMPLES)
def test_examples(item: rlp.Encodable, encoded: bytes) -> None:
    assert rlp.encode(item) == encoded
    assert rlp.encode(rlp.decode(encoded)) == encoded


def test_negative_integers_do_not_exist() -> None:
    with pytest.raises(ValueError, match="negative"):
        rlp.encode([-1])


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\x83do",  # cut short
        b"\x83dogs",  # bytes after
        b"\x81\x05",  # a single byte with a header
        b"\xb8\x05hello",  # long form for a short string
        b"\xb9\x00\x38" + LOREM,  # length with a leading zero
        b"\xf8\x01\x05",  # long form for a short list
        b"\xb8",  # no length
        b"\xbf" + b"\xff" * 8,  # a length beyond everything
        b"\xff" + b"\xff" * 8,
        b"\xc2\x83do",  # the item reaches over its list's end
        b"\xc1" * rlp.MAX_DEPTH + b"\xc0",  # too deep
        bytes(rlp.MAX_SIZE + 1),
    ],
)
def test_what_is_not_canonical_is_refused(encoded: bytes) -> None:
    with pytest.raises(RlpError):
        rlp.decode(encoded)


def test_depth_reaches_its_limit() -> None:
    assert rlp.decode(b"".join(bytes((0xC0 + n,)) for n in reversed(range(rlp.MAX_DEPTH))))


def test_split_list_keeps_items_encoded() -> None:
    items = [rlp.encode(item) for item in (b"cat", [b"x", []], 5, LOREM)]
    assert rlp.split_list(rlp.encode_list_payload(b"".join(items))) == items
    assert rlp.split_list(b"\xc0") == []
    for bad in (b"", b"\x83dog", b"\xc1", b"\xc0\x00", b"\xc2\x83d", b"\xc1\xb8"):
        with pytest.raises(RlpError):
            rlp.split_list(bad)


def test_as_bytes() -> None:
    assert rlp.as_bytes(b"abc", 3) == b"abc"
    assert rlp.as_bytes(b"abc", maximum=3) == b"abc"
    for item, size, maximum in (([], None, None), (b"abc", 2, None), (b"abc", None, 2)):
        with pytest.raises(RlpError):
            rlp.as_bytes(item, size, maximum=maximum)


def test_as_int() -> None:
    assert [rlp.as_int(b""), rlp.as_int(b"\x01\x00")] == [0, 256]
    assert rlp.as_int(b"\xff", 255) == 255
    for item in (b"\x00", b"\x00\x01", b"\x01\x00" * 20, []):
        with pytest.raises(RlpError):
            rlp.as_int(item)
    with pytest.raises(RlpError):
        rlp.as_int(b"\x01\x00", 255)


def test_as_text_and_as_list() -> None:
    assert rlp.as_text(b"pi", 2) == "pi"
    for bad in (b"pie", b"\xff", b"\x1b", b"a\n", b"\xc2\x9b"):
        with pytest.raises(RlpError):
            rlp.as_text(bad, 2)
    assert rlp.as_list([b"a", b"b"], 2) == [b"a", b"b"]
    assert rlp.as_list([b"a", b"b"], at_least=1) == [b"a", b"b"]
    for item, size, least in ((b"a", None, None), ([b"a"], 2, None), ([b"a"], None, 2)):
        with pytest.raises(RlpError):
            rlp.as_list(item, size, at_least=least)
    assert rlp.decode_list(b"\xc0") == []
    with pytest.raises(RlpError):
        rlp.decode_list(b"\x80")
