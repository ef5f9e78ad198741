"""Whole meshes on virtual time: members find each other only through the DHT, and connect."""

from __future__ import annotations

import pytest

from ginnel.mesh.events import (
    MemberFound,
    Notice,
    NoticeKind,
    PeerChanged,
    PingResult,
    RosterChanged,
)
from ginnel.peer.status import ConnStatus
from ginnel.peer.turns import Place
from support.mesh_world import MeshWorld

DIRECT = [
    ("port-restricted", "port-restricted"),
    ("public", "port-restricted"),
    ("full-cone", "symmetric"),
    ("addr-restricted", "symmetric"),
]


def two_homes(seed: int = 1, *, enabled: bool = True) -> MeshWorld:
    net = MeshWorld(seed, enabled=enabled)
    net.world.run_for(2.0)
    net.add_member("raspberry-pi", knows=("laptop-alice",))
    net.add_member("laptop-alice", knows=("raspberry-pi",))
    return net


def test_two_homes_find_each_other_through_the_dht_and_ping() -> None:
    net = two_homes()
    assert net.run_until_connected(timeout=10.0)
    pi, laptop = net.members.values()
    for member in (pi, laptop):
        [found] = member.of(MemberFound)[:1]
        assert found.via == "LOOKUP"
        assert set(found.storers) <= {node.discovery.node_id for node in net.nodes}
        state = member.mesh.peers()[0].state
        assert state.direct
        assert state.remote_kind in ("srflx", "prflx")
    token = pi.mesh.ping(laptop.keys.member_id, now=net.now)
    net.world.run_for(1.0)
    [result] = pi.of(PingResult)
    assert result.token == token
    assert result.seconds is not None
    assert 0.04 < result.seconds < 0.5


@pytest.mark.parametrize("kinds", DIRECT, ids="-".join)
def test_pairs_that_can_be_direct_are(kinds: tuple[str, str]) -> None:
    net = MeshWorld(2)
    net.add_member("first-machine", kinds[0], knows=("second-machine",))
    net.add_member("second-machine", kinds[1], knows=("first-machine",))
    assert net.run_until_connected(timeout=20.0)


def test_a_pair_that_needs_a_relay_says_so_within_15_s() -> None:
    net = MeshWorld(3)
    net.add_member("first-machine", "symmetric", knows=("second-machine",))
    net.add_member("second-machine", "port-restricted", knows=("first-machine",))
    net.world.run_for(17.0)
    for member in net.members.values():
        assert member.mesh.peers()[0].stage.startswith("needs a relay: ")


def test_they_never_meet_if_the_public_nodes_refuse_rendezvous() -> None:
    net = two_homes(enabled=False)
    assert not net.run_until_connected(timeout=60.0)
    for member in net.members.values():
        assert member.of(MemberFound) == []
        stage = member.mesh.peers()[0].stage
        assert stage == "searching (the nodes found don't offer rendezvous)"


def test_one_reachable_member_is_enough_for_all() -> None:
    """No other public node: the member stores for itself and for who looks for it."""
    net = MeshWorld(4, publics=0)
    server = net.add_member("server-in-rack", "public", knows=("home-one", "home-two"))
    net.records.append(server.core.node.discovery.record)
    net.add_member("home-one", knows=("server-in-rack", "home-two"))
    net.add_member("home-two", knows=("server-in-rack", "home-one"))
    assert net.run_until_connected(timeout=20.0)


def test_a_new_member_is_told_to_all_and_all_to_it() -> None:
    """The joiner knows only its own certificate; the admin's node knows all."""
    net = MeshWorld(5)
    admin = net.add_member("admin-desktop", knows=("phone-of-bob",))
    phone = net.add_member("phone-of-bob", "full-cone", knows=("admin-desktop",))
    assert net.run_until_connected(timeout=20.0)
    started = net.now
    joiner = net.add_member("new-notebook")
    assert joiner.mesh.peers() == []
    unix_now = admin.core.node.unix_at(net.now)
    admin.mesh.add_objects([net.cert("new-notebook")], now=net.now, unix_now=unix_now)
    assert net.run_until_connected(timeout=30.0)
    assert net.now - started < 8.0
    assert joiner.state_of(admin) is not None
    for member in (admin, phone, joiner):
        told = [raw for event in member.of(RosterChanged) for raw in event.objects]
        assert told
    digests = {member.membership.roster_digest() for member in net.members.values()}
    assert len(digests) == 1


