"""What a storing node does for strangers, and what it refuses them."""

from __future__ import annotations

import pytest

from ginnel.base import rlp
from ginnel.base.types import Address, NodeId, Secret
from ginnel.discv5.enr import Enr
from ginnel.discv5.requests import Contact
from ginnel.mesh import derive
from ginnel.mesh.rendezvous import (
    LookupRequest,
    PinSession,
    PushRequest,
    RdvCommand,
    Status,
    TalkRequest,
    TalkResponse,
    Tokens,
    UnpinSession,
    decode_answer,
    decode_request,
    distance,
    encode_request,
    make_deliver,
    make_register,
)
from ginnel.mesh.storer import MAX_ENTRIES, MAX_PER_SOURCE, MAX_PER_SUBNET, Storer, StorerDrop
from support import rdv

SELF = NodeId(b"\x80" + bytes(31))
DKEY = Secret(b"d" * 16)
HOME = rdv.contact("198.51.100.7", 3000)
OTHER = rdv.contact("192.0.2.9", 4000)


def make_storer(records: list[Enr] | None = None) -> Storer:
    known = records or []

    def closest(target: NodeId, count: int) -> list[Enr]:
        return sorted(known, key=lambda r: distance(r.node_id, target))[:count]

    return Storer(SELF, closest, tokens=Tokens(), now=0.0)


def drain(storer: Storer) -> list[RdvCommand]:
    commands = []
    while (command := storer.poll_command()) is not None:
        commands.append(command)
    return commands


def ask(
    storer: Storer, payload: bytes, sender: Contact = HOME, now: float = 0.0
) -> tuple[Status, bytes | None, list[RdvCommand]]:
    storer.on_talk_received(5, sender, payload, now=now)
    commands = drain(storer)
    responses = [c for c in commands if isinstance(c, TalkResponse)]
    assert [r.talk_token for r in responses] == [5]
    answer = decode_answer(responses[0].payload)
    return answer.status, answer.presence, [c for c in commands if c not in responses]


def register(member: int = 1, sender: Contact = HOME, presence: bytes = b"presence") -> bytes:
    return make_register(
        rdv.point(member), storer=SELF, registrant=sender.node_id, dkey=DKEY, presence=presence
    )


def location(member: int = 1) -> NodeId:
    return rdv.point(member).location


def test_register_lookup_deliver_push() -> None:
    storer = make_storer()
    status, _, commands = ask(storer, register())
    assert status is Status.DONE
    assert commands == [PinSession(HOME)]
    status, presence, _ = ask(storer, encode_request(LookupRequest(location())), OTHER)
    assert (status, presence) == (Status.DONE, b"presence")
    status, _, commands = ask(storer, make_deliver(location(), DKEY, b"envelope"), OTHER)
    assert status is Status.DONE
    [push] = commands
    assert isinstance(push, TalkRequest)
    assert push.contact == HOME
    assert decode_request(push.payload) == PushRequest(location(), b"envelope")
    assert storer.on_talk_answered(push.token, None)
    assert not storer.on_talk_answered(push.token, None)
    assert storer.drops == {StorerDrop.PUSH_FAILED: 1}


def test_the_newest_registration_replaces() -> None:
    storer = make_storer()
    ask(storer, register())
    moved = Contact(HOME.node_id, OTHER.address, HOME.public_key)
    _, _, commands = ask(storer, register(presence=b"newer"), moved)
    assert commands == [PinSession(moved), UnpinSession(HOME)]
    assert len(storer) == 1
    assert ask(storer, encode_request(LookupRequest(location())))[1] == b"newer"


def test_a_registration_expires() -> None:
    storer = make_storer()
    ask(storer, register())
    due = storer.poll_deadline()
    assert due is not None
    assert due.at == 600.0
    assert ask(storer, encode_request(LookupRequest(location())), now=600.0)[0] is Status.UNKNOWN
    storer.handle_timeout(now=600.0)
    storer.handle_timeout(now=600.0)
    assert drain(storer) == [UnpinSession(HOME)]
    assert len(storer) == 0
    assert storer.poll_deadline() is None


def test_a_stranger_cannot_register_for_others_or_replay() -> None:
    storer = make_storer()
    assert ask(storer, register(sender=HOME), OTHER)[0] is Status.REFUSED  # replayed by another
    elsewhere = make_register(
        rdv.point(), storer=HOME.node_id, registrant=HOME.node_id, dkey=DKEY, presence=b"p"
    )
    assert ask(storer, elsewhere)[0] is Status.REFUSED  # signed for another storer
    assert storer.drops == {StorerDrop.SIGNATURE: 2}
    assert len(storer) == 0


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", StorerDrop.MALFORMED),
        (b"\xff" * 90, StorerDrop.MALFORMED),
        (rlp.encode([1, 9]), StorerDrop.UNSERVED),
        (rlp.encode([9, 2, bytes(32)]), StorerDrop.UNSERVED),
        (encode_request(PushRequest(SELF, b"for a registrant")), StorerDrop.UNSERVED),
        (rlp.encode([1, 1, bytes(32), bytes(16), 5, b"", bytes(64)]), StorerDrop.LIFETIME),
        (rlp.encode([1, 1, bytes(32), bytes(16), 600, b"", bytes(64)]), StorerDrop.SIGNATURE),
    ],
)
def test_bad_requests_are_refused(payload: bytes, reason: StorerDrop) -> None:
    storer = make_storer()
    assert ask(storer, payload)[0] is Status.REFUSED
    assert storer.drops == {reason: 1}


