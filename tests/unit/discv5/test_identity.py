"""Our own record."""

from __future__ import annotations

from ginnel.base.types import Address, Secret
from ginnel.discv5.identity import LocalRecord


def test_changes_raise_the_sequence_number() -> None:
    four, six = Address("203.0.113.1", 9), Address("2001:db8::1", 10)
    local = LocalRecord(Secret(b"\x01" * 32), {"k": b"v"}, four, 7)
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
