"""Our own record."""

from __future__ import annotations

import pytest

from ginnel.base.errors import UsageError
from ginnel.base.types import Address, Secret
from ginnel.discv5.identity import LocalRecord


def test_changes_raise_the_sequence_number() -> None:
    four, six = Address("203.0.113.1", 9), Address("2001:db8::1", 10)
    local = LocalRecord(Secret(b"\x01" * 32), {"k": b"v"}, [four], 7)
    assert (local.record.seq, local.record.address()) == (7, four)
    assert local.set_endpoint(six, True)
    assert not local.set_endpoint(six, True)
    assert local.record.address(ipv6=True) == six
    local.update({"k": b"w"})
    assert (local.record.seq, local.record.get("k")) == (9, b"w")
    assert local.set_endpoint(None, False)
    assert not local.set_endpoint(None, False)
    assert local.endpoint() is None
    assert local.endpoint(ipv6=True) == six
    assert (local.record.address(), local.record.seq) == (None, 10)


def test_an_address_that_was_given_is_configured() -> None:
    four, learned = Address("203.0.113.1", 9), Address("203.0.113.2", 9)
    local = LocalRecord(Secret(b"\x01" * 32), {}, [four], 1)
    assert local.is_configured(False)
    assert not local.is_configured(True)
    local.set_endpoint(learned, False, learned=True)
    assert not local.is_configured(False)


def test_the_seq_goes_on_from_the_previous_record() -> None:
    key = Secret(b"\x01" * 32)
    first = LocalRecord(key, {"k": b"v"}, [], 7).record
    assert LocalRecord(key, {"k": b"v"}, [], 1, first).record == first
    assert LocalRecord(key, {"k": b"w"}, [], 1, first).record.seq == 8
    assert LocalRecord(key, {"k": b"w"}, [], 20, first).record.seq == 20
    with pytest.raises(UsageError):
        LocalRecord(Secret(b"\x02" * 32), {}, [], 1, first)


def test_fields_can_be_removed_and_too_many_change_nothing() -> None:
    local = LocalRecord(Secret(b"\x01" * 32), {"k": b"v"}, [], 1)
    local.update({"k": None, "j": b"1"})
    assert (local.record.get("k"), local.record.get("j"), local.record.seq) == (None, b"1", 2)
    with pytest.raises(UsageError):
        local.update({"big": bytes(300)})
    local.update({})
    assert (local.record.get("big"), local.record.seq) == (None, 3)


def test_an_address_among_the_fields_is_one_that_was_given() -> None:
    four, six = Address("203.0.113.1", 9), Address("2001:db8::1", 10)
    fields = {"ip": four.packed_ip, "udp": four.port}
    local = LocalRecord(Secret(b"\x01" * 32), fields, [], 1)
    assert local.endpoint() == four
    assert local.is_configured(False)
    local.set_endpoint(six, True, learned=True)
    assert not local.is_configured(True)
    local.update({"udp6": 11})
    assert local.endpoint(ipv6=True) == Address("2001:db8::1", 11)
    assert local.is_configured(True)
    local.update({"ip": None, "udp": None, "ip6": None, "udp6": None})
    assert local.record.addresses == ()
    assert not local.is_configured(False)
    assert not local.is_configured(True)


def test_given_fields_change_a_given_address() -> None:
    local = LocalRecord(Secret(b"\x01" * 32), {}, [Address("203.0.113.1", 9)], 1)
    local.update({"udp": 10})
    assert local.endpoint() == Address("203.0.113.1", 10)
    assert local.set_endpoint(Address("203.0.113.2", 10), False)
    assert local.endpoint() == Address("203.0.113.2", 10)


def test_an_address_that_does_not_fit_changes_nothing() -> None:
    local = LocalRecord(Secret(b"\x01" * 32), {"k": bytes(165)}, [], 1)
    before = local.record
    with pytest.raises(UsageError):
        local.set_endpoint(Address("2001:db8::1", 9), True)
    assert local.record == before
    assert not local.is_configured(True)
    local.update({"k": None})
    assert local.record.addresses == ()


KEY = Secret(b"\x01" * 32)
FOUR, SIX = Address("203.0.113.1", 9), Address("2001:db8::1", 10)


def test_fields_of_the_previous_record_go_on_and_given_ones_take_their_place() -> None:
    before = {"eth2": b"e", "attnets": bytes(8), "l": [b"1", [b"2"]], "tcp": 30303}
    previous = LocalRecord(KEY, before, [], 7).record
    local = LocalRecord(KEY, {"eth2": b"f"}, [], 1, previous)
    assert local.record.items == LocalRecord(KEY, before | {"eth2": b"f"}, [], 1).record.items
    assert local.record.seq == 8
    assert LocalRecord(KEY, {}, [], 1, previous).record == previous
    with pytest.raises(UsageError):
        LocalRecord(KEY, {"big": bytes(220)}, [], 1, previous)


def test_addresses_of_the_previous_record_are_learned_ones() -> None:
    previous = LocalRecord(KEY, {}, [FOUR, SIX], 7).record
    local = LocalRecord(KEY, {}, [], 1, previous)
    assert local.record == previous
    assert not local.is_configured(False)
    assert not local.is_configured(True)
    moved = Address("203.0.113.2", 11)
    assert local.set_endpoint(moved, False, learned=True)
    assert local.record.addresses == (moved, SIX)
    assert not local.is_configured(False)
    local.update({"udp6": 12})
    assert local.endpoint(ipv6=True) == Address(SIX.ip, 12)
    assert local.is_configured(True)


def test_a_given_address_takes_the_place_of_the_previous_record_s() -> None:
    previous = LocalRecord(KEY, {}, [FOUR, SIX], 7).record
    other = Address("203.0.113.2", 11)
    for fields, endpoints in (({}, [other]), ({"ip": other.packed_ip, "udp": 11}, [])):
        local = LocalRecord(KEY, fields, endpoints, 1, previous)
        assert local.record.addresses == (other, SIX)
        assert (local.is_configured(False), local.is_configured(True)) == (True, False)
    port = LocalRecord(KEY, {"udp": 11}, [], 1, previous)
    assert port.endpoint() == Address(FOUR.ip, 11)
    assert not port.is_configured(False)


def test_addresses_of_versions_that_are_not_kept_leave_the_record() -> None:
    previous = LocalRecord(KEY, {"k": b"v", "ip6": SIX.packed_ip}, [FOUR], 7).record
    assert previous.addresses == (FOUR, Address(SIX.ip, FOUR.port))  # one port for both
    six = LocalRecord(KEY, {}, [], 1, previous, (6,)).record
    assert six.addresses == (Address(SIX.ip, FOUR.port),)
    none = LocalRecord(KEY, {}, [], 1, previous, ()).record
    assert none.items == LocalRecord(KEY, {"k": b"v"}, [], 1).record.items