def test_deliver_needs_an_entry_and_the_dkey() -> None:
    storer = make_storer()
    assert ask(storer, make_deliver(location(), DKEY, b"e"))[0] is Status.UNKNOWN
    ask(storer, register())
    status, _, commands = ask(storer, make_deliver(location(), Secret(bytes(16)), b"e"))
    assert (status, commands) == (Status.REFUSED, [])
    assert storer.drops == {StorerDrop.UNKNOWN: 1, StorerDrop.MAC: 1}


def test_only_what_is_close_is_stored() -> None:
    records = [rdv.record(f"203.0.{i}.1") for i in range(64)]
    storer = make_storer(records)
    statuses = {}
    for member in range(1, 40):
        ours = distance(SELF, location(member))
        closer = sum(distance(r.node_id, location(member)) < ours for r in records)
        statuses[member] = (closer < 16, ask(storer, register(member))[0])
    assert all((status is Status.DONE) == close for close, status in statuses.values())
    assert {close for close, _ in statuses.values()} == {True, False}
    assert StorerDrop.NOT_CLOSE in storer.drops


def test_the_local_network_is_served_always_and_wherever_its_locations_are() -> None:
    storer = make_storer([rdv.record(f"203.0.{i}.1") for i in range(64)])
    storer.enabled = False
    for member in range(1, 40):
        storer.on_talk_received(5, HOME, register(member), now=0.0, is_near=True)
        (answer,) = [c for c in drain(storer) if isinstance(c, TalkResponse)]
        assert decode_answer(answer.payload).status is Status.DONE
    storer.on_talk_received(6, HOME, register(1), now=0.0)  # from anywhere else
    assert drain(storer) == [TalkResponse(6, b"")]


def fill(storer: Storer, ips: list[str], each: int) -> list[Status]:
    statuses = []
    for number, ip in enumerate(ips):
        sender = rdv.contact(ip)
        for index in range(each):
            seed = Secret(derive.sha256(f"{number} {index}".encode()))
            point = derive.member_point(rdv.NETWORK_ID, seed, bytes(32), 1)
            raw = make_register(
                point, storer=SELF, registrant=sender.node_id, dkey=DKEY, presence=b""
            )
            statuses.append(ask(storer, raw, sender, now=float(number * 30 + index // 10))[0])
    return statuses


def test_bounds_per_source_and_subnet() -> None:
    storer = make_storer()
    statuses = fill(storer, ["192.0.2.1"], MAX_PER_SOURCE + 1)
    assert statuses == [Status.DONE] * MAX_PER_SOURCE + [Status.REFUSED]
    storer = make_storer()
    ips = [f"192.0.2.{i}" for i in range(1, 6)]
    assert fill(storer, ips, 60).count(Status.DONE) == MAX_PER_SUBNET
    assert storer.drops == {StorerDrop.FULL: 300 - MAX_PER_SUBNET}


def test_all_registrations_together_are_bounded() -> None:
    storer = make_storer()
    for number in range(MAX_ENTRIES + 1):
        ip = f"{10 + number % 200}.{number // 200}.1.1"
        sender = Contact(NodeId(number.to_bytes(32, "big")), Address(ip, 5), b"\2" * 33)
        point = derive.invite_point(rdv.NETWORK_ID, DKEY, number)
        raw = make_register(
            point, storer=SELF, registrant=sender.node_id, dkey=DKEY, presence=b"presence"
        )
        status, _, _ = ask(storer, raw, sender, now=number / 100)
        assert status is (Status.DONE if number < MAX_ENTRIES else Status.REFUSED)
    assert len(storer) == MAX_ENTRIES
    assert storer.drops == {StorerDrop.FULL: 1}


def test_who_asks_too_often_is_slowed_down() -> None:
    storer = make_storer()
    payload = encode_request(LookupRequest(location()))
    statuses = [ask(storer, payload)[0] for _ in range(200)]
    assert Status.SLOW_DOWN in statuses
    assert ask(storer, payload, OTHER)[0] is Status.UNKNOWN
    assert ask(storer, payload, now=10.0)[0] is Status.UNKNOWN


def test_who_has_many_addresses_does_not_take_what_is_for_all() -> None:
    storer = make_storer()
    payload = encode_request(LookupRequest(location()))
    crowd = [rdv.contact(f"2001:db8:0:{number:x}::1") for number in range(20)]
    statuses = [ask(storer, payload, sender)[0] for sender in crowd for _ in range(100)]
    assert statuses.count(Status.UNKNOWN) == 400
    assert ask(storer, payload, OTHER)[0] is Status.UNKNOWN


def test_delivers_to_one_location_have_a_rate_of_their_own() -> None:
    storer = make_storer()
    ask(storer, register())
    senders = [rdv.contact(f"192.0.{i}.1") for i in range(60)]
    statuses = [ask(storer, make_deliver(location(), DKEY, b"e"), s)[0] for s in senders]
    assert statuses.count(Status.DONE) == 40
    assert statuses[-1] is Status.SLOW_DOWN


def test_a_node_may_refuse_the_service() -> None:
    storer = Storer(SELF, lambda _t, _c: [], tokens=Tokens(), now=0.0, enabled=False)
    storer.on_talk_received(3, HOME, register(), now=0.0)
    assert drain(storer) == [TalkResponse(3, b"")]
    assert storer.drops == {StorerDrop.DISABLED: 1}
