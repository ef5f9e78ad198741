"""What arrivals, silences and views are judged to mean; the tests themselves run in the lab."""

from __future__ import annotations

import asyncio
import random

import pytest

from ginnel.base.types import Address
from ginnel.daemon.nat_tests import FilterFinding, NatTests, judge_filtering, judge_mapping
from ginnel.daemon.probe_socket import ProbeSocket
from ginnel.ice.nat import Filtering, Mapping

OPEN = FilterFinding(("192.0.2.1", "192.0.2.2"))
SHUT = FilterFinding((), 2)
UNCLEAR = (FilterFinding(), FilterFinding((), 1), FilterFinding(("192.0.2.1",), 2))
ONE, OTHER = Address("192.0.2.1", 7), Address("192.0.2.2", 7)
ONE_AGAIN = Address("192.0.2.1", 8)
SEEN, SEEN_2, SEEN_3 = (Address("203.0.113.5", port) for port in (4000, 4001, 4002))


def test_two_arrivals_or_two_silences_are_needed() -> None:
    assert OPEN.is_open is True
    assert SHUT.is_open is False
    assert [finding.is_open for finding in UNCLEAR] == [None, None, None]


def test_filtering() -> None:
    assert judge_filtering(OPEN, None) is Filtering.INDEPENDENT
    assert judge_filtering(SHUT, None) is Filtering.DEPENDENT
    assert judge_filtering(SHUT, OPEN) is Filtering.ADDRESS
    assert judge_filtering(SHUT, SHUT) is Filtering.ADDRESS_AND_PORT
    assert judge_filtering(SHUT, UNCLEAR[0]) is Filtering.DEPENDENT
    assert judge_filtering(UNCLEAR[1], None) is Filtering.UNKNOWN


@pytest.mark.parametrize(
    ("seen", "mapping"),
    [
        ({}, Mapping.UNKNOWN),
        ({ONE: SEEN}, Mapping.UNKNOWN),
        ({ONE: SEEN, ONE_AGAIN: SEEN}, Mapping.UNKNOWN),
        ({ONE: SEEN, OTHER: SEEN}, Mapping.INDEPENDENT),
        ({ONE: SEEN, OTHER: SEEN_2}, Mapping.DEPENDENT),
        ({ONE: SEEN, ONE_AGAIN: SEEN, OTHER: SEEN_2}, Mapping.ADDRESS),
        ({ONE: SEEN, ONE_AGAIN: SEEN_2, OTHER: SEEN_3}, Mapping.ADDRESS_AND_PORT),
        ({ONE: Address("192.168.1.2", 9)}, Mapping.NONE),
        ({ONE: Address("192.168.1.2", 5)}, Mapping.UNKNOWN),
    ],
)
def test_mapping(seen: dict[Address, Address], mapping: Mapping) -> None:
    assert judge_mapping(seen, ("192.168.1.2",), 9) is mapping


def test_without_nodes_nothing_is_said() -> None:
    async def play() -> None:
        tests = NatTests((), "ginnel", random.Random(1))
        assert (await tests.test_filtering()).is_open is None
        assert (await tests.test_mapping(())).mapping is Mapping.UNKNOWN
        assert await tests.test_hairpin() is None

    asyncio.run(play())


def test_a_hairpin_is_seen_where_an_outer_address_leads_back() -> None:
    """On loopback it does; the lab's kernel drops what a router turns back to who sent it."""

    async def play() -> None:
        async with ProbeSocket("ginnel") as node:
            nodes = (node.contact_at(Address("127.0.0.1", node.port)),)
            assert await NatTests(nodes, "ginnel", random.Random(1)).test_hairpin() is True

    asyncio.run(play())
