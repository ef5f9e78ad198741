"""Trying again: back-off and what ends it, sleep, a NAT that forgets, two sides that open at once.

RTT between homes is 100 ms, signalling takes 50 ms one way.
"""

from __future__ import annotations

import pytest

from ginnel.base.dataplane import DataUnanswered
from ginnel.base.types import Address, Transmit
from ginnel.ice.candidate import make_host
from ginnel.peer.attempt import FIRST_RETRY, LAST_RETRY
from ginnel.peer.events import Connected, Disconnected, SendOffer
from ginnel.peer.status import ConnStatus, Stage
from support.ice_world import PORT, make_machine
from support.peer_world import PeerPair, PeerSide
from support.sim import World

HOMES = ("port-restricted", "port-restricted")


def make_pair(world: World, kinds: tuple[str, str] = HOMES, **settings: object) -> PeerPair:
    machines = [make_machine(world, name, kinds[i], i + 1) for i, name in enumerate("ab")]
    return PeerPair(world, *machines, settings=settings)


def connected_pair(world: World, kinds: tuple[str, str] = HOMES) -> tuple[PeerPair, list[bytes]]:
    """Return a connected pair and the session ids of its offers."""
    pair = make_pair(world, kinds)
    pair.open()
    assert pair.run()
    world.run_for(5.0)
    sessions = [o.offer.session for o in offers(pair.a) + offers(pair.b)]
    forget(pair)
    return pair, sessions


def forget(pair: PeerPair) -> None:
    for side in pair.sides.values():
        side.events.clear()
    pair.signalled.clear()


def offers(side: PeerSide) -> list[SendOffer]:
    return [event for event in side.events if isinstance(event, SendOffer)]


def times_of_offers(pair: PeerPair, seconds: float) -> list[float]:
    """Return after how many seconds each offer of `a` goes out."""
    found: list[float] = []
    start = pair.world.now

    def look() -> bool:
        found.extend([pair.world.now - start] * (len(offers(pair.a)) - len(found)))
        return False

    pair.world.run(until=look, timeout=seconds)
    return found


def test_nobody_answers_and_the_offers_get_rarer() -> None:
    world = World(1)
    pair = make_pair(world)
    pair.open(pair.a)
    found = times_of_offers(pair, 600.0)
    gaps = [later - sooner for sooner, later in zip([0.0, *found], found, strict=False)]
    assert gaps[1] == pytest.approx(FIRST_RETRY)
    assert gaps[2] < 1.0
    assert all(LAST_RETRY[0] <= gap <= LAST_RETRY[1] for gap in gaps[8:])
    assert len(found) < 30


def wait_long(pair: PeerPair) -> None:
    """Let `a` offer in vain until it tries each half minute only."""
    pair.open(pair.a)
    pair.world.run_for(300.0)
    assert pair.run_until(lambda: grew(pair), 60.0)
    pair.world.run_for(12.0)  # the last offer is too old for an answer, the next one is far
    forget(pair)


def grew(pair: PeerPair) -> bool:
    before, pair.signalled[:] = len(pair.signalled), []
    return before > 0


@pytest.mark.parametrize("why", ["address", "wake", "found"])
def test_what_ends_the_back_off(why: str) -> None:
    """A new address of ours, a change of network or sleep, and the peer that registered again."""
    world = World(2)
    pair = make_pair(world)
    wait_long(pair)
    pair.signal_loss = 1.0
    pair.open(pair.b)  # it is there again, but of its own offer nothing is heard
    pair.signal_loss = 0.0
    forget(pair)
    if why == "address":
        more = make_host(Address("192.168.77.2", PORT), 65000)
        pair.tell_candidates(pair.a, [*pair.a.candidates, more])
    elif why == "wake":
        pair.a.conn.on_network_changed(now=world.now)
    else:
        pair.a.conn.retry_now(now=world.now)
    pair.wake(pair.a)
    start = world.now
    assert len(offers(pair.a)) == 1
    assert pair.run(5.0)
    assert world.now - start < 1.0


def test_hurrying_again_and_again_sends_no_more_than_one_offer_a_second() -> None:
    world = World(3)
    pair = make_pair(world)
    wait_long(pair)
    for _ in range(100):
        pair.a.conn.on_network_changed(now=world.now)
        pair.wake(pair.a)
        world.run_for(0.05)
    assert 1 <= len(offers(pair.a)) <= 6


