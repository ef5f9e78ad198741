"""Bytes of the messages of kind relay."""

import pytest

from ginnel.base import rlp
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Secret
from ginnel.ice.turn_server import Credentials
from ginnel.mesh.relay_wire import (
    MAX_NONCE,
    Grant,
    RelayWord,
    decode_relay,
    encode_grant,
    encode_word,
)


def test_round_trips_have_the_shape_of_the_formats() -> None:
    assert encode_word(RelayWord.ASKS) == rlp.encode([1, 0])
    assert encode_word(RelayWord.REFUSES) == rlp.encode([1, 2])
    for word in (RelayWord.ASKS, RelayWord.REFUSES):
        assert decode_relay(encode_word(word)) is word
    given = Credentials("name", Secret(b"word"), "realm", b"nonce", 110.0)
    data = encode_grant(given, now=10.0)
    assert data == rlp.encode([1, 1, "name", b"word", "realm", b"nonce", 100])
    assert decode_relay(data) == Grant("name", Secret(b"word"), "realm", b"nonce", 100)
    assert decode_relay(rlp.encode([1, 77, b"later"])) is None


@pytest.mark.parametrize(
    "items",
    [
        [1],
        [2, 0],
        [1, 1, "n", "p", "r", b"x"],
        [1, 1, "n", "p", "r", bytes(MAX_NONCE + 1), 5],
        [1, 1, b"\xff", "p", "r", b"x", 5],
    ],
)
def test_malformed_ones_are_refused(items: list[rlp.Encodable]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_relay(rlp.encode(items))
