"""Keeping points registered: rounds, refreshes, moves, refusals."""

from __future__ import annotations

import random

from ginnel.base.types import Address, Secret
from ginnel.mesh.derive import Point
from ginnel.mesh.registrar import MAX_POINTS, Registered, Registrar
from ginnel.mesh.rendezvous import (
    DoubtAddress,
    Ping,
    PinSession,
    RegisterRequest,
    TalkRequest,
    Tokens,
    UnpinSession,
    decode_request,
)
from ginnel.mesh.storer import Storer
from support import rdv

HOME = rdv.contact("198.51.100.7", 3000)


def seal(_point: Point, _dkey: Secret, unix_now: float) -> bytes:
    return f"presence of {unix_now}".encode()


def make(net: rdv.ToyNet) -> Registrar:
    return Registrar(
        HOME.node_id,
        seal,
        tokens=net.tokens,
        random_bytes=rdv.chance(),
        rng=random.Random(1),
    )


def holding(net: rdv.ToyNet) -> int:
    return sum(len(storer) for storer in net.storers.values())


def test_a_point_is_registered_at_the_eight_closest() -> None:
    net = rdv.ToyNet(20)
    registrar = make(net)
    registrar.set_points([rdv.point()], now=0.0)
    events = net.run(registrar, HOME, 0.0)
    assert events == [Registered(rdv.point().location, 8)]
    assert holding(net) == 8
    assert registrar.storer_count(rdv.point().location) == 8
    closest = net.closest(rdv.point().location, 9)
    contacts = [rdv.contact_of(enr) for enr in closest]
    assert contacts[0] is not None
    assert contacts[8] is not None
    assert registrar.is_storer(rdv.point().location, contacts[0])
    assert not registrar.is_storer(rdv.point().location, contacts[8])
    assert not registrar.is_storer(rdv.point(2).location, contacts[0])
    pinned = [c for c in net.carried if isinstance(c, PinSession)]
    assert [c.contact for c in pinned] == contacts[:3]


def test_the_watched_storers_are_asked_for_our_address_at_once() -> None:
    net = rdv.ToyNet(5)
    registrar = make(net)
    registrar.set_points([rdv.point()], now=0.0)
    net.run(registrar, HOME, 0.0)
    registrar.ping_now(now=1.0)
    asked: list[object] = []
    while (command := registrar.poll_command()) is not None:
        asked.append(command)
    assert asked[0] == DoubtAddress()
    assert [type(command) for command in asked[1:]] == [Ping] * 3


def test_registrations_are_kept_alive_for_hours() -> None:
    net = rdv.ToyNet(2)
    registrar = make(net)
    registrar.set_points([rdv.point()], now=0.0)
    for minute in range(1, 121):
        net.run(registrar, HOME, minute * 60.0)
        for storer in net.storers.values():
            storer.handle_timeout(now=net.now)
        assert holding(net) == 2
    pings = [c for c in net.carried if isinstance(c, Ping)]
    assert len(pings) >= 2 * 7200 / 25 * 0.9
    requests = [decode_request(c.payload) for c in net.carried if isinstance(c, TalkRequest)]
    assert len([r for r in requests if isinstance(r, RegisterRequest)]) < 2 * 35


def test_a_new_address_registers_again_at_once() -> None:
    net = rdv.ToyNet(2)
    registrar = make(net)
    registrar.set_points([rdv.point()], now=0.0)
    net.run(registrar, HOME, 200.0)
    before = len([c for c in net.carried if isinstance(c, TalkRequest)])
    net.seen_as = Address("198.51.100.8", 1)
    net.run(registrar, HOME, 226.0)
    assert len([c for c in net.carried if isinstance(c, TalkRequest)]) > before


def test_a_doubt_before_the_first_pong_registers_again() -> None:
    """We may have moved in the seconds since we registered; a second doubt finds all as it was."""
    net = rdv.ToyNet(2)
    registrar = make(net)
    registrar.set_points([rdv.point()], now=0.0)
    net.run(registrar, HOME, 0.0)
    for doubted_at, is_again in ((1.0, True), (200.0, False)):
        net.run(registrar, HOME, doubted_at)
        net.carried.clear()
        registrar.ping_now(now=doubted_at)
        net.run(registrar, HOME, doubted_at)
        assert any(isinstance(c, TalkRequest) for c in net.carried) is is_again


