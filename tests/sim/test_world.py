"""The simulated network itself: time, links, and what each kind of NAT does."""

import pytest

from ginnel.base.types import Address
from support.sim import Dependence, Link, Nat, StepsExceeded, World
from support.toy import Heard, Ticked, ToyCore

SERVERS = ("198.51.100.1", "198.51.100.2")
PORT = 4000
WAN = "203.0.113.1"


class Home:
    """A NAT with one host, and two public servers that answer."""

    def __init__(self, kind: str, seed: int = 1, **behaviour: object) -> None:
        self.world = World(seed)
        self.servers = []
        for index, ip in enumerate(SERVERS):
            host = self.world.add_public(f"server{index}", ip)
            self.servers.append(host.attach(ToyCore(), PORT))
        self.nat: Nat = self.world.add_nat("home", WAN, kind, **behaviour)
        self.core = ToyCore()
        self.laptop = self.nat.add_host("laptop", "192.168.1.2").attach(self.core, PORT)

    def seen_by(self, server: int) -> Address:
        """Return our address as the server sees it."""
        self.core.say(b"?", Address(SERVERS[server], PORT))
        before = len(self.servers[server].events)
        assert self.world.run(lambda: len(self.servers[server].events) > before, timeout=1.0)
        return self.servers[server].events[-1].source

    def is_reached_from(self, server: int, port: int, target: Address) -> bool:
        """Say whether a packet of the server from another port arrives."""
        core = ToyCore()
        host = self.servers[server].host
        other = self.servers[server] if port == PORT else host.attach(core, port)
        before = len(self._knocks())
        other.core.say(b"knock", target)
        self.world.run_for(1.0)
        if port != PORT:
            other.detach()
        return len(self._knocks()) > before

    def _knocks(self) -> list[object]:
        return [event for event in self.laptop.events if event.data == b"knock"]


def test_question_and_answer_take_the_delay_of_all_links() -> None:
    home = Home("port-restricted")
    home.core.say(b"?hello", Address(SERVERS[0], PORT))
    assert home.world.run(lambda: home.laptop.events)
    assert home.world.now == pytest.approx(2 * (0.0002 + 0.010 + 0.010))
    heard = home.laptop.events[0]
    assert heard == Heard(b"!hello", Address(SERVERS[0], PORT), "192.168.1.2", home.world.now)


@pytest.mark.parametrize(
    ("kind", "same_mapping", "other_port", "other_server"),
    [
        ("full-cone", True, True, True),
        ("addr-restricted", True, True, False),
        ("port-restricted", True, False, False),
        ("symmetric", False, False, False),
        ("cgnat", True, False, False),
    ],
)
def test_kinds_map_and_filter(
    kind: str, same_mapping: bool, other_port: bool, other_server: bool
) -> None:
    home = Home(kind)
    first = home.seen_by(0)
    assert first.ip == WAN
    assert home.is_reached_from(0, PORT, first)
    assert home.is_reached_from(0, 4001, first) is other_port
    assert home.is_reached_from(1, PORT, first) is other_server
    assert (home.seen_by(1) == first) is same_mapping


def test_address_dependent_mapping_is_one_for_each_remote_ip() -> None:
    home = Home("symmetric", mapping=Dependence.ADDRESS_DEPENDENT)
    first = home.seen_by(0)
    other = ToyCore()
    seen = home.servers[0].host.attach(other, 4001)
    home.core.say(b"x", Address(SERVERS[0], 4001))
    home.world.run_for(1.0)
    assert seen.events[0].source == first
    assert home.seen_by(1) != first


def test_symmetric_draws_ports_in_its_range() -> None:
    home = Home("symmetric-seq")
    ports = [home.seen_by(0).port, home.seen_by(1).port]
    assert all(40_000 <= port < 41_000 for port in ports)
    assert ports[0] != ports[1]


def test_port_is_kept_until_a_second_host_wants_the_same() -> None:
    home = Home("port-restricted")
    assert home.seen_by(0).port == PORT
    core = ToyCore()
    home.nat.add_host("phone", "192.168.1.3").attach(core, PORT)
    core.say(b"?", Address(SERVERS[0], PORT))
    core.say(b"?", Address(SERVERS[1], PORT))
    home.world.run_for(1.0)
    ports = [server.events[-1].source.port for server in home.servers]
    assert ports[0] == ports[1] != PORT


def test_mapping_expires_and_is_kept_by_traffic() -> None:
    home = Home("symmetric", timeout=30.0)
    first = home.seen_by(0)
    home.world.run_for(29.0)
    assert home.seen_by(0) == first
    home.world.run_for(31.0)
    assert home.nat.outer_address_of(home.laptop.address, Address(SERVERS[0], PORT)) is None
    assert not home.is_reached_from(0, PORT, first)
    assert home.seen_by(0) != first


def test_blocked_udp_passes_nothing() -> None:
    home = Home("udp-blocked")
    home.core.say(b"?", Address(SERVERS[0], PORT))
    home.world.run()
    assert home.world.counts == {"blocked": 1}


