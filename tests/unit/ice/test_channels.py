"""ChannelData's four bytes."""

import pytest

from ginnel.ice.channels import split_channel_data, wrap_channel_data


@pytest.mark.parametrize("data", [b"", b"x", b"1234", bytes(1300)])
def test_round_trip(data: bytes) -> None:
    assert split_channel_data(wrap_channel_data(0x4001, data)) == (0x4001, data)


def test_padding_is_cut_off() -> None:
    assert split_channel_data(b"\x40\x01\0\x01x\0\0\0") == (0x4001, b"x")


@pytest.mark.parametrize(
    "data",
    [b"", b"\x40\0\0", b"\x3f\xff\0\0", b"\x50\0\0\0", b"\x40\0\0\x02x", b"\x40\0\0\x01x\0\0\0\0"],
)
def test_others_are_none(data: bytes) -> None:
    assert split_channel_data(data) is None
