"""Random histories of two peers: whatever happens, they are connected soon after it has calmed.

Invariants of each history: connected and disconnected alternate, a closed connection leaves no peer
in the data plane, timers always move.
"""

import random

import pytest

from ginnel.base.types import Address
from ginnel.ice.candidate import make_host
from ginnel.peer.events import Connected, Disconnected
from support.ice_world import PORT, make_machine
from support.peer_world import PeerPair, PeerSide
from support.sim import World

KINDS = ["port-restricted", "full-cone", "addr-restricted", "public"]


def disturb(pair: PeerPair, chance: random.Random) -> None:
    """Do one thing to one side."""
    side = pair.sides[chance.choice("ab")]
    nat = side.machine.nat
    action = chance.randrange(0, 9)
    if action == 0:
        pair.restart(side)
    elif action == 1 and nat is not None:
        nat.forget()
    elif action == 2:
        side.core.wireguard.is_dead = True
    elif action == 3:
        side.core.wireguard.is_dead = False
    elif action == 4:
        pair.signal_loss = chance.choice([0.0, 0.3, 1.0])
    elif action == 5:
        extra = make_host(Address(f"10.9.8.{chance.randrange(1, 200)}", PORT), 100)
        pair.tell_candidates(side, [*side.candidates, extra])
    elif action == 6:
        pair.tell_candidates(side, side.candidates[:2])
    elif action == 7 and nat is not None:
        nat.link.is_up = not nat.link.is_up
    elif action == 8 and nat is not None:
        nat.link.loss = chance.choice([0.0, 0.05, 0.3])


def calm(pair: PeerPair) -> None:
    """Undo all that disturbs."""
    pair.signal_loss = 0.0
    for side in pair.sides.values():
        side.core.wireguard.is_dead = False
        pair.tell_candidates(side, side.candidates[:2])
        if side.machine.nat is not None:
            side.machine.nat.link.is_up = True
            side.machine.nat.link.loss = 0.0


def check_alternation(side: PeerSide) -> None:
    is_up = False
    for event in side.events:
        if isinstance(event, Connected | Disconnected):
            assert isinstance(event, Connected) != is_up
            is_up = not is_up


@pytest.mark.parametrize("seed", range(40))
def test_it_always_comes_back(seed: int) -> None:
    world = World(seed)
    chance = random.Random(seed)
    kinds = [chance.choice(KINDS) for _ in "ab"]
    machines = [make_machine(world, name, kinds[n], n + 1) for n, name in enumerate("ab")]
    pair = PeerPair(world, *machines)
    pair.open()
    for _ in range(chance.randrange(3, 25)):
        world.run_for(chance.choice([0.01, 0.1, 1.0, 5.0, 20.0]))
        disturb(pair, chance)
    calm(pair)
    world.run_for(60.0)
    assert pair.run(timeout=60.0)
    world.run_for(300.0)
    assert pair.is_connected()
    addresses = [side.core.wireguard.endpoint for side in pair.sides.values()]
    assert all(addresses)
    for side in pair.sides.values():
        check_alternation(side)
        pair.close(side)
        assert side.core.wireguard.peer is None
        check_alternation(side)
    world.run_for(60.0)
    assert all(side.conn.poll_deadline() is None for side in pair.sides.values())
