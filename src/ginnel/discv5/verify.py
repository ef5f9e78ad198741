"""Which records of an answer to FINDNODE are taken.

A node may name only records that are valid, at a distance that was asked for, and at addresses
that we could reach if it can. The first two are the protocol: breaking them is a violation.

Source: discv5-wire.md, "NODES Response".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import NodeId
from ginnel.discv5.enr import Enr, RecordCache
from ginnel.discv5.keys import log_distance
from ginnel.discv5.messages import FindNode
from ginnel.discv5.requests import Pending
from ginnel.discv5.table import may_relay


@dataclass(slots=True)
class Checked:
    """The records that are taken, and what was wrong with others."""

    records: list[Enr] = field(default_factory=list)
    refused: int = 0
    is_violation: bool = False


def check_records(
    pending: Pending, raw_records: Sequence[bytes], own_id: NodeId, cache: RecordCache
) -> Checked:
    """Verify the records that answer a FINDNODE; of several of one node the newest is taken."""
    assert isinstance(pending.message, FindNode)
    contact = pending.contact
    checked = Checked()
    taken: dict[NodeId, Enr] = {}
    for raw in raw_records:
        try:
            record = cache.decode(raw)
        except RemoteProtocolError:
            checked.refused += 1
            checked.is_violation = True
            continue
        if log_distance(contact.node_id, record.node_id) not in pending.message.distances:
            checked.refused += 1
            checked.is_violation = True
        elif record.node_id == own_id or not _is_reachable(pending, record):
            checked.refused += 1
        else:
            known = taken.get(record.node_id)
            checked.refused += known is not None
            if known is None or record.seq > known.seq:
                taken[record.node_id] = record
    checked.records = list(taken.values())
    return checked


def _is_reachable(pending: Pending, record: Enr) -> bool:
    """Say whether we could reach the node; its own record is taken without address too."""
    sender = pending.contact.address
    addresses = record.addresses
    for address in addresses:
        if not may_relay(sender, address):
            return False
    return bool(addresses) or record.node_id == pending.contact.node_id
