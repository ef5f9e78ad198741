"""The TURN client: what it asks, how it takes errors, what it keeps alive."""

import random
from dataclasses import replace

from ginnel.base.types import Address, Secret
from ginnel.ice import stun
from ginnel.ice.stun import Attribute, MessageClass
from ginnel.ice.turn import MAX_EARLY, MAX_PEERS, TurnClient
from ginnel.ice.turn_events import (
    Allocated,
    AllocationLost,
    ChannelClosed,
    ChannelOpened,
    PeerRefused,
    RelayReceived,
    TurnConfig,
    TurnDrop,
)
from ginnel.ice.turn_requests import MAX_SENDS
from support.turn_world import SERVER, TurnWorld


def make_client(realm: str = "") -> TurnClient:
    rng = random.Random(7)
    config = TurnConfig(SERVER, "user", Secret(b"pass"), realm=realm, nonce=b"n" if realm else b"")
    return TurnClient(config, random_bytes=rng.randbytes, rng=rng)


def requests(client: TurnClient) -> list[stun.Message]:
    found = []
    while (out := client.poll_transmit()) is not None:
        assert out.destination == SERVER
        found.append(stun.decode_message(out.data))
    return found


def answer(
    client: TurnClient,
    request: stun.Message,
    message_class: MessageClass,
    attributes: list[tuple[int, bytes]],
    *,
    key: bytes | None = None,
    now: float = 0.0,
) -> None:
    data = stun.encode_message(
        message_class, request.transaction_id, attributes, key=key, method=request.method
    )
    client.handle_datagram(data, SERVER, now=now)


def challenge(code: int, nonce: bytes = b"nonce-1") -> list[tuple[int, bytes]]:
    return [
        (Attribute.ERROR_CODE, stun.encode_error(code, "why")),
        (Attribute.REALM, b"example.org"),
        (Attribute.NONCE, nonce),
    ]


def test_first_request_has_no_credentials_and_the_second_has() -> None:
    client = make_client()
    client.start(now=0.0)
    first = requests(client)[0]
    assert first.method == stun.ALLOCATE
    assert first.get(Attribute.USERNAME) is None
    assert first.get(Attribute.REQUESTED_TRANSPORT) == b"\x11\0\0\0"
    answer(client, first, MessageClass.ERROR, challenge(401))
    second = requests(client)[0]
    key = stun.long_term_key("user", "example.org", "pass")
    assert second.get(Attribute.NONCE) == b"nonce-1"
    assert stun.check_integrity(second, key)


def test_rfc5769_long_term_key() -> None:
    """RFC 5769 section 2.4."""
    name = "\u30de\u30c8\u30ea\u30c3\u30af\u30b9"
    key = stun.long_term_key(name, "example.org", "TheMatrIX")
    request = bytes.fromhex(
        "000100602112a44278ad3433c6ad72c029da412e"
        "00060012e3839ee38388e383aae38383e382afe382b90000"
        "0015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341"
        "0014000b6578616d706c652e6f726700"
        "00080014f67024656dd64a3e02b8e0712e85c9a28ca89666".replace(" ", "")
    )
    assert stun.check_integrity(stun.decode_message(request), key)


def test_wrong_password_ends_in_words_and_is_tried_again() -> None:
    client = make_client()
    client.start(now=0.0)
    for _ in range(10):
        sent = requests(client)
        if not sent:
            break
        answer(client, sent[0], MessageClass.ERROR, challenge(401, b"always the same"))
    lost = client.poll_event()
    assert isinstance(lost, AllocationLost)
    assert "credentials" in lost.reason
    deadline = client.poll_deadline()
    assert deadline is not None
    client.handle_timeout(now=deadline.at)
    assert requests(client)[0].method == stun.ALLOCATE


