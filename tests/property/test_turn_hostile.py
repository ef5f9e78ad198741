"""Hostile bytes at the TURN client and at a members' relay, half of them rightly signed.

Nothing raises, strangers get no answer, no answer is much larger than what asked for it, and
nothing grows without bound.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ginnel.base.types import Address
from ginnel.ice import stun
from ginnel.ice.stun import Attribute, MessageClass
from ginnel.ice.turn_server import MAX_ALLOCATIONS
from support.turn_world import SERVER, TurnWorld, grant_ports

METHODS = (stun.BINDING, stun.ALLOCATE, stun.REFRESH, stun.SEND, stun.DATA)
METHODS = (*METHODS, stun.CREATE_PERMISSION, stun.CHANNEL_BIND, 0x7F)
STRANGER = Address("198.51.100.66", 6)
attributes = st.lists(
    st.tuples(
        st.sampled_from([int(a) for a in Attribute if a not in (0x0008, 0x8028)] + [0x7777]),
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                lambda port: stun.encode_address(Address(SERVER.ip, port), bytes(12)),
                st.integers(1, 65535),
            ),
            st.integers(0x3FFF, 0x5000).map(lambda n: n.to_bytes(2, "big") + b"\0\0"),
        ),
    ),
    max_size=8,
)
messages = st.tuples(
    st.sampled_from(METHODS), st.sampled_from(list(MessageClass)), attributes, st.booleans()
)
raw = st.one_of(
    st.binary(max_size=120),
    st.builds(
        lambda n, d: n.to_bytes(2, "big") + len(d).to_bytes(2, "big") + d,
        st.integers(0x4000, 0x4FFF),
        st.binary(max_size=60),
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(messages, raw), max_size=20))
def test_the_relay_survives_and_never_amplifies(items: list[object]) -> None:
    world = TurnWorld()
    server = world.server
    given_ = server.issue(b"m", now=world.now)
    client = Address("198.51.100.1", 5001)
    key = stun.long_term_key(given_.username, given_.realm, given_.password.reveal().decode())
    head = [
        (int(Attribute.USERNAME), given_.username.encode()),
        (int(Attribute.REALM), given_.realm.encode()),
        (int(Attribute.NONCE), given_.nonce),
    ]
    for item in items:
        signed = False
        if isinstance(item, bytes):
            data = item
        else:
            assert isinstance(item, tuple)
            method, message_class, extra, signed = item
            body = [*head, *extra] if signed else extra
            data = stun.encode_message(
                message_class, bytes(12), body, key=key if signed else None, method=method
            )
        for source in (client, STRANGER) if not signed else (client,):
            server.handle_datagram(data, source, now=world.now)
            grant_ports(server, now=world.now)
            sent = 0
            while (out := server.poll_transmit()) is not None:
                assert source == client
                sent += len(out.data)
            assert sent <= len(data) + 100
    assert server.allocation_count <= MAX_ALLOCATIONS
    world.pass_time(10.0)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(messages, raw), max_size=20))
def test_the_client_survives(items: list[object]) -> None:
    world = TurnWorld()
    client = world.add_client(1)
    before = client.core.relayed
    for item in items:
        if isinstance(item, bytes):
            data = item
        else:
            assert isinstance(item, tuple)
            method, message_class, extra, _ = item
            data = stun.encode_message(message_class, bytes(12), extra, method=method)
        client.core.handle_datagram(data, SERVER, now=world.now)
        world.pump()
    assert client.core.relayed == before
    assert sum(client.core.drops.values()) <= len(items)