def test_two_lost_pings_register_again_elsewhere() -> None:
    net = rdv.ToyNet(5)
    registrar = make(net)
    registrar.set_points([rdv.point()], now=0.0)
    net.run(registrar, HOME, 200.0)
    net.silent = {r.node_id for r in net.closest(rdv.point().location, 2)}
    net.carried.clear()
    events = net.run(registrar, HOME, 260.0)
    assert events
    asked = {
        command.contact.node_id
        for command in net.carried
        if isinstance(command, TalkRequest)
        and isinstance(decode_request(command.payload), RegisterRequest)
    }
    assert asked
    assert not asked & net.silent


def test_a_storer_that_restarted_is_told_again() -> None:
    net = rdv.ToyNet(2)
    registrar = make(net)
    registrar.set_points([rdv.point()], now=0.0)
    net.run(registrar, HOME, 310.0)
    net.storers = rdv.ToyNet(2).storers
    assert holding(net) == 0
    net.run(registrar, HOME, 365.0)
    assert holding(net) == 2


def test_nodes_without_rendezvous_are_named_and_passed_over() -> None:
    net = rdv.ToyNet(2, enabled=False)
    registrar = make(net)
    registrar.set_points([rdv.point()], now=0.0)
    first = net.run(registrar, HOME, 0.0)[0]
    assert isinstance(first, Registered)
    assert (first.storers, first.reason) == (0, "the nodes found don't offer rendezvous")
    refusers = {record.node_id for record in net.records}
    willing = rdv.record("203.0.9.1")
    net.records.append(willing)
    net.storers[willing.node_id] = Storer(willing.node_id, net.closest, tokens=net.tokens, now=0.0)
    net.carried.clear()
    net.run(registrar, HOME, 60.0)
    assert holding(net) == 1
    asked = [c.contact.node_id for c in net.carried if isinstance(c, TalkRequest)]
    assert not refusers & set(asked)  # passed over for a while


def test_where_nobody_else_is_nodes_without_rendezvous_are_asked_again() -> None:
    net = rdv.ToyNet(2, enabled=False)
    registrar = make(net)
    registrar.set_points([rdv.point()], now=0.0)
    net.run(registrar, HOME, 0.0)
    for storer in net.storers.values():
        storer.enabled = True
    net.run(registrar, HOME, 60.0)
    assert holding(net) == 2


def test_no_nodes_at_all_is_retried_with_back_off() -> None:
    net = rdv.ToyNet(0)
    registrar = make(net)
    registrar.set_points([rdv.point()], now=0.0)
    events = net.run(registrar, HOME, 120.0)
    assert all(isinstance(e, Registered) and e.storers == 0 for e in events)
    assert 5 <= len(events) <= 10


def test_points_come_and_go() -> None:
    net = rdv.ToyNet(2)
    registrar = make(net)
    registrar.set_points([rdv.point()], now=0.0)
    net.run(registrar, HOME, 0.0)
    registrar.set_points([], now=1.0)
    net.carried.clear()
    net.run(registrar, HOME, 1000.0)
    assert all(isinstance(c, UnpinSession) for c in net.carried)
    assert registrar.poll_deadline() is None
    assert registrar.storer_count(rdv.point().location) == 0


def test_points_are_bounded() -> None:
    net = rdv.ToyNet(1)
    registrar = make(net)
    registrar.set_points([rdv.point(1, period) for period in range(MAX_POINTS + 5)], now=0.0)
    net.run(registrar, HOME, 0.0)
    assert holding(net) <= MAX_POINTS


def test_results_of_others_are_not_taken() -> None:
    registrar = Registrar(
        HOME.node_id, seal, tokens=Tokens(), random_bytes=rdv.chance(), rng=random.Random(1)
    )
    assert not registrar.on_lookup_done(99, [], now=0.0, unix_now=0.0)
    assert not registrar.on_talk_answered(99, b"", now=0.0)
    assert not registrar.on_pong(99, None, now=0.0)