@pytest.mark.parametrize(("kind", "meets"), [("hairpin", True), ("port-restricted", False)])
def test_hairpin(kind: str, meets: bool) -> None:
    home = Home(kind)
    outer = home.seen_by(0)
    core = ToyCore()
    phone = home.nat.add_host("phone", "192.168.1.3").attach(core, 4001)
    home.core.say(b"open", Address(WAN, 4001))
    core.say(b"?", outer)
    home.core.say(b"open", Address(WAN, 4001))
    home.world.run_for(1.0)
    assert any(event.data == b"?" for event in home.laptop.events) is meets
    assert any(event.data == b"!" for event in phone.events) is meets


def test_leaky_router_moves_the_port_towards_an_early_knock() -> None:
    for kind, moves in (("leaky", True), ("port-restricted", False)):
        home = Home(kind)
        first = home.seen_by(0)
        assert not home.is_reached_from(1, PORT, first)
        assert (home.seen_by(1) != first) is moves


def test_forwarded_port_and_lan() -> None:
    home = Home("port-restricted")
    home.nat.forward(5000, home.laptop.address)
    assert home.is_reached_from(1, PORT, Address(WAN, 5000))
    core = ToyCore()
    home.nat.add_host("phone", "192.168.1.3").attach(core, PORT)
    core.say(b"lan", home.laptop.address)
    home.world.run_for(0.001)
    assert home.laptop.events[-1].source == Address("192.168.1.3", PORT)


def test_renumbering_loses_mappings() -> None:
    home = Home("full-cone")
    first = home.seen_by(0)
    home.nat.renumber("203.0.113.9")
    assert home.seen_by(0).ip == "203.0.113.9"
    assert not home.is_reached_from(0, PORT, first)
    assert home.world.counts["no route"] == 1


def test_cut_link_loses_what_is_under_way() -> None:
    home = Home("full-cone")
    home.core.say(b"?", Address(SERVERS[0], PORT))
    home.world.run_for(0.005)
    home.nat.link.cut()
    home.world.run_for(1.0)
    assert home.world.counts["lost"] == 1
    home.nat.link.restore()
    home.seen_by(0)


def test_jitter_reorders_and_loss_loses() -> None:
    world = World(3)
    link = Link(delay=0.01, jitter=0.05, loss=0.2, duplicate=0.1)
    core = ToyCore()
    world.add_public("a", "198.51.100.1", link=link).attach(core, PORT)
    b = world.add_public("b", "198.51.100.2").attach(ToyCore(), PORT)
    for number in range(200):
        core.say(number.to_bytes(2, "big"), b.address)
    assert world.run()
    numbers = [event.data for event in b.events]
    assert numbers != sorted(numbers)
    assert 120 < len(set(numbers)) < 190
    assert len(numbers) > len(set(numbers))


def test_same_seed_same_run() -> None:
    def record(seed: int) -> list[object]:
        home = Home("symmetric", seed)
        home.nat.link.jitter = 0.02
        seen: list[object] = []
        home.world.on_packet(seen.append)
        for _ in range(20):
            home.core.say(b"?" + home.world.random_bytes(4), Address(SERVERS[0], PORT))
        home.world.run()
        return [*seen, home.world.now]

    assert record(5) == record(5)
    assert record(5) != record(6)


def test_timers_fire_at_their_time_and_runs_are_bounded() -> None:
    world = World()
    host = world.add_public("a", "198.51.100.1")
    attachment = host.attach(ToyCore(interval=10.0), PORT)
    assert world.run(35.0)
    assert world.now == 35.0
    assert attachment.events == [Ticked(10.0), Ticked(20.0), Ticked(30.0)]
    assert not world.run(lambda: False, timeout=10.0)
    with pytest.raises(StepsExceeded) as raised:
        world.run(max_steps=5)
    assert raised.value.__notes__[0].startswith("world seed 0, ")


def test_source_ip_chooses_the_interface() -> None:
    world = World()
    core = ToyCore()
    world.add_public("a", "198.51.100.1", "198.51.100.2", "2001:db8::1").attach(core, PORT)
    b = world.add_public("b", "198.51.100.9", "2001:db8::9").attach(ToyCore(), PORT)
    core.say(b"1", b.address, "198.51.100.2")
    core.say(b"2", Address("2001:db8::9", PORT))
    core.say(b"3", b.address, "192.0.2.1")
    world.run()
    assert [(e.source.ip, e.local_ip) for e in b.events] == [
        ("198.51.100.2", "198.51.100.9"),
        ("2001:db8::1", "2001:db8::9"),
    ]
    assert world.counts == {"no source address": 1}


def test_a_timer_that_never_moves_is_a_bug() -> None:
    class Stuck(ToyCore):
        def handle_timeout(self, *, now: float) -> None:
            """Leave the timer where it is."""

    world = World()
    world.add_public("a", "198.51.100.1").attach(Stuck(interval=1.0), PORT)
    with pytest.raises(RuntimeError, match="never moves"):
        world.run(5.0)


def test_ports_names_and_addresses_are_not_given_twice() -> None:
    world = World()
    host = world.add_public("a", "198.51.100.1")
    host.attach(ToyCore(), PORT)
    with pytest.raises(ValueError, match="taken"):
        host.attach(ToyCore(), PORT)
    with pytest.raises(ValueError, match="taken"):
        world.add_public("b", "198.51.100.1")
    with pytest.raises(ValueError, match="there is a host"):
        world.add_public("a", "198.51.100.3")