def test_unsigned_success_is_not_believed() -> None:
    client = make_client("example.org")
    client.start(now=0.0)
    request = requests(client)[0]
    relayed = stun.encode_address(Address("192.0.2.1", 5), request.transaction_id)
    attributes = [(int(Attribute.XOR_RELAYED_ADDRESS), relayed)]
    answer(client, request, MessageClass.SUCCESS, attributes)
    answer(client, request, MessageClass.SUCCESS, attributes, key=b"another key")
    assert client.relayed is None
    assert client.drops[TurnDrop.BAD_INTEGRITY] == 2


def test_silent_server_gets_a_bounded_number_of_requests() -> None:
    client = make_client()
    client.start(now=0.0)
    sent = len(requests(client))
    lost = None
    while lost is None:
        deadline = client.poll_deadline()
        assert deadline is not None
        client.handle_timeout(now=deadline.at)
        lost = client.poll_event()
        sent += len(requests(client))
    assert sent == MAX_SENDS
    assert isinstance(lost, AllocationLost)
    assert "not answer" in client.failure


def test_data_waits_for_the_permission_then_goes_by_channel() -> None:
    world = TurnWorld()
    one, two = world.add_client(1), world.add_client(2)
    assert one.core.relayed is not None
    assert two.core.relayed is not None
    two.core.send(b"hi", one.core.relayed, now=world.now)
    world.pump()
    one.core.send(b"first", two.core.relayed, now=world.now)
    world.pump()
    one.core.send(b"second", two.core.relayed, now=world.now)
    world.pump()
    received = [event.data for event in two.of(RelayReceived)]  # type: ignore[attr-defined]
    assert received == [b"first", b"second"]
    last = [data for who, data in world.sent if who == "client"][-1]
    assert last == b"\x40\0\0\x06second"


def test_early_datagrams_are_bounded() -> None:
    client = make_client("r")
    client.start(now=0.0)
    request = requests(client)[0]
    relayed = stun.encode_address(Address("192.0.2.1", 5), request.transaction_id)
    key = stun.long_term_key("user", "r", "pass")
    attributes = [(int(Attribute.XOR_RELAYED_ADDRESS), relayed)]
    answer(client, request, MessageClass.SUCCESS, attributes, key=key)
    peer = Address("192.0.2.9", 9)
    for number in range(2 * MAX_EARLY):
        client.send(bytes([number]), peer, now=0.0)
    permission = requests(client)[0]
    assert permission.method == stun.CREATE_PERMISSION
    answer(client, permission, MessageClass.SUCCESS, [], key=key)
    sent = [m for m in requests(client) if m.method == stun.SEND]
    assert [m.get(Attribute.DATA) for m in sent] == [bytes([n]) for n in range(8, 16)]


def test_peers_are_bounded() -> None:
    world = TurnWorld()
    client = world.add_client(1)
    for number in range(MAX_PEERS):
        assert client.core.send(b"x", Address("192.0.2.9", 1000 + number), now=world.now)
    assert not client.core.send(b"x", Address("192.0.2.9", 9), now=world.now)


def test_refused_peer_is_told() -> None:
    world = TurnWorld()
    client = world.add_client(1)
    client.core.send(b"x", Address("192.0.2.9", 1000), now=world.now)
    world.pump()
    (refused,) = client.of(PeerRefused)
    assert isinstance(refused, PeerRefused)
    assert refused.peer == Address("192.0.2.9", 1000)
    assert not client.core.send(b"x", Address("192.0.2.9", 1000), now=world.now)


def test_lost_allocation_is_made_anew_at_once() -> None:
    world = TurnWorld()
    client = world.add_client(1, b"member")
    before = client.core.relayed
    world.server.set_ip("203.0.113.99")  # ends all allocations
    world.pass_time(601)
    assert client.of(AllocationLost)
    assert client.core.relayed is not None
    assert client.core.relayed != before
    assert len(client.of(Allocated)) == 2


