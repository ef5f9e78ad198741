"""Care for a path: suspicion, restart, silence of WireGuard, and a better path.

RTT between homes is 100 ms, signalling takes 50 ms one way.
"""

from dataclasses import replace

import pytest

from ginnel.base.dataplane import (
    ConsentAnswered,
    ConsentMissed,
    DataUnanswered,
    EndpointRoamed,
    ForgetConsent,
    RemovePeer,
    SetPeer,
    StartHandshake,
    WatchConsent,
)
from ginnel.base.types import Address
from ginnel.ice.candidate import Candidate, make_host
from ginnel.peer.events import Disconnected, PathSuspected, SendOffer
from ginnel.peer.status import ConnStatus, Stage
from ginnel.peer.timers import LATE, SILENT
from support.ice_world import PORT, make_machine
from support.peer_world import PeerPair, PeerSide
from support.sim import World
from support.sim.link import Link, Realm

HOMES = ("port-restricted", "port-restricted")


def connected_pair(world: World) -> PeerPair:
    return connected_pair_and_sessions(world)[0]


def connected_pair_and_sessions(world: World) -> tuple[PeerPair, list[bytes]]:
    machines = [make_machine(world, name, HOMES[i], i + 1) for i, name in enumerate("ab")]
    pair = PeerPair(world, *machines)
    pair.open()
    assert pair.run()
    world.run_for(10.0)
    sessions = [event.offer.session for side in pair.sides.values() for event in offers(side)]
    for side in pair.sides.values():
        side.events.clear()
    pair.signalled.clear()
    return pair, sessions


def unanswered(pair: PeerPair, *sides: PeerSide, seconds: float = 1.0) -> None:
    for side in sides or pair.sides.values():
        event = DataUnanswered(side.conn.config.key, seconds)
        side.conn.on_engine_event(event, now=pair.world.now)
        pair.wake(side)


def offers(side: PeerSide) -> list[SendOffer]:
    return [event for event in side.events if isinstance(event, SendOffer)]


def test_a_path_that_answers_a_quick_check_stays_as_it_is() -> None:
    world = World(1)
    pair = connected_pair(world)
    for _ in range(5):
        unanswered(pair)
        world.run_for(2.0)
    assert pair.signalled == []
    for side in pair.sides.values():
        assert side.conn.state.stage is Stage.CONNECTED
        assert Stage.BROKEN not in side.stages()
        assert any(isinstance(event, PathSuspected) for event in side.events)


def test_a_path_that_does_not_restarts_within_a_few_round_trips_in_the_same_session() -> None:
    world = World(2)
    pair, sessions = connected_pair_and_sessions(world)
    nat = pair.a.machine.nat
    assert nat is not None
    nat.link.loss = 1.0
    pair.signal_loss = 1.0
    unanswered(pair)
    world.run_for(0.3)
    for side in pair.sides.values():
        assert side.conn.state.stage is Stage.BROKEN
        assert side.conn.state.status is ConnStatus.CONNECTED
        assert [event.offer.session in sessions for event in offers(side)] == [True]
    nat.link.loss = pair.signal_loss = 0.0
    start = world.now
    assert pair.run_until(
        lambda: all(s.conn.state.stage is Stage.CONNECTED for s in pair.sides.values()), 5.0
    )
    assert world.now - start < 1.5
    world.run_for(30.0)
    for side in pair.sides.values():
        assert side.conn.state.stage is Stage.CONNECTED
        assert not any(isinstance(event, Disconnected) for event in side.events)


@pytest.mark.parametrize("learned_after", [0.1, 0.4, 0.8])
def test_a_renumbered_nat_with_traffic_is_followed_within_2_s(learned_after: float) -> None:
    world = World(3)
    pair = connected_pair(world)
    nat = pair.a.machine.nat
    assert nat is not None
    nat.renumber("203.0.113.99")
    start = world.now
    world.run_for(1.0)
    unanswered(pair)
    world.run_for(learned_after)
    pair.tell_candidates(pair.a, [*pair.a.candidates[:1], *renumbered(pair, "203.0.113.99")])

    def has_moved() -> bool:
        engine = pair.b.core.wireguard.endpoint
        return engine is not None and engine.address.ip == "203.0.113.99"

    assert pair.run_until(has_moved, 10.0)
    assert world.now - start < max(2.0, 1.5 + learned_after)
    assert pair.run_until(lambda: pair.b.conn.state.stage is Stage.CONNECTED, 2.0)
    for side in pair.sides.values():
        assert not any(isinstance(event, Disconnected) for event in side.events)


def renumbered(pair: PeerPair, ip: str) -> list[Candidate]:
    old = pair.a.candidates[1]
    return [replace(old, address=Address(ip, old.address.port))]


