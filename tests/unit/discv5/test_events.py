"""Reasons to drop."""

from __future__ import annotations

from ginnel.discv5.events import Drop
from ginnel.discv5.packet import PacketFault


def test_each_fault_of_a_packet_is_counted_by_its_own_reason() -> None:
    assert len({Drop(fault.value) for fault in PacketFault}) == len(PacketFault)
