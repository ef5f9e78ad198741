"""Two ICE agents over a simulated network: every pairing of NATs, loss, trickle, conflict, consent.

RTT between homes is 100 ms, signalling takes 50 ms one way.
"""

import pytest

from ginnel.ice.candidate import CandidateKind
from ginnel.ice.events import IceState, PairLatency, StateChanged
from ginnel.ice.gather import gather_candidates
from ginnel.ice.reasons import NatKind
from support.ice_world import PORT, IcePair, make_lan_pair, make_machine
from support.sim import World

RTT = 0.1

DIRECT = [
    ("public", "public"),
    ("public", "port-restricted"),
    ("port-restricted", "public"),
    ("public", "symmetric"),
    ("port-restricted", "port-restricted"),
    ("full-cone", "symmetric"),
    ("symmetric", "full-cone"),
    ("addr-restricted", "symmetric"),
    ("symmetric", "addr-restricted"),
    ("full-cone", "port-restricted"),
    ("cgnat", "port-restricted"),
]
RELAYED = [
    ("port-restricted", "symmetric"),
    ("symmetric", "port-restricted"),
    ("symmetric", "symmetric"),
]


def make_pair(world: World, kinds: tuple[str, str], **options: bool) -> IcePair:
    a = make_machine(world, "a", kinds[0], 1)
    b = make_machine(world, "b", kinds[1], 2)
    return IcePair(world, a, b, **options)


@pytest.mark.parametrize("kinds", DIRECT, ids="-".join)
def test_pairs_that_can_be_direct_connect(kinds: tuple[str, str]) -> None:
    pair = make_pair(World(1), kinds)
    pair.start()
    assert pair.run()
    limit = 1.2 if "addr-restricted" in kinds else 4.5 * RTT + 0.01
    assert pair.seconds <= limit
    assert pair.a.core.selected is not None
    assert pair.a.core.state is IceState.COMPLETED


def test_a_lan_pair_uses_the_lan() -> None:
    world = World(2)
    pair = IcePair(world, *make_lan_pair(world))
    pair.start()
    assert pair.run()
    assert pair.a.selected() == ("host", "host")
    assert pair.b.selected() == ("host", "host")
    assert pair.seconds < 0.2


def test_port_restricted_pairs_are_quick_and_reflexive() -> None:
    pair = make_pair(World(3), ("port-restricted", "port-restricted"))
    pair.start()
    assert pair.run()
    assert pair.seconds <= 4.5 * RTT
    assert pair.a.selected() == ("srflx", "srflx")


def test_a_symmetric_side_is_reached_by_its_peer_reflexive_address() -> None:
    pair = make_pair(World(4), ("full-cone", "symmetric"))
    pair.start()
    assert pair.run()
    assert pair.a.selected() == ("srflx", "prflx")
    assert pair.b.selected() == ("prflx", "srflx")


@pytest.mark.parametrize("kinds", RELAYED, ids="-".join)
def test_pairs_that_need_a_relay_say_so_in_time(kinds: tuple[str, str]) -> None:
    pair = make_pair(World(5), kinds)
    for side, nats in zip(pair.sides, (kinds, kinds[::-1]), strict=True):
        ours, theirs = (NatKind.SYMMETRIC if kind == "symmetric" else NatKind.CONE for kind in nats)
        side.core.set_nats(ours, theirs, now=0.0)
    pair.start()
    assert not pair.run(timeout=15.0)
    for side in pair.sides:
        assert side.core.state is IceState.FAILED
        reason = side.core.why_failed()
        assert reason is not None
        assert reason.startswith("needs a relay: both sides are behind NATs")
        assert "symmetric" in reason


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    "kinds", [("port-restricted", "port-restricted"), ("full-cone", "symmetric")]
)
def test_it_connects_with_loss(kinds: tuple[str, str], seed: int) -> None:
    world = World(seed)
    pair = make_pair(world, kinds)
    for side in pair.sides:
        assert side.machine.nat is not None
        side.machine.nat.link.loss = 0.05
    pair.start()
    assert pair.run()
    assert pair.seconds < 5.0


def test_trickled_candidates_connect() -> None:
    pair = make_pair(World(7), ("port-restricted", "port-restricted"))
    pair.start(trickle=True)
    assert pair.run()
    assert pair.seconds < 1.5


def test_a_role_conflict_is_resolved() -> None:
    pair = make_pair(World(8), ("port-restricted", "port-restricted"), both_controlling=True)
    pair.start()
    assert pair.run()
    assert pair.a.core.controlling != pair.b.core.controlling


