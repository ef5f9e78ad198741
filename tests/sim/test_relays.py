"""Members that can't be direct meet at a member that relays.

[pi] - symmetric NAT - Internet - NAT - [laptop]
                          |
                       NAT - [attic], which may relay
"""

from __future__ import annotations

import pytest

from ginnel.base.dataplane import (
    ChannelCommand,
    CloseProxy,
    Endpoint,
    RemovePeer,
    SendInner,
    SetPeer,
    StartHandshake,
)
from ginnel.mesh.events import Engine, PingResult
from ginnel.peer.timers import LATE
from support.members import NOW
from support.mesh_world import Member, MeshWorld
from support.sim.nat import NAT_KINDS

NAMES = ("pi", "laptop", "attic")


def make_net(seed: int, kinds: tuple[str, ...], relays: tuple[str, ...] = ("attic",)) -> MeshWorld:
    net = MeshWorld(seed)
    net.relays = relays
    names = (*NAMES, "barn")[: len(kinds)]
    for name, kind in zip(names, kinds, strict=True):
        net.add_member(name, kind, knows=tuple(n for n in names if n != name))
    return net


def ping(net: MeshWorld, one: Member, other: Member) -> float | None:
    token = one.mesh.ping(other.keys.member_id, now=net.now)
    net.world.run_for(1.0)
    [result] = [event for event in one.of(PingResult) if event.token == token]
    return result.seconds


def proxies(member: Member, other: Member) -> list[Endpoint]:
    """Return the relayed endpoints of a peer that the data plane was not told to release."""
    key, held = other.core.engine.key, []
    for command in (event.command for event in member.of(Engine)):
        if isinstance(command, SetPeer) and command.public_key == key:
            endpoint = command.endpoint
            if endpoint is not None and endpoint.relayed_from and endpoint not in held:
                held.append(endpoint)
        elif isinstance(command, CloseProxy) and command.public_key == key:
            held.remove(command.endpoint)
    return held


@pytest.mark.parametrize(
    "kinds",
    [
        ("symmetric", "port-restricted", "full-cone"),
        ("symmetric", "port-restricted", "public"),
        ("symmetric", "symmetric", "full-cone"),
        ("symmetric", "symmetric", "public"),
    ],
    ids="-".join,
)
def test_a_pair_that_cannot_be_direct_meets_at_the_relay(kinds: tuple[str, ...]) -> None:
    net = make_net(1, kinds)
    assert net.run_until_connected(timeout=20.0)
    pi, laptop, attic = (net.members[name] for name in NAMES)
    for one, other in ((pi, laptop), (laptop, pi)):
        shown = one.state_of(other)
        assert shown is not None
        assert shown.state.relayed
        assert not shown.state.direct
        assert "NATs" in shown.state.why_relayed
        assert (shown.state.local_kind, shown.state.remote_kind) == ("relay", "relay")
        assert ping(net, one, other) is not None
    for member in (pi, laptop):
        shown = member.state_of(attic)
        assert shown is not None
        assert shown.state.direct


def test_the_proxy_of_a_relayed_path_is_closed_before_the_peer_is_removed() -> None:
    net = make_net(1, ("symmetric", "symmetric", "public"))
    assert net.run_until_connected(timeout=20.0)
    pi, laptop = net.members["pi"], net.members["laptop"]
    before = len(pi.of(Engine))
    pi.mesh.close(now=net.now, unix_now=NOW + net.now)
    net.world.run_for(1.0)
    key = laptop.core.engine.key
    commands = [event.command for event in pi.of(Engine)[before:]]
    of_peers = [c for c in commands if not isinstance(c, ChannelCommand)]
    ending = [c for c in of_peers if c.public_key == key and not isinstance(c, SendInner)]
    assert [type(command) for command in ending] == [CloseProxy, RemovePeer]


def test_pairs_that_can_be_direct_are_although_there_is_a_relay() -> None:
    for seed in range(2, 7):
        net = make_net(seed, ("port-restricted", "port-restricted", "full-cone"))
        assert net.run_until_connected(timeout=20.0)
        for member in net.members.values():
            assert all(peer.state.direct for peer in member.mesh.peers()), seed


def test_who_may_not_relay_does_not() -> None:
    net = make_net(7, ("symmetric", "port-restricted", "full-cone"), relays=())
    assert not net.run_until_connected(timeout=30.0)
    shown = net.members["pi"].state_of(net.members["laptop"])
    assert shown is not None
    assert shown.stage.startswith("needs a relay: ")
    assert net.members["attic"].mesh.relays.server is None


def test_when_the_relay_goes_the_other_takes_over() -> None:
    net = make_net(
        8, ("symmetric", "port-restricted", "full-cone", "public"), relays=("attic", "barn")
    )
    assert net.run_until_connected(timeout=30.0)
    pi, laptop = net.members["pi"], net.members["laptop"]
    net.world.run_for(5.0)
    used = pi.state_of(laptop)
    assert used is not None
    assert used.state.local_address is not None
    serving = [
        net.members[name]
        for name in ("attic", "barn")
        if (server := net.members[name].mesh.relays.server) is not None
        and server.ip == used.state.local_address.ip
    ]
    assert len(serving) == 1
    net.stop(serving[0])
    net.world.run_for(40.0)
    assert pi.is_up_with(laptop)
    after = pi.state_of(laptop)
    assert after is not None
    assert after.state.local_address is not None
    assert after.state.local_address.ip != used.state.local_address.ip
    assert ping(net, pi, laptop) is not None
    (proxy,) = proxies(pi, laptop)
    assert proxy.relayed_from == after.state.local_address


