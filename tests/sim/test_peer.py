"""Two peer connections over a simulated network: the whole life of seed 000.

RTT between homes is 100 ms, signalling takes 50 ms one way.
"""

import pytest

from ginnel.base.dataplane import RemovePeer, SetPeer, StartHandshake
from ginnel.base.types import Address
from ginnel.ice.candidate import make_host
from ginnel.peer.events import Connected, Disconnected, Engine
from ginnel.peer.status import ConnStatus, Stage
from support.ice_world import PORT, make_lan_pair, make_machine
from support.peer_world import PeerPair
from support.sim import World

DIRECT = [
    ("public", "port-restricted"),
    ("port-restricted", "port-restricted"),
    ("full-cone", "symmetric"),
    ("symmetric", "full-cone"),
    ("addr-restricted", "symmetric"),
    ("symmetric", "addr-restricted"),
]
RELAYED = [
    ("port-restricted", "symmetric"),
    ("symmetric", "port-restricted"),
    ("symmetric", "symmetric"),
]
HOMES = ("port-restricted", "port-restricted")


def make_pair(world: World, kinds: tuple[str, str] = HOMES, *, loss: float = 0.0) -> PeerPair:
    a = make_machine(world, "a", kinds[0], 1)
    b = make_machine(world, "b", kinds[1], 2)
    return PeerPair(world, a, b, loss=loss)


def connected_pair(world: World, kinds: tuple[str, str] = HOMES) -> PeerPair:
    pair = make_pair(world, kinds)
    pair.open()
    assert pair.run()
    return pair


@pytest.mark.parametrize("kinds", DIRECT, ids="-".join)
@pytest.mark.parametrize("first", ["a", "b", "both"])
def test_direct_pairs_connect(kinds: tuple[str, str], first: str) -> None:
    world = World(1)
    pair = make_pair(world, kinds)
    start = world.now
    if first == "both":
        pair.open()
    else:
        pair.open(pair.sides[first])
        world.run_for(0.06)
        pair.open()
    assert pair.run()
    assert world.now - start < (1.6 if "addr-restricted" in kinds else 0.8)
    for side in pair.sides.values():
        assert side.conn.state.direct
        assert sum(isinstance(event, Connected) for event in side.events) == 1
        assert side.stages()[-1] is Stage.CONNECTED


def test_a_lan_pair_connects_on_the_lan() -> None:
    world = World(2)
    pair = PeerPair(world, *make_lan_pair(world))
    pair.open()
    assert pair.run()
    assert pair.a.conn.state.remote_address == Address("192.168.1.3", PORT)
    assert (pair.a.conn.state.local_kind, pair.a.conn.state.remote_kind) == ("host", "host")


@pytest.mark.parametrize("kinds", RELAYED, ids="-".join)
def test_pairs_that_need_a_relay_say_so_within_15_s(kinds: tuple[str, str]) -> None:
    world = World(3)
    pair = make_pair(world, kinds)
    start = world.now
    pair.open()
    assert pair.run_until(
        lambda: all("needs a relay" in s.conn.state.reason for s in pair.sides.values()), 15.0
    )
    assert world.now - start < 15.0
    for side in pair.sides.values():
        assert "symmetric" in side.conn.state.reason
        assert side.conn.state.status is not ConnStatus.CONNECTED
        pairs = side.conn.describe_pairs()  # though the attempt has ended
        assert pairs
        assert all("no answer" in text for text in pairs)


@pytest.mark.parametrize("seed", range(15))
def test_it_connects_with_loss_of_packets_and_signals(seed: int) -> None:
    world = World(seed)
    pair = make_pair(world, loss=0.3)
    for side in pair.sides.values():
        assert side.machine.nat is not None
        side.machine.nat.link.loss = 0.05
    pair.open()
    assert pair.run(timeout=60.0)


def test_the_order_of_commands_and_events() -> None:
    world = World(4)
    pair = connected_pair(world)
    commands = [event.command for event in pair.a.events if isinstance(event, Engine)]
    assert [type(command) for command in commands] == [SetPeer, SetPeer, StartHandshake]
    early, late = commands[:2]
    assert isinstance(early, SetPeer)
    assert isinstance(late, SetPeer)
    assert early.endpoint is None
    assert late.endpoint is not None
    assert late.endpoint.source_ip == "192.168.1.2"
    assert early.allowed_ips == late.allowed_ips == ("100.64.7.1/32",)
    assert late.keepalive_s == 25
    assert not any(isinstance(command, StartHandshake) for command in pair.b.commands)


def test_close_cleans_up_and_the_other_side_notices() -> None:
    world = World(5)
    pair = connected_pair(world)
    pair.close(pair.a)
    assert isinstance(pair.a.commands[-1], RemovePeer)
    assert sum(isinstance(event, Disconnected) for event in pair.a.events) == 1
    assert pair.a.conn.state.stage is Stage.CLOSED
    assert not pair.a.conn.close(world.now)
    closed_at = world.now
    assert pair.run_until(
        lambda: any(isinstance(event, Disconnected) for event in pair.b.events), 20.0
    )
    assert world.now - closed_at < 12.6
    assert pair.b.conn.state.reason == "the path broke: the other side answers no more"


