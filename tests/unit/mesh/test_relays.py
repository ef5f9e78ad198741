"""Relays among members: asking, granting, using, losing; messages that are hostile."""

import random

import pytest

from ginnel.base import rlp
from ginnel.base.dataplane import CloseChannel, EndForwards, ForwardChannel, OpenChannel
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Address, MemberId, Secret, Transmit
from ginnel.ice import stun
from ginnel.ice.candidate import make_host, make_server_reflexive
from ginnel.ice.channels import LOWER_CHANNELS, UPPER_CHANNELS
from ginnel.ice.turn_events import TurnConfig
from ginnel.ice.turn_ports import FreePort, HoldPort
from ginnel.mesh.relay_events import (
    AddressesChanged,
    Arrived,
    Refused,
    RelayPath,
    RelaysEvent,
    SendMessage,
)
from ginnel.mesh.relays import MAX_RELAYS, MAX_SERVERS, Relays

SERVER = Address("203.0.113.9", 41640)
HOST = make_host(Address("192.168.1.2", 7))
PUBLIC = make_server_reflexive(SERVER, HOST.base)
ATTIC, PI, LAPTOP = (MemberId(bytes([n]) * 32) for n in (1, 2, 3))


def make() -> Relays:
    rng = random.Random(4)
    return Relays(random_bytes=rng.randbytes, rng=rng)


class Rig:
    """A relay and its users, joined by hand."""

    def __init__(self, *users: MemberId) -> None:
        self.now = 100.0
        self.server = make()
        self.server.set_own_addresses([HOST, PUBLIC])
        self.server.serve(True, now=self.now)
        self.users = {user: make() for user in users}
        self.places = {user: Address("198.51.100.1", 10 + n) for n, user in enumerate(users)}
        self.told: dict[MemberId, list[RelaysEvent]] = {user: [] for user in users}
        self.ports: list[object] = []
        for user in self.users.values():
            user.set_paths([RelayPath(ATTIC, SERVER, None)], now=self.now)
        self.pump()

    def pump(self) -> None:
        moved = True
        while moved:
            moved = False
            for member, user in self.users.items():
                while (event := user.poll_event()) is not None:
                    moved = True
                    self.told[member].append(event)
                    if isinstance(event, SendMessage):
                        self.server.on_message(member, event.payload, now=self.now)
                while (out := user.poll_transmit()) is not None:
                    moved = True
                    self.carry(out, self.places[member])
            while (told := self.server.poll_event()) is not None:
                moved = True
                assert isinstance(told, SendMessage)
                self.users[told.member_id].on_message(ATTIC, told.payload, now=self.now)
            while (command := self.server.poll_link()) is not None:
                moved = True
                self.ports.append(command)
                if isinstance(command, HoldPort):
                    self.server.on_port(command.port, True, now=self.now)
            while (answer := self.server.poll_transmit()) is not None:
                moved = True
                for member, place in self.places.items():
                    if place == answer.destination:
                        self.give(self.users[member], answer.data, SERVER)

    def carry(self, out: Transmit, source: Address) -> None:
        assert out.destination == SERVER
        self.give(self.server, out.data, source)

    def give(self, relays: Relays, data: bytes, source: Address) -> None:
        number = int.from_bytes(data[:2], "big")
        if relays.knows_channel(source, number):
            relays.handle_channel_data(data, source, now=self.now)
        else:
            message = stun.decode_message(data)
            relays.handle_message(message, source, now=self.now, local_ip=None)


def test_both_get_addresses_and_datagrams_pass() -> None:
    rig = Rig(PI, LAPTOP)
    [ours], [theirs] = (rig.users[member].candidates() for member in (PI, LAPTOP))
    assert ours.address.ip == theirs.address.ip == SERVER.ip
    assert ours.is_relayed
    assert AddressesChanged() in rig.told[PI]
    for _ in range(2):
        for member, mine, other in ((PI, ours, theirs), (LAPTOP, theirs, ours)):
            transmit = Transmit(b"hi", other.address, relayed_from=mine.base)
            assert rig.users[member].send(transmit, now=rig.now)
            rig.pump()
    assert Arrived(theirs.address, ours.address, b"hi") in rig.told[LAPTOP]
    assert Arrived(ours.address, theirs.address, b"hi") in rig.told[PI]


def test_the_relay_itself_gets_no_address_at_itself() -> None:
    rig = Rig(PI)
    assert len(rig.users[PI].candidates()) == 1
    assert rig.users[PI].candidates(besides=ATTIC) == ()


