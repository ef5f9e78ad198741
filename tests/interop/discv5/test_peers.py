"""Our node and one of another implementation: handshake, ping, findnode, talk, in both roles.

Each test has a fresh process and a fresh node of ours, so that who asks first leads the handshake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ginnel.base.types import Address, NodeId, Secret
from ginnel.discv5.aio import Discovery
from ginnel.discv5.keys import log_distance
from support.discv5_peers import Peer, PeerError, free_address, missing

pytestmark = pytest.mark.interop

LIMIT = 60.0  # seconds of one test
TRIES = 5  # of a request of theirs: they give up after 0.7 to 1 s, however busy the machine is


@pytest.fixture(params=["go", "rust", "js"])
def kind(request: pytest.FixtureRequest) -> str:
    reason = missing(request.param)
    if reason is not None:
        pytest.skip(reason)
    return str(request.param)


def run(test: Callable[[Peer, Discovery], Awaitable[None]], kind: str) -> None:
    async def main() -> None:
        address = free_address()
        async with Peer(kind) as peer, Discovery(address, advertise=address) as node:
            node.register_talk_protocol(b"echo", backwards)
            await test(peer, node)

    asyncio.run(asyncio.wait_for(main(), LIMIT))


async def told(peer: Peer, op: str, **arguments: object) -> dict[str, Any]:
    """Let the peer ask our node; again where it gave up."""
    for _ in range(TRIES - 1):
        try:
            return await peer.ask(op, **arguments)
        except PeerError:
            continue
    return await peer.ask(op, **arguments)


def backwards(node_id: NodeId, address: Address, request: bytes) -> bytes:
    return request[::-1]


def test_our_ping_leads_the_handshake(kind: str) -> None:
    async def ping(peer: Peer, node: Discovery) -> None:
        pong = await node.ping(peer.enr)
        assert pong.enr_seq == peer.enr.seq
        assert pong.address == node.record.address()

    run(ping, kind)


def test_our_find_node_leads_the_handshake(kind: str) -> None:
    async def find(peer: Peer, node: Discovery) -> None:
        assert await node.find_node(peer.enr, [0]) == (peer.enr,)

    run(find, kind)


def test_our_talk_request_is_answered(kind: str) -> None:
    async def talk(peer: Peer, node: Discovery) -> None:
        assert await node.talk_request(peer.enr, b"echo", b"abc") == b"cba"
        assert await node.talk_request(peer.enr, b"echo", b"") == b""
        assert (
            await node.talk_request(peer.enr, b"echo", bytes(range(200)) * 5)
            == ((bytes(range(200)) * 5)[::-1])
        )
        assert await node.talk_request(peer.enr, b"unknown", b"abc") == b""

    run(talk, kind)


def test_their_ping_leads_the_handshake(kind: str) -> None:
    async def ping(peer: Peer, node: Discovery) -> None:
        pong = await told(peer, "ping", enr=node.record.to_text())
        here = peer.enr.address()
        assert here is not None
        assert pong == {"id": pong["id"], "seq": node.record.seq, "ip": here.ip, "port": here.port}

    run(ping, kind)


def test_their_find_node_gets_our_record_and_our_nodes(kind: str) -> None:
    async def find(peer: Peer, node: Discovery) -> None:
        text = node.record.to_text()
        answer = await told(peer, "findnode", enr=text, distances=[0])
        assert answer["enrs"] == [node.record.to_text()]
        async with Peer(kind) as third:
            await node.ping(third.enr)
            node.add_node(third.enr)
            await node.ping(third.enr)
            distance = log_distance(node.node_id, third.enr.node_id)
            answer = await told(peer, "findnode", enr=text, distances=[distance])
            assert third.enr.to_text() in answer["enrs"]

    run(find, kind)


def test_their_talk_request_is_answered(kind: str) -> None:
    async def talk(peer: Peer, node: Discovery) -> None:
        text = node.record.to_text()
        answer = await told(peer, "talk", enr=text, protocol="echo", payload="00ff10")
        assert answer["payload"] == "10ff00"
        answer = await told(peer, "talk", enr=text, protocol="nobody", payload="00ff10")
        assert answer["payload"] == ""

    run(talk, kind)


def test_requests_in_both_directions_at_once(kind: str) -> None:
    """Both sides begin a handshake at the same moment, then ask on and on.

    The others keep one session only, so where handshakes cross, an answer may come to them under
    keys that they have just replaced: their first request may fail. Ours never does.
    """

    async def both(peer: Peer, node: Discovery) -> None:
        text = node.record.to_text()
        first, _ = await asyncio.gather(
            node.ping(peer.enr), peer.ask("ping", enr=text), return_exceptions=True
        )
        assert not isinstance(first, BaseException)
        for _ in range(20):
            ours, theirs = await asyncio.gather(node.ping(peer.enr), told(peer, "ping", enr=text))
            assert ours.enr_seq == peer.enr.seq
            assert theirs["seq"] == node.record.seq

    run(both, kind)


def test_our_node_restarts_and_keeps_its_id(kind: str) -> None:
    """The session is lost on our side: the other side's next packet is challenged."""

    async def main() -> None:
        address, key = free_address(), Secret(b"\x07" * 32)
        async with Peer(kind) as peer:
            async with Discovery(address, advertise=address, private_key=key) as node:
                await told(peer, "ping", enr=node.record.to_text())
            async with Discovery(address, advertise=address, private_key=key) as node:
                pong = await told(peer, "ping", enr=node.record.to_text())
                assert pong["seq"] == node.record.seq
                assert (await node.ping(peer.enr)).address == address

    asyncio.run(asyncio.wait_for(main(), LIMIT))
