"""The STUN codec under random and mutated bytes."""

from hypothesis import given
from hypothesis import strategies as st

from ginnel.base.types import make_address
from ginnel.ice import stun
from ginnel.ice.stun import Attribute, MessageClass

transactions = st.binary(min_size=12, max_size=12)
values = st.binary(max_size=40)
attributes = st.lists(st.tuples(st.integers(0x8030, 0xFFFF), values), max_size=8)


@given(st.sampled_from(MessageClass), transactions, attributes, st.none() | st.binary(max_size=30))
def test_what_is_encoded_comes_back(
    message_class: MessageClass,
    transaction: bytes,
    items: list[tuple[int, bytes]],
    key: bytes | None,
) -> None:
    data = stun.encode_message(message_class, transaction, items, key=key)
    message = stun.decode_message(data)
    assert message.message_class is message_class
    assert message.transaction_id == transaction
    assert list(message.attributes[: len(items)]) == items
    assert stun.check_integrity(message, key or b"") == (key is not None)


@given(st.integers(1, 0xFFF))
def test_every_method_comes_back(method: int) -> None:
    data = stun.encode_message(MessageClass.SUCCESS, bytes(12), [], method=method)
    assert stun.decode_message(data).method == method


@given(st.ip_addresses(), st.integers(0, 65535), transactions)
def test_addresses_come_back(ip: object, port: int, transaction: bytes) -> None:
    address = make_address(str(ip), port)
    encoded = stun.encode_address(address, transaction)
    assert stun.decode_address(encoded, transaction) == address


@given(st.binary(max_size=200))
def test_random_bytes_never_break_it(data: bytes) -> None:
    header = b"\x00\x01" + len(data).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + bytes(12)
    for candidate in (data, header + data):
        try:
            message = stun.decode_message(candidate)
        except stun.StunError:
            continue
        message.unknown_required()
        assert message.error_code is None or 300 <= message.error_code <= 699
        assert isinstance(message.username, str)
        assert message.number(Attribute.PRIORITY, 4) != -1
        assert not stun.check_integrity(message, b"key")
        message.mapped_address  # noqa: B018  # must not raise
