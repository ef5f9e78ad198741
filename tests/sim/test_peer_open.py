"""Seed 000's open: how it ends, what it tells on the way, and what it sends besides.

RTT between homes is 100 ms, signalling takes 50 ms one way.
"""

import pytest

from ginnel.base.dataplane import CommandRefused, DataUnanswered, RemovePeer
from ginnel.base.types import Address
from ginnel.ice.candidate import CandidateKind, make_host, make_server_reflexive
from ginnel.peer.care import LAST_HANDSHAKE_TIMEOUT
from ginnel.peer.errors import (
    ConnectionClosed,
    ConnectionDisconnected,
    ConnectionEnded,
    ConnectionTimeout,
)
from ginnel.peer.events import Connected, Disconnected, Ended, OnDisconnect, SendMessage
from ginnel.peer.signal import ModeMessage
from ginnel.peer.status import ConnStatus, PeerState, Stage
from ginnel.peer.timers import PUNCH, RESTART_LIMIT, SILENT
from support.ice_world import PORT, make_machine
from support.peer_world import PeerPair, PeerSide
from support.sim import Packet, World

HOMES = ("port-restricted", "port-restricted")


def make_pair(world: World, kinds: tuple[str, str] = HOMES, **settings: object) -> PeerPair:
    settings.setdefault("timeout", 20.0)
    machines = [make_machine(world, name, kinds[i], i + 1) for i, name in enumerate("ab")]
    return PeerPair(world, *machines, settings=settings)


def connected_pair(world: World, kinds: tuple[str, str] = HOMES, **settings: object) -> PeerPair:
    pair = make_pair(world, kinds, **settings)
    pair.open()
    assert pair.run()
    return pair


def ends(side: PeerSide) -> list[ConnectionEnded]:
    return [event.error for event in side.events if isinstance(event, Ended)]


def cut(pair: PeerPair) -> None:
    """Let nothing pass any more, neither packets nor signals."""
    pair.signal_loss = 1.0
    for side in pair.sides.values():
        assert side.machine.nat is not None
        side.machine.nat.link.loss = 1.0


def refuse(side: PeerSide, now: float) -> None:
    """The data plane refuses a command."""
    event = CommandRefused(side.conn.config.key, "no such peer")
    side.conn.on_engine_event(event, now=now)


def mend(pair: PeerPair) -> None:
    pair.signal_loss = 0.0
    for side in pair.sides.values():
        assert side.machine.nat is not None
        side.machine.nat.link.loss = 0.0


def test_without_an_offer_or_answer_it_ends_by_timeout_and_opens_again() -> None:
    world = World(1)
    pair = make_pair(world)
    start = world.now
    pair.open(pair.a)
    assert pair.run_until(lambda: ends(pair.a), 30.0)
    assert world.now - start == pytest.approx(20.0)
    (error,) = ends(pair.a)
    assert isinstance(error, ConnectionTimeout)
    assert error.timeout == 20.0
    assert pair.a.conn.state.stage is Stage.CLOSED
    assert not any(isinstance(event, Connected | Disconnected) for event in pair.a.events)
    assert pair.a.core.poll_deadline() is None
    pair.open()
    assert pair.run()


def test_the_timeout_bounds_only_the_wait_for_an_offer_or_answer() -> None:
    world = World(2)
    pair = connected_pair(world, timeout=5.0)
    world.run_for(60.0)
    assert pair.is_connected()
    assert ends(pair.a) == ends(pair.b) == []


def test_an_offer_is_answered_and_an_answer_is_not() -> None:
    world = World(3)
    pair = make_pair(world)
    pair.open(pair.a)
    world.run_for(0.2)
    pair.open(pair.b)  # it kept the offer
    assert pair.run()
    assert [signal for signal in pair.signalled if signal[1] != "candidates"] == [
        ("a", "offer"),
        ("b", "answer"),
    ]


def test_close_ends_it_and_tells_in_the_order_of_the_seed() -> None:
    world = World(4)
    pair = connected_pair(world)
    pair.a.events.clear()
    pair.a.commands.clear()
    pair.close(pair.a)
    kinds = [type(event).__name__ for event in pair.a.events]
    assert kinds == ["Engine", "Disconnected", "PeerStateChanged", "Ended"]
    assert [type(command) for command in pair.a.commands] == [RemovePeer]
    assert isinstance(ends(pair.a)[0], ConnectionClosed)
    assert pair.a.conn.state == PeerState(
        pair.a.conn.config.key,
        changed_at=world.now,
        overlay_ip="100.64.7.1",
        last_handshake_at=pair.a.conn.state.last_handshake_at,
    )
    assert not pair.a.conn.close(world.now)
    assert not pair.a.conn.open(world.now)


