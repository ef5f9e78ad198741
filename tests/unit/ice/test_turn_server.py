"""The member's relay: who is served, what is passed on, its quotas."""

import random

import pytest

from ginnel.base.dataplane import EndForwards, ForwardChannel
from ginnel.base.servers import PortRange
from ginnel.base.types import Address, Secret
from ginnel.ice import stun, turn_ports, turn_server
from ginnel.ice.bindings import CHANNEL_LIFE, MAX_PERMISSIONS, PERMISSION_LIFE
from ginnel.ice.stun import Attribute, MessageClass
from ginnel.ice.turn_events import AllocationLost, RelayReceived
from ginnel.ice.turn_ports import FreePort, HoldPort
from ginnel.ice.turn_server import Credentials, RelayDrop, TurnServer
from support.turn_world import SERVER, TurnWorld, grant_ports

CLIENT = Address("198.51.100.7", 700)
UDP = (int(Attribute.REQUESTED_TRANSPORT), b"\x11\0\0\0")


def make_server() -> TurnServer:
    rng = random.Random(3)
    return TurnServer(ip=SERVER.ip, random_bytes=rng.randbytes, rng=rng, now=0.0)


def request(
    given: Credentials,
    method: int,
    attributes: list[tuple[int, bytes]],
    *,
    transaction: bytes = bytes(12),
    nonce: bytes | None = None,
    password: str | None = None,
) -> bytes:
    key = stun.long_term_key(
        given.username, given.realm, password or given.password.reveal().decode()
    )
    head = [
        (int(Attribute.USERNAME), given.username.encode()),
        (int(Attribute.REALM), given.realm.encode()),
        (int(Attribute.NONCE), given.nonce if nonce is None else nonce),
    ]
    return stun.encode_message(
        MessageClass.REQUEST, transaction, head + attributes, key=key, method=method
    )


def ask(server: TurnServer, data: bytes, client: Address = CLIENT, now: float = 1.0) -> int | None:
    """Return 0 for success, the error's code, or None without an answer."""
    server.handle_datagram(data, client, now=now)
    grant_ports(server, now=now)
    out = server.poll_transmit()
    if out is None:
        return None
    assert out.destination == client
    return stun.decode_message(out.data).error_code or 0


def peer(address: Address, transaction: bytes = bytes(12)) -> tuple[int, bytes]:
    return int(Attribute.XOR_PEER_ADDRESS), stun.encode_address(address, transaction)


def test_strangers_get_no_answer() -> None:
    server = make_server()
    given = server.issue(b"m", now=0.0)
    bare = stun.encode_message(MessageClass.REQUEST, bytes(12), [UDP], method=stun.ALLOCATE)
    assert ask(server, bare) is None
    assert ask(server, request(given, stun.ALLOCATE, [UDP], password="wrong")) is None
    other = Credentials("nobody", Secret(b"x"), given.realm, given.nonce, 1e9)
    assert ask(server, request(other, stun.ALLOCATE, [UDP])) is None
    assert ask(server, b"\0\1" + bytes(30)) is None
    assert server.drops == {
        RelayDrop.UNKNOWN_USER: 2,
        RelayDrop.BAD_INTEGRITY: 1,
        RelayDrop.MALFORMED: 1,
    }


def test_allocate_is_answered_alike_when_repeated() -> None:
    server = make_server()
    given = server.issue(b"m", now=0.0)
    data = request(given, stun.ALLOCATE, [UDP])
    assert ask(server, data) == 0
    assert ask(server, data) == 0
    assert server.allocation_count == 1
    again = request(given, stun.ALLOCATE, [UDP], transaction=b"z" * 12)
    assert ask(server, again) == 437


@pytest.mark.parametrize(
    ("method", "attributes", "code"),
    [
        (stun.ALLOCATE, [], 400),
        (stun.ALLOCATE, [(int(Attribute.REQUESTED_TRANSPORT), b"\x06\0\0\0")], 442),
        (stun.ALLOCATE, [UDP, (0x0022, b"12345678")], 420),
        (stun.REFRESH, [], 437),
        (stun.CREATE_PERMISSION, [peer(SERVER)], 437),
    ],
)
def test_errors_without_an_allocation(
    method: int, attributes: list[tuple[int, bytes]], code: int
) -> None:
    server = make_server()
    given = server.issue(b"m", now=0.0)
    assert ask(server, request(given, method, attributes)) == code


