"""The asyncio facade over loopback."""

from __future__ import annotations

import asyncio

import pytest

from ginnel.base.errors import UsageError
from ginnel.base.types import Address, NodeId
from ginnel.discv5 import Discovery
from ginnel.discv5.aio import RequestError
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.enr import sign_enr
from ginnel.discv5.events import PongReceived

ANY = Address("127.0.0.1", 0)


async def reachable() -> Discovery:
    """Return an open node that publishes where it listens."""
    node = Discovery(ANY)
    node.open()
    port = node.listening_address.port
    node.close()
    node = Discovery(Address("127.0.0.1", port), advertise=Address("127.0.0.1", port))
    node.open()
    return node


def test_two_nodes_talk() -> None:
    async def main() -> None:
        server = await reachable()
        server.register_talk_protocol(b"echo", lambda node_id, address, payload: payload[::-1])
        with pytest.raises(UsageError):
            server.register_talk_protocol(b"echo", lambda node_id, address, payload: b"")
        async with Discovery(ANY, bootstrap=[server.record], fields={"k": b"v"}) as client:
            pong = await client.ping(server.record)
            assert isinstance(pong, PongReceived)
            assert pong.address == client.listening_address
            assert await client.talk_request(server.record, b"echo", b"abc") == b"cba"
            assert await client.talk_request(server.record, b"other", b"abc") == b""
            assert await client.find_node(server.record, [0]) == (server.record,)
            assert await client.lookup(NodeId(bytes(32))) == (server.record,)
            assert await client.query_random() == (server.record,)
            assert client.nodes() == [server.record]
            assert client.reflexive is not None
            client.update_record({"k": b"w"})
            assert client.record.get("k") == b"w"
            assert not client.add_node(server.record)
            assert server.nodes() == []
            with pytest.raises(UsageError):
                await client.talk_request(server.record, b"echo", bytes(1200))
            with pytest.raises(UsageError):
                await server.ping(client.record)
        server.close()
        server.close()
        with pytest.raises(UsageError):
            _ = server.record

    asyncio.run(main())


def test_a_silent_node_and_closing() -> None:
    async def main() -> None:
        silent = sign_enr(b"\x01" * 32, 1, {"ip": b"\x7f\x00\x00\x01", "udp": 9})
        config = DiscoveryConfig(response_timeout=0.05, retransmit_after=0.02)
        async with Discovery(ANY, config=config) as node:
            with pytest.raises(RequestError):
                await node.ping(silent)
        node = Discovery(ANY)
        node.open()
        with pytest.raises(UsageError):
            node.open()
        waiting = asyncio.ensure_future(node.ping(silent))
        await asyncio.sleep(0)
        node.close()
        with pytest.raises(RequestError):
            await waiting

    asyncio.run(main())
