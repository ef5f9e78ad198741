"""The routing table: buckets, replacements, limits of addresses."""

from __future__ import annotations

import random

from ginnel.base.types import Address, NodeId
from ginnel.discv5.enr import Enr, address_fields, sign_enr
from ginnel.discv5.keys import log_distance, new_private_key
from ginnel.discv5.table import Added, RoutingTable, TableLimits, is_usable, may_relay

RNG = random.Random(4)
OWN = NodeId(bytes(32))
RECORDS: list[Enr] = []
for _index in range(400):
    _address = Address(f"203.{_index // 200}.{_index % 200}.1", 9)
    RECORDS.append(sign_enr(new_private_key(RNG.randbytes), 1, address_fields(_address)))
FAR = [record for record in RECORDS if record.node_id[0] & 0x80]


def test_our_own_half_splits_and_the_other_does_not() -> None:
    table = RoutingTable(OWN, TableLimits(bits_per_hop=1))
    results = [table.add(record) for record in FAR]
    assert results[:16] == [Added.NEW] * 16
    assert set(results[16:]) == {Added.REPLACEMENT}
    for record in RECORDS:
        table.add(record)
    assert len(table) > 60
    assert sum(1 for enr in table.at_distances([256], 1000, seen_only=False)) == 16


def test_more_bits_per_hop_keep_more_far_nodes() -> None:
    table = RoutingTable(OWN, TableLimits())
    for record in FAR:
        table.add(record)
    assert len(table) > 100


def test_a_silent_node_makes_room_for_a_replacement() -> None:
    table = RoutingTable(OWN, TableLimits(bits_per_hop=1))
    for record in FAR[:20]:
        table.add(record)
    assert table.get(FAR[19].node_id) is None
    replacement = table.replace(FAR[3].node_id)
    assert replacement == FAR[19]
    assert table.get(FAR[3].node_id) is None
    assert len(table) == 16
    assert table.replace(FAR[3].node_id) is None


def test_a_node_that_answered_pushes_out_one_that_never_did() -> None:
    table = RoutingTable(OWN, TableLimits(bits_per_hop=1))
    for record in FAR[:16]:
        table.add(record)
    assert table.add(FAR[16], seen=True) is Added.NEW
    assert len(table) == 16


def test_a_replacement_that_gets_a_place_is_no_replacement_any_more() -> None:
    table = RoutingTable(OWN, TableLimits(bits_per_hop=1))
    for record in FAR[:17]:
        table.add(record)
    assert table.add(FAR[16], seen=True) is Added.NEW
    assert table.replace(FAR[0].node_id) is None
    assert len(table) == len(table.nodes()) == 15


def test_bootstrap_nodes_stay() -> None:
    table = RoutingTable(OWN, TableLimits())
    table.add(FAR[0], seen=True, bootstrap=True)
    assert table.replace(FAR[0].node_id) is None
    node = table.get(FAR[0].node_id)
    assert node is not None
    assert not node.is_seen


def test_neighbours_are_the_closest() -> None:
    table = RoutingTable(OWN, TableLimits(bucket_size=1000))
    for record in RECORDS:
        table.add(record)
    target = NodeId(RNG.randbytes(32))
    number = int.from_bytes(target, "big")
    true = sorted(RECORDS, key=lambda enr: int.from_bytes(enr.node_id, "big") ^ number)[:16]
    assert table.neighbours(target, 16) == true
    assert table.neighbours(target, 16, seen_only=True) == []


def test_distances_are_served_fairly() -> None:
    table = RoutingTable(OWN, TableLimits(bucket_size=1000))
    for record in RECORDS:
        table.add(record, seen=True)
    found = table.at_distances([256, 255, 254], 16)
    counts = [sum(log_distance(OWN, enr.node_id) == d for enr in found) for d in (256, 255, 254)]
    assert counts == [6, 5, 5]
    assert table.at_distances([3], 16) == []
    assert len(table.at_distances([256, 256], 5)) == 5


def test_public_networks_are_limited_and_private_ones_not() -> None:
    for prefix, bucket, expected in (
        ("203.0.113", 1000, 10),
        ("203.0.113", 2, 2),
        ("10.0.0", 2, 40),
        ("2001:db8:7:", 1000, 10),  # one /48
        ("2001:db8:7:", 2, 2),
        ("fd00:0:7:", 2, 40),
    ):
        table = RoutingTable(OWN, TableLimits(bucket_size=1000, bucket_ip=bucket))
        for index in range(40):
            is_ipv6 = ":" in prefix
            ip = f"{prefix}{index + 1:x}::1" if is_ipv6 else f"{prefix}.{index + 1}"
            address = Address(ip, 9)
            table.add(sign_enr(new_private_key(RNG.randbytes), 1, address_fields(address)))
        assert len(table) == expected