def test_stale_nonce_is_replaced() -> None:
    server = make_server()
    given = server.issue(b"m", now=0.0)
    data = request(given, stun.ALLOCATE, [UDP], nonce=b"old")
    server.handle_datagram(data, CLIENT, now=1.0)
    out = server.poll_transmit()
    assert out is not None
    message = stun.decode_message(out.data)
    assert message.error_code == 438
    assert message.get(Attribute.NONCE) == given.nonce
    # Two lives later the first one is stale too.
    assert ask(server, request(given, stun.ALLOCATE, [UDP]), now=3700.0) == 0
    late = request(given, stun.REFRESH, [], transaction=b"y" * 12)
    assert ask(server, late, now=7400.0) == 438


@pytest.mark.parametrize(
    "address",
    [
        Address("127.0.0.1", 50000),
        Address("169.254.1.1", 50000),
        Address("192.168.0.1", 50000),
        Address("10.0.0.1", 50000),
        Address("224.0.0.1", 50000),
        Address("100.64.1.1", 50000),
        Address("198.51.100.99", 50000),
        Address(SERVER.ip, SERVER.port),
        Address(SERVER.ip, 50000),
        Address("fe80::1", 50000),
        Address("fd00::1", 50000),
        Address("0.0.0.0", 50000),
        Address("2001:db8::1", 50000),
    ],
)
def test_only_allocations_of_this_relay_are_permitted(address: Address) -> None:
    server = make_server()
    given = server.issue(b"m", now=0.0)
    assert ask(server, request(given, stun.ALLOCATE, [UDP])) == 0
    transaction = b"t" * 12
    attributes = [peer(address, transaction)]
    data = request(given, stun.CREATE_PERMISSION, attributes, transaction=transaction)
    assert ask(server, data) == 403


def test_another_member_cannot_touch_an_allocation() -> None:
    server = make_server()
    one, two = server.issue(b"one", now=0.0), server.issue(b"two", now=0.0)
    assert ask(server, request(one, stun.ALLOCATE, [UDP])) == 0
    assert ask(server, request(two, stun.REFRESH, [], transaction=b"2" * 12)) == 441


def test_allocations_of_one_member_are_bounded() -> None:
    server = make_server()
    given = server.issue(b"m", now=0.0)
    codes = [
        ask(server, request(given, stun.ALLOCATE, [UDP]), Address("198.51.100.7", port))
        for port in range(1, 8)
    ]
    limit = turn_server.MAX_USER_ALLOCATIONS
    assert codes == [0] * limit + [486] * (7 - limit)


def test_all_allocations_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_server, "MAX_ALLOCATIONS", 2)
    server = make_server()
    codes = []
    for number in range(3):
        given = server.issue(bytes([number]), now=0.0)
        data = request(given, stun.ALLOCATE, [UDP])
        codes.append(ask(server, data, Address("198.51.100.7", 1 + number)))
    assert codes == [0, 0, 508]


def test_credentials_end() -> None:
    server = make_server()
    given = server.issue(b"m", now=0.0)
    assert ask(server, request(given, stun.ALLOCATE, [UDP]), now=given.expires_at) is None
    assert server.drops == {RelayDrop.EXPIRED: 1}


def test_credentials_before_the_last_stay_in_force_older_ones_do_not() -> None:
    server = make_server()
    given = [server.issue(b"m", now=0.0) for _ in range(3)]
    codes = [
        ask(server, request(item, stun.ALLOCATE, [UDP]), Address("198.51.100.7", 1 + number))
        for number, item in enumerate(given)
    ]
    assert codes == [None, 0, 0]