def test_an_hour_through_a_relay() -> None:
    """Permissions, channels, allocation and nonce are renewed in time."""
    net = make_net(9, ("symmetric", "port-restricted", "full-cone"))
    assert net.run_until_connected(timeout=20.0)
    pi, laptop = net.members["pi"], net.members["laptop"]
    shown = pi.state_of(laptop)
    assert shown is not None
    since = shown.state.changed_at
    for _ in range(40):
        net.world.run_for(100.0)
        for member in (pi, laptop):  # as WireGuard does every 120 s
            for peer in member.mesh.peers():
                member.core.engine.apply(StartHandshake(peer.state.remote_key), net.now)
    assert ping(net, pi, laptop) is not None
    shown = pi.state_of(laptop)
    assert shown is not None
    assert shown.state.changed_at == since


def test_who_must_relay_does_although_direct_would_work() -> None:
    net = MeshWorld(10)
    net.relays, net.force_relay = ("attic",), True
    for name, kind in zip(NAMES, ("public", "full-cone", "public"), strict=True):
        net.add_member(name, kind, knows=tuple(n for n in NAMES if n != name))
    assert net.run_until_connected(timeout=30.0)
    net.world.run_for(120.0)
    shown = net.members["pi"].state_of(net.members["laptop"])
    assert shown is not None
    assert (shown.state.local_kind, shown.state.remote_kind) == ("relay", "relay")
    assert ping(net, net.members["pi"], net.members["laptop"]) is not None


@pytest.mark.parametrize("opens", ["laptop", "pi"])
def test_a_relayed_pair_becomes_direct_when_it_can(opens: str) -> None:
    """The router is changed; after a minute, or the next try, packets go directly."""
    net = make_net(11, ("symmetric", "port-restricted", "full-cone"))
    assert net.run_until_connected(timeout=20.0)
    pi, laptop = net.members["pi"], net.members["laptop"]
    since = [member.state_of(other) for member, other in ((pi, laptop), (laptop, pi))]
    nat = net.members[opens].host.interfaces[0].realm.gateway
    assert nat is not None
    nat.kind = NAT_KINDS["full-cone"] if opens == "laptop" else NAT_KINDS["port-restricted"]

    def is_direct() -> bool:
        shown = [member.state_of(other) for member, other in ((pi, laptop), (laptop, pi))]
        return all(s is not None and s.state.direct and not s.state.relayed for s in shown)

    assert net.world.run(until=is_direct, timeout=200.0)
    assert ping(net, pi, laptop) is not None
    for (member, other), before in zip(((pi, laptop), (laptop, pi)), since, strict=True):
        after = member.state_of(other)
        assert before is not None
        assert after is not None
        assert after.state.changed_at == before.state.changed_at  # it never was disconnected
        assert after.state.why_relayed == ""
        assert len(proxies(member, other)) == 1  # what is late still comes through the relay

    def are_closed() -> bool:
        return proxies(pi, laptop) == proxies(laptop, pi) == []

    assert net.world.run(until=are_closed, timeout=2 * LATE)


def test_a_change_of_network_tries_for_direct_at_once() -> None:
    """Half an hour on the relay: the next try would be long in coming."""
    net = make_net(13, ("symmetric", "port-restricted", "full-cone"))
    assert net.run_until_connected(timeout=20.0)
    net.world.run_for(1900.0)
    pi, laptop = net.members["pi"], net.members["laptop"]
    nat = laptop.host.interfaces[0].realm.gateway
    assert nat is not None
    nat.kind = NAT_KINDS["full-cone"]
    shown = pi.state_of(laptop)
    assert shown is not None
    assert shown.state.relayed
    changed = net.now
    for member in (pi, laptop):
        member.mesh.on_network_changed(now=net.now, unix_now=member.core.node.unix_at(net.now))
        member.core.node.settle(now=net.now)
        attachment = member.host.attachment_at(member.port)
        assert attachment is not None
        attachment.wake()

    def is_direct() -> bool:
        states = [member.state_of(other) for member, other in ((pi, laptop), (laptop, pi))]
        return all(state is not None and state.state.direct for state in states)

    assert net.world.run(until=is_direct, timeout=60.0)
    assert net.now - changed < 5.0


def test_tries_for_direct_get_rarer_and_leave_the_relayed_path_alone() -> None:
    net = make_net(12, ("symmetric", "port-restricted", "full-cone"))
    assert net.run_until_connected(timeout=20.0)
    pi, laptop = net.members["pi"], net.members["laptop"]
    before = pi.state_of(laptop)
    assert before is not None
    for _ in range(20):
        net.world.run_for(100.0)
        for member in (pi, laptop):  # as WireGuard does every 120 s
            for peer in member.mesh.peers():
                member.core.engine.apply(StartHandshake(peer.state.remote_key), net.now)
    after = pi.state_of(laptop)
    assert after is not None
    assert after.state.changed_at == before.state.changed_at
    assert after.state.relayed
    pairs = pi.mesh.describe_pairs(laptop.keys.member_id)
    assert any(text.startswith("relay ") and "in use" in text for text in pairs)
