"""Candidates of the shared port: what interfaces, observers, settings and STUN servers show."""

from __future__ import annotations

import random

from ginnel.base.types import Address
from ginnel.daemon.own_addresses import OwnAddresses
from ginnel.discv5.events import ReflexiveChanged
from ginnel.ice.candidate import CandidateKind, make_relayed
from support.mesh_world import HOME_PORT, MeshWorld
from support.stun_responder import StunResponder

OUTSIDE = Address("203.0.113.7", 6000)


def srflx(own: OwnAddresses) -> list[Address]:
    return [c.address for c in own.candidates(()) if c.kind is CandidateKind.SRFLX]


def test_a_stun_server_of_the_settings_shows_the_outer_address() -> None:
    net = MeshWorld(1, publics=0)  # no DHT that could
    server = net.world.add_public("stun", "192.0.2.33")
    silent = net.world.add_public("silent", "192.0.2.34")
    server.attach(StunResponder(), 3478)
    member = net.add_member("attic")
    node = member.core.node
    assert srflx(node.own) == []
    node.own.add_stun_servers(
        [Address(silent.ip, 3478), Address(server.ip, 3478)],
        random_bytes=net.world.random_bytes,
        rng=net.world.rng,
        now=net.now,
    )
    node.settle(now=net.now)
    for attachment in member.host.attachments():
        attachment.wake()
    net.world.run_for(1.0)
    nat = member.host.interfaces[0].realm.gateway
    assert nat is not None
    inner, outer = Address(member.host.ip, HOME_PORT), Address(server.ip, 3478)
    assert srflx(node.own) == [nat.outer_address_of(inner, outer)]
    assert node.mesh is not None
    nat.renumber("203.0.113.99")
    net.world.run_for(30.0)  # asked again every 25 s
    assert [address.ip for address in srflx(node.own)] == ["203.0.113.99"]


def test_what_observers_and_settings_tell_is_offered_once() -> None:
    own = OwnAddresses()
    own.set_host(["192.168.1.2", "2001:db8::2"], 4000, now=0.0)
    own.outer_ips = ("203.0.113.1",)
    own.mapped = Address("203.0.113.2", 4000)
    own.reflexive[False] = ReflexiveChanged(own.mapped, False, 3, False)
    assert srflx(own) == [Address("203.0.113.1", 4000), Address("203.0.113.2", 4000)]
    own.mapped = None
    at_relay = make_relayed(Address("203.0.113.2", 4000))
    assert Address("203.0.113.2", 4000) not in [
        c.address for c in own.candidates([at_relay]) if not c.is_relayed
    ]


def test_two_servers_that_see_two_ports_show_a_symmetric_nat() -> None:
    own = OwnAddresses()
    rng = random.Random(1)
    own.set_host(["192.168.1.2"], 4000, now=0.0)
    servers = [Address("192.0.2.33", 3478), Address("192.0.2.34", 3478)]
    own.add_stun_servers(servers, random_bytes=rng.randbytes, rng=rng, now=0.0)
    for number, server in enumerate(servers):
        assert not own.symmetric
        responder = StunResponder(Address("203.0.113.7", 6000 + number))
        asked = own.poll_transmit()
        assert asked is not None
        assert asked.destination == server
        responder.handle_datagram(asked.data, Address("203.0.113.7", 6000), now=0.0)
        answer = responder.poll_transmit()
        assert answer is not None
        assert not own.handle_datagram(b"\0\0", server, now=0.0)
        assert own.handle_datagram(answer.data, server, now=0.0)
        assert own.take_change()
        assert not own.take_change()
        deadline = own.poll_deadline()
        assert deadline is not None
        own.handle_timeout(now=deadline.at)
    assert own.symmetric
    own.mapped = OUTSIDE
    assert not own.symmetric