def test_revoked_member_is_out_at_once() -> None:
    world = TurnWorld()
    one, two = world.add_client(1, b"one"), world.add_client(2, b"two")
    assert one.core.relayed is not None
    assert two.core.relayed is not None
    gone = one.core.relayed
    two.core.send(b"x", gone, now=world.now)
    world.pump()
    world.server.revoke(b"one")
    assert world.server.allocation_count == 1
    two.core.send(b"x", gone, now=world.now)
    world.pump()
    assert world.server.drops[RelayDrop.NO_TARGET] == 1
    one.core.send(b"x", two.core.relayed, now=world.now)
    world.pass_time(60)
    assert one.of(AllocationLost)
    assert one.core.relayed is None


def test_nothing_passes_without_the_other_sides_permission() -> None:
    world = TurnWorld()
    one, two = world.add_client(1), world.add_client(2)
    assert two.core.relayed is not None
    one.core.send(b"x", two.core.relayed, now=world.now)
    world.pump()
    assert not two.of(RelayReceived)
    assert world.server.drops == {RelayDrop.NO_RETURN: 1}


def test_bandwidth_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_server, "BURST_BYTES", 3000)
    monkeypatch.setattr(turn_server, "BYTES_PER_SECOND", 1000)
    world = TurnWorld()
    one, two = world.add_client(1), world.add_client(2)
    assert one.core.relayed is not None
    assert two.core.relayed is not None
    two.core.send(b"", one.core.relayed, now=world.now)
    world.pump()
    for _ in range(5):
        one.core.send(bytes(1000), two.core.relayed, now=world.now)
        world.pump()
    assert len(two.of(RelayReceived)) == 3
    world.now += 1.0
    one.core.send(bytes(1000), two.core.relayed, now=world.now)
    world.pump()
    assert len(two.of(RelayReceived)) == 4
    assert world.server.drops[RelayDrop.BANDWIDTH] == 2
    assert world.server.relayed_bytes == 4000


def test_a_data_plane_is_told_what_it_may_pass_on_and_when_no_more() -> None:
    world = TurnWorld()
    one, two = world.add_client(1, b"one"), world.add_client(2, b"two")
    assert one.core.relayed is not None
    assert two.core.relayed is not None
    one.core.send(b"x", two.core.relayed, now=world.now)
    world.pump()
    assert world.server.poll_command() is None  # only one side has agreed
    two.core.send(b"y", one.core.relayed, now=world.now)
    world.pump()
    forwards = {}
    while (command := world.server.poll_command()) is not None:
        assert isinstance(command, ForwardChannel)
        forwards[command.client, command.target.address] = command
    assert set(forwards) == {(one.address, two.address), (two.address, one.address)}
    there, back = forwards[one.address, two.address], forwards[two.address, one.address]
    assert (there.number, there.target.channel) == (back.target.channel, back.number)
    assert there.life_s == PERMISSION_LIFE < CHANNEL_LIFE
    assert there.bytes_per_second == turn_server.BYTES_PER_SECOND
    # They are renewed before they end, for as long as both sides are there.
    told, ends_at = world.now, world.now + 2 * CHANNEL_LIFE
    while world.now < ends_at:
        world.pass_time(20, step=20)
        one.core.send(b"x", two.core.relayed, now=world.now)
        two.core.send(b"y", one.core.relayed, now=world.now)
        while (command := world.server.poll_command()) is not None:
            assert isinstance(command, ForwardChannel)
            told = world.now
        assert world.now - told < PERMISSION_LIFE
    world.server.revoke(b"one")
    assert world.server.poll_command() == EndForwards(one.address)


def allocate(server: TurnServer, count: int) -> list[Address]:
    """Let other members allocate; return their addresses."""
    found = []
    for number in range(count):
        given = server.issue(b"other" + bytes([number]), now=0.0)
        client = Address("198.51.100.8", 1000 + number)
        server.handle_datagram(request(given, stun.ALLOCATE, [UDP]), client, now=1.0)
        grant_ports(server, now=1.0)
        out = server.poll_transmit()
        assert out is not None
        relayed = stun.decode_message(out.data).address(Attribute.XOR_RELAYED_ADDRESS)
        assert relayed is not None
        found.append(relayed)
    return found


