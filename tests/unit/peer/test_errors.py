"""The four ends of an open: what they say."""

from ginnel.base.errors import GinnelError, UsageError
from ginnel.peer.errors import (
    ConnectionAlreadyClosed,
    ConnectionClosed,
    ConnectionDisconnected,
    ConnectionTimeout,
)

KEY = b"\xab" * 32


def test_each_names_the_peer_and_is_an_error_of_ours() -> None:
    ends = [
        ConnectionTimeout(KEY, 30.0),
        ConnectionClosed(KEY),
        ConnectionDisconnected(KEY, "path lost"),
        ConnectionAlreadyClosed(KEY),
    ]
    for error in ends:
        assert isinstance(error, GinnelError)
        assert error.key == KEY
        assert str(error).startswith("connection to peer abababab: ")
    assert "30 s" in str(ends[0])
    assert [isinstance(error, UsageError) for error in ends] == [False, False, False, True]
