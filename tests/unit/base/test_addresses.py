"""Public or not, by the explicit list; one key for all addresses of a source's network."""

import random
from ipaddress import IPv4Network, ip_address, ip_network

import pytest

from ginnel.base.addresses import OVERLAY_IPV4, Scope, is_public, scope_of, subnet_key

SCOPES = {
    IPv4Network(prefix): scope
    for prefix, scope in (
        ("0.0.0.0/8", Scope.UNSPECIFIED),
        ("10.0.0.0/8", Scope.PRIVATE),
        ("100.64.0.0/10", Scope.CGNAT),
        ("127.0.0.0/8", Scope.LOOPBACK),
        ("169.254.0.0/16", Scope.LINK_LOCAL),
        ("172.16.0.0/12", Scope.PRIVATE),
        ("192.168.0.0/16", Scope.PRIVATE),
        ("224.0.0.0/4", Scope.MULTICAST),
    )
}


@pytest.mark.parametrize(
    ("ip", "scope"),
    [
        ("10.1.2.3", Scope.PRIVATE),
        ("172.15.255.255", Scope.PUBLIC),
        ("172.16.0.0", Scope.PRIVATE),
        ("172.31.255.255", Scope.PRIVATE),
        ("172.32.0.0", Scope.PUBLIC),
        ("192.168.0.1", Scope.PRIVATE),
        ("100.63.255.255", Scope.PUBLIC),
        ("100.64.0.0", Scope.CGNAT),
        ("100.127.255.255", Scope.CGNAT),
        ("100.128.0.0", Scope.PUBLIC),
        ("127.0.0.1", Scope.LOOPBACK),
        ("169.254.7.7", Scope.LINK_LOCAL),
        ("224.0.0.251", Scope.MULTICAST),
        ("239.255.255.255", Scope.MULTICAST),
        ("255.255.255.255", Scope.MULTICAST),
        ("0.0.0.0", Scope.UNSPECIFIED),
        ("::", Scope.UNSPECIFIED),
        ("::1", Scope.LOOPBACK),
        ("fe80::1", Scope.LINK_LOCAL),
        ("fd00::1", Scope.PRIVATE),
        ("ff02::1", Scope.MULTICAST),
        ("2001:db8::1", Scope.PUBLIC),  # the lab's prefixes count as public
        ("198.51.100.1", Scope.PUBLIC),
        ("203.0.113.1", Scope.PUBLIC),
    ],
)
def test_scope(ip: str, scope: Scope) -> None:
    assert scope_of(ip) is scope
    assert is_public(ip) is (scope is Scope.PUBLIC)


def test_the_short_ways_lead_to_the_same() -> None:
    rng = random.Random(1)
    for first in range(256):
        for _ in range(8):
            ip = ".".join(map(str, (first, *rng.randbytes(3))))
            assert subnet_key(ip) == str(ip_network(f"{ip}/24", strict=False))
            inside = [scope for prefix, scope in SCOPES.items() if ip_address(ip) in prefix]
            assert scope_of(ip) is (inside or [Scope.PUBLIC])[0]
    for wrong in ("", "20", "20.1", "20.1.2", "x.1.2.3", "20.1.2.3.4"):
        with pytest.raises(ValueError, match="address"):
            scope_of(wrong)


def test_subnet_key_is_a_24_or_a_48() -> None:
    assert subnet_key("192.0.2.200") == subnet_key("192.0.2.1") == "192.0.2.0/24"
    assert subnet_key("192.0.3.1") != subnet_key("192.0.2.1")
    assert subnet_key("2001:db8:1:2::3") == "2001:db8:1::/48"


def test_overlay_is_the_shared_address_space() -> None:
    assert scope_of(str(OVERLAY_IPV4.network_address)) is Scope.CGNAT
