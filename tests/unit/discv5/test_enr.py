"""Records: the specification's example, and everything that must be refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sha3 import keccak_256

from ginnel.base import rlp
from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.base.types import Address, Secret
from ginnel.discv5.enr import (
    Enr,
    EnrBuilder,
    RecordCache,
    address_fields,
    decode_enr,
    sign_enr,
)
from ginnel.discv5.keys import public_key_of, sign_digest

VECTOR = json.loads((Path(__file__).parents[2] / "vectors/discv5-vectors.json").read_text())["enr"]
KEY = b"\x05" * 32


def forge(pairs: list[tuple[bytes, object]], seq: object = 1, extra: bytes = b"") -> bytes:
    items = b"".join(rlp.encode(part) for pair in pairs for part in pair)  # type: ignore[arg-type]
    content = rlp.encode(seq) + items + extra  # type: ignore[arg-type]
    signature = sign_digest(KEY, keccak_256(rlp.encode_list_payload(content)).digest())
    return rlp.encode_list_payload(rlp.encode(signature) + content)


GOOD: list[tuple[bytes, object]] = [(b"id", b"v4"), (b"secp256k1", public_key_of(KEY))]


def test_the_example() -> None:
    record = Enr.from_text(VECTOR["text"])
    assert record.node_id.hex() == VECTOR["node_id"]
    assert record.seq == VECTOR["seq"]
    assert record.address() == Address("127.0.0.1", VECTOR["udp"])
    assert record.address(ipv6=True) is None
    assert record.to_text() == VECTOR["text"]
    key = bytes.fromhex(VECTOR["private_key"])
    fields = {"ip": bytes.fromhex(VECTOR["ip"]), "udp": 30303}
    assert sign_enr(key, 1, fields).raw == record.raw


def test_unknown_keys_are_kept() -> None:
    record = decode_enr(forge([*GOOD, (b"zz", [b"a", [b"b"]])]))
    assert record.get("zz") == [b"a", [b"b"]]
    assert record.get("yy") is None


def test_both_versions_of_ip() -> None:
    fields = address_fields(Address("192.0.2.1", 7)) | address_fields(Address("2001:db8::1", 8))
    record = sign_enr(KEY, 0, fields)
    assert record.seq == 0
    assert record.address() == Address("192.0.2.1", 7)
    assert record.address(ipv6=True) == Address("2001:db8::1", 8)
    shared = sign_enr(KEY, 1, {"ip6": bytes(15) + b"\x01", "udp": 9})
    assert shared.address(ipv6=True) == Address("::1", 9)


@pytest.mark.parametrize(
    "fields", [{"ip": b"\x01\x02\x03", "udp": 9}, {"ip": bytes(4), "udp": 0}, {"ip": bytes(4)}]
)
def test_malformed_addresses_are_none(fields: dict[str, bytes | int]) -> None:
    assert sign_enr(KEY, 1, fields).address() is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc0",
        forge(GOOD[::-1]),
        forge([GOOD[0], *GOOD]),
        forge([(b"id", b"v5"), GOOD[1]]),
        forge(GOOD[:1]),
        forge([(b"id", b"v4"), (b"secp256k1", [b"x"])]),
        forge([*GOOD, (b"zz", bytes(200))]),
        forge([*((bytes((i,)), b"\x01") for i in range(1, 64)), *GOOD]),  # 65 keys
        forge(GOOD, b"\x00\x01"),
        forge(GOOD, extra=rlp.encode(b"zz")),
        forge(GOOD) + b"\x00",
        forge(GOOD)[:-1],
    ],
)
def test_what_is_refused(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_enr(raw)


@pytest.mark.parametrize(
    "text", ["", "enr:", "enr:!!", "enr:" + "A" * 500, "enode:x", "enr:\u00e9"]
)
def test_bad_text(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        Enr.from_text(text)


def test_a_record_too_long_is_not_signed() -> None:
    with pytest.raises(UsageError):
        sign_enr(KEY, 1, {"x": bytes(250)})
    with pytest.raises(UsageError):
        sign_enr(KEY, 2**64, {})


def test_the_cache_gives_the_same_record() -> None:
    cache = RecordCache(1)
    raw = forge(GOOD)
    assert cache.decode(raw) is cache.decode(raw)
    with pytest.raises(RemoteProtocolError):
        cache.decode(raw[:-1])


def test_builder_and_typed_fields() -> None:
    key = Secret(b"\x07" * 32)
    built = EnrBuilder(key, 3).ip("192.0.2.1").udp(9000).tcp(9001).ip("2001:db8::1").set("k", b"v")
    record = built.build()
    assert (record.ip, record.udp, record.tcp) == ("192.0.2.1", 9000, 9001)
    assert (record.ip6, record.udp6, record.tcp6) == ("2001:db8::1", 9000, 9001)
    assert record.addresses == (Address("192.0.2.1", 9000), Address("2001:db8::1", 9000))
    assert record.contains("k")
    assert record.contains("k", b"v")
    assert not record.contains("k", b"w")
    changed = EnrBuilder.from_record(key, record).udp6(9).tcp6(10).remove("k").build()
    assert changed.is_newer_than(record)
    assert not record.is_newer_than(changed)
    assert (changed.seq, changed.udp6, changed.tcp6, changed.get("k")) == (4, 9, 10, None)
    assert changed != record
    assert (
        record
        == EnrBuilder(key, 3)
        .set("k", b"v")
        .ip("2001:db8::1")
        .tcp(9001)
        .udp(9000)
        .ip("192.0.2.1")
        .build()
    )


def test_builder_keeps_lists_and_refuses_nonsense() -> None:
    key = Secret(b"\x07" * 32)
    record = EnrBuilder(key).set("list", [b"a", [b"b"]]).build()
    assert EnrBuilder.from_record(key, record).build().get("list") == record.get("list")
    with pytest.raises(UsageError):
        EnrBuilder.from_record(Secret(b"\x08" * 32), record)
    with pytest.raises(UsageError):
        EnrBuilder(key).udp(70000)
    with pytest.raises(UsageError):
        EnrBuilder(key).ip("nowhere")
    with pytest.raises(UsageError):
        EnrBuilder(key).set("k", bytes(300)).build()


def test_typed_fields_of_odd_records() -> None:
    record = sign_enr(b"\x07" * 32, 1, {"ip": b"\x01", "udp": b"\x00\x01", "tcp": b"\x01\x02\x03"})
    assert (record.ip, record.udp, record.tcp, record.ip6, record.tcp6) == (None,) * 5
    assert record.addresses == ()


@pytest.mark.parametrize("key", ["id", "secp256k1"])
def test_what_follows_from_the_key_cannot_be_set(key: str) -> None:
    with pytest.raises(UsageError, match=key):
        EnrBuilder(Secret(KEY)).set(key, b"v4")