def test_on_disconnect_close_ends_it_as_soon_as_the_path_is_lost() -> None:
    world = World(5)
    pair = connected_pair(world, on_disconnect=OnDisconnect.CLOSE)
    cut(pair)
    cut_at = world.now
    assert pair.run_until(lambda: ends(pair.a) and ends(pair.b), 20.0)
    assert world.now - cut_at <= 6.5
    for side in pair.sides.values():
        assert isinstance(ends(side)[0], ConnectionDisconnected)
        assert sum(isinstance(event, Disconnected) for event in side.events) == 1
    mend(pair)
    pair.open()
    assert pair.run()


def test_on_disconnect_restart_gives_up_after_30_s() -> None:
    world = World(6)
    pair = connected_pair(world)
    cut(pair)
    cut_at = world.now
    assert pair.run_until(lambda: ends(pair.a) and ends(pair.b), 60.0)
    assert 30.0 < world.now - cut_at <= 36.5
    for side in pair.sides.values():
        assert isinstance(ends(side)[0], ConnectionDisconnected)
        assert sum(isinstance(event, Disconnected) for event in side.events) == 1


def test_on_disconnect_restart_goes_on_in_the_same_open() -> None:
    world = World(7)
    pair = connected_pair(world)
    cut(pair)
    world.run_for(20.0)
    mend(pair)
    assert pair.run()
    world.run_for(60.0)
    assert pair.is_connected()
    assert ends(pair.a) == ends(pair.b) == []


@pytest.mark.parametrize("on_disconnect", OnDisconnect)
def test_where_no_path_is_found_it_ends_disconnected(on_disconnect: OnDisconnect) -> None:
    world = World(8)
    pair = make_pair(world, ("symmetric", "symmetric"), on_disconnect=on_disconnect)
    start = world.now
    pair.open()
    assert pair.run_until(lambda: ends(pair.a), 80.0)
    (error,) = ends(pair.a)
    assert isinstance(error, ConnectionDisconnected)
    assert "needs a relay" in error.text
    is_quick = world.now - start < 16.0
    assert is_quick is (on_disconnect is OnDisconnect.CLOSE)
    assert not any(isinstance(event, Disconnected) for event in pair.a.events)


def test_a_refused_peer_closes_the_proxy_and_ends_it() -> None:
    world = World(9)
    pair = connected_pair(world)
    pair.a.events.clear()
    refuse(pair.a, world.now)
    pair.wake(pair.a)
    (error,) = ends(pair.a)
    assert isinstance(error, ConnectionDisconnected)
    assert error.text == "data plane: no such peer"
    assert isinstance(pair.a.commands[-1], RemovePeer)


def test_without_a_timeout_a_refused_peer_is_cleaned_up_and_tried_again() -> None:
    world = World(9)
    pair = connected_pair(world, timeout=None)
    pair.a.events.clear()
    pair.a.commands.clear()
    refuse(pair.a, world.now)
    refuse(pair.a, world.now)  # of the commands that were under way
    pair.wake(pair.a)
    assert [type(command) for command in pair.a.commands] == [RemovePeer]
    assert sum(isinstance(event, Disconnected) for event in pair.a.events) == 1
    assert pair.a.conn.state.stage is Stage.WAITING
    assert pair.a.conn.state.reason == "data plane: no such peer"
    world.run_for(2.0)
    assert pair.run(timeout=20.0)
    assert pair.a.conn.state.reason == ""


def test_on_connected_tells_rosenpass_and_the_overlay_address() -> None:
    world = World(11)
    pair = connected_pair(world, rosenpass_pub_key=b"r" * 32, rosenpass_addr="10.0.0.1:9999")
    for side in pair.sides.values():
        (event,) = [event for event in side.events if isinstance(event, Connected)]
        assert event == Connected(side.conn.config.key, "100.64.7.1", b"r" * 32, "10.0.0.1:9999")
        assert side.conn.state.rosenpass_enabled
        assert side.conn.state.overlay_ip == "100.64.7.1"


def test_the_mode_is_told_to_who_understands_it() -> None:
    world = World(12)
    pair = make_pair(world)
    pair.a.conn.register_features([1, 99])
    pair.open()
    assert pair.run()
    told = [event.message for event in pair.a.events if isinstance(event, SendMessage)]
    assert told == [ModeMessage(direct=True)]
    assert not any(isinstance(event, SendMessage) for event in pair.b.events)
    assert pair.b.conn.on_remote_mode(told[0], now=world.now)
    assert pair.b.conn.state.remote_direct is True
    pair.close(pair.b)
    assert not pair.b.conn.on_remote_mode(told[0], now=world.now)


def punches(world: World) -> list[tuple[float, Packet]]:
    found: list[tuple[float, Packet]] = []

    def watch(packet: Packet) -> None:
        if packet.data == PUNCH and packet.realm != "internet":
            found.append((world.now, packet))

    world.on_packet(watch)
    return found