def test_refusals_are_told() -> None:
    rig = Rig(PI)
    [ours] = rig.users[PI].candidates()
    peer = Address("192.0.2.1", 5)
    rig.users[PI].send(Transmit(b"x", peer, relayed_from=ours.base), now=rig.now)
    rig.pump()
    assert any(isinstance(e, Refused) and e.peer == peer for e in rig.told[PI])
    assert not rig.users[PI].send(Transmit(b"x", peer, relayed_from=peer), now=rig.now)


def test_a_path_that_is_gone_takes_the_address_with_it() -> None:
    rig = Rig(PI)
    user = rig.users[PI]
    user.set_paths([], now=rig.now)
    assert user.candidates() == ()
    rig.pump()
    assert rig.server.server is not None
    assert rig.server.server.allocation_count == 0
    assert user.poll_deadline() is None


def test_ports_are_held_with_allocations_and_freed_with_the_service() -> None:
    rig = Rig(PI, LAPTOP)
    held = [command.port for command in rig.ports if isinstance(command, HoldPort)]
    shown = [rig.users[member].candidates()[0].address.port for member in (PI, LAPTOP)]
    assert sorted(held) == sorted(shown)
    rig.server.serve(False, now=rig.now)
    rig.pump()
    assert rig.ports[2:] == [FreePort(port) for port in held]
    rig.server.on_port(50000, True, now=rig.now)  # comes late
    rig.pump()
    assert rig.ports[4:] == [FreePort(50000)]


def test_who_does_not_serve_refuses_and_is_left_alone_for_a_while() -> None:
    rig = Rig()
    rig.server.serve(False, now=rig.now)
    user = make()
    rig.users, rig.places, rig.told = {PI: user}, {PI: Address("192.0.2.1", 1)}, {PI: []}
    user.set_paths([RelayPath(ATTIC, SERVER, None)], now=rig.now)
    rig.pump()
    assert user.candidates() == ()
    deadline = user.poll_deadline()
    assert deadline is not None
    assert deadline.at - rig.now > 100


def test_an_unanswered_question_is_asked_again() -> None:
    user = make()
    user.set_paths([RelayPath(ATTIC, SERVER, None)], now=0.0)
    for _ in range(3):
        assert isinstance(user.poll_event(), SendMessage)
        assert user.poll_event() is None
        deadline = user.poll_deadline()
        assert deadline is not None
        user.handle_timeout(now=deadline.at)


def test_all_take_the_same_few_relays() -> None:
    paths = [RelayPath(MemberId(bytes([n]) * 32), SERVER, None) for n in range(9, 1, -1)]
    user = make()
    user.set_paths(paths, now=0.0)
    asked = []
    while (event := user.poll_event()) is not None:
        assert isinstance(event, SendMessage)
        asked.append(event.member_id[0])
    assert asked == [2, 3][:MAX_RELAYS]


def test_new_credentials_keep_the_address() -> None:
    rig = Rig(PI)
    before = rig.users[PI].candidates()
    asked = len(rig.told[PI])
    while rig.now < 13 * 3600:  # credentials end after 12 h
        rig.now += 20.0
        rig.users[PI].handle_timeout(now=rig.now)
        rig.server.handle_timeout(now=rig.now)
        rig.pump()
    assert rig.users[PI].candidates() == before
    assert len(rig.told[PI]) == asked + 1  # asked once more, and nothing else happened


@pytest.mark.parametrize(
    "items",
    [
        [],
        [1],
        [2, 0],
        [1, 1],
        [1, 1, "name", "pass", "realm", b"nonce"],
        [1, 1, b"\xff", "pass", "realm", b"nonce", 5],
        [1, 1, "n" * 65, "pass", "realm", b"nonce", 5],
        [1, 1, "name", "pass", "realm", b"n" * 129, 5],
        [1, 1, "name", "pass", "realm", b"nonce", 2**40],
        [1, 1, ["name"], "pass", "realm", b"nonce", 5],
    ],
)
def test_malformed_messages_are_refused(items: list[rlp.Encodable]) -> None:
    user = make()
    user.set_paths([RelayPath(ATTIC, SERVER, None)], now=0.0)
    with pytest.raises(RemoteProtocolError):
        user.on_message(ATTIC, rlp.encode(items), now=0.0)
    assert user.candidates() == ()