def test_permissions_are_bounded() -> None:
    server = make_server()
    given = server.issue(b"m", now=0.0)
    ask(server, request(given, stun.ALLOCATE, [UDP]))
    codes = []
    for number, address in enumerate(allocate(server, MAX_PERMISSIONS + 1)):
        transaction = number.to_bytes(12, "big")
        attributes = [peer(address, transaction)]
        data = request(given, stun.CREATE_PERMISSION, attributes, transaction=transaction)
        codes.append(ask(server, data))
    assert codes == [0] * MAX_PERMISSIONS + [508]


def test_ports_come_from_the_range_and_another_is_tried_if_one_is_taken() -> None:
    rng = random.Random(3)
    ports = PortRange(50000, 50001)
    server = TurnServer(ip=SERVER.ip, random_bytes=rng.randbytes, rng=rng, now=0.0, ports=ports)
    given = server.issue(b"m", now=0.0)
    data = request(given, stun.ALLOCATE, [UDP])
    server.handle_datagram(data, CLIENT, now=1.0)
    server.handle_datagram(data, CLIENT, now=1.0)  # repeated before the port is held
    assert server.poll_transmit() is None
    first = server.poll_event()
    assert isinstance(first, HoldPort)
    assert server.poll_event() is None
    server.on_port(first.port, False, now=1.0)
    command = server.poll_event()
    assert isinstance(command, HoldPort)
    server.on_port(command.port, True, now=1.0)
    out = server.poll_transmit()
    assert out is not None
    relayed = stun.decode_message(out.data).address(Attribute.XOR_RELAYED_ADDRESS)
    assert relayed == Address(SERVER.ip, command.port)
    assert 50000 <= command.port <= 50001
    server.revoke(b"m")
    assert server.poll_event() == FreePort(command.port)


def test_an_allocation_without_a_port_is_refused() -> None:
    server = make_server()
    given = server.issue(b"m", now=0.0)
    server.handle_datagram(request(given, stun.ALLOCATE, [UDP]), CLIENT, now=1.0)
    for _ in range(turn_ports.MAX_TRIES):
        command = server.poll_event()
        assert isinstance(command, HoldPort)
        server.on_port(command.port, False, now=1.0)
    out = server.poll_transmit()
    assert out is not None
    assert stun.decode_message(out.data).error_code == 508
    assert server.poll_event() is None


def test_channel_numbers_and_peers_are_bound_one_to_one() -> None:
    server = make_server()
    given = server.issue(b"m", now=0.0)
    ask(server, request(given, stun.ALLOCATE, [UDP]))
    one, two, three = (address.port for address in allocate(server, 3))

    def bind(number: int, port: int, now: float = 1.0) -> int | None:
        transaction = number.to_bytes(6, "big") + port.to_bytes(6, "big")
        channel = (int(Attribute.CHANNEL_NUMBER), number.to_bytes(2, "big") + b"\0\0")
        attributes = [channel, peer(Address(SERVER.ip, port), transaction)]
        data = request(given, stun.CHANNEL_BIND, attributes, transaction=transaction)
        return ask(server, data, now=now)

    assert bind(0x4000, one) == 0
    assert bind(0x4000, one) == 0
    assert bind(0x4000, two) == 400
    assert bind(0x4001, one) == 400
    assert bind(0x5000, three) == 400
    assert server.knows_channel(CLIENT, 0x4000)
    assert not server.knows_channel(Address("198.51.100.7", 1), 0x4000)


def test_an_idle_allocation_ends_and_leaves_nothing() -> None:
    world = TurnWorld()
    client = world.add_client(1)
    del world.clients[client.address]
    world.pass_time(700, 10.0)
    assert world.server.allocation_count == 0
    assert world.server.poll_deadline() is None
    assert world.server.poll_event() is None


def test_owns_leaves_ice_checks_alone() -> None:
    server = make_server()
    check = stun.encode_message(MessageClass.REQUEST, bytes(12), [])
    assert not server.owns(stun.decode_message(check), CLIENT)
    data = stun.encode_message(MessageClass.REQUEST, bytes(12), [], method=stun.ALLOCATE)
    assert server.owns(stun.decode_message(data), CLIENT)
    send = stun.encode_message(MessageClass.INDICATION, bytes(12), [], method=stun.SEND)
    assert not server.owns(stun.decode_message(send), CLIENT)
