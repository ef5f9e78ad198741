"""The STUN codec against RFC 5769's vectors and against aioice's codec."""

import hmac

import pytest
from aioice import stun as oracle

from ginnel.base.errors import UsageError
from ginnel.base.types import Address
from ginnel.ice import stun
from ginnel.ice.stun import Attribute, MessageClass

PASSWORD = b"VOkJxbRl1RmTxUk/WvJxBt"  # RFC 5769 section 2
TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
REQUEST = bytes.fromhex(  # section 2.1
    "000100582112a442b7e7a701bc34d686fa87dfae"
    "802200105354554e207465737420636c69656e74"
    "002400046e0001ff80290008932ff9b151263b36"
    "000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"
    "80280004e57a3bcf"
)
RESPONSE_IPV4 = bytes.fromhex(  # section 2.2
    "0101003c2112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004c07d4c96"
)
RESPONSE_IPV6 = bytes.fromhex(  # section 2.3
    "010100482112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004c8fb0b4c"
)


def test_the_request_of_rfc_5769() -> None:
    message = stun.decode_message(REQUEST)
    assert message.method == stun.BINDING
    assert message.message_class is MessageClass.REQUEST
    assert message.transaction_id == TRANSACTION
    assert message.username == "evtj:h6vY"
    assert message.local_ufrag == "evtj"
    assert message.number(Attribute.PRIORITY, 4) == 0x6E0001FF
    assert message.number(Attribute.ICE_CONTROLLED, 8) == 0x932FF9B151263B36
    assert message.unknown_required() == ()
    assert stun.check_integrity(message, PASSWORD)
    assert not stun.check_integrity(message, PASSWORD + b"x")


@pytest.mark.parametrize(
    ("data", "address"),
    [
        (RESPONSE_IPV4, Address("192.0.2.1", 32853)),
        (RESPONSE_IPV6, Address("2001:db8:1234:5678:11:2233:4455:6677", 32853)),
    ],
    ids=["IPv4", "IPv6"],
)
def test_the_responses_of_rfc_5769(data: bytes, address: Address) -> None:
    message = stun.decode_message(data)
    assert message.message_class is MessageClass.SUCCESS
    assert message.mapped_address == address
    assert stun.check_integrity(message, PASSWORD)


@pytest.mark.parametrize("data", [REQUEST, RESPONSE_IPV4, RESPONSE_IPV6], ids=range(3))
def test_a_changed_bit_is_noticed(data: bytes) -> None:
    for at in range(len(data)):
        changed = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        try:
            message = stun.decode_message(changed)
        except stun.StunError:
            continue
        assert message.get(Attribute.FINGERPRINT) is None  # its own type was changed


def test_aioice_reads_what_we_write() -> None:
    address = Address("198.51.100.7", 4000)
    data = stun.encode_message(
        MessageClass.SUCCESS,
        TRANSACTION,
        [(Attribute.XOR_MAPPED_ADDRESS, stun.encode_address(address, TRANSACTION))],
        key=b"secret",
    )
    message = oracle.parse_message(data)
    message.check_message_integrity(b"secret")
    assert message.attributes["XOR-MAPPED-ADDRESS"] == ("198.51.100.7", 4000)


def test_we_read_what_aioice_writes() -> None:
    message = oracle.Message(
        oracle.Method.BINDING, oracle.Class.REQUEST, transaction_id=TRANSACTION
    )
    message.attributes["USERNAME"] = "ours:theirs"
    message.attributes["PRIORITY"] = 77
    message.attributes["USE-CANDIDATE"] = None
    message.add_message_integrity(b"secret")
    decoded = stun.decode_message(bytes(message))
    assert decoded.local_ufrag == "ours"
    assert decoded.number(Attribute.PRIORITY, 4) == 77
    assert decoded.get(Attribute.USE_CANDIDATE) == b""
    assert stun.check_integrity(decoded, b"secret")


def test_what_follows_the_integrity_is_ignored() -> None:
    signed = stun.encode_message(
        MessageClass.REQUEST, TRANSACTION, [], key=b"secret", fingerprint=False
    )
    extra = b"\x00\x25\x00\x00"
    longer = signed[:2] + (len(signed) - 20 + 4).to_bytes(2, "big") + signed[4:] + extra
    message = stun.decode_message(longer)
    assert message.get(Attribute.USE_CANDIDATE) is None
    assert stun.check_integrity(message, b"secret")


def test_errors_and_unknown_attributes() -> None:
    data = stun.encode_message(
        MessageClass.ERROR,
        TRANSACTION,
        [(Attribute.ERROR_CODE, stun.encode_error(487, "Role Conflict")), (0x7777, b"?")],
    )
    message = stun.decode_message(data)
    assert message.error_code == 487
    assert message.unknown_required() == (0x7777,)
    assert message.mapped_address is None


def test_limits() -> None:
    many = [(0x8001, b"")] * (stun.MAX_ATTRIBUTES + 1)
    with pytest.raises(stun.StunError):
        stun.decode_message(stun.encode_message(MessageClass.REQUEST, TRANSACTION, many))
    with pytest.raises(stun.StunError):
        stun.decode_message(
            stun.encode_message(MessageClass.REQUEST, TRANSACTION, [(0x8001, bytes(1500))])
        )
    with pytest.raises(UsageError):
        stun.encode_message(MessageClass.REQUEST, b"short", [])


@pytest.mark.parametrize(
    "value", [b"", b"\0\1\0", b"\0\3\0\0\0\0\0\0", b"\0\1" + bytes(18), b"\0\2" + bytes(6)]
)
def test_malformed_addresses_are_none(value: bytes) -> None:
    assert stun.decode_address(value, TRANSACTION) is None


def test_sha256_integrity_whole_and_cut_and_what_may_follow_it() -> None:
    """RFC 8489 sections 14.5 and 14.6."""
    key = b"k" * 32
    plain = [(int(Attribute.SOFTWARE), b"test")]
    data = stun.encode_message(MessageClass.REQUEST, bytes(12), plain, key=key, sha256=True)
    message = stun.decode_message(data)
    assert stun.check_integrity_sha256(message, key)
    assert not stun.check_integrity_sha256(message, b"other")
    assert not stun.check_integrity(message, key)

    at = message.covered_sha256
    length = at + 4 + 16 - stun.HEADER_SIZE
    head = data[:2] + length.to_bytes(2, "big") + data[4:at]
    mac = hmac.digest(key, head, "sha256")[:16]
    cut = stun.decode_message(head + b"\x00\x1c\x00\x10" + mac)
    assert stun.check_integrity_sha256(cut, key)

    late = head[:2] + (length + 4).to_bytes(2, "big") + head[4:] + b"\x00\x1c\x00\x10" + mac
    ignored = stun.decode_message(late + b"\x00\x25\x00\x00")  # USE-CANDIDATE, not covered
    assert ignored.get(Attribute.USE_CANDIDATE) is None
    with pytest.raises(stun.StunError):
        stun.decode_message(head[:2] + b"\x00\x14" + head[4:20] + b"\x00\x1c\x00\x0c" + bytes(16))
