"""Priorities, foundations, and which remote addresses are refused."""

from ipaddress import ip_network

import pytest

from ginnel.base.types import Address
from ginnel.ice.candidate import (
    CandidateKind,
    compute_priority,
    host_preferences,
    make_foundation,
    make_host,
    make_server_reflexive,
    refusal,
    with_kind,
)

OVERLAY = (ip_network("100.71.0.0/16"), ip_network("fd12:3456:789a::/48"))
HOST = Address("192.168.1.2", 4000)


def test_the_formula_of_the_priority() -> None:
    assert compute_priority(CandidateKind.HOST, 65535) == 2130706431  # RFC 8839's example
    assert compute_priority(CandidateKind.SRFLX, 65535) == 1694498815
    kinds = sorted(CandidateKind, key=lambda kind: -compute_priority(kind, 1))
    assert kinds == [
        CandidateKind.HOST,
        CandidateKind.PRFLX,
        CandidateKind.SRFLX,
        CandidateKind.RELAY,
    ]


def test_foundations_follow_kind_and_base() -> None:
    host = make_host(HOST)
    other_port = make_host(Address(HOST.ip, 5000))
    srflx = make_server_reflexive(Address("203.0.113.1", 7), HOST)
    assert host.foundation == other_port.foundation
    assert host.foundation != srflx.foundation
    assert make_foundation(CandidateKind.SRFLX, "a", "s1") != make_foundation(
        CandidateKind.SRFLX, "a", "s2"
    )


def test_a_reflexive_candidate_knows_its_base() -> None:
    srflx = make_server_reflexive(Address("203.0.113.1", 7), HOST)
    assert (srflx.base, srflx.related) == (HOST, HOST)
    assert str(srflx) == "srflx 203.0.113.1:7"
    assert with_kind(srflx, CandidateKind.PRFLX).kind is CandidateKind.PRFLX


def test_families_take_turns() -> None:
    preferences = host_preferences(["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"])
    order = sorted(preferences, key=lambda ip: -preferences[ip])
    assert order == ["2001:db8::1", "10.0.0.1", "2001:db8::2", "10.0.0.2"]


@pytest.mark.parametrize(
    ("ip", "port"),
    [
        ("198.51.100.1", 0),
        ("224.0.0.1", 9),
        ("255.255.255.255", 9),
        ("127.0.0.1", 9),
        ("::1", 9),
        ("0.0.0.0", 9),
        ("::", 9),
        ("ff02::1", 9),
        ("fe80::1", 9),
        ("100.71.3.4", 9),
        ("fd12:3456:789a::5", 9),
    ],
)
def test_addresses_that_are_refused(ip: str, port: int) -> None:
    assert refusal(Address(ip, port), OVERLAY)


@pytest.mark.parametrize(
    "ip", ["198.51.100.1", "192.168.1.1", "100.72.0.1", "169.254.3.4", "2001:db8::1", "fd00::1"]
)
def test_addresses_that_are_fine(ip: str) -> None:
    assert refusal(Address(ip, 9), OVERLAY) is None


def test_loopback_may_be_allowed() -> None:
    assert refusal(Address("127.0.0.1", 9), allow_loopback=True) is None
