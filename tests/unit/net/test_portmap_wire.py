"""NAT-PMP and PCP against bytes laid out by hand from the RFCs' figures."""

from __future__ import annotations

import pytest

from ginnel.net.portmap_wire import (
    PcpAnnounced,
    PcpMapping,
    PmpAddress,
    PmpMapping,
    Unsupported,
    decode_response,
    describe_result,
    encode_pcp_announce,
    encode_pcp_map,
    encode_pmp_address,
    encode_pmp_map,
)

NONCE = bytes(range(12))
V4_MAPPED = bytes(10) + b"\xff\xff"


def pcp_answer(result: int = 0, protocol: int = 17, opcode: int = 0x81) -> bytes:
    head = bytes((2, opcode, 0, result)) + (7200).to_bytes(4, "big") + (99).to_bytes(4, "big")
    ports = (4000).to_bytes(2, "big") + (5000).to_bytes(2, "big")
    ip = V4_MAPPED + bytes((203, 0, 113, 5))
    return head + bytes(12) + NONCE + bytes((protocol, 0, 0, 0)) + ports + ip


def test_requests() -> None:
    assert encode_pmp_address() == b"\0\0"
    assert encode_pmp_map(0x1234, 0x2345, 7200).hex() == "000100001234234500001c20"
    request = encode_pcp_map("192.168.1.2", NONCE, 0x1234, ("0.0.0.0", 0x2345), 7200)
    assert len(request) == 60
    assert request[:8].hex() == "0201000000001c20"
    assert request[8:24] == V4_MAPPED + bytes((192, 168, 1, 2))
    assert request[24:36] == NONCE
    assert request[36:44].hex() == "1100000012342345"
    assert request[44:] == V4_MAPPED + bytes(4)


def test_answers() -> None:
    told = decode_response(bytes.fromhex("0080000000000063cb007105"))
    assert told == PmpAddress(0, 99, "203.0.113.5")
    mapped = decode_response(bytes.fromhex("00810000000000630fa0138800001c20"))
    assert mapped == PmpMapping(0, 99, 4000, 5000, 7200)
    assert decode_response(bytes.fromhex("0081000200000063")) == PmpMapping(2, 99, 0, 0, 0)
    expected = PcpMapping(0, 99, 7200, NONCE, 4000, 5000, "203.0.113.5")
    assert decode_response(pcp_answer()) == expected
    assert decode_response(pcp_answer(result=1)) == Unsupported(2)
    assert decode_response(bytes.fromhex("0081000100000063")) == Unsupported(0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        bytes(16),
        pcp_answer(protocol=6),
        pcp_answer(opcode=0x82),
        pcp_answer(opcode=0x01),
        pcp_answer()[:-1],
        b"\x07\x80" + bytes(40),
        b"\x00\xff" + bytes(40),
        b"\x00\x81\0\0\0\0\0\1",
        b"\2\x81" + bytes(1200),
    ],
)
def test_all_else_is_none(data: bytes) -> None:
    assert decode_response(data) is None


def test_results_in_words() -> None:
    assert "switched off" in describe_result(2, is_pcp=False)
    assert "another NAT" in describe_result(12, is_pcp=True)
    assert describe_result(77, is_pcp=True) == "error 77"


def test_asking_without_mapping() -> None:
    request = encode_pcp_announce("192.168.1.2")
    assert request == bytes((2, 0)) + bytes(6) + V4_MAPPED + bytes((192, 168, 1, 2))
    answer = bytes((2, 0x80, 0, 0)) + bytes(4) + (99).to_bytes(4, "big") + bytes(12)
    assert decode_response(answer) == PcpAnnounced(99)
