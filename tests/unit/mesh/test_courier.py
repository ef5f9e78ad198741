"""Rendezvous without membership: invites' points, and what only a member may answer."""

from __future__ import annotations

import random

import pytest

from ginnel.base.types import NodeId, Secret
from ginnel.discv5.requests import Contact
from ginnel.mesh import derive
from ginnel.mesh.courier import MAX_ADDED, NEIGHBOUR_INTERVAL_S, Courier, CourierDrop
from ginnel.mesh.events import (
    EnvelopeDelivered,
    EnvelopeReceived,
    PointRegistered,
    PointSearched,
)
from ginnel.mesh.invite_book import MAX_INVITES
from ginnel.mesh.rendezvous import (
    Lookup,
    Presence,
    PushRequest,
    RegisterRequest,
    Status,
    TalkRequest,
    TalkResponse,
    contact_of,
    decode_answer,
    decode_request,
    encode_request,
    make_register,
    open_presence,
    seal_presence,
)
from support import rdv
from support.joins import AdminSide
from support.members import NOW, NetworkFactory

HOME = rdv.contact("198.51.100.7", 3000)
JOINER = rdv.contact("192.0.2.9", 4000)
PERIOD = derive.period_of(rdv.UNIX)


def invite(number: int = 1, period: int = PERIOD) -> derive.Point:
    return derive.invite_point(rdv.NETWORK_ID, Secret(bytes([number]) * 16), period)


class Party:
    """A courier on the toy network."""

    def __init__(self, net: rdv.ToyNet, contact: Contact) -> None:
        self.net = net
        self.contact = contact
        self.courier = Courier(
            contact.node_id,
            tokens=net.tokens,
            random_bytes=rdv.chance(),
            rng=random.Random(1),
        )
        self.registers: list[RegisterRequest] = []

    def run(self, until: float = 0.0) -> list[object]:
        events: list[object] = []
        self._carry(events)
        while (due := self.courier.poll_deadline()) is not None and due.at <= until:
            self.net.now = max(self.net.now, due.at)
            self.courier.handle_timeout(now=self.net.now, unix_now=rdv.UNIX + self.net.now)
            self._carry(events)
        self.net.now = max(self.net.now, until)
        return events

    def push(self, contact: Contact, payload: bytes) -> Status:
        self.courier.on_push(9, contact, payload, now=0.0, unix_now=rdv.UNIX)
        response = self.courier.poll_command()
        assert isinstance(response, TalkResponse)
        assert response.talk_token == 9
        return decode_answer(response.payload).status

    def _carry(self, events: list[object]) -> None:
        now, unix_now = self.net.now, rdv.UNIX + self.net.now
        while (command := self.courier.poll_command()) is not None:
            if isinstance(command, Lookup):
                nodes = self.net.closest(command.target, 16)
                self.courier.on_lookup_done(command.token, nodes, now=now, unix_now=unix_now)
            elif isinstance(command, TalkRequest):
                request = decode_request(command.payload)
                if isinstance(request, RegisterRequest):
                    self.registers.append(request)
                answer = self.net.talk(self.contact, command.contact.node_id, command.payload)
                self.courier.on_talk_answered(command.token, answer, now=now, unix_now=unix_now)
        events += list(iter(self.courier.poll_event, None))


def test_an_invites_envelope_goes_from_joiner_to_admin() -> None:
    net = rdv.ToyNet(2)
    admin, joiner = Party(net, HOME), Party(net, JOINER)
    admin.courier.add_points([invite()], now=0.0, unix_now=rdv.UNIX)
    assert PointRegistered(invite().location, 2, "") in admin.run()
    presence = open_presence(invite(), admin.registers[0].presence)
    assert (presence.member_id, presence.signature, presence.addresses) == (b"", b"", ())
    number = joiner.courier.deliver(invite(), b"request", now=0.0)
    events = joiner.run()
    assert EnvelopeDelivered(number, ok=True) in events
    storer, payload = net.pushes[0]
    assert admin.push(storer, payload) is Status.DONE
    assert admin.run() == [EnvelopeReceived(invite().tag, b"request")]


def test_a_member_cannot_pose_as_an_invite_and_the_other_way_round() -> None:
    """A presence with a member in it is no invite's; one without is no member's."""
    net = rdv.ToyNet(1)
    joiner = Party(net, JOINER)
    presence = Presence(
        derive.MemberId(b"m" * 32), PERIOD, int(rdv.UNIX), Secret(b"d" * 16), (), b""
    )
    sealed = seal_presence(invite(), presence, signer=None, random_bytes=rdv.chance())
    net.talk(
        HOME,
        net.records[0].node_id,
        make_register(
            invite(),
            storer=net.records[0].node_id,
            registrant=HOME.node_id,
            dkey=Secret(b"d" * 16),
            presence=sealed,
        ),
    )
    joiner.courier.deliver(invite(), b"request", now=0.0)
    assert PointSearched(invite().location, "nobody registered there") in joiner.run(0.5)
    assert net.pushes == []