def test_limits_are_given_back() -> None:
    table = RoutingTable(OWN, TableLimits(bucket_ip=1))
    keys = [new_private_key(RNG.randbytes) for _ in range(2)]
    one, two = (
        sign_enr(key, 1, address_fields(Address(f"203.0.113.{n}", 9))) for n, key in enumerate(keys)
    )
    assert table.add(one) is Added.NEW
    assert table.add(two) is Added.REFUSED
    table.replace(one.node_id)
    assert table.add(two) is Added.NEW


def test_a_newer_record_is_taken_and_an_older_not() -> None:
    table = RoutingTable(OWN, TableLimits())
    key = b"\x09" * 32
    old, new = (sign_enr(key, n, address_fields(Address(f"203.0.{n}.1", 9))) for n in (1, 2))
    table.add(new, seen=True)
    assert table.add(old) is Added.KNOWN
    node = table.get(new.node_id)
    assert node is not None
    assert node.record == new
    newest = sign_enr(key, 3, address_fields(Address("203.0.9.1", 9)))
    table.add(newest)
    moved = table.get(new.node_id)
    assert moved is not None
    assert (moved.record, moved.is_seen) == (newest, False)  # nobody has seen it there
    table.mark_seen(new.node_id)
    same_place = sign_enr(key, 4, address_fields(Address("203.0.9.1", 9)) | {"k": b"v"})
    table.add(same_place)
    kept = table.get(new.node_id)
    assert kept is not None
    assert (kept.record, kept.is_seen) == (same_place, True)
    assert not table.removed
    table.add(sign_enr(key, 5, {}))
    assert table.get(new.node_id) is None
    assert list(table.removed) == [new.node_id]


def test_what_is_no_node_of_the_table() -> None:
    key = b"\x09" * 32
    record = sign_enr(key, 1, address_fields(Address("203.0.113.1", 9)))
    assert RoutingTable(record.node_id, TableLimits()).add(record) is Added.REFUSED
    table = RoutingTable(OWN, TableLimits())
    assert table.add(sign_enr(key, 1, {})) is Added.REFUSED
    for ip in ("224.0.0.1", "0.0.0.0", "255.255.255.255"):
        record = sign_enr(key, 1, address_fields(Address(ip, 9)))
        assert table.add(record) is Added.REFUSED
    assert not is_usable(Address("203.0.113.1", 0))


def test_least_recently_seen_is_revalidated() -> None:
    table = RoutingTable(OWN, TableLimits())
    for record in FAR[:5]:
        table.add(record)
    for record in FAR[1:5]:
        table.mark_seen(record.node_id)
    assert table.node_to_revalidate(RNG) == FAR[0]
    assert RoutingTable(OWN, TableLimits()).node_to_revalidate(RNG) is None


def test_the_tail_of_a_random_bucket_is_revalidated() -> None:
    table = RoutingTable(OWN, TableLimits(bits_per_hop=1))
    for record in RECORDS:
        table.add(record)
    tails: dict[int, Enr] = {}
    for node in table.nodes():  # who is marked first in a bucket ends as its tail
        table.mark_seen(node.record.node_id)
        tails.setdefault(max(node.distance, 251), node.record)
    assert sorted(tails) == list(range(251, 257))  # the nearest bucket is not split further
    drawn = [table.node_to_revalidate(RNG) for _ in range(500)]
    assert set(drawn) == set(tails.values())
    assert all(drawn.count(tail) > 50 for tail in tails.values())


def test_limits_of_a_bucket_are_those_of_its_halves_after_a_split() -> None:
    table = RoutingTable(OWN, TableLimits(bucket_size=4, bits_per_hop=1))
    near = [record for record in RECORDS if not record.node_id[0] & 0x80]
    far_crowd = iter(of_subnet("198.51.100", 6))
    near_crowd = iter(of_subnet("198.51.100", 6, far=False))
    first = next(far_crowd)
    assert table.add(first) is Added.NEW
    assert table.add(next(near_crowd)) is Added.NEW
    assert table.add(next(far_crowd)) is Added.REFUSED  # two of them in the one bucket
    for record in (*FAR[:2], near[0]):
        assert table.add(record) is Added.NEW  # the last one splits it
    for crowd in (far_crowd, near_crowd):
        assert table.add(next(crowd)) is Added.NEW
        assert table.add(next(crowd)) is Added.REFUSED
    table.replace(first.node_id)
    assert table.add(next(far_crowd)) is Added.NEW
    assert table.add(next(far_crowd)) is Added.REFUSED