def test_a_wireguard_that_is_dead_while_checks_pass_is_dropped_and_reported() -> None:
    world = World(4)
    pair = connected_pair(world)
    for side in pair.sides.values():
        side.core.wireguard.is_dead = True
        side.commands.clear()
    unanswered(pair)
    world.run_for(14.0)
    assert pair.is_connected()
    died_at = world.now
    unanswered(pair, seconds=15.0)
    assert any(isinstance(command, StartHandshake) for command in pair.a.commands)
    assert pair.run_until(lambda: pair.a.conn.state.reason == SILENT, 20.0)
    assert world.now - died_at <= 10.1
    assert any(isinstance(command, RemovePeer) for command in pair.a.commands)
    for side in pair.sides.values():
        side.core.wireguard.is_dead = False
    assert pair.run(timeout=90.0)


def test_a_handshake_ends_the_doubt_about_wireguard() -> None:
    world = World(5)
    pair = connected_pair(world)
    unanswered(pair, seconds=15.0)
    world.run_for(60.0)
    assert pair.is_connected()
    for side in pair.sides.values():
        assert not any(isinstance(event, Disconnected) for event in side.events)


def test_a_dead_peer_is_noticed_within_6_5_s_on_the_other_side() -> None:
    for seed in range(10):
        world = World(seed)
        pair = connected_pair(world)
        for side in pair.sides.values():
            assert side.machine.nat is not None
            side.machine.nat.link.loss = 1.0
        died_at = world.now
        assert pair.run_until(
            lambda pair=pair: all(s.conn.state.stage is Stage.BROKEN for s in pair.sides.values()),
            20.0,
        )
        assert world.now - died_at <= 6.5


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_lan_that_both_come_to_is_taken_without_losing_the_connection(order: str) -> None:
    world = World(6)
    pair = connected_pair(world)
    lan = Realm(world, "lan")
    for name in order:
        side, ip = pair.sides[name], {"a": "192.168.50.2", "b": "192.168.50.3"}[name]
        side.machine.host.add_interface(ip, lan)
        pair.tell_candidates(side, [*side.candidates, make_host(Address(ip, PORT), 65000)])
        world.run_for(3.0)
    assert pair.run_until(
        lambda: pair.a.conn.state.remote_address == Address("192.168.50.3", PORT), 60.0
    )
    assert pair.run_until(
        lambda: pair.b.conn.state.remote_address == Address("192.168.50.2", PORT), 10.0
    )
    for side in pair.sides.values():
        assert not any(isinstance(event, Disconnected) for event in side.events)


def test_a_path_that_is_no_better_is_left() -> None:
    world = World(7)
    pair = connected_pair(world)
    before = pair.a.conn.state.remote_address
    more = make_host(Address("192.168.77.2", PORT), 65000)
    pair.tell_candidates(pair.a, [*pair.a.candidates, more])
    assert offers(pair.a)
    world.run_for(60.0)
    assert pair.a.conn.state.remote_address == before
    for side in pair.sides.values():
        assert Stage.BROKEN not in side.stages()
        assert side.conn.state.stage is Stage.CONNECTED


def roamed(pair: PeerPair, side: PeerSide, address: Address) -> list[Address]:
    """Return where the data plane is sent to after it followed a packet from an address."""
    before = len(side.commands)
    event = EndpointRoamed(side.conn.config.key, address)
    side.conn.on_engine_event(event, now=pair.world.now)
    pair.wake(side)
    new = [c.endpoint for c in side.commands[before:] if isinstance(c, SetPeer)]
    return [endpoint.address for endpoint in new if endpoint is not None]


def test_late_packets_of_the_path_before_do_not_move_the_connection_back() -> None:
    world = World(6)
    pair = connected_pair(world)
    old = pair.a.conn.state.remote_address
    assert old is not None
    lan = Realm(world, "lan")
    for side, ip in ((pair.a, "192.168.50.2"), (pair.b, "192.168.50.3")):
        side.machine.host.add_interface(ip, lan)
        pair.tell_candidates(side, [*side.candidates, make_host(Address(ip, PORT), 65000)])
    new = Address("192.168.50.3", PORT)
    assert pair.run_until(lambda: pair.a.conn.state.remote_address == new, 60.0)
    assert pair.a.conn.left_working
    for _ in range(3):
        assert roamed(pair, pair.a, old) == [new]
        assert pair.a.conn.state.remote_address == new
        world.run_for(0.5)
    strange = Address("203.0.113.200", 4000)  # a NAT that has moved is followed
    assert roamed(pair, pair.a, strange) == []
    assert pair.a.conn.state.remote_address == strange
    world.run_for(LATE)
    assert roamed(pair, pair.a, old) == []  # so late none is under way: the peer has moved


def lending_pair(world: World) -> PeerPair:
    machines = [make_machine(world, name, HOMES[i], i + 1) for i, name in enumerate("ab")]
    pair = PeerPair(world, *machines, settings={"lends_consent": True})
    pair.open()
    assert pair.run()
    assert pair.run_until(lambda: all(lent(side) for side in pair.sides.values()), 6.0)
    return pair


def lent(side: PeerSide) -> list[WatchConsent]:
    return [command for command in side.commands if isinstance(command, WatchConsent)]


