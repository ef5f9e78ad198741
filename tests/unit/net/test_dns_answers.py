"""What the network's name server answers, from and to bytes."""

from __future__ import annotations

from ipaddress import ip_network

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ginnel.net.dns_answers import MAX_ANSWER, Foreign, Zone, answer, failure

ZONE = Zone(
    "home.internal",
    {
        "pi.home.internal": ("100.64.0.2", "fd12::2"),
        "nas.home.internal": ("fd12::3",),
        "a.b.home.internal": ("100.64.0.4",),
    },
    (ip_network("100.64.0.0/16"), ip_network("fd12::/48")),
)
# id 0x1234, recursion desired, one question: pi.home.internal A IN
QUESTION = bytes.fromhex("1234 0100 0001 0000 0000 0000") + b"\2pi\4home\x08internal\0\0\1\0\1"


def ask(name: str, kind: str = "A") -> dns.message.Message:
    found = answer(dns.message.make_query(name, kind).to_wire(), ZONE)
    assert isinstance(found, bytes)
    return dns.message.from_wire(found)


def test_an_address_as_bytes() -> None:
    found = answer(QUESTION, ZONE)
    assert isinstance(found, bytes)
    assert found[:4] == bytes.fromhex("1234 8580")  # answer, authoritative, recursion there
    assert found.endswith(bytes.fromhex("0001 0001 0000000a 0004 64400002"))


@pytest.mark.parametrize(
    ("name", "kind", "texts"),
    [
        ("pi.home.internal", "A", ["100.64.0.2"]),
        ("PI.Home.INTERNAL.", "AAAA", ["fd12::2"]),
        ("nas.home.internal", "AAAA", ["fd12::3"]),
        ("2.0.64.100.in-addr.arpa", "PTR", ["pi.home.internal."]),
        (f"3.{'0.' * 27}2.1.d.f.ip6.arpa", "PTR", ["nas.home.internal."]),
    ],
)
def test_names_and_addresses_of_members(name: str, kind: str, texts: list[str]) -> None:
    reply = ask(name, kind)
    assert reply.rcode() == dns.rcode.NOERROR
    assert [item.to_text() for rrset in reply.answer for item in rrset] == texts
    assert reply.flags & dns.flags.AA


@pytest.mark.parametrize(
    ("name", "kind", "rcode"),
    [
        ("gone.home.internal", "A", dns.rcode.NXDOMAIN),
        ("nas.home.internal", "A", dns.rcode.NOERROR),  # there, but without IPv4
        ("pi.home.internal", "MX", dns.rcode.NOERROR),
        ("home.internal", "A", dns.rcode.NOERROR),
        ("b.home.internal", "A", dns.rcode.NOERROR),  # an empty name between others
        ("9.9.64.100.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN),
        ("2.0.64.100.in-addr.arpa", "A", dns.rcode.NOERROR),
    ],
)
def test_negative_answers_carry_the_zones_soa(name: str, kind: str, rcode: dns.rcode.Rcode) -> None:
    reply = ask(name, kind)
    assert reply.rcode() == rcode
    assert reply.answer == []
    assert [rrset.rdtype for rrset in reply.authority] == [dns.rdatatype.SOA]


@pytest.mark.parametrize(
    "name", ["example.com", "evilhome.internal", "internal", "1.0.0.10.in-addr.arpa", "."]
)
def test_other_names_are_foreign(name: str) -> None:
    query = dns.message.make_query(name, "A")
    found = answer(query.to_wire(), ZONE)
    assert isinstance(found, Foreign)
    assert dns.message.from_wire(found.refusal).rcode() == dns.rcode.REFUSED
    failed = failure(query.to_wire())
    assert failed is not None
    assert dns.message.from_wire(failed).rcode() == dns.rcode.SERVFAIL


def test_no_question_gets_no_answer() -> None:
    for data in (b"", b"x" * 5000, QUESTION[:11], QUESTION[:2] + b"\x81" + QUESTION[3:]):
        assert answer(data, ZONE) is None
    update = answer(QUESTION[:2] + b"\x28" + QUESTION[3:], ZONE)
    assert update is None or isinstance(update, bytes)


@given(st.binary(max_size=100), st.integers(0, len(QUESTION)))
def test_hostile_bytes_never_raise(data: bytes, at: int) -> None:
    for query in (data, QUESTION[:at] + data, QUESTION[:at] + data + QUESTION[at + len(data) :]):
        found = answer(query, ZONE)
        assert found is None or isinstance(found, Foreign) or len(found) <= MAX_ANSWER
        failure(query)
