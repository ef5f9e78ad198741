"""Which records of an answer are taken."""

from __future__ import annotations

from ginnel.base.types import make_address
from ginnel.discv5.enr import Enr, RecordCache, sign_enr
from ginnel.discv5.keys import log_distance
from ginnel.discv5.messages import FindNode, encode_message
from ginnel.discv5.requests import Contact, Pending, Purpose
from ginnel.discv5.verify import Checked, check_records


def record(index: int, ip: bytes | None = b"\xcb\x00\x71\x01") -> Enr:
    fields = {"udp": 9} if ip is None else {"ip": ip, "udp": 9}
    return sign_enr(index.to_bytes(32, "big"), 1, fields)


US, RESPONDER, THIRD = record(1), record(2, None), record(3)


def check(records: list[bytes], distances: tuple[int, ...], ip: str = "203.0.113.9") -> Checked:
    message = FindNode(b"id", distances)
    contact = Contact(RESPONDER.node_id, make_address(ip, 9), RESPONDER.public_key)
    pending = Pending(1, contact, message, encode_message(message), Purpose.CALLER, 0.0)
    return check_records(pending, records, US.node_id, RecordCache())


def distance(other: Enr) -> int:
    return log_distance(RESPONDER.node_id, other.node_id)


def test_records_at_the_distances_asked_for_are_taken() -> None:
    assert check([THIRD.raw], (distance(THIRD),)) == Checked([THIRD], 0, False)
    assert check([RESPONDER.raw], (0,)) == Checked([RESPONDER], 0, False)


def test_other_distances_and_invalid_records_are_violations() -> None:
    assert check([THIRD.raw], (distance(THIRD) - 1,)) == Checked([], 1, True)
    bad = bytearray(THIRD.raw)
    bad[10] ^= 1
    assert check([bytes(bad), THIRD.raw], (distance(THIRD),)) == Checked([THIRD], 1, True)


def test_ourselves_and_unreachable_nodes_are_left_out_without_blame() -> None:
    private = record(4, b"\x0a\x00\x00\x01")
    nowhere = record(5, None)
    distances = (distance(US), distance(private), distance(nowhere))
    raw = [US.raw, private.raw, nowhere.raw]
    assert check(raw, distances) == Checked([], 3, False)
    assert check(raw, distances, "10.9.9.9") == Checked([private], 2, False)


def test_a_node_on_the_internet_can_not_name_itself_inside_our_network() -> None:
    inside = {"ip": b"\x0a\x00\x00\x01", "udp": 9}
    outside6 = {"ip6": bytes.fromhex("20010db8") + bytes(12), "udp6": 9}
    loopback = {"ip": b"\x7f\x00\x00\x01", "udp": 9}
    for fields, from_inside in ((inside, True), (inside | outside6, True), (loopback, False)):
        own = sign_enr((2).to_bytes(32, "big"), 2, fields)
        assert check([own.raw], (0,)) == Checked([], 1, False)
        assert check([own.raw], (0,), "2001:db8::1") == Checked([], 1, False)
        taken = Checked([own], 0, False)
        assert check([own.raw], (0,), "10.0.0.1") == (
            taken if from_inside else Checked([], 1, False)
        )
        assert check([own.raw], (0,), "127.0.0.1") == taken


def test_a_node_is_taken_once_by_its_newest_record() -> None:
    fields = {"ip": b"\xcb\x00\x71\x01", "udp": 9}
    old, new, other = (sign_enr((3).to_bytes(32, "big"), seq, fields) for seq in (1, 5, 2))
    fourth = record(4)
    distances = (distance(THIRD), distance(fourth))
    for raw in ([old, fourth, new, other], [new, other, fourth], [old, fourth, new]):
        checked = check([enr.raw for enr in raw], distances)
        assert (len(checked.records), set(checked.records)) == (2, {new, fourth})
        assert (checked.refused, checked.is_violation) == (len(raw) - 2, False)
