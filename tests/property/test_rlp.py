"""RLP under chance: round trips, hostile bytes, and one encoding for each value."""

from hypothesis import given
from hypothesis import strategies as st

from ginnel.base import rlp
from ginnel.base.rlp import MAX_DEPTH, Rlp, RlpError

items = st.recursive(
    st.binary(max_size=80), lambda inner: st.lists(inner, max_size=5), max_leaves=20
)


def depth(item: Rlp) -> int:
    return 0 if isinstance(item, bytes) else 1 + max(map(depth, item), default=0)


@given(items)
def test_round_trip(item: Rlp) -> None:
    if depth(item) <= MAX_DEPTH:
        assert rlp.decode(rlp.encode(item)) == item


@given(st.lists(items, max_size=6))
def test_split_list_gives_each_item(parts: list[Rlp]) -> None:
    encoded = [rlp.encode(part) for part in parts]
    assert rlp.split_list(rlp.encode(parts)) == encoded
    assert rlp.encode_list_payload(b"".join(encoded)) == rlp.encode(parts)


@given(st.integers(0, 2**64 - 1))
def test_integers_round_trip(value: int) -> None:
    assert rlp.as_int(rlp.decode(rlp.encode(value))) == value


@given(st.binary(max_size=200))
def test_hostile_bytes_are_refused_or_canonical(data: bytes) -> None:
    try:
        item = rlp.decode(data)
    except RlpError:
        return
    assert rlp.encode(item) == data


@given(items, st.data())
def test_a_changed_encoding_is_another_value_or_refused(item: Rlp, data: st.DataObject) -> None:
    encoded = bytearray(rlp.encode(item))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    try:
        changed = rlp.decode(bytes(encoded))
    except RlpError:
        return
    assert changed != item


@given(st.binary(max_size=200))
def test_split_list_takes_what_decode_takes(data: bytes) -> None:
    try:
        whole = rlp.decode_list(data)
    except RlpError:
        return
    assert [rlp.decode(part) for part in rlp.split_list(data)] == whole
