"""Two members with traffic both ways while the network under them changes; signalling is the DHT's.

The toy data plane tells nothing of unanswered data, so the traffic here does.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ginnel.base.dataplane import DataUnanswered
from ginnel.mesh.events import PingResult
from ginnel.mesh.signalling import OFFLINE
from ginnel.peer.status import Stage
from support.mesh_world import Member, MeshWorld

STEP_S = 0.05  # seconds between two pings each way
FLOWS_S = 3.0  # seconds until data flows again, at a round trip of 120 ms


def make_net(seed: int, kinds: tuple[str, str] = ("port-restricted",) * 2) -> MeshWorld:
    net = MeshWorld(seed)
    for name, other, kind in zip("ab", "ba", kinds, strict=True):
        net.add_member(name, kind, knows=(other,))
    assert net.run_until_connected(timeout=20.0)
    net.world.run_for(30.0)
    return net


class Traffic:
    """Pings each way; tells both data planes' silence of a second."""

    def __init__(self, net: MeshWorld) -> None:
        self.net = net
        self.ends = [(net.members[n], net.members[o]) for n, o in ("ab", "ba")]
        self.heard = {name: net.now for name in "ab"}
        self.told = dict.fromkeys("ab", False)

    def run(self, seconds: float) -> None:
        until = self.net.now + seconds
        while self.net.now < until:
            for name, (one, other) in zip("ab", self.ends, strict=True):
                self.step(name, one, other)
            self.net.world.run_for(STEP_S)

    def step(self, name: str, one: Member, other: Member) -> None:
        now = self.net.now
        if any(result.seconds is not None for result in one.of(PingResult)):
            self.heard[name], self.told[name] = now, False
        one.events[:] = [event for event in one.events if not isinstance(event, PingResult)]
        one.mesh.ping(other.keys.member_id, now=now)
        if now - self.heard[name] >= 1.0 and not self.told[name]:
            self.told[name] = True
            event = DataUnanswered(other.core.engine.key, 1.0)
            one.core.node.on_engine_event(event, now=now)

    def longest_gap(self, change: Callable[[], None], seconds: float = 7.0) -> float:
        """Return how long no answer came at one end, until it was there again."""
        self.run(1.0)
        change()
        longest, began = 0.0, self.net.now
        while self.net.now - began < seconds:
            self.run(STEP_S)
            longest = max(longest, *(self.net.now - at for at in self.heard.values()))
        assert max(self.net.now - at for at in self.heard.values()) < 1.0, "no data"
        return longest


def renumber(net: MeshWorld, name: str, ip: str) -> None:
    net.members[name].host.interfaces[0].realm.gateway.renumber(ip)


def move(net: MeshWorld, name: str, new_ip: str) -> None:
    member = net.members[name]
    member.host.renumber(member.host.ip, new_ip)
    node, port = member.core.node, member.port
    node.set_host_addresses(member.host.ips, port, now=net.now)
    node.settle(now=net.now)


@pytest.mark.parametrize("seed", range(2))
def test_a_renumbered_nat_and_then_a_changed_interface_are_followed(seed: int) -> None:
    net = make_net(seed)
    traffic = Traffic(net)
    assert traffic.longest_gap(lambda: renumber(net, "a", "203.0.77.7")) < FLOWS_S
    other = net.members["b"].host.ip.rpartition(".")[0] + ".99"
    assert traffic.longest_gap(lambda: move(net, "b", other)) < 5.0
    assert traffic.longest_gap(lambda: renumber(net, "b", "203.0.78.7")) < FLOWS_S


def test_a_killed_member_is_shown_as_offline_and_as_connected_once_it_is_back() -> None:
    net = make_net(3)
    a, b = net.members["a"], net.members["b"]
    net.stop(b)
    killed_at = net.now

    def stage() -> str:
        shown = a.state_of(b)
        assert shown is not None
        return shown.stage

    assert net.world.run(until=lambda: stage() == Stage.BROKEN.value, timeout=7.0)
    assert net.world.run(until=lambda: stage() == OFFLINE, timeout=60.0)
    print(f"offline after {net.now - killed_at:.1f} s")
    net.world.run_for(30.0)
    assert stage() == OFFLINE
    b.host.attach(b.core, b.port, b.events.append)
    assert net.world.run(until=lambda: stage() == "connected", timeout=120.0)


def test_a_wake_finds_a_path_that_died_meanwhile_without_any_data() -> None:
    """The router restarted while the laptop slept: nobody sends, yet the pair is back in 2 s."""
    net = make_net(4)
    a, b = net.members["a"], net.members["b"]
    before = b.state_of(a)
    assert before is not None
    renumber(net, "a", "203.0.77.8")
    mesh, woken = a.mesh, net.now
    mesh.on_network_changed(now=net.now, unix_now=a.core.node.unix_at(net.now))
    a.core.node.settle(now=net.now)
    attachment = a.host.attachment_at(a.port)
    assert attachment is not None
    attachment.wake()

    def is_back() -> bool:
        now = b.state_of(a)
        remote = now.state.remote_address if now is not None else None
        return remote is not None and remote.ip == "203.0.77.8" and a.is_up_with(b)

    assert net.world.run(until=is_back, timeout=20.0)
    print(f"back after {net.now - woken:.2f} s")
    assert net.now - woken < 2.0
    after = b.state_of(a)
    assert after is not None
    assert after.state.changed_at == before.state.changed_at  # it never was disconnected
