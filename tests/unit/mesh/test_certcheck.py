import pytest

from ginnel.mesh import derive
from ginnel.mesh.certcheck import Refusal, check_certificate, describe_own, overlay_networks
from ginnel.mesh.objects import (
    DAY_S,
    Admin,
    Network,
    decode_object,
    parse_admin,
    parse_certificate,
    parse_network,
)
from support.members import IPV4_PREFIX, NOW, MemberKeys, NetworkFactory

NET = NetworkFactory()
PI = MemberKeys("raspberry-pi-attic")


def network() -> Network:
    return parse_network(decode_object(NET.network()))


def admin() -> Admin:
    return parse_admin(decode_object(NET.admin_object()))


def check(unix_now: float = NOW, **changes: object) -> Refusal | None:
    cert = parse_certificate(decode_object(NET.cert(PI, **changes)))
    return check_certificate(cert, admin(), network(), unix_now=unix_now)


def test_a_good_certificate_passes() -> None:
    assert check() is None
    assert check(ipv4=b"") is None
    assert check(groups=("servers",), routes=((bytes((192, 168, 7, 0)), 24),), caps=3) is None


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"identity": (1).to_bytes(32, "little")}, Refusal.KEY),
        ({"wireguard": bytes(32)}, Refusal.KEY),
        ({"sealing": (2**255 - 20).to_bytes(32, "little")}, Refusal.KEY),
        ({"discovery": b"\x02" + b"\xff" * 32}, Refusal.KEY),
        ({"sealing": derive.x25519_public(PI.wireguard)}, Refusal.KEY),
        ({"ipv6": bytes(16)}, Refusal.ADDRESS),
        ({"ipv4": bytes((100, 80, 16, 1))}, Refusal.ADDRESS),
        ({"ipv4": bytes((8, 8, 8, 8))}, Refusal.ADDRESS),
        ({"name": "Not-A-Name"}, Refusal.NAME),
        ({"name": ""}, Refusal.NAME),
        ({"groups": ("bad group",)}, Refusal.NAME),
        ({"routes": ((IPV4_PREFIX, 24),)}, Refusal.ROUTE),
        ({"routes": ((bytes(4), 0),)}, Refusal.ROUTE),
        ({"routes": ((b"\xfd" + bytes(15), 8),)}, Refusal.ROUTE),
        ({"not_after": NOW + 6 * 365 * DAY_S}, Refusal.OUTLIVES_ADMIN),
        ({"not_after": NOW + 2 * 365 * DAY_S}, Refusal.OUTLIVES_ADMIN),
        ({"not_after": NOW - 500}, Refusal.OUTLIVES_ADMIN),
        ({"since": NOW + DAY_S}, Refusal.MALFORMED),
    ],
)
def test_a_bad_certificate_is_refused(changes: dict, refusal: Refusal) -> None:
    assert check(**changes) is refusal


def test_a_clock_that_is_a_day_off_is_named() -> None:
    assert check(NOW - DAY_S) is Refusal.NOT_YET_VALID
    assert check(NOW + 366 * DAY_S) is Refusal.EXPIRED
    assert "clock" in Refusal.NOT_YET_VALID.value


def test_clocks_have_ten_minutes() -> None:
    assert check(NOW - 500 - 600) is None
    assert check(NOW - 500 - 601) is Refusal.NOT_YET_VALID


def test_the_overlay_is_the_ipv4_prefix_and_the_ula() -> None:
    ipv4, ipv6 = overlay_networks(network())
    assert str(ipv4) == "100.80.0.0/16"
    assert str(ipv6) == derive.overlay_prefix(NET.network_id)


def test_what_helps_when_our_own_is_not_in_force() -> None:
    assert describe_own(None) == ""
    assert describe_own(Refusal.REVOKED) == (
        "no certificate in force (revoked): join again with a new invite"
    )
    for refusal in (Refusal.EXPIRED, Refusal.NOT_YET_VALID, Refusal.SIGNER_EXPIRED):
        assert "set the clock if it is wrong, else join again" in describe_own(refusal)
