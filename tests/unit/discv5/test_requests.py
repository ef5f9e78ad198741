"""Requests under way, in order of time."""

from __future__ import annotations

from ginnel.base.types import Address, NodeId
from ginnel.discv5.enr import address_fields, sign_enr
from ginnel.discv5.messages import Nodes, Ping
from ginnel.discv5.requests import Contact, NodesCollector, Pending, Purpose, RequestTable

CONTACT = Contact(NodeId(bytes(32)), Address("192.0.2.1", 9), bytes(33))


def make(token: int) -> Pending:
    return Pending(token, CONTACT, Ping(bytes([token]), 1), b"", Purpose.CALLER, 0.0)


def test_contact_of_a_record() -> None:
    record = sign_enr(b"\x01" * 32, 1, address_fields(Address("2001:db8::1", 9)))
    assert Contact.from_record(record) is None
    contact = Contact.from_record(record, ipv6=True)
    assert contact is not None
    assert contact.key == (record.node_id, Address("2001:db8::1", 9))


def test_found_by_id_and_by_each_nonce_until_it_ends() -> None:
    table = RequestTable(2)
    one = make(1)
    table.add(one, 4.0)
    table.note_sent(one, b"a", None)
    table.note_sent(one, b"b", None)
    assert table.by_id(CONTACT.node_id, b"\x01") is one
    assert table.by_nonce(b"a") is table.by_nonce(b"b") is one
    assert table.remove(one)
    assert not table.remove(one)
    assert table.by_nonce(b"a") is None
    assert table.by_id(CONTACT.node_id, b"\x01") is None
    assert table.next_at() is None


def test_order_of_time() -> None:
    table = RequestTable(3)
    requests = [make(n) for n in range(3)]
    for n, pending in enumerate(requests):
        table.add(pending, 4.0 + n)
        table.note_sent(pending, bytes([n]), 1.0 + n)
    assert table.is_full
    assert table.next_at() == 1.0
    assert table.pop_retransmit(0.9) is None
    assert table.pop_retransmit(2.0) is requests[0]
    assert table.pop_retransmit(2.0) is requests[1]
    assert table.pop_retransmit(2.0) is None
    table.stop_retransmit(requests[2])
    assert table.next_at() == 4.0
    table.restart(requests[0], 8.0)
    assert table.overdue(5.5) is requests[1]
    table.remove(requests[1])
    assert table.overdue(5.5) is None
    assert len(table) == 2


def test_nodes_are_gathered_up_to_limits() -> None:
    collector = NodesCollector(5, 4)
    assert not collector.has_any
    assert not collector.add(Nodes(b"", 3, (b"a", b"b")))
    assert not collector.add(Nodes(b"", 3, (b"a", b"b")))
    assert not collector.add(Nodes(b"", 3, (b"a",)))
    assert collector.add(Nodes(b"", 9, (b"c", b"d", b"e")))
    assert collector.records() == [b"a", b"b", b"c", b"d"]
    assert NodesCollector(5, 4).add(Nodes(b"", 0, ()))
