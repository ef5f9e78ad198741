"""LAN discovery: what is told and when, and what is believed of what is heard."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from ginnel.base import rlp
from ginnel.base.types import Address, Secret, Transmit
from ginnel.discv5.enr import Enr, EnrBuilder, RecordCache
from ginnel.mesh.lan import (
    GROUP4,
    GROUP6,
    INTERVAL_S,
    LIFETIME_S,
    MAX_NODES,
    MAX_PER_SOURCE,
    MAX_SIZE,
    MIN_GAP_S,
    PORT,
    REPEAT_S,
    SOURCE_BURST,
    LanCore,
    LanDrop,
    LanEvent,
    Link,
    NeighbourAsks,
    NeighbourFound,
    NeighbourLost,
    decode_announcement,
    encode_announcement,
)

LAN4 = Link("eth0", "192.168.1.5", 24)
LAN6 = Link("eth0", "2001:db8:1::5", 128)
BEN = Address("192.168.1.7", 3000)


def record(number: int, seq: int = 1) -> Enr:
    return EnrBuilder(Secret(number.to_bytes(32, "big")), seq).build()


OWN, OTHER = record(1), record(2)
HELLO = encode_announcement(OTHER, serves=True)
ASKS = encode_announcement(OTHER, serves=False)


def make(*links: Link, serves: bool = True) -> LanCore:
    core = LanCore(OWN, serves=serves, rng=random.Random(1), now=0.0)
    if links:
        core.set_links(links, now=0.0)
    return core


def sent(core: LanCore) -> list[Transmit]:
    found = []
    while (transmit := core.poll_transmit()) is not None:
        found.append(transmit)
    return found


def events(core: LanCore) -> list[LanEvent]:
    found = []
    while (event := core.poll_event()) is not None:
        found.append(event)
    return found


def run(core: LanCore, until: float) -> list[float]:
    """Let time pass; return when something was sent."""
    times = []
    while (deadline := core.poll_deadline()) is not None and deadline.at <= until:
        core.handle_timeout(now=deadline.at)
        if sent(core):
            times.append(deadline.at)
    return times


def test_the_own_record_is_told_at_once_again_soon_and_then_every_half_minute() -> None:
    core = make(LAN4)
    times = run(core, 100.0)
    assert times[:2] == [0.0, REPEAT_S]
    gaps = [b - a for a, b in pairwise(times[1:])]
    assert gaps
    assert all(0.9 * INTERVAL_S <= gap <= INTERVAL_S for gap in gaps)


def test_one_datagram_leaves_for_each_interface_and_ip_version() -> None:
    second = Link("eth0", "192.168.1.6", 24)
    other = Link("wlan0", "10.0.0.5", 8)
    core = make(LAN4, LAN6, second, other)
    core.handle_timeout(now=0.0)
    data = encode_announcement(OWN, serves=True)
    assert sent(core) == [
        Transmit(data, Address(GROUP4, PORT), LAN4.ip),
        Transmit(data, Address(GROUP6, PORT), LAN6.ip),
        Transmit(data, Address(GROUP4, PORT), other.ip),
    ]


def test_without_a_local_network_nothing_is_said() -> None:
    core = make()
    assert core.poll_deadline() is None
    core.set_links([LAN4], now=1.0)
    core.set_links([], now=2.0)
    assert run(core, 1000.0) == []


def test_a_changed_record_is_told_at_once_but_never_twice_a_second() -> None:
    core = make(LAN4)
    run(core, 50.0)
    core.set_record(record(1, seq=1), now=50.0)  # the same
    assert run(core, 51.0) == []
    core.set_record(record(1, seq=2), now=51.0)
    assert run(core, 51.5) == [51.0]
    core.set_record(record(1, seq=3), now=51.5)
    assert run(core, 53.0) == [51.0 + MIN_GAP_S]


def test_who_is_new_is_known_and_answered() -> None:
    core = make(LAN4)
    run(core, 10.0)
    core.handle_datagram(HELLO, BEN, now=10.0)
    (found,) = events(core)
    assert isinstance(found, NeighbourFound)
    assert (found.contact.address, found.record) == (BEN, OTHER)
    assert core.neighbours() == [found.contact]
    assert core.contact_of(OTHER.node_id) == found.contact
    assert len(run(core, 10.5)) == 1
    core.handle_datagram(HELLO, BEN, now=11.0)
    assert events(core) == []
    assert run(core, 12.0) == []


def test_a_node_is_forgotten_when_it_is_silent_or_says_so() -> None:
    core = make(LAN4)
    core.handle_datagram(HELLO, BEN, now=0.0)
    core.handle_datagram(HELLO, BEN, now=20.0)
    events(core)
    run(core, LIFETIME_S + 19.0)
    assert core.neighbours()
    run(core, LIFETIME_S + 20.0)
    assert events(core) == [NeighbourLost(OTHER.node_id)]
    assert not core.has_company
    core.handle_datagram(HELLO, BEN, now=200.0)
    core.handle_datagram(ASKS, Address("192.168.1.8", 1), now=200.0)  # not from there
    assert core.neighbours()
    core.handle_datagram(ASKS, BEN, now=200.0)
    assert not core.neighbours()


def test_who_only_asks_is_answered_and_no_neighbour() -> None:
    core = make(LAN4)
    run(core, 10.0)
    core.handle_datagram(ASKS, BEN, now=10.0)
    core.handle_datagram(ASKS, BEN, now=10.0)
    assert events(core) == [NeighbourAsks()]
    assert core.neighbours() == []
    assert core.has_company
    assert len(run(core, 10.5)) == 1
    run(core, 10.0 + LIFETIME_S)
    assert not core.has_company


def test_a_node_that_moved_is_followed() -> None:
    core = make(LAN4, LAN6)
    core.handle_datagram(HELLO, BEN, now=0.0)
    six = Address("2001:db8:1::7", 3000)
    core.handle_datagram(HELLO, six, now=1.0)  # IPv4 stays the way
    moved = Address("192.168.1.9", 3000)
    core.handle_datagram(HELLO, moved, now=2.0)
    assert [e.contact.address for e in events(core) if isinstance(e, NeighbourFound)] == [
        BEN,
        moved,
    ]
    core.handle_datagram(HELLO, six, now=40.0)  # no longer heard by IPv4
    (found,) = core.neighbours()
    assert found.address == six
    core.set_links([LAN4], now=41.0)
    (found,) = core.neighbours()
    assert found.address == moved
    core.set_links([Link("eth0", "10.1.1.1", 24)], now=42.0)
    assert core.neighbours() == []


@pytest.mark.parametrize(
    ("data", "source", "reason"),
    [
        (HELLO, Address("192.168.2.7", 3000), LanDrop.OFF_LINK),
        (HELLO, Address("203.0.113.1", 3000), LanDrop.OFF_LINK),
        (HELLO, Address("2001:db8:1::7", 3000), LanDrop.OFF_LINK),  # no IPv6 here
        (HELLO, Address(BEN.ip, 0), LanDrop.OFF_LINK),
        (HELLO + bytes(MAX_SIZE), BEN, LanDrop.SIZE),
        (b"", BEN, LanDrop.MALFORMED),
        (HELLO[:-3], BEN, LanDrop.MALFORMED),
        (HELLO[:90] + b"\x00" + HELLO[91:], BEN, LanDrop.MALFORMED),
        (rlp.encode_list_payload(b"\x02" + OTHER.raw), BEN, LanDrop.MALFORMED),
        (rlp.encode_list_payload(b"\x01"), BEN, LanDrop.MALFORMED),
        (encode_announcement(OWN, serves=True), BEN, LanDrop.OWN),
    ],
)
def test_what_is_not_believed_is_counted(data: bytes, source: Address, reason: LanDrop) -> None:
    core = make(LAN4)
    core.handle_datagram(data, source, now=0.0)
    assert core.drops == {reason: 1}
    assert core.neighbours() == []
    assert not core.has_company


def test_a_bare_record_counts_and_more_items_are_ignored() -> None:
    cache = RecordCache()
    bare = rlp.encode_list_payload(b"\x01" + OTHER.raw)
    assert decode_announcement(bare, cache) == (OTHER, True)
    longer = rlp.encode_list_payload(b"\x01" + OTHER.raw + b"\x00" * 0 + b"\x01\x07")
    assert decode_announcement(longer, cache) == (OTHER, True)
    assert decode_announcement(ASKS, cache) == (OTHER, False)


def test_one_sender_fills_neither_the_table_nor_our_time() -> None:
    core = make(LAN4)
    for number in range(2, 2 + MAX_PER_SOURCE + 4):
        core.handle_datagram(encode_announcement(record(number), serves=True), BEN, now=0.0)
    assert len(core.neighbours()) == MAX_PER_SOURCE
    assert core.drops[LanDrop.FULL] == SOURCE_BURST - MAX_PER_SOURCE
    core.handle_datagram(HELLO, BEN, now=0.0)
    assert core.drops[LanDrop.RATE] == 1


def test_the_table_keeps_those_heard_last() -> None:
    core = make(Link("eth0", "10.0.0.1", 8))
    for number in range(2, 2 + MAX_NODES + 1):
        source = Address(f"10.0.1.{number}", 3000)
        core.handle_datagram(
            encode_announcement(record(number), serves=True), source, now=float(number)
        )
    assert len(core.neighbours()) == MAX_NODES
    assert core.contact_of(OTHER.node_id) is None


def test_leaving_is_said_once_and_asking_leaves_without_a_word() -> None:
    core = make(LAN4)
    core.handle_timeout(now=0.0)
    sent(core)
    core.close(now=1.0)
    core.close(now=1.0)
    assert [t.data for t in sent(core)] == [encode_announcement(OWN, serves=False)]
    assert core.poll_deadline() is None
    asking = make(LAN4, serves=False)
    asking.handle_timeout(now=0.0)
    sent(asking)
    asking.close(now=1.0)
    assert sent(asking) == []
