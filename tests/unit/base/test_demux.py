import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ginnel.base.dataplane import DatagramKind
from ginnel.base.demux import classify

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "demux.json").read_text())["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, object]) -> None:
    channels = vector["channels"]
    assert isinstance(channels, list)
    kind = classify(bytes.fromhex(str(vector["data"])), channels.__contains__)
    assert kind is DatagramKind[str(vector["kind"]).upper()]


def test_without_turn_there_is_no_channel_data() -> None:
    assert classify(bytes.fromhex("40010003aabbcc")) is DatagramKind.DISCV5


@given(st.binary(max_size=200))
def test_any_bytes_are_of_some_kind(data: bytes) -> None:
    assert classify(data, lambda channel: True) in DatagramKind
