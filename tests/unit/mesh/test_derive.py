import pytest

from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Secret
from ginnel.mesh import derive

NETWORK = bytes(range(32))
SECRET = Secret(b"e" * 32)
P = 2**255 - 19
ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826


def encodings(values: list[int]) -> list[bytes]:
    return [(v | bit).to_bytes(32, "little") for v in values for bit in (0, 1 << 255)]


# The eight points of small order, and their second encodings (RFC 8032 5.1.3; Chalkias et al.,
# "Taming the many EdDSAs", table of 14).
SMALL_ORDER = encodings([0, 1, P - 1, P, P + 1, ORDER_8, P - ORDER_8])
SMALL_ORDER_HEX = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]
# Low-order X25519 points (cr.yp.to/ecdh.html#validate).
LOW_ORDER_X = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "cdeb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b880",
    "4c9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11d7",
    "d9ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "daffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "dbffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


@pytest.mark.parametrize("key", SMALL_ORDER + [bytes.fromhex(k) for k in SMALL_ORDER_HEX])
def test_small_order_ed25519_keys_are_refused(key: bytes) -> None:
    with pytest.raises(derive.BadKey):
        derive.check_ed25519_key(key)


@pytest.mark.parametrize("y", range(P, 2**255))
def test_non_canonical_ed25519_keys_are_refused(y: int) -> None:
    with pytest.raises(derive.BadKey):
        derive.check_ed25519_key(y.to_bytes(32, "little"))


def test_a_y_that_is_no_point_is_refused() -> None:
    with pytest.raises(derive.BadKey, match="no point"):
        derive.check_ed25519_key((2).to_bytes(32, "little"))


@pytest.mark.parametrize("key", LOW_ORDER_X)
def test_low_order_x25519_keys_are_refused(key: str) -> None:
    with pytest.raises(derive.BadKey):
        derive.check_x25519_key(bytes.fromhex(key))


def test_a_second_encoding_of_an_x25519_key_is_refused() -> None:
    key = derive.x25519_public(SECRET)
    derive.check_x25519_key(key)
    with pytest.raises(derive.BadKey, match="canonical"):
        derive.check_x25519_key(key[:31] + bytes([key[31] | 0x80]))


@pytest.mark.parametrize(
    "key", [b"", bytes(33), b"\x02" + b"\xff" * 32, b"\x04" + bytes(32), b"\x02" + bytes(32)]
)
def test_invalid_secp256k1_keys_are_refused(key: bytes) -> None:
    with pytest.raises(derive.BadKey):
        derive.check_secp256k1_key(key)


def test_ordinary_keys_pass() -> None:
    for number in range(1, 40):
        secret = Secret(bytes([number]) * 32)
        derive.check_ed25519_key(derive.ed25519_public(secret))
        derive.check_x25519_key(derive.x25519_public(secret))


def test_verify_is_bound_to_label_network_and_message() -> None:
    public = derive.ed25519_public(SECRET)
    signature = derive.sign(SECRET, NETWORK, "cert", b"body")
    assert derive.verify(public, NETWORK, "cert", b"body", signature)
    assert not derive.verify(public, NETWORK, "revoke", b"body", signature)
    assert not derive.verify(public, bytes(32), "cert", b"body", signature)
    assert not derive.verify(public, NETWORK, "cert", b"bodY", signature)
    assert not derive.verify(public, NETWORK, "cert", b"body", signature[:63])


def test_verify_refuses_a_signature_that_any_message_has_under_a_small_order_key() -> None:
    identity = (1).to_bytes(32, "little")
    assert not derive.ed25519_verify(identity, b"anything", identity + bytes(32))


@pytest.mark.parametrize("size", [0, 1, 61, 62, 63, 64, 500])
def test_padding_comes_off(size: int) -> None:
    padded = derive.pad(b"x" * size)
    assert len(padded) % 64 == 0
    assert derive.unpad(padded) == b"x" * size


@pytest.mark.parametrize(
    "padded",
    [b"", bytes(63), b"\x00\x3f" + bytes(62), b"\x00\x00" + b"\x01" * 62, bytes(128)],
    ids=["empty", "short", "too-long", "not-zero", "too-much"],
)
def test_wrong_padding_is_refused(padded: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        derive.unpad(padded)


def test_points_differ_by_member_period_epoch_and_side() -> None:
    points = [
        derive.member_point(NETWORK, SECRET, b"m" * 32, 7),
        derive.member_point(NETWORK, SECRET, b"m" * 32, 8),
        derive.member_point(NETWORK, SECRET, b"n" * 32, 7),
        derive.member_point(NETWORK, Secret(b"f" * 32), b"m" * 32, 7),
        derive.invite_point(NETWORK, SECRET, 7),
        derive.invite_point(NETWORK, SECRET, 7, reply=True),
    ]
    assert len({point.location for point in points}) == len(points)
    assert len({point.tag for point in points}) == len(points)
    assert all(len(point.tag) == 16 for point in points)


def test_a_presence_opens_only_at_its_point() -> None:
    point = derive.invite_point(NETWORK, SECRET, 7)
    presence = derive.seal_presence(point, bytes(12), b"here")
    assert derive.open_presence(point, presence) == b"here"
    with pytest.raises(RemoteProtocolError):
        derive.open_presence(derive.invite_point(NETWORK, SECRET, 8), presence)
    with pytest.raises(RemoteProtocolError):
        derive.open_presence(point, presence[:20])


@pytest.mark.parametrize(
    ("within", "expected"), [(0, (5, 4)), (599, (5, 4)), (600, (5,)), (2999, (5,)), (3000, (5, 6))]
)
def test_periods_overlap_at_the_border(within: int, expected: tuple[int, ...]) -> None:
    assert derive.periods_near(5 * 3600 + within + 0.5) == expected


def test_overlay_addresses_lie_in_the_network() -> None:
    assert derive.overlay_prefix(b"\x01\x02\x03\x04\x05" + bytes(27)) == "fd01:203:405::/48"
    address = derive.overlay_ipv6(b"\x01\x02\x03\x04\x05" + bytes(27), b"m" * 32)
    assert address[:8] == bytes.fromhex("fd01020304050000")


def test_preshared_keys_do_not_depend_on_the_order() -> None:
    first = derive.preshared_key(NETWORK, SECRET, b"a" * 32, b"b" * 32)
    assert first == derive.preshared_key(NETWORK, SECRET, b"b" * 32, b"a" * 32)
    assert first != derive.preshared_key(NETWORK, SECRET, b"b" * 32, b"c" * 32)


def test_macs_and_keys_do_not_show() -> None:
    key = derive.envelope_mac_key(NETWORK, SECRET, b"m" * 32)
    assert derive.mac_matches(key, b"text", derive.mac(key, b"text"))
    assert not derive.mac_matches(key, b"texT", derive.mac(key, b"text"))
    assert repr(key) == "<secret>"
