"""Messages as bytes, written by hand."""

from __future__ import annotations

import pytest

from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Address
from ginnel.discv5.messages import (
    FindNode,
    Nodes,
    Ping,
    Pong,
    TalkRequest,
    TalkResponse,
    UnknownMessageType,
    decode_message,
    encode_message,
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("01c20101", Ping(b"\x01", 1)),
        ("01c28080", Ping(b"", 0)),
        ("02ca0101847f000001827660", Pong(b"\x01", 1, Address("127.0.0.1", 30304))),
        ("03c501c3820100", FindNode(b"\x01", (256,))),
        ("03c28 0c0".replace(" ", ""), FindNode(b"", ())),
        ("05c4 00 61 62 63".replace(" ", "")[:10] + "62", None),
        ("06c20162", TalkResponse(b"\x01", b"b")),
        ("05c3016162", TalkRequest(b"\x01", b"a", b"b")),
        ("01ca8800000000000000000001"[:22] + "01", Ping(bytes(8), 1)),
        ("01ca" + "88" + "11" * 8 + "80", Ping(b"\x11" * 8, 0)),
        ("01ce" + "88" + "11" * 8 + "8401020304", Ping(b"\x11" * 8, 0x01020304)),
        ("03cd" + "88" + "11" * 8 + "c381ff01", FindNode(b"\x11" * 8, (255, 1))),
    ],
)
def test_by_hand(text: str, message: object) -> None:
    data = bytes.fromhex(text)
    if message is None:
        with pytest.raises(RemoteProtocolError):
            decode_message(data)
        return
    assert decode_message(data) == message
    assert encode_message(message) == data  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "01",
        "01c0",
        "01c101",
        "01c3010101",
        "01cb89" + "01" * 9 + "01",
        "01c2c001",
        "02c8010183010203827660",
        # with an id of 8 bytes: read in another way
        "01c9" + "88" + "11" * 8,
        "01cb" + "88" + "11" * 8 + "0101",
        "01cb" + "88" + "11" * 8 + "8101",
        "01ca" + "88" + "11" * 8 + "00",
        "01ca" + "88" + "11" * 8 + "0101",
        "01cb" + "88" + "11" * 8 + "c101",
        "03ca" + "88" + "11" * 8 + "01",
        "03cc" + "88" + "11" * 8 + "c28101",
        "03cc" + "88" + "11" * 8 + "c101c0",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_message(bytes.fromhex(text))


@pytest.mark.parametrize("kind", [0, 7, 8, 9, 10, 255])
def test_unknown_types(kind: int) -> None:
    with pytest.raises(UnknownMessageType):
        decode_message(bytes((kind,)) + b"\xc0")


def test_lists_have_limits() -> None:
    every = FindNode(b"a", tuple(range(257)))
    assert decode_message(encode_message(every)) == every
    most = Nodes(b"a", 1, (b"\xc0",) * 16)
    assert decode_message(encode_message(most)) == most
    for message in (
        FindNode(b"a", (*range(257), 0)),
        Nodes(b"a", 1, (b"\xc0",) * 17),
        Nodes(b"a", 1, (b"\xf9\x01\x2a" + bytes(298),)),
    ):
        with pytest.raises(RemoteProtocolError, match="too"):
            decode_message(encode_message(message))
    with pytest.raises(RemoteProtocolError, match="IP"):
        decode_message(bytes.fromhex("02c70101830102038001"[:18]))