def test_closing_before_opening_works() -> None:
    world = World(6)
    pair = make_pair(world)
    pair.close(pair.a)
    assert not pair.a.conn.open(world.now)
    pair.open(pair.b)
    world.run_for(20.0)
    assert pair.a.commands == []
    assert ("a", "answer") not in pair.signalled


def test_the_last_session_ends_and_a_new_peer_connects_after_many_lost_offers() -> None:
    world = World(7)
    pair = make_pair(world)
    pair.signal_loss = 1.0
    pair.open()
    world.run_for(120.0)
    assert not pair.is_connected()
    offers = [signal for signal in pair.signalled if signal == ("a", "offer")]
    assert 6 <= len(offers) <= 12
    pair.signal_loss = 0.0
    assert pair.run(timeout=46.0)


def test_a_new_network_is_tried_at_once() -> None:
    world = World(8)
    pair = make_pair(world)
    pair.signal_loss = 1.0
    pair.open()
    world.run_for(200.0)
    pair.signal_loss = 0.0
    host = pair.a.machine.host
    host.renumber("192.168.1.2", "192.168.1.77")
    pair.tell_candidates(pair.a, pair.a.machine.candidates(world))
    start = world.now
    assert pair.run()
    assert world.now - start < 1.0


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_restarted_peer_is_back_soon(name: str) -> None:
    world = World(9)
    pair = connected_pair(world)
    world.run_for(30.0)
    pair.restart(pair.sides[name])
    start = world.now
    assert pair.run_until(lambda: pair.sides[name].conn.state.status is ConnStatus.CONNECTED, 20.0)
    assert world.now - start < 1.5
    world.run_for(60.0)
    assert pair.is_connected()
    other = pair.sides["b" if name == "a" else "a"]
    assert not any(isinstance(event, Disconnected) for event in other.events)


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_new_session_without_wireguard_leaves_the_live_one(name: str) -> None:
    world = World(10)
    pair = connected_pair(world)
    side, other = pair.sides[name], pair.sides["b" if name == "a" else "a"]
    before = side.conn.state.remote_address
    side.core.wireguard.is_dead = True
    moved = [*other.candidates, make_host(Address("192.168.99.9", PORT))]
    pair.tell_candidates(other, moved[1:])  # its host base is gone: it offers anew
    world.run_for(16.0)
    assert side.conn.state.remote_address == before
    assert not any(isinstance(event, Disconnected) for event in side.events)
    assert side.core.wireguard.endpoint is not None
    assert side.core.wireguard.endpoint.address == before


def has_moved(pair: PeerPair) -> bool:
    remote = pair.b.conn.state.remote_address
    return remote is not None and remote.ip == "203.0.113.99" and pair.is_connected()


def test_a_renumbered_nat_is_followed_once_it_is_observed() -> None:
    world = World(11)
    pair = connected_pair(world)
    nat = pair.a.machine.nat
    assert nat is not None
    nat.renumber("203.0.113.99")
    world.run_for(2.0)
    pair.tell_candidates(pair.a, pair.a.machine.candidates(world))
    start = world.now
    assert pair.run_until(lambda: has_moved(pair), 30.0)
    assert world.now - start < 1.0
    world.run_for(30.0)
    assert has_moved(pair)
    for side in pair.sides.values():
        assert not any(isinstance(event, Disconnected) for event in side.events)


def test_a_renumbered_nat_is_followed_without_signalling_where_filters_allow() -> None:
    world = World(11)
    pair = connected_pair(world, ("port-restricted", "full-cone"))
    nat = pair.a.machine.nat
    assert nat is not None
    pair.signal_loss = 1.0
    nat.renumber("203.0.113.99")
    start = world.now
    assert pair.run_until(lambda: has_moved(pair), 30.0)
    assert world.now - start < 8.5
    world.run_for(30.0)
    assert has_moved(pair)


def test_a_path_on_which_wireguard_is_silent_is_dropped() -> None:
    world = World(12)
    pair = make_pair(world)
    for side in pair.sides.values():
        side.core.wireguard.is_dead = True
    pair.open()
    reason = "WireGuard does not answer on a path whose checks pass"
    assert pair.run_until(lambda: pair.a.conn.state.reason == reason, 40.0)
    assert isinstance(pair.a.commands[-1], RemovePeer)
    for side in pair.sides.values():
        side.core.wireguard.is_dead = False
    assert pair.run(timeout=90.0)


def test_a_wireguard_that_dies_later_is_noticed() -> None:
    world = World(13)
    pair = connected_pair(world)
    for side in pair.sides.values():
        side.core.wireguard.is_dead = True
    died_at = world.now
    assert pair.run_until(
        lambda: any(isinstance(event, Disconnected) for event in pair.a.events), 400.0
    )
    assert world.now - died_at <= 211.0


def test_a_quiet_connection_stays_for_hours() -> None:
    world = World(14)
    pair = connected_pair(world)
    world.run_for(2 * 3600.0)
    assert pair.is_connected()
    for side in pair.sides.values():
        assert not any(isinstance(event, Disconnected) for event in side.events)
        assert sum(isinstance(command, SetPeer) for command in side.commands) <= 3