def test_consent_is_kept_and_its_loss_is_noticed() -> None:
    world = World(9)
    pair = make_pair(world, ("port-restricted", "port-restricted"))
    pair.start()
    assert pair.run()
    world.run_for(60.0)
    assert pair.a.core.state is IceState.COMPLETED
    latencies = [event.seconds for event in pair.a.events if isinstance(event, PairLatency)]
    assert len(latencies) > 10
    assert all(0.09 < seconds < 0.12 for seconds in latencies)
    cut_at = world.now
    assert pair.a.machine.nat is not None
    pair.a.machine.nat.link.cut()
    assert world.run(until=lambda: pair.b.core.state is IceState.DISCONNECTED, timeout=20.0)
    assert world.now - cut_at <= 6.2
    pair.a.machine.nat.link.restore()
    world.run_for(3.0)
    assert pair.b.core.state is IceState.COMPLETED
    pair.a.machine.nat.link.cut()
    assert world.run(until=lambda: pair.b.core.state is IceState.FAILED, timeout=20.0)
    assert pair.b.core.why_failed() == "the path broke: the other side answers no more"


def test_consent_survives_loss() -> None:
    world = World(10)
    pair = make_pair(world, ("port-restricted", "port-restricted"))
    pair.start()
    assert pair.run()
    for side in pair.sides:
        assert side.machine.nat is not None
        side.machine.nat.link.loss = 0.05
    world.run_for(600.0)
    states = [event.state for event in pair.a.events if isinstance(event, StateChanged)]
    assert states.count(IceState.DISCONNECTED) == 0


def test_a_replayed_run_is_the_same() -> None:
    def run() -> tuple[float, object]:
        world = World(11)
        pair = make_pair(world, ("full-cone", "symmetric"))
        pair.start()
        pair.run()
        return pair.seconds, pair.a.core.selected

    assert run() == run()


def test_ipv6_makes_two_symmetric_homes_direct() -> None:
    world = World(12)
    machines = [make_machine(world, name, "symmetric", n) for n, name in enumerate("ab", 1)]
    for number, machine in enumerate(machines, 1):
        machine.host.add_interface(f"2001:db8::{number}", world.internet)
    pair = IcePair(world, machines[0], machines[1])
    for side in pair.sides:
        ips = [side.machine.host.ips[1], side.machine.host.ips[0]]
        reflexive = [c.address for c in side.candidates if c.kind is CandidateKind.SRFLX]
        side.candidates = gather_candidates(ips, PORT, reflexive)
    pair.start()
    assert pair.run()
    assert pair.a.core.selected is not None
    assert pair.a.core.selected[1].address.is_ipv6


@pytest.mark.parametrize("seed", range(6))
def test_it_connects_with_jitter_reordering_and_duplicates(seed: int) -> None:
    world = World(seed)
    pair = make_pair(world, ("port-restricted", "addr-restricted"))
    for side in pair.sides:
        assert side.machine.nat is not None
        side.machine.nat.link.jitter = 0.1
        side.machine.nat.link.duplicate = 0.2
    pair.start()
    assert pair.run()
    world.run_for(30.0)
    first, second = (side.core.selected for side in pair.sides)
    assert first is not None
    assert second is not None
    assert first[0].address == second[1].address
    assert first[1].address == second[0].address


def test_a_hop_without_loss_costs_few_packets() -> None:
    world = World(13)
    pair = make_pair(world, ("port-restricted", "port-restricted"))
    pair.start()
    assert pair.run()
    counts = [side.machine.host.attachments()[0].sent for side in pair.sides]
    assert max(counts) <= 8


def test_a_restart_moves_to_a_new_session_without_a_gap() -> None:
    pair = make_pair(World(21), ("port-restricted", "port-restricted"))
    pair.start()
    assert pair.run()
    world, first = pair.world, pair.a.core.ufrag
    pair.restart()

    def is_done() -> bool:
        for side in pair.sides:
            assert side.core.selected is not None
        return pair.a.core.ufrag != first and all(
            side.core.state is IceState.COMPLETED and not side.core.is_restarting
            for side in pair.sides
        )

    assert world.run(until=is_done, timeout=3.0)
    for side in pair.sides:
        states = [e.state for e in side.events if isinstance(e, StateChanged)]
        assert IceState.DISCONNECTED not in states


def test_a_restart_is_followed_by_a_moved_nat_port() -> None:
    pair = make_pair(World(22), ("port-restricted", "port-restricted"))
    pair.start()
    assert pair.run()
    assert pair.a.machine.nat is not None
    pair.a.machine.nat.renumber("203.0.113.77")
    pair.world.run_for(0.1)
    pair.a.candidates = pair.a.machine.candidates(pair.world)
    pair.restart()
    assert pair.world.run(
        until=lambda: all(not s.core.is_restarting for s in pair.sides), timeout=3.0
    )
