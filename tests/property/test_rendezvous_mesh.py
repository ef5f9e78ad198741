"""Whole nodes take any bytes, and mutated good datagrams, without raising."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ginnel.base.types import Address
from support.mesh_world import MeshWorld
from support.sim.link import Packet

NET = MeshWorld(60)
CAUGHT: list[bytes] = []


def catch(packet: Packet) -> None:
    if len(CAUGHT) < 400 and packet.data[4:8] != b"TOYW":
        CAUGHT.append(packet.data)


NET.world.on_packet(catch)
NET.add_member("raspberry-pi", knows=("laptop-alice",))
NET.add_member("laptop-alice", knows=("raspberry-pi",))
assert NET.run_until_connected(timeout=20.0)


@settings(max_examples=150)
@given(st.binary(max_size=1400), st.sampled_from(["raspberry-pi", "laptop-alice"]))
def test_any_bytes(data: bytes, name: str) -> None:
    node = NET.members[name].core.node
    node.handle_datagram(data, Address("192.0.2.250", 9), now=NET.now)


@settings(max_examples=300)
@given(st.data())
def test_mutated_and_replayed_datagrams(data: st.DataObject) -> None:
    good = data.draw(st.sampled_from(CAUGHT))
    at = data.draw(st.integers(0, len(good) - 1))
    flip = data.draw(st.integers(0, 255))
    changed = good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]
    for member in NET.members.values():
        member.core.node.handle_datagram(changed, Address("198.51.100.1", 41640), now=NET.now)
        while member.core.node.poll_transmit() is not None:
            pass
    for node in NET.nodes:
        node.handle_datagram(changed, Address("203.0.3.7", 33333), now=NET.now)


def test_the_mesh_still_works_afterwards() -> None:
    pi, laptop = NET.members.values()
    NET.world.run_for(30.0)
    assert pi.is_up_with(laptop)