def test_who_may_name_what() -> None:
    public, private, loopback = (Address(ip, 9) for ip in ("203.0.113.1", "10.0.0.1", "127.0.0.1"))
    assert may_relay(public, public)
    assert not may_relay(public, private)
    assert not may_relay(private, loopback)
    assert may_relay(private, private)
    assert may_relay(loopback, private)
    assert may_relay(loopback, loopback)


def test_a_bootstrap_node_without_any_address_stays_as_it_was_known() -> None:
    table = RoutingTable(OWN, TableLimits())
    key = b"\x09" * 32
    first = sign_enr(key, 1, address_fields(Address("203.0.113.1", 9)))
    table.add(first, bootstrap=True)
    assert table.add(sign_enr(key, 2, {})) is Added.KNOWN
    assert [node.record for node in table.nodes()] == [first]


def test_replacements_are_bounded_and_keep_the_newest_record() -> None:
    table = RoutingTable(OWN, TableLimits(bits_per_hop=1, replacements=3))
    for record in FAR[:22]:
        table.add(record)
    took = [table.replace(record.node_id) for record in FAR[:6]]
    assert took == [*FAR[21:18:-1], None, None, None]


def test_a_dead_bootstrap_node_gives_others_their_turn() -> None:
    table = RoutingTable(OWN, TableLimits(bits_per_hop=1))
    table.add(FAR[0], bootstrap=True)
    for record in FAR[1:4]:
        table.add(record, seen=True)
    turns = []
    for _ in range(4):
        record = table.node_to_revalidate(RNG)
        assert record is not None
        turns.append(record)
        if record == FAR[0]:
            table.replace(record.node_id)
        else:
            table.mark_seen(record.node_id)
    assert set(turns) == set(FAR[:4])


def of_subnet(subnet: str, count: int, *, far: bool = True) -> list[Enr]:
    """Return nodes of the far (or near) half of the id space in one /24."""
    found: list[Enr] = []
    while len(found) < count:
        address = Address(f"{subnet}.{len(found) + 1}", 9)
        record = sign_enr(new_private_key(RNG.randbytes), 1, address_fields(address))
        if bool(record.node_id[0] & 0x80) is far:
            found.append(record)
    return found


def test_one_network_does_not_push_out_all_replacements() -> None:
    table = RoutingTable(OWN, TableLimits(bits_per_hop=1))
    for record in FAR[:24]:
        table.add(record)
    crowd = of_subnet("198.51.100", 6)
    added = [table.add(record) for record in crowd]
    assert added == [Added.REPLACEMENT] * 2 + [Added.REFUSED] * 4
    took = [table.replace(record.node_id) for record in FAR[:8]]
    assert took == [crowd[1], crowd[0], *FAR[23:17:-1]]


def test_replacements_count_beside_nodes_with_a_place_and_give_back_what_they_took() -> None:
    first, second, third, fourth = of_subnet("198.51.100", 4)
    for limits in (
        TableLimits(bits_per_hop=1),
        TableLimits(bits_per_hop=1, bucket_ip=9, table_ip=2),
    ):
        table = RoutingTable(OWN, limits)
        for record in (first, *FAR[:15]):
            table.add(record)
        assert table.add(second) is Added.REPLACEMENT
        assert table.add(second) is Added.REPLACEMENT  # the same one again
        assert table.add(third) is Added.REFUSED
        for record in FAR[15:23]:
            table.add(record)  # the replacements are these eight now
        assert table.add(third) is Added.REPLACEMENT
        assert table.add(fourth, seen=True) is Added.NEW  # one that answered waits for nobody
        assert table.replace(FAR[0].node_id) == FAR[22]  # but for the third there is no room now


def test_an_older_record_of_a_replacement_changes_nothing() -> None:
    table = RoutingTable(OWN, TableLimits(bits_per_hop=1))
    for record in FAR[:16]:
        table.add(record)
    keys = [bytes([n]) * 32 for n in range(1, 20)]
    key = next(key for key in keys if sign_enr(key, 1, {}).node_id[0] & 0x80)
    new = sign_enr(key, 2, address_fields(Address("198.51.100.1", 9)))
    table.add(new)
    table.add(sign_enr(key, 1, address_fields(Address("203.0.0.1", 9))))
    assert table.replace(FAR[0].node_id) == new
    assert [table.add(record) for record in of_subnet("198.51.100", 2)] == [
        Added.REPLACEMENT,
        Added.REFUSED,
    ]