def test_a_lost_connection_is_tried_at_once_and_from_the_start() -> None:
    world = World(4)
    pair, _ = connected_pair(world)
    assert pair.b.machine.nat is not None
    pair.b.machine.nat.link.loss = 1.0
    pair.signal_loss = 1.0
    assert pair.run_until(lambda: pair.a.conn.state.stage is Stage.BROKEN, 10.0)
    lost_at = world.now
    assert len(offers(pair.a)) == 1
    assert pair.run_until(lambda: len(offers(pair.a)) >= 4, 10.0)
    assert world.now - lost_at < 4.0


def test_both_open_at_once_and_one_round_is_enough() -> None:
    world = World(5)
    pair = make_pair(world)
    start = world.now
    pair.open()
    assert pair.run(5.0)
    assert world.now - start < 0.45  # signalling, checks, and one handshake of WireGuard
    world.run_for(30.0)
    kinds = [kind for _, kind in pair.signalled if kind != "candidates"]
    assert sorted(kinds) == ["answer", "answer", "offer", "offer"]
    for side in pair.sides.values():
        assert sum(isinstance(event, Connected) for event in side.events) == 1


@pytest.mark.parametrize("kinds", [HOMES, ("port-restricted", "full-cone")], ids="-".join)
def test_a_nat_that_moves_its_port_is_followed_by_a_restart(kinds: tuple[str, str]) -> None:
    """The router forgot its mappings: the address is the same, the port another."""
    world = World(6)
    pair, sessions = connected_pair(world, kinds)
    nat = pair.a.machine.nat
    assert nat is not None
    before = pair.b.conn.state.remote_address
    nat.forget()
    taken = Address("192.168.1.99", PORT)  # another machine of the home has our outer port now
    neighbour = nat.add_host("neighbour", taken.ip)
    neighbour.send(Transmit(b"hello", Address("192.0.2.200", 9)), PORT)
    world.run_for(1.0)
    for side in pair.sides.values():  # data of both sides stays unanswered
        event = DataUnanswered(side.conn.config.key, 1.0)
        side.conn.on_engine_event(event, now=world.now)
        pair.wake(side)
    start = world.now
    world.run_for(0.3)
    pair.tell_candidates(pair.a, pair.a.machine.candidates(world))

    def is_back() -> bool:
        remote = pair.b.conn.state.remote_address
        return remote is not None and remote != before and pair.is_healthy()

    assert pair.run_until(is_back, 20.0)
    assert world.now - start < 2.0
    assert all(o.offer.session in sessions for o in offers(pair.a) + offers(pair.b))
    for side in pair.sides.values():
        assert not any(isinstance(event, Disconnected) for event in side.events)


@pytest.mark.parametrize("seconds", [4.0, 9.0, 3600.0])
def test_a_machine_that_slept_is_back_within_2_s(seconds: float) -> None:
    """The other side has noticed meanwhile, or given up; the sleeper believes that all is well."""
    world = World(7)
    pair, sessions = connected_pair(world)
    pair.sleep(pair.a, seconds)
    assert pair.a.conn.state.stage is Stage.CONNECTED
    woken = world.now
    pair.a.conn.on_network_changed(now=pair.now_of(pair.a))
    pair.wake(pair.a)
    assert pair.run_until(pair.is_healthy, 20.0)
    world.run_for(1.0)
    assert pair.run_until(pair.is_healthy, 5.0)
    assert world.now - woken < 2.5
    if seconds < 10.0:  # both still have the session
        assert all(o.offer.session in sessions for o in offers(pair.a) + offers(pair.b))
        assert not any(isinstance(event, Disconnected) for event in pair.b.events)


def test_a_wake_while_all_is_well_costs_one_check() -> None:
    world = World(8)
    pair, _ = connected_pair(world)
    for side in pair.sides.values():
        side.conn.on_network_changed(now=world.now)
        pair.wake(side)
    world.run_for(5.0)
    assert pair.signalled == []
    for side in pair.sides.values():
        assert side.conn.state.status is ConnStatus.CONNECTED
        assert Stage.BROKEN not in side.stages()