def test_an_unknown_word_and_a_grant_of_a_stranger_do_nothing() -> None:
    user = make()
    user.set_paths([RelayPath(ATTIC, SERVER, None)], now=0.0)
    user.on_message(ATTIC, rlp.encode([1, 77]), now=0.0)
    user.on_message(PI, rlp.encode([1, 1, "n", "p", "r", b"n", 5]), now=0.0)
    assert user.poll_transmit() is None


def test_configured_servers_add_to_members() -> None:
    rig = Rig(PI, LAPTOP)
    assert rig.server.server is not None
    elsewhere = Address("203.0.113.77", 3478)
    user = rig.users[PI]
    for port in range(MAX_SERVERS + 2):
        config = TurnConfig(Address(elsewhere.ip, elsewhere.port + port), "me", Secret(b"x"))
        user.add_server(config, now=rig.now)
        user.add_server(config, now=rig.now)
    asked = []
    while (out := user.poll_transmit()) is not None:
        asked.append(out.destination.port)
    assert asked == [elsewhere.port + n for n in range(MAX_SERVERS)]
    assert len(user.candidates()) == 1  # the member's; the servers have not answered
    user.close(now=rig.now)
    assert user.candidates() == ()
    assert user.poll_deadline() is None


def test_an_allocation_stays_on_the_path_to_its_relay_that_was_left_by_choice() -> None:
    """Pairs are in use on it, and its five-tuple can't follow."""
    there = "192.168.1.2"
    second = make_host(Address("192.168.1.9", 7))
    for is_choice, candidates, stays in (
        (True, [HOST, second], True),
        (False, [HOST, second], False),  # the path before had died
        (True, [second], False),  # its address is gone
    ):
        rig = Rig(PI)
        user = rig.users[PI]
        user.set_own_addresses([HOST])
        user.set_paths([RelayPath(ATTIC, SERVER, there)], now=rig.now)
        rig.pump()
        before = user.candidates()
        assert len(before) == 1
        user.set_own_addresses(candidates)
        user.set_paths([RelayPath(ATTIC, SERVER, "192.168.1.9", is_choice)], now=rig.now)
        assert (user.candidates() == before) == stays


def test_the_data_plane_is_told_of_channels_at_both_ends_and_in_the_relay() -> None:
    rig = Rig(PI, LAPTOP)
    [ours], [theirs] = (rig.users[member].candidates() for member in (PI, LAPTOP))
    for member, mine, other in ((PI, ours, theirs), (LAPTOP, theirs, ours)):
        transmit = Transmit(b"x", other.address, relayed_from=mine.address)
        rig.users[member].send(transmit, now=rig.now)
        rig.pump()
    opened = rig.users[PI].poll_command()
    assert isinstance(opened, OpenChannel)
    assert opened == OpenChannel(ours.address, theirs.address, SERVER, None, opened.number)
    forwards = [rig.server.poll_command(), rig.server.poll_command()]
    ends = [(f.client, f.number) for f in forwards if isinstance(f, ForwardChannel)]
    assert (rig.places[PI], opened.number) in ends
    assert len(ends) == 2
    rig.users[PI].set_paths([], now=rig.now)
    assert rig.users[PI].poll_command() == CloseChannel(opened)
    rig.pump()
    assert rig.server.poll_command() == EndForwards(rig.places[PI])
    rig.server.serve(False, now=rig.now)
    assert rig.server.poll_command() == EndForwards(rig.places[LAPTOP])
    assert rig.server.poll_command() is None


def test_two_that_relay_for_each_other_bind_different_channels() -> None:
    rig = Rig(PI, LAPTOP)
    rig.users[LAPTOP].set_paths([], now=rig.now)
    path = RelayPath(ATTIC, SERVER, None, is_controlling=True)
    rig.users[LAPTOP].set_paths([path], now=rig.now)
    rig.pump()
    [ours], [theirs] = (rig.users[member].candidates() for member in (PI, LAPTOP))
    numbers = []
    for member, mine, other in ((PI, ours, theirs), (LAPTOP, theirs, ours)):
        rig.users[member].send(Transmit(b"x", other.address, relayed_from=mine.base), now=rig.now)
        rig.pump()
        opened = rig.users[member].poll_command()
        assert isinstance(opened, OpenChannel)
        numbers.append(opened.number)
    assert numbers[0] in LOWER_CHANNELS
    assert numbers[1] in UPPER_CHANNELS