def test_consent_is_lent_to_the_data_plane_and_nothing_is_asked_meanwhile() -> None:
    world = World(8)
    pair = lending_pair(world)
    for side in pair.sides.values():
        (watch,) = lent(side)
        assert watch.endpoint.address == side.conn.state.remote_address
        assert watch.terms.controlling == (side is pair.a)
    world.run_for(60.0)
    for side in pair.sides.values():
        deadline = side.conn.poll_deadline()
        assert deadline is None or deadline.at > world.now + 30.0
        assert side.conn.state.stage is Stage.CONNECTED
        event = ConsentAnswered(side.conn.config.key, 0.123)
        side.conn.on_engine_event(event, now=world.now)
        assert side.conn.state.latency_s == 0.123


def test_a_missed_answer_is_asked_for_again_and_what_answers_is_lent_again() -> None:
    world = World(9)
    pair = lending_pair(world)
    world.run_for(20.0)
    event = ConsentMissed(pair.a.conn.config.key, 5.0)
    pair.a.conn.on_engine_event(event, now=world.now)
    pair.wake(pair.a)
    world.run_for(1.0)
    assert pair.a.conn.state.stage is Stage.CONNECTED
    assert len(lent(pair.a)) == 2
    assert Stage.BROKEN not in pair.a.stages()


def test_a_path_that_died_while_consent_was_lent_is_noticed_within_6_5_s() -> None:
    for seed in range(5):
        world = World(seed)
        pair = lending_pair(world)
        nat = pair.a.machine.nat
        assert nat is not None
        nat.link.loss = 1.0
        died_at = world.now
        world.run_for(5.31)  # the data plane's latest moment: see its own test
        for side in pair.sides.values():
            event = ConsentMissed(side.conn.config.key, world.now - died_at)
            side.conn.on_engine_event(event, now=world.now)
            pair.wake(side)
        assert pair.run_until(
            lambda pair=pair: all(s.conn.state.stage is Stage.BROKEN for s in pair.sides.values()),
            20.0,
        )
        assert world.now - died_at <= 6.5


def test_the_end_of_a_path_ends_what_was_lent() -> None:
    world = World(10)
    pair = lending_pair(world)
    pair.close(pair.a)
    assert isinstance(pair.a.commands[-1], ForgetConsent | RemovePeer)
    assert sum(isinstance(command, ForgetConsent) for command in pair.a.commands) == 1


@pytest.mark.parametrize(
    ("ips", "round_trip", "is_taken"),
    [
        (("9.9.1.2", "9.9.1.3"), 0.085, False),  # a little shorter is not worth a change
        (("9.9.1.2", "9.9.1.3"), 0.070, True),
        (("2600:1::2", "2600:1::3"), 0.085, True),  # IPv6 counts a tenth less
        (("2600:1::2", "2600:1::3"), 0.097, False),
        (("192.168.50.2", "192.168.50.3"), 0.095, True),  # a LAN counts half
        (("192.168.50.2", "192.168.50.3"), 0.190, False),
    ],
)
def test_a_path_must_be_clearly_better_to_be_taken(
    ips: tuple[str, str], round_trip: float, is_taken: bool
) -> None:
    """The path in use takes 100 ms there and back and goes over IPv4 through two NATs."""
    world = World(9)
    pair = connected_pair(world)
    before = pair.a.conn.state.remote_address
    more = Realm(world, "more")
    for side, ip in zip((pair.b, pair.a), reversed(ips), strict=True):
        side.machine.host.add_interface(ip, more, Link(delay=round_trip / 4))
        pair.tell_candidates(side, [*side.candidates, make_host(Address(ip, PORT), 65000)])
    world.run_for(120.0)
    after = pair.a.conn.state.remote_address
    assert after == (Address(ips[1], PORT) if is_taken else before)
    for side in pair.sides.values():
        assert not any(isinstance(event, Disconnected) for event in side.events)
        assert Stage.BROKEN not in side.stages()


def test_a_new_path_to_the_same_address_makes_no_packet_late() -> None:
    """The far end is where it was: what comes from there is no packet of the path before."""
    world = World(10)
    pair = connected_pair(world)
    remote = pair.a.conn.state.remote_address
    assert remote is not None
    pair.a.conn.on_engine_event(DataUnanswered(pair.a.conn.config.key, 1.0), now=world.now)
    pair.a.machine.nat.link.loss = 1.0  # type: ignore[union-attr]  # it has one
    pair.wake(pair.a)
    assert pair.run_until(lambda: pair.a.conn.state.stage is Stage.BROKEN, 2.0)
    pair.a.machine.nat.link.loss = 0.0  # type: ignore[union-attr]  # it has one
    pair.wake(pair.a)
    assert pair.run_until(lambda: pair.a.conn.state.stage is Stage.CONNECTED, 10.0)
    world.run_for(1.0)
    assert pair.a.conn.state.remote_address == remote
    assert roamed(pair, pair.a, remote) == []
