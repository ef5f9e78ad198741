"""How a TURN client asks: over UDP again and again, over a stream once, and with which seal."""

import base64
import hashlib
import random

import pytest

from ginnel.base.servers import Transport
from ginnel.base.types import Address, Secret
from ginnel.ice import stun
from ginnel.ice.credentials import NONCE_COOKIE
from ginnel.ice.stun import Attribute, Message, MessageClass
from ginnel.ice.turn import TurnClient
from ginnel.ice.turn_events import (
    Allocated,
    AllocationLost,
    ConnectionOver,
    ConnectionWanted,
    TurnConfig,
    TurnDrop,
    TurnEvent,
)
from ginnel.ice.turn_requests import STREAM_TIMEOUT

SERVER = Address("192.0.2.1", 3478)
RELAYED = Address("192.0.2.1", 50000)
KEY = stun.long_term_key("user", "example.org", "pass")


def make(transport: Transport = Transport.TCP, *, has_realm: bool = True) -> TurnClient:
    rng = random.Random(3)
    realm = {"realm": "example.org", "nonce": b"n"} if has_realm else {}
    config = TurnConfig(SERVER, "user", Secret(b"pass"), transport=transport, **realm)  # type: ignore[arg-type]  # two keywords
    return TurnClient(config, random_bytes=rng.randbytes, rng=rng)


def events(client: TurnClient) -> list[TurnEvent]:
    found = []
    while (event := client.poll_event()) is not None:
        found.append(event)
    return found


def sent(client: TurnClient) -> list[Message]:
    found = []
    while (out := client.poll_transmit()) is not None:
        found.append(stun.decode_message(out.data))
    return found


def allocated(request: Message, *, key: bytes = KEY, sha256: bool = False) -> bytes:
    value = stun.encode_address(RELAYED, request.transaction_id)
    return stun.encode_message(
        MessageClass.SUCCESS,
        request.transaction_id,
        [(Attribute.XOR_RELAYED_ADDRESS, value)],
        key=key,
        method=stun.ALLOCATE,
        sha256=sha256,
    )


def connected(client: TurnClient) -> None:
    client.start(now=0.0)
    client.on_connected(now=0.1)
    (request,) = sent(client)
    client.handle_datagram(allocated(request), SERVER, now=0.2)
    assert [type(event) for event in events(client)] == [ConnectionWanted, Allocated]


def test_a_stream_is_wanted_first_and_nothing_is_sent_before() -> None:
    client = make()
    client.start(now=0.0)
    assert events(client) == [ConnectionWanted()]
    assert sent(client) == []
    client.on_connected(now=0.1)
    client.on_connected(now=0.1)
    (request,) = sent(client)
    assert request.method == stun.ALLOCATE


def test_a_request_on_a_stream_is_sent_once() -> None:
    client = make()
    client.start(now=0.0)
    client.on_connected(now=0.0)
    assert len(sent(client)) == 1
    deadline = client.poll_deadline()
    assert deadline is not None
    assert deadline.at == STREAM_TIMEOUT
    client.handle_timeout(now=deadline.at)
    assert sent(client) == []
    assert [type(event) for event in events(client)] == [
        ConnectionWanted,
        ConnectionOver,
        AllocationLost,
    ]


def test_a_lost_connection_is_made_anew_at_once_when_it_had_an_allocation() -> None:
    client = make()
    connected(client)
    client.on_disconnected("the server closed the connection", now=5.0)
    assert client.relayed is None
    assert client.failure == "the server closed the connection"
    over, lost = events(client)
    assert over == ConnectionOver()
    assert isinstance(lost, AllocationLost)
    assert lost.retry_s == 0.0
    client.handle_timeout(now=5.0)
    assert events(client) == [ConnectionWanted()]


def test_a_server_that_can_not_be_reached_is_tried_more_and_more_rarely() -> None:
    client = make(Transport.TLS)
    client.start(now=0.0)
    waits, now = [], 0.0
    for _ in range(8):
        client.on_disconnected("no connection", now=now)
        client.on_disconnected("no connection", now=now)  # told twice
        waits += [event.retry_s for event in events(client) if isinstance(event, AllocationLost)]
        deadline = client.poll_deadline()
        assert deadline is not None
        now = deadline.at
        client.handle_timeout(now=now)
    assert len(waits) == 8
    assert waits[0] < 3
    assert 50 < waits[-1] < 70


def test_a_connection_that_never_comes_is_given_up() -> None:
    client = make()
    client.start(now=0.0)
    deadline = client.poll_deadline()
    assert deadline is not None
    client.handle_timeout(now=deadline.at)
    assert "reached" in client.failure


def test_closing_gives_the_allocation_back_before_the_connection_ends() -> None:
    client = make()
    connected(client)
    client.close(now=1.0)
    (refresh,) = sent(client)
    assert refresh.method == stun.REFRESH
    assert refresh.number(Attribute.LIFETIME, 4) == 0
    assert events(client) == [ConnectionOver()]
    client.on_disconnected("closed", now=1.1)
    assert events(client) == []


@pytest.mark.parametrize("transport", [Transport.UDP, Transport.TCP])
def test_sha256_is_used_where_it_is_offered_and_then_asked_of_the_answer(
    transport: Transport,
) -> None:
    client = make(transport, has_realm=False)
    client.start(now=0.0)
    client.on_connected(now=0.0)
    (first,) = sent(client)
    nonce = NONCE_COOKIE + base64.b64encode(b"\x80\0\0") + b"x"
    challenge = [
        (Attribute.ERROR_CODE, stun.encode_error(401, "Unauthorized")),
        (Attribute.REALM, b"example.org"),
        (Attribute.NONCE, nonce),
        (Attribute.PASSWORD_ALGORITHMS, b"\0\2\0\0\0\1\0\0"),
    ]
    error = stun.encode_message(
        MessageClass.ERROR, first.transaction_id, challenge, method=stun.ALLOCATE
    )
    client.handle_datagram(error, SERVER, now=0.1)
    (second,) = sent(client)
    key = hashlib.sha256(b"user:example.org:pass").digest()
    assert stun.check_integrity_sha256(second, key)
    assert second.get(Attribute.MESSAGE_INTEGRITY) is None
    client.handle_datagram(allocated(second, key=key), SERVER, now=0.2)  # SHA-1: a downgrade
    assert client.drops == {TurnDrop.BAD_INTEGRITY: 1}
    client.handle_datagram(allocated(second, key=key, sha256=True), SERVER, now=0.2)
    assert client.relayed == RELAYED