@pytest.mark.parametrize(("told", "punched"), [(51999, 51999), (0, 51820)])
def test_a_wireguard_on_a_port_of_its_own_is_punched_after_1_s(told: int, punched: int) -> None:
    world = World(13)
    found = punches(world)
    pair = make_pair(world, is_muxed=False, local_wg_port=told)
    pair.open()
    assert pair.run()
    connected_at = world.now
    world.run_for(10.0)
    assert {packet.destination.port for _, packet in found} == {punched}
    assert len(found) == 2  # one from each side
    for at, _ in found:
        assert 0.8 <= at - connected_at <= 1.1


def test_a_wireguard_on_the_port_of_ice_is_not_punched() -> None:
    world = World(14)
    found = punches(world)
    connected_pair(world)
    world.run_for(10.0)
    assert found == []


def test_the_extra_reflexive_candidate_is_offered_once_and_only_if_ports_differ() -> None:
    world = World(15)
    base = Address("192.168.1.2", PORT)
    outer = make_server_reflexive(Address("203.0.113.1", 41_000), base)
    pair = make_pair(world)
    pair.tell_candidates(pair.a, [make_host(base), outer])
    pair.open(pair.a)
    (offer,) = [event.offer for event in pair.a.events if hasattr(event, "offer")]
    assert [c.address for c in offer.candidates if c.kind is CandidateKind.SRFLX] == [
        Address("203.0.113.1", 41_000),
        Address("203.0.113.1", PORT),
    ]
    pair.open(pair.b)
    (offer,) = [event.offer for event in pair.b.events if hasattr(event, "offer")][:1]
    ports = [c.address.port for c in offer.candidates if c.kind is CandidateKind.SRFLX]
    assert ports == [PORT]


def test_candidates_that_overtake_their_offer_are_kept() -> None:
    world = World(16)
    pair = make_pair(world)
    pair.open(pair.b)
    session = b"e" * 16
    early = make_host(Address("198.51.100.77", 9))
    assert pair.b.conn.on_remote_candidates(session, [early], now=world.now)
    pair.open(pair.a)
    offer = next(event.offer for event in pair.a.events if hasattr(event, "offer"))
    renamed = type(offer)(session, offer.ufrag, offer.pwd, offer.candidates)
    assert pair.b.conn.on_remote_offer(renamed, now=world.now)
    assert any("198.51.100.77" in text for text in pair.b.conn.describe_pairs())


def test_servers_are_updated_while_it_runs() -> None:
    world = World(17)
    pair = connected_pair(world)
    pair.a.conn.update_stun_turn(["stun:192.0.2.1"])
    assert pair.a.conn.config.stun_turn == ("stun:192.0.2.1",)
    assert pair.a.conn.state.status is ConnStatus.CONNECTED


def test_a_suspicion_that_was_wrong_ends_nothing() -> None:
    """The path answers again before it is taken for lost, and the restart's offer is lost."""
    world = World(18)
    pair = connected_pair(world)
    world.run_for(10.0)
    cut(pair)
    key = pair.a.conn.config.key
    pair.a.conn.on_engine_event(DataUnanswered(key, 1.0), now=world.now)
    pair.wake(pair.a)
    world.run_for(0.3)
    assert pair.a.conn.state.stage is Stage.BROKEN
    mend(pair)
    pair.signal_loss = 1.0
    assert pair.run_until(lambda: pair.a.conn.state.stage is Stage.CONNECTED, 2.0)
    world.run_for(60.0)
    assert ends(pair.a) == []
    assert pair.a.conn.state.stage is Stage.CONNECTED


@pytest.mark.parametrize("on_disconnect", OnDisconnect)
def test_a_wireguard_that_falls_silent_ends_it_as_a_lost_path_does(
    on_disconnect: OnDisconnect,
) -> None:
    world = World(19)
    pair = connected_pair(world, on_disconnect=on_disconnect)
    for side in pair.sides.values():
        side.core.wireguard.is_dead = True
    pair.a.conn.on_engine_event(DataUnanswered(pair.a.conn.config.key, 15.0), now=world.now)
    pair.wake(pair.a)
    silent_at = world.now + LAST_HANDSHAKE_TIMEOUT
    assert pair.run_until(lambda: ends(pair.a), 60.0)
    (error,) = ends(pair.a)
    assert isinstance(error, ConnectionDisconnected)
    assert error.text == SILENT
    wait = 0.0 if on_disconnect is OnDisconnect.CLOSE else RESTART_LIMIT
    assert world.now == pytest.approx(silent_at + wait, abs=0.1)
    assert sum(isinstance(event, Disconnected) for event in pair.a.events) == 1
