"""Peers follow the certificates: one connection each, none for who has none."""

from __future__ import annotations

from ginnel.base.dataplane import RemovePeer
from ginnel.mesh.events import Engine, PeerChanged
from support.mesh_world import MeshWorld


def make() -> MeshWorld:
    net = MeshWorld(50)
    net.add_member("raspberry-pi", knows=("laptop-alice",))
    net.add_member("laptop-alice", knows=("raspberry-pi",))
    assert net.run_until_connected(timeout=20.0)
    return net


def test_both_ends_use_the_same_preshared_key_and_single_addresses() -> None:
    net = make()
    pi, laptop = net.members.values()
    [at_pi] = pi.core.engine.peers.values()
    [at_laptop] = laptop.core.engine.peers.values()
    assert at_pi.preshared_key == at_laptop.preshared_key
    assert at_pi.preshared_key is not None
    assert at_pi.allowed_ips[0] == "100.80.0.2/32"
    assert at_laptop.allowed_ips[0] == "100.80.0.1/32"


def test_a_renewed_certificate_keeps_the_connection() -> None:
    net = make()
    pi, laptop = net.members.values()
    renewed = net.factory.cert(
        laptop.keys, 2, serial=b"renewed-renewed-", not_before=net.factory.now - 100
    )
    pi.mesh.add_objects([renewed], now=net.now, unix_now=pi.core.node.unix_at(net.now))
    net.world.run_for(5.0)
    assert pi.is_up_with(laptop)
    assert laptop.membership.roster_digest() == pi.membership.roster_digest()


def test_a_new_wireguard_key_makes_a_new_connection() -> None:
    net = make()
    pi, laptop = net.members.values()
    moved = net.factory.cert(
        laptop.keys,
        2,
        serial=b"renewed-renewed-",
        not_before=net.factory.now - 100,
        wireguard=bytes(31) + b"\x09",
    )
    old = laptop.core.engine.key
    pi.mesh.add_objects([moved], now=net.now, unix_now=pi.core.node.unix_at(net.now))
    net.world.run_for(0.1)
    commands = [event.command for event in pi.of(Engine)]
    assert RemovePeer(old) in commands
    gone = [event for event in pi.of(PeerChanged) if event.is_gone]
    assert len(gone) == 1
    assert len(pi.mesh.peers()) == 1