def test_a_joiner_that_comes_up_late_is_found_soon() -> None:
    net = MeshWorld(6)
    admin = net.add_member("admin-desktop")
    admin.mesh.add_objects(
        [net.cert("new-notebook")], now=net.now, unix_now=admin.core.node.unix_at(net.now)
    )
    net.world.run_for(15.0)
    started = net.now
    net.add_member("new-notebook")
    assert net.run_until_connected(timeout=30.0)
    assert net.now - started < 8.0


def test_ten_members_who_know_only_the_admin() -> None:
    net = MeshWorld(7, publics=4)
    names = [f"member-number-{index}" for index in range(9)]
    net.add_member("admin-desktop", knows=tuple(names))
    for name in names:
        net.add_member(name)
    assert net.run_until_connected(timeout=60.0)


def test_ten_members_of_whom_each_connects_to_one_at_a_time() -> None:
    net = MeshWorld(8, publics=4)
    net.parallel_connects = 1
    names = [f"member-number-{index}" for index in range(10)]
    members = [net.add_member(name, knows=tuple(names)) for name in names]
    most = 0

    def is_done() -> bool:
        nonlocal most
        most = max(most, *(member.mesh.turns.count(Place.OFFER) for member in members))
        return all(a.is_up_with(b) for a in members for b in members if a is not b)

    assert net.world.run(until=is_done, timeout=60.0)
    assert most == 1
    net.world.run_for(5.0)
    for member in members:
        assert member.mesh.turns.waiting == 0
        assert [member.mesh.turns.count(place) for place in Place] == [0, 0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_a_lossy_network(seed: int) -> None:
    net = two_homes(10 + seed)
    for host in net.world.hosts.values():
        host.link.loss = 0.05
    assert net.run_until_connected(timeout=30.0)


def test_a_restarted_machine_comes_back() -> None:
    net = two_homes(20)
    assert net.run_until_connected()
    net.world.run_for(60.0)
    pi = net.members["raspberry-pi"]
    net.stop(pi)
    net.world.run_for(1.0)
    net.add_member("raspberry-pi", knows=("laptop-alice",), host=pi.host)
    started = net.now
    laptop = net.members["laptop-alice"]
    new = net.members["raspberry-pi"]
    assert net.world.run(until=lambda: new.is_up_with(laptop), timeout=30.0)
    assert net.now - started < 15.0
    net.world.run_for(20.0)
    assert laptop.is_up_with(new)
    token = laptop.mesh.ping(new.keys.member_id, now=net.now)
    net.world.run_for(2.0)
    assert [e.seconds is not None for e in laptop.of(PingResult) if e.token == token] == [True]


def test_a_machine_that_moves_to_another_network_comes_back() -> None:
    net = two_homes(31)
    assert net.run_until_connected()
    net.world.run_for(40.0)
    pi, laptop = net.members.values()
    cafe = net.world.add_nat("nat-cafe", "203.0.99.7", "port-restricted")
    pi.host.renumber(pi.host.ip, "10.9.9.2", cafe.inner)
    pi.core.node.set_host_addresses(pi.host.ips, pi.port, now=net.now)
    started = net.now
    net.world.run_for(1.0)

    def is_back() -> bool:
        peer = laptop.state_of(pi)
        address = peer.state.remote_address if peer is not None else None
        return address is not None and address.ip == "203.0.99.7" and pi.is_up_with(laptop)

    assert net.world.run(until=is_back, timeout=60.0)
    assert net.now - started < 30.0


def test_a_goodbye_is_taken_at_once() -> None:
    net = two_homes(21)
    assert net.run_until_connected()
    pi, laptop = net.members.values()
    pi.core.node.close(now=net.now)
    net.world.run_for(1.0)
    peer = laptop.state_of(pi)
    assert peer is not None
    assert peer.state.status is not ConnStatus.CONNECTED


def test_a_dead_peer_is_noticed_and_searched_again() -> None:
    net = two_homes(22)
    assert net.run_until_connected()
    net.world.run_for(30.0)
    pi, laptop = net.members.values()
    net.stop(pi)
    net.world.run_for(60.0)
    peer = laptop.state_of(pi)
    assert peer is not None
    assert peer.stage != "connected"


def test_a_change_of_period_and_a_late_meeting() -> None:
    net = MeshWorld(23)
    net.add_member("raspberry-pi", knows=("laptop-alice",))
    net.world.run_for(2 * 3600.0)
    net.add_member("laptop-alice", knows=("raspberry-pi",))
    assert net.run_until_connected(timeout=60.0)


def test_connected_for_hours_and_still_found_after() -> None:
    net = two_homes(24)
    assert net.run_until_connected()
    net.world.run_for(3700.0)
    pi, laptop = net.members.values()
    assert pi.is_up_with(laptop)
    assert laptop.is_up_with(pi)
    changes = [e for e in pi.of(PeerChanged) if e.state.status is ConnStatus.DISCONNECTED]
    assert [e for e in changes if e.state.changed_at > 10.0] == []


def test_a_clock_a_day_off_is_not_found_and_a_slightly_wrong_one_is_named() -> None:
    net = MeshWorld(25)
    net.add_member("raspberry-pi", knows=("laptop-alice",))
    net.add_member("laptop-alice", knows=("raspberry-pi",), shift=86_400.0)
    assert not net.run_until_connected(timeout=45.0)
    for member in net.members.values():
        [notice] = member.of(Notice)
        assert notice.kind is NoticeKind.CLOCK
        assert "or this clock is wrong (it shows 20" in notice.text
    net = MeshWorld(26)
    net.add_member("raspberry-pi", knows=("laptop-alice",))
    wrong = net.add_member("laptop-alice", knows=("raspberry-pi",), shift=-86_400.0)
    net.world.run_for(5.0)
    assert [notice.kind for notice in wrong.of(Notice)] == [NoticeKind.CERTIFICATE]
    assert "clock" in wrong.of(Notice)[0].text
    net = MeshWorld(27)
    net.add_member("raspberry-pi", knows=("laptop-alice",))
    net.add_member("laptop-alice", knows=("raspberry-pi",), shift=700.0)
    net.world.run_for(60.0)
    kinds = {n.kind for m in net.members.values() for n in m.of(Notice)}
    assert kinds == {NoticeKind.CLOCK}


def test_a_notice_ends_with_its_reason() -> None:
    net = MeshWorld(29)
    first = net.add_member("raspberry-pi", knows=("laptop-alice",))
    net.world.run_for(70.0)
    net.add_member("laptop-alice", knows=("raspberry-pi",))
    assert net.run_until_connected(timeout=60.0)
    net.world.run_for(25.0)
    assert [bool(notice.text) for notice in first.of(Notice)] == [True, False]


def test_a_revoked_member_is_dropped_and_gets_no_answer() -> None:
    net = two_homes(28)
    assert net.run_until_connected()
    pi, laptop = net.members.values()
    raw = net.factory.revoke(0, pi.keys.member_id)
    laptop.mesh.add_objects([raw], now=net.now, unix_now=laptop.core.node.unix_at(net.now))
    net.world.run_for(1.0)
    assert laptop.mesh.peers() == []
    assert laptop.of(PeerChanged)[-1].is_gone
    net.world.run_for(60.0)
    assert not pi.is_up_with(laptop)


def test_the_same_seed_gives_the_same_run() -> None:
    def run() -> tuple[float, int]:
        net = two_homes(30)
        assert net.run_until_connected()
        return net.now, net.world.steps

    assert run() == run()
