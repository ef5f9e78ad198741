"""Finding points and delivering to them, past silent, lying and forgetful storers."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

from ginnel.base.types import MemberId, NodeId, Secret
from ginnel.mesh import derive
from ginnel.mesh.finder import (
    MAX_QUEUED,
    MAX_SEARCHES,
    MAX_TARGETS,
    Delivered,
    Finder,
    FinderDrop,
    Found,
    NotFound,
)
from ginnel.mesh.rendezvous import (
    Lookup,
    Presence,
    PushRequest,
    decode_request,
    distance,
    make_register,
    seal_presence,
)
from ginnel.mesh.storer import Storer
from support import rdv

HOME = rdv.contact("198.51.100.7", 3000)
SEEKER = rdv.contact("192.0.2.9", 4000)
SEED = Secret(b"n" * 32)


def verify(_point: derive.Point, presence: Presence) -> bool:
    return derive.verify(
        derive.ed25519_public(SEED),
        rdv.NETWORK_ID,
        "presence",
        presence.raw_body,
        presence.signature,
    )


def make(net: rdv.ToyNet) -> Finder:
    return Finder(verify, tokens=net.tokens, rng=random.Random(1))


def register(
    net: rdv.ToyNet,
    *,
    at: float | None = None,
    dkey: bytes = b"d" * 16,
    signed: bool = True,
    count: int = 8,
) -> None:
    point = rdv.point()
    sent_at = int(rdv.UNIX + net.now if at is None else at)
    presence = Presence(MemberId(b"\1" * 32), point.period, sent_at, Secret(dkey), (), b"x" * 32)

    def sign(body: bytes) -> bytes:
        return derive.sign(SEED, rdv.NETWORK_ID, "presence", body) if signed else bytes(64)

    sealed = seal_presence(point, presence, signer=sign, random_bytes=rdv.chance())
    for enr in net.closest(point.location, count):
        raw = make_register(
            point,
            storer=enr.node_id,
            registrant=HOME.node_id,
            dkey=Secret(dkey),
            presence=sealed,
        )
        net.talk(HOME, enr.node_id, raw)


def test_found_by_lookup_and_delivered_to_three() -> None:
    net = rdv.ToyNet(20)
    register(net)
    finder = make(net)
    finder.find(rdv.point(), now=0.0)
    events = net.run(finder, SEEKER, 0.0)
    [found] = events
    assert isinstance(found, Found)
    assert found.via == "LOOKUP"
    delivery = finder.deliver(rdv.point(), b"envelope", now=0.0)
    events = net.run(finder, SEEKER, 0.0)
    assert events == [Delivered(delivery, rdv.point().location, ok=True)]
    pushed = [decode_request(payload) for _, payload in net.pushes]
    assert pushed == [PushRequest(rdv.point().location, b"envelope")] * 3


def test_an_envelope_waits_until_its_point_is_found() -> None:
    net = rdv.ToyNet(2)
    finder = make(net)
    delivery = finder.deliver(rdv.point(), b"envelope", now=0.0)
    events = net.run(finder, SEEKER, 3.0)
    assert NotFound(rdv.point().location, "nobody registered there") in events
    register(net)
    events = net.run(finder, SEEKER, 10.0)
    assert Delivered(delivery, rdv.point().location, ok=True) in events
    assert len(net.pushes) == 2


def test_many_nodes_of_one_subnet_cannot_hide_a_registration() -> None:
    net = rdv.ToyNet(4)
    location = rdv.point().location
    best = distance(net.closest(location, 1)[0].node_id, location)
    register(net)
    crowd = (rdv.record("203.9.9.9", port) for port in range(1, 1000))
    closer = (enr for enr in crowd if distance(enr.node_id, location) < best)
    for enr in itertools.islice(closer, 8):
        net.records.append(enr)
        net.storers[enr.node_id] = Storer(enr.node_id, net.closest, tokens=net.tokens, now=0.0)
    finder = make(net)
    finder.find(rdv.point(), now=0.0)
    assert isinstance(net.run(finder, SEEKER, 0.0)[0], Found)


def test_nodes_without_rendezvous_are_passed_over_in_favour_of_the_next() -> None:
    net = rdv.ToyNet(12)
    for enr in net.closest(rdv.point().location, 8):
        net.storers[enr.node_id].enabled = False
    register(net, count=12)
    finder = make(net)
    finder.find(rdv.point(), now=0.0)
    kinds = [type(event) for event in net.run(finder, SEEKER, 3.0)]
    assert kinds == [NotFound, Found]


def test_no_three_storers_get_everything() -> None:
    net = rdv.ToyNet(20)
    register(net)
    finder = make(net)
    finder.find(rdv.point(), now=0.0)
    net.run(finder, SEEKER, 0.0)
    for number in range(10):
        finder.deliver(rdv.point(), bytes([number]), now=0.0)
        net.run(finder, SEEKER, 0.0)
    assert len({contact.node_id for contact, _ in net.pushes}) == 8


def test_searches_back_off() -> None:
    net = rdv.ToyNet(2)
    finder = make(net)
    finder.find(rdv.point(), now=0.0)
    net.run(finder, SEEKER, 300.0)
    lookups = [c for c in net.carried if isinstance(c, Lookup)]
    assert 12 <= len(lookups) <= 22


def test_forgeries_old_and_garbled_presences_are_not_used() -> None:
    for changes, reason in (
        ({"signed": False}, FinderDrop.SIGNATURE),
        ({"at": rdv.UNIX - 86_400}, FinderDrop.CLOCK),
    ):
        net = rdv.ToyNet(1)
        register(net, **changes)  # type: ignore[arg-type]  # keywords of two types
        finder = make(net)
        finder.find(rdv.point(), now=0.0)
        assert isinstance(net.run(finder, SEEKER, 0.0)[0], NotFound)
        assert finder.drops == {reason: 1}


def test_a_storer_may_lie_but_for_the_presence() -> None:
    net = rdv.ToyNet(1)
    raw = make_register(
        rdv.point(),
        storer=net.records[0].node_id,
        registrant=HOME.node_id,
        dkey=Secret(bytes(16)),
        presence=b"not sealed for anybody and more",
    )
    net.talk(HOME, net.records[0].node_id, raw)
    finder = make(net)
    finder.find(rdv.point(), now=0.0)
    assert isinstance(net.run(finder, SEEKER, 0.0)[0], NotFound)
    assert finder.drops == {FinderDrop.PRESENCE: 1}


def test_nodes_without_rendezvous_are_named() -> None:
    net = rdv.ToyNet(2, enabled=False)
    finder = make(net)
    finder.find(rdv.point(), now=0.0)
    [event] = net.run(finder, SEEKER, 0.0)
    assert event == NotFound(rdv.point().location, "the nodes found don't offer rendezvous")
    net = rdv.ToyNet(0)
    finder = make(net)
    finder.find(rdv.point(), now=0.0)
    [event] = net.run(finder, SEEKER, 0.0)
    assert event == NotFound(rdv.point().location, "no reachable node found")


def test_the_newest_presence_wins_and_others_serve_as_fallback() -> None:
    net = rdv.ToyNet(4)
    register(net, at=rdv.UNIX - 300, dkey=b"o" * 16)
    register(net, dkey=b"n" * 16, count=1)
    finder = make(net)
    delivery = finder.deliver(rdv.point(), b"envelope", now=0.0)
    events = net.run(finder, SEEKER, 0.0)
    assert Delivered(delivery, rdv.point().location, ok=True) in events
    presence = finder.presence_of(rdv.point().location, now=0.0)
    assert presence is not None
    assert presence.dkey == Secret(b"n" * 16)
    assert finder.presence_of(rdv.point().location, now=1000.0) is None


def test_a_delivery_fails_over_and_searches_again() -> None:
    net = rdv.ToyNet(4)
    register(net)
    finder = make(net)
    finder.find(rdv.point(), now=0.0)
    net.run(finder, SEEKER, 0.0)
    silent = net.closest(rdv.point().location, 3)
    net.silent = {enr.node_id for enr in silent}
    first = finder.deliver(rdv.point(), b"e1", now=1.0)
    events = net.run(finder, SEEKER, 1.0)
    assert events == [Delivered(first, rdv.point().location, ok=True)]
    net.silent = {enr.node_id for enr in net.records}
    second = finder.deliver(rdv.point(), b"e2", now=2.0)
    events = net.run(finder, SEEKER, 2.0)
    assert Delivered(second, rdv.point().location, ok=False) in events
    net.silent = set()
    events = net.run(finder, SEEKER, 5.0)
    assert any(isinstance(e, Found) for e in events)


def test_bounds_of_targets_and_queue() -> None:
    net = rdv.ToyNet(0)
    finder = make(net)
    numbers = [finder.deliver(rdv.point(), b"e", now=0.0) for _ in range(MAX_QUEUED + 1)]
    assert finder.poll_event() == Delivered(numbers[0], rdv.point().location, ok=False)
    finder.forget(rdv.point().location)
    lost = []
    while (event := finder.poll_event()) is not None:
        lost.append(event)
    assert len(lost) == MAX_QUEUED
    for number in range(MAX_TARGETS):
        assert finder.find(point_at(number), now=0.0)
    assert not finder.find(rdv.point(), now=0.0)


def point_at(number: int) -> derive.Point:
    """Return a point of its own that nobody registers at."""
    return replace(
        rdv.point(), location=derive.NodeId(number.to_bytes(32, "big")), loc_seed=None, period=0
    )


def searches(finder: Finder) -> list[Lookup]:
    found = []
    while (command := finder.poll_command()) is not None:
        assert isinstance(command, Lookup)
        found.append(command)
    return found


def test_so_many_searches_at_once_and_no_more_and_all_have_their_turn() -> None:
    """None of them finds anybody; one that has something to say comes before the others."""
    finder = make(rdv.ToyNet(0))
    for number in range(200):
        finder.find(point_at(number), now=0.0)
    finder.handle_timeout(now=0.0)
    running = searches(finder)
    assert len(running) == MAX_SEARCHES
    assert finder.poll_deadline() is None  # nothing to do until one ends
    finder.deliver(point_at(150), b"e", now=0.1)
    asked: list[NodeId] = []
    now = 0.2
    while len(asked) < 200:
        lookup = running.pop(0)
        asked.append(lookup.target)
        assert finder.on_lookup_done(lookup.token, [], now=now)
        finder.handle_timeout(now=now)
        running += searches(finder)
        assert len(running) <= MAX_SEARCHES
        now += 0.001
    assert len(set(asked)) == 200
    assert asked[MAX_SEARCHES] == point_at(150).location


def test_results_of_others_are_not_taken() -> None:
    finder = make(rdv.ToyNet(0))
    assert not finder.on_lookup_done(99, [], now=0.0)
    assert not finder.on_talk_answered(99, b"", now=0.0, unix_now=0.0)
