"""The configuration's rule for the controlling side."""

from ginnel.peer.events import ConnConfig


def test_the_larger_raw_key_controls() -> None:
    low, high = b"\x01" + bytes(31), b"\x02" + bytes(31)
    assert ConnConfig(key=low, local_key=high).is_controlling
    assert not ConnConfig(key=high, local_key=low).is_controlling
    assert ConnConfig(key=low, local_key=high).keepalive_s == 25
