"""Rosters: what is told, what is fetched, when it is the same on both sides."""

from __future__ import annotations

import pytest

from ginnel.base import rlp
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Secret
from ginnel.mesh import derive
from ginnel.mesh.membership import Membership
from ginnel.mesh.roster import (
    MAX_LISTED,
    MAX_PAYLOAD,
    ObjectsPayload,
    RosterSync,
    decode_fetch,
    decode_grant,
    decode_objects,
    encode_grant,
    encode_objects,
    find_object,
)
from support.members import NOW, MemberKeys, NetworkFactory

NET = NetworkFactory()
NAMES = [MemberKeys(f"machine-number-{index}") for index in range(30)]


def cert(number: int) -> bytes:
    return NET.cert(NAMES[number], number + 1)


def test_a_full_list_and_a_certificate_fit_together() -> None:
    payload = ObjectsPayload(bytes(32), tuple(bytes([i]) * 8 for i in range(40)), (cert(0),))
    encoded = encode_objects(payload)
    assert len(encoded) <= MAX_PAYLOAD + 370
    assert decode_objects(encoded).listed == payload.listed
    short = ObjectsPayload(bytes(32), (), tuple(cert(i) for i in range(4)))
    encoded = encode_objects(short)
    assert len(encoded) <= MAX_PAYLOAD
    assert decode_objects(encoded).objects == short.objects[: len(decode_objects(encoded).objects)]
    assert decode_objects(encoded).objects


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        rlp.encode([bytes(32)]),
        rlp.encode([bytes(31), []]),
        rlp.encode([bytes(32), [bytes(7)]]),
        rlp.encode([bytes(32), [bytes(8)] * (MAX_LISTED + 1)]),
        rlp.encode([bytes(32), [], [b"x"] * 5]),
        rlp.encode([bytes(32), [], [bytes(641)]]),
    ],
)
def test_malformed_payloads_are_refused(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_objects(raw)


def test_grant_and_fetch() -> None:
    secret = Secret(b"e" * 32)
    assert decode_grant(encode_grant(NET.epoch(), secret)) == (NET.epoch(), secret)
    for raw in (b"", rlp.encode([b"x"]), rlp.encode([b"x", bytes(31)])):
        with pytest.raises(RemoteProtocolError):
            decode_grant(raw)
    assert decode_fetch(bytes(8)) == bytes(8)
    with pytest.raises(RemoteProtocolError):
        decode_fetch(bytes(9))


def test_objects_are_found_by_prefix_or_hash() -> None:
    membership = NET.membership(*NAMES[:2])
    digest = derive.sha256(cert(1))
    assert find_object(membership, digest[:8]) == cert(1)
    assert find_object(membership, digest) == cert(1)
    assert find_object(membership, bytes(8)) is None
    epoch = derive.sha256(NET.epoch())
    assert find_object(membership, epoch) == NET.epoch()
    assert find_object(membership, epoch[:8]) is None


def exchange(a: Membership, b: Membership) -> int:
    """Let two members talk until they are silent; return the messages."""
    sides = [(a, RosterSync()), (b, RosterSync())]
    waiting = [(1, "objects", sides[0][1].hello(a, [], now=0.0))]
    count = 0
    while waiting:
        to, kind, data = waiting.pop(0)
        count += 1
        assert count < 500
        membership, sync = sides[to]
        if kind == "fetch":
            raw = find_object(membership, decode_fetch(data))
            assert raw is not None
            payload = ObjectsPayload(membership.roster_digest(), (), (raw,))
            waiting.append((1 - to, "objects", encode_objects(payload)))
            continue
        objects = decode_objects(data)
        membership.add_objects(list(objects.objects), unix_now=NOW)
        answers = sync.on_objects(objects, membership, [], now=count * 3.0)
        waiting += [(1 - to, *answer) for answer in answers]
    return count


def test_two_members_become_equal() -> None:
    a = NET.membership(*NAMES[:12])
    b = NET.membership()
    b.add_objects([cert(i) for i in (0, 20, 21, 22)], unix_now=NOW)
    exchange(a, b)
    assert a.roster_digest() == b.roster_digest()
    assert len(a.certificates()) == 15


def test_a_roster_beyond_one_list_is_told_in_several() -> None:
    a = NET.membership(*many(100))
    b = NET.membership()
    exchange(a, b)
    assert len(b.certificates()) == 100


def many(count: int) -> list[MemberKeys]:
    return [MemberKeys(f"one-of-many-{index}") for index in range(count)]


def test_what_a_peer_lists_but_never_sends_stops_nothing_for_long() -> None:
    membership, sync = NET.membership(*NAMES[:3]), RosterSync()
    invented = tuple(bytes([number]) * 8 for number in range(MAX_LISTED))
    lie = ObjectsPayload(bytes(32), invented)
    assert {kind for kind, _ in sync.on_objects(lie, membership, [], now=0.0)} == {"fetch"}
    digest_only = ObjectsPayload(bytes(32))
    assert sync.on_objects(digest_only, membership, [], now=100.0) == []
    [(kind, _)] = sync.on_objects(digest_only, membership, [], now=301.0)
    assert kind == "objects"
    assert sync.asked == {}


def test_equal_members_are_silent_at_once() -> None:
    a, b = NET.membership(*NAMES[:3]), NET.membership(*NAMES[:3])
    assert exchange(a, b) == 1


def test_a_greeting_is_due_on_change_and_every_ten_minutes() -> None:
    membership = NET.membership(NAMES[0])
    sync = RosterSync()
    assert sync.is_due(membership, now=0.0)
    sync.hello(membership, [], now=0.0)
    assert not sync.is_due(membership, now=599.0)
    assert sync.is_due(membership, now=600.0)
    membership.add_object(cert(1), unix_now=NOW)
    assert sync.is_due(membership, now=1.0)