def test_strangers_push_nothing() -> None:
    net = rdv.ToyNet(1)
    admin = Party(net, HOME)
    admin.courier.add_points([invite()], now=0.0, unix_now=rdv.UNIX)
    admin.run()
    push = encode_request(PushRequest(invite().location, b"e"))
    elsewhere = encode_request(PushRequest(NodeId(bytes(32)), b"e"))
    assert admin.push(JOINER, push) is Status.UNKNOWN
    storer = contact_of(net.records[0])
    assert storer is not None
    assert admin.push(storer, elsewhere) is Status.UNKNOWN
    assert admin.push(storer, b"\xff") is Status.REFUSED
    assert admin.courier.drops == {CourierDrop.NOT_OURS: 2, CourierDrop.MALFORMED: 1}


def test_a_storer_cannot_use_up_what_the_signer_takes() -> None:
    net = rdv.ToyNet(2)
    admin = Party(net, HOME)
    admin.courier.add_points([invite()], now=0.0, unix_now=rdv.UNIX)
    admin.run()
    greedy, other = (contact_of(record) for record in net.records)
    assert greedy is not None
    assert other is not None
    junk = [
        encode_request(PushRequest(invite().location, number.to_bytes(2, "big")))
        for number in range(100)
    ]
    statuses = [admin.push(greedy, push) for push in junk]
    assert statuses == [Status.DONE] * 16 + [Status.SLOW_DOWN] * 84
    # The other storer's copy of what the first was too greedy for still counts.
    assert admin.push(other, junk[-1]) is Status.DONE
    events = [event for event in admin.run() if isinstance(event, EnvelopeReceived)]
    assert len(events) == 17


def test_points_are_bounded_and_end_with_their_period() -> None:
    net = rdv.ToyNet(1)
    admin = Party(net, HOME)
    points = [invite(number) for number in range(MAX_ADDED + 3)]
    admin.courier.add_points(points, now=0.0, unix_now=rdv.UNIX)
    registered = {e.location for e in admin.run() if isinstance(e, PointRegistered)}
    assert registered == {p.location for p in points[3:]}
    admin.courier.remove_points(points, now=0.0)
    admin.courier.add_points(
        [invite(1, PERIOD - 2), invite(2, PERIOD + 1)], now=0.0, unix_now=rdv.UNIX
    )
    registered = {e.location for e in admin.run() if isinstance(e, PointRegistered)}
    assert registered == {invite(2, PERIOD + 1).location}


def test_all_open_invites_are_registered_in_all_their_periods() -> None:
    admin, net = AdminSide(NetworkFactory()), rdv.ToyNet(1)
    for _ in range(MAX_INVITES):
        admin.invite()
    points = admin.book.points(unix_now=NOW)
    assert len(points) == 3 * MAX_INVITES  # NOW is on a border
    home = Party(net, HOME)
    home.courier.add_points(points, now=0.0, unix_now=NOW)
    own = [rdv.point(1, period) for period in (PERIOD, PERIOD + 1)]
    home.courier.set_own_points(own, now=0.0, unix_now=NOW)
    registered = {e.location for e in home.run() if isinstance(e, PointRegistered) and e.storers}
    assert registered == {point.location for point in (*points, *own)}


def test_an_answered_delivery_is_forgotten_in_the_end() -> None:
    net = rdv.ToyNet(1)
    joiner = Party(net, JOINER)
    number = joiner.courier.deliver(invite(), b"request", now=0.0)
    events = joiner.run(200.0)
    assert EnvelopeDelivered(number, ok=False) in events
    assert joiner.courier.poll_deadline() is None


@pytest.mark.parametrize("quick", [True, False])
def test_a_new_node_is_reason_to_try_at_once(quick: bool) -> None:
    net = rdv.ToyNet(0)
    admin = Party(net, HOME)
    admin.courier.add_points([invite()], now=0.0, unix_now=rdv.UNIX)
    admin.run(20.0)
    net.records += rdv.ToyNet(1).records
    net.storers |= rdv.ToyNet(1).storers
    if quick:
        admin.courier.on_node_added(now=net.now)
    registered = [e for e in admin.run(20.5) if isinstance(e, PointRegistered) and e.storers]
    assert bool(registered) == quick


def test_a_neighbour_is_registered_at_though_others_store_for_us() -> None:
    net = rdv.ToyNet(2)
    admin = Party(net, HOME)
    admin.courier.add_points([invite()], now=0.0, unix_now=rdv.UNIX)

    def rounds(until: float) -> int:
        return sum(isinstance(event, PointRegistered) for event in admin.run(until))

    rounds(100.0)
    admin.courier.on_neighbour(now=net.now)
    assert rounds(101.0) == 1
    admin.courier.on_neighbour(now=net.now)  # so soon again: both are done together
    admin.courier.on_neighbour(now=net.now)
    assert rounds(102.0) == 0
    rounds(99.9 + NEIGHBOUR_INTERVAL_S)  # as after any change: the next rounds are near
    assert rounds(101.0 + NEIGHBOUR_INTERVAL_S) == 1
