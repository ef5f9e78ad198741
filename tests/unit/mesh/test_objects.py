from ipaddress import IPv4Address

import pytest

from ginnel.base import rlp
from ginnel.base.errors import UsageError
from ginnel.mesh import derive, objects
from support.members import NOW, MemberKeys, NetworkFactory, seed

NET = NetworkFactory()
PI = MemberKeys("raspberry-pi-attic")


def test_every_object_comes_back_as_built() -> None:
    cert = objects.parse_object(objects.decode_object(NET.cert(PI)))
    assert isinstance(cert, objects.Certificate)
    assert cert.name == "raspberry-pi-attic"
    assert cert.member_id == PI.member_id
    for raw, kind in (
        (NET.network(), objects.Network),
        (NET.admin_object(), objects.Admin),
        (NET.revoke(0, bytes(32)), objects.Revocation),
        (NET.epoch(), objects.Epoch),
    ):
        signed = objects.decode_object(raw)
        assert signed.raw == raw
        assert signed.is_signed_in(NET.network_id)
        assert isinstance(objects.parse_object(signed), kind)


def test_a_signature_of_another_network_does_not_count() -> None:
    assert not objects.decode_object(NET.cert(PI)).is_signed_in(bytes(32))


def test_trailing_items_are_kept_and_ignored() -> None:
    raw = NET.sign("revoke", [0, bytes(32), 5, b"later"])
    signed = objects.decode_object(raw)
    assert signed.is_signed_in(NET.network_id)
    assert isinstance(objects.parse_object(signed), objects.Revocation)


def test_every_truncation_is_refused() -> None:
    raw = NET.cert(PI)
    for size in range(len(raw)):
        with pytest.raises(rlp.RlpError):
            objects.decode_object(raw[:size])


@pytest.mark.parametrize(
    "outer",
    [
        [b"cert", b"\xc1\x01", bytes(31), bytes(64)],
        [b"cert", b"\xc1\x01", bytes(32), bytes(63)],
        [b"cert", b"\xc0", bytes(32), bytes(64)],
        [b"cert", b"\xc1\x80", bytes(32), bytes(64)],
        [b"cert", [1], bytes(32), bytes(64)],
        [b"other", b"\xc1\x01", bytes(32), bytes(64)],
        [b"cert", b"\xc1\x01", bytes(32)],
        [b"cert", rlp.encode([1, bytes(520)]), bytes(32), bytes(64)],
    ],
    ids=["key", "sig", "no-version", "version-0", "list", "type", "short", "large"],
)
def test_wrong_outer_lists_are_refused(outer: list) -> None:
    with pytest.raises(rlp.RlpError):
        objects.decode_object(rlp.encode(outer))


@pytest.mark.parametrize(
    ("prefix", "length"),
    [("0.0.0.0", 0), ("8.8.8.0", 24), ("100.0.0.0", 8), ("127.0.0.0", 16), ("169.254.0.0", 16)],
)
def test_a_network_claims_no_addresses_of_others(prefix: str, length: int) -> None:
    def parse(packed: bytes, bits: int) -> objects.Network:
        root_public = derive.ed25519_public(NET.root)
        raw = NET.sign("network", [1, "elsewhere", root_public, packed, bits, NOW], NET.root)
        return objects.parse_network(objects.decode_object(raw))

    assert parse(bytes((10, 9, 0, 0)), 16).ipv4_len == 16
    with pytest.raises(rlp.RlpError, match="of others"):
        parse(IPv4Address(prefix).packed, length)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("revoke", [3, bytes(32), 5]),
        ("revoke", [0, bytes(31), 5]),
        ("revoke", [1, bytes(32), 5]),
        ("revoke", [0, bytes(32)]),
        ("epoch", [1, bytes(31), 5, bytes(32)]),
        ("network", [1, "Bad Name", bytes(32), bytes(4), 16, 0]),
        ("admin", [bytes(16), bytes(32), b"\x64\x50\x00\x01", 20, 0, 1]),
        ("admin", [bytes(16), bytes(32), bytes(4), 33, 0, 1]),
    ],
)
def test_wrong_bodies_are_refused(kind: str, fields: list) -> None:
    signed = objects.decode_object(NET.sign(kind, fields, NET.root))
    with pytest.raises(rlp.RlpError):
        objects.parse_object(signed)


def test_a_body_over_the_limit_is_not_built() -> None:
    with pytest.raises(UsageError, match="512"):
        NET.cert(PI, groups=tuple(f"group-{i}" + "x" * 40 for i in range(16)))


@pytest.mark.parametrize(
    "name", ["", "Upper", "under_score", "-edge", "edge-", "a" * 64, "dot.x", "é"]
)
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(rlp.RlpError):
        objects.check_name(name)


def test_the_digest_of_revocations_does_not_depend_on_order_or_copies() -> None:
    pairs = [(1, bytes(16)), (0, bytes(32))]
    digest = objects.revocations_digest(pairs)
    assert digest == objects.revocations_digest([*reversed(pairs), pairs[0]])
    assert objects.revocations_digest([]) == derive.sha256(b"\xc0")


def test_contains() -> None:
    assert objects.contains(bytes((100, 80, 0, 0)), 20, bytes((100, 80, 15, 255)))
    assert not objects.contains(bytes((100, 80, 0, 0)), 20, bytes((100, 80, 16, 0)))
    assert not objects.contains(bytes((100, 80, 0, 0)), 20, bytes(16))


def test_an_epoch_object_names_its_secret() -> None:
    epoch = objects.parse_epoch(objects.decode_object(NET.epoch(seed("x"))))
    assert epoch.secret_hash == derive.epoch_hash(seed("x"))
    assert epoch.epoch_id == epoch.secret_hash[:8]