def test_everything_is_kept_alive_for_an_hour() -> None:
    world = TurnWorld()
    one, two = world.add_client(1), world.add_client(2)
    for _ in range(60):
        for client, other in ((one, two), (two, one)):
            assert other.core.relayed is not None
            client.core.send(b"tick", other.core.relayed, now=world.now)
        world.pump()
        world.pass_time(60, 5.0)
    assert not one.of(AllocationLost)
    assert len(two.of(RelayReceived)) >= 59  # one's first came before two had asked for it


def test_a_second_allocation_of_one_port_ends_the_first_by_itself() -> None:
    """437: our former self left an allocation behind."""
    world = TurnWorld()
    former = world.add_client(1, b"member")
    del world.clients[former.address]
    fresh = world.add_client(1, b"member")
    assert fresh.core.relayed is None
    world.pass_time(5)
    assert fresh.core.relayed is not None


def test_close_gives_the_allocation_back() -> None:
    world = TurnWorld()
    client = world.add_client(1)
    client.core.close(now=world.now)
    client.core.close(now=world.now)
    world.pump()
    assert world.server.allocation_count == 0
    assert client.core.poll_deadline() is None


def test_only_the_server_is_listened_to() -> None:
    world = TurnWorld()
    client = world.add_client(1)
    client.core.handle_datagram(b"\x40\0\0\x01x", Address("192.0.2.66", 1), now=world.now)
    assert client.core.drops[TurnDrop.SOURCE] == 1
    client.core.handle_datagram(b"\x40\0\0\x01x", SERVER, now=world.now)
    assert client.core.drops[TurnDrop.NO_PERMISSION] == 1


def test_channels_are_told_when_they_open_and_when_they_end() -> None:
    world = TurnWorld()
    one, two = world.add_client(1), world.add_client(2)
    relayed, peer = one.core.relayed, two.core.relayed
    assert relayed is not None
    assert peer is not None
    one.core.send(b"x", peer, now=world.now)
    world.pump()
    (opened,) = one.of(ChannelOpened)
    assert isinstance(opened, ChannelOpened)
    assert (opened.relayed, opened.peer) == (relayed, peer)
    assert one.core.knows_channel(opened.number)
    world.pass_time(300, 20.0)  # bound again meanwhile, which is nothing new
    assert one.of(ChannelOpened) == [opened]
    world.pass_time(600, 20.0)  # nothing was sent
    assert one.of(ChannelClosed) == [ChannelClosed(relayed, peer, opened.number)]
    one.core.send(b"x", peer, now=world.now)
    world.pump()
    assert one.of(ChannelOpened) == [opened, opened]  # the server may still know the number
    one.core.close(now=world.now)
    world.pump()
    assert len(one.of(ChannelClosed)) == 2


def test_only_its_own_channels_are_bound_and_then_indications_do() -> None:
    world = TurnWorld()
    one, two, three = (world.add_client(number) for number in (1, 2, 3))
    one.core.config = replace(one.core.config, channels=range(0x4000, 0x4001))
    for other in (two, three):
        assert one.core.relayed is not None
        assert other.core.relayed is not None
        other.core.send(b"permitted", one.core.relayed, now=world.now)
        one.core.send(b"hi", other.core.relayed, now=world.now)
        world.pump()
        assert any(isinstance(told, RelayReceived) for told in other.events)
    assert [told.number for told in one.of(ChannelOpened)] == [0x4000]


def test_a_lost_allocation_ends_its_channels_first() -> None:
    world = TurnWorld()
    one, two = world.add_client(1), world.add_client(2)
    assert two.core.relayed is not None
    one.core.send(b"x", two.core.relayed, now=world.now)
    world.pump()
    world.server.set_ip("203.0.113.99")  # ends all allocations
    world.pass_time(601)
    kinds = [type(event) for event in one.events]
    assert ChannelClosed in kinds
    assert kinds.index(ChannelClosed) < kinds.index(AllocationLost)
