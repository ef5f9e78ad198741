"""The asyncio facade over loopback."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from ginnel.base.errors import RemoteProtocolError, SystemFailure, UsageError
from ginnel.base.types import Address, NodeId, Secret
from ginnel.discv5 import (
    Discovery,
    DiscoveryConfig,
    EnrBuilder,
    MessageTooLarge,
    NoAddressError,
    RequestRefused,
    RequestTimeout,
)
from ginnel.discv5.aio import lookup_distances
from ginnel.discv5.enr import sign_enr
from ginnel.discv5.events import (
    AddressChanged,
    NodeAdded,
    NodeRemoved,
    PongReceived,
    ReflexiveChanged,
    SessionOpened,
    TalkReceived,
)
from support.eventually import until

ANY = Address("127.0.0.1", 0)
ANY6 = Address("::1", 0)
SILENT = sign_enr(b"\x01" * 32, 1, {"ip": b"\x7f\x00\x00\x01", "udp": 9})
NO_RESPONSE = 'incoming_total{response="no_response"} 0'
QUICK = DiscoveryConfig(response_timeout=0.05, retransmit_after=0.02)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it and see that no task is left."""

    async def outer() -> None:
        await main
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(outer())


def test_two_nodes_talk() -> None:
    async def main() -> None:
        async with Discovery(ANY, advertise=ANY) as server:
            assert server.record.address() == server.listening_address
            asked: list[tuple[NodeId, Address]] = []

            def echo(node_id: NodeId, address: Address, data: bytes) -> bytes:
                asked.append((node_id, address))
                return data[::-1]

            server.register_talk_protocol(b"echo", echo)
            assert server.talk_protocols == (b"echo",)
            async with Discovery(ANY, bootstrap=[server.record.to_text()]) as client:
                pong = await client.ping(server.record)
                assert isinstance(pong, PongReceived)
                assert pong.address == client.listening_address
                assert await client.talk_request(server.record, b"echo", b"abc") == b"cba"
                assert asked == [(client.node_id, client.listening_address)]
                assert await client.talk_request(server.record, b"other", b"abc") == b""
                assert await client.find_node(server.record, [0]) == (server.record,)
                assert client.reflexive is not None
                assert client.reflexive.address == client.listening_address
                with pytest.raises(MessageTooLarge):
                    await client.talk_request(server.record, b"echo", bytes(1200))
                with pytest.raises(NoAddressError):
                    await server.ping(client.record)
                assert client.bootstrap_records == (server.record,)
                assert server.nodes() == []
            with pytest.raises(UsageError):
                _ = client.record

    run(main())


def test_searches() -> None:
    async def main() -> None:
        async with Discovery(ANY, advertise=ANY, fields={"k": b"1"}) as server:
            boot = [server.record]
            async with Discovery(ANY, bootstrap=boot) as client:
                assert await client.lookup(NodeId(bytes(32))) == (server.record,)
                assert await client.query(NodeId(bytes(32)), k=3) == (server.record,)
                assert await client.query_random() == (server.record,)
                assert await client.query_random(("k", b"1")) == (server.record,)
                assert await client.query_random(("k", b"2")) == ()
                assert await client.resolve(client.node_id) == client.record
                newer = server.update_record({"k": b"2"})
                assert await client.resolve(server.node_id) == newer
                assert await client.resolve(NodeId(bytes(32))) is None
                assert client.nodes_discovered == 1
                assert client.get_node(server.node_id) == newer
                assert not client.add_node(server.record)
                assert client.add_node(SILENT.to_text())
                with pytest.raises(RemoteProtocolError):
                    client.add_node("enr:no")
                assert client.seed() == 0

    run(main())


def test_events_are_told_until_the_end() -> None:
    async def main() -> None:
        async with Discovery(ANY, advertise=ANY) as server:
            told = server.events()
            async with Discovery(ANY, advertise=ANY, bootstrap=[server.record]) as client:
                await client.talk_request(server.record, b"hi", b"x")
                ping = await server.ping(client.record)
                assert ping.contact.node_id == client.node_id
        kinds = {type(event) for event in [event async for event in told]}
        assert {NodeAdded, SessionOpened, TalkReceived} <= kinds

    run(main())


def test_every_kind_of_event_is_told() -> None:
    async def main() -> None:
        config = DiscoveryConfig(
            response_timeout=0.3, retransmit_after=0.1, revalidate_max=0.1, auto_update=True
        )
        async with Discovery(ANY, advertise=ANY) as server:
            node = Discovery(ANY, config=config)
            node.open()
            told = node.events()
            node.add_node(server.record)
            node.add_node(SILENT)
            node.start()
            await node.ping(server.record)
            await server.ping(node.record)  # its address is in the record by now
            await server.talk_request(node.record, b"x", b"")
            await until(lambda: node.nodes_discovered == 1)
            await node.close_wait()
            wanted = {
                NodeAdded,
                NodeRemoved,
                SessionOpened,
                TalkReceived,
                AddressChanged,
                ReflexiveChanged,
            }
            assert {type(event) for event in [event async for event in told]} >= wanted

    run(main())


def test_what_can_not_be_opened_leaves_no_socket(tmp_path: Path) -> None:
    async def main() -> None:
        free = Discovery(ANY)
        free.open()
        address = free.listening_address
        free.close()
        other = EnrBuilder(Secret(b"\x05" * 32)).build()
        (tmp_path / "nodes").mkdir()
        for node, error in (
            (Discovery(address, fields={"k": bytes(300)}), UsageError),
            (Discovery(address, previous=other), UsageError),
            (Discovery(address, nodes_file=tmp_path / "nodes"), SystemFailure),
        ):
            with pytest.raises(error):
                node.open()
            node.close()
        async with Discovery(address) as last:
            assert last.listening_address == address

    run(main())


def test_a_callback_that_fails_does_not_end_the_node(caplog: pytest.LogCaptureFixture) -> None:
    def fail(address: Address) -> None:
        raise ValueError("no")

    async def main() -> None:
        config = DiscoveryConfig(auto_update=True)
        async with (
            Discovery(ANY, advertise=ANY) as server,
            Discovery(
                ANY, bootstrap=[server.record], config=config, on_address_changed=fail
            ) as node,
        ):
            await node.ping(server.record)
            assert "on_address_changed failed" in caplog.text
            assert await node.find_node(server.record, [0]) == (server.record,)

    run(main())


def test_a_silent_node_and_closing() -> None:
    async def main() -> None:
        async with Discovery(ANY, config=QUICK) as node:
            with pytest.raises(RequestTimeout):
                await node.ping(SILENT)
            assert 'response="no_response"} 1' in node.metrics_text()
        node = Discovery(ANY)
        node.open()
        with pytest.raises(UsageError):
            node.open()
        node.start()
        node.start()
        waiting = asyncio.ensure_future(node.ping(SILENT))
        await asyncio.sleep(0)
        await node.close_wait()
        node.close()
        with pytest.raises(RequestRefused):
            await waiting
        with pytest.raises(UsageError):
            node.events()

    run(main())


def test_an_open_node_answers_before_it_starts() -> None:
    async def main() -> None:
        server = Discovery(ANY, advertise=ANY, bootstrap=[SILENT])
        server.open()
        assert server.nodes_discovered == 1
        async with Discovery(ANY) as client:
            assert (await client.ping(server.record)).enr_seq == server.record.seq
        server.close()

    run(main())


def test_dual_stack() -> None:
    async def main() -> None:
        async with Discovery(ANY, bind6=ANY6, advertise=ANY, advertise6=ANY6) as server:
            four, six = server.listening_addresses
            assert (server.record.address(), server.record.address(ipv6=True)) == (four, six)
            for bind in (ANY, ANY6):
                async with Discovery(bind, bootstrap=[server.record]) as client:
                    pong = await client.ping(server.record)
                    assert pong.address == client.listening_address
                    assert await client.lookup(NodeId(bytes(32))) == (server.record,)
        taken = Discovery(ANY, bind6=Address("2001:db8::1", 9))
        with pytest.raises(SystemFailure):
            taken.open()
        with pytest.raises(UsageError):
            Discovery(ANY, bind6=ANY).open()

    run(main())


def test_a_callers_own_socket() -> None:
    async def main() -> None:
        nodes: dict[Address, Discovery] = {}
        here, there = Address("10.0.0.1", 1), Address("10.0.0.2", 2)

        def pipe(source: Address) -> Callable[[Address, bytes], object]:
            return lambda to, packet: loop.call_soon(carry, source, to, packet)

        def carry(source: Address, to: Address, packet: bytes) -> None:
            nodes[to].receive(source, packet)

        loop = asyncio.get_running_loop()
        for address in (here, there):
            nodes[address] = Discovery(address, advertise=address, transport=pipe(address))
            nodes[address].open()
        pong = await nodes[here].ping(nodes[there].record)
        assert pong.address == here
        nodes[here].receive(there, b"anything")
        nodes[here].send(there, b"anything")
        for node in nodes.values():
            node.close()

    run(main())


def test_a_callers_socket_that_fails_loses_packets_only() -> None:
    async def main() -> None:
        is_down = False
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.bind(("127.0.0.1", 0))
            own.setblocking(False)
            here = Address(*own.getsockname())

            def send(address: Address, packet: bytes) -> None:
                if is_down:
                    raise OSError(errno.ENETUNREACH, "Network is unreachable")
                own.sendto(packet, address)

            def take() -> None:
                packet, (ip, port) = own.recvfrom(2000)
                node.receive(Address(ip, port), packet)

            config = DiscoveryConfig(response_timeout=1.0, revalidate_max=0.1)
            async with Discovery(ANY, advertise=ANY) as server:
                node = Discovery(here, bootstrap=[], config=config, transport=send)
                node.open()
                node.start()
                asyncio.get_running_loop().add_reader(own.fileno(), take)
                node.add_node(server.record)
                assert (await node.ping(server.record)).address == here
                is_down = True
                with pytest.raises(RequestTimeout):
                    await node.ping(server.record)
                assert node.nodes() == [server.record]
                is_down = False
                await until(lambda: node.neighbours(node.node_id, seen_only=True) != [])
                asyncio.get_running_loop().remove_reader(own.fileno())
                await node.close_wait()

    run(main())


def test_a_failed_send_is_counted_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Discovery(ANY, transport=unreachable) as node:
            node.send(ANY, b"x")
            node.send(ANY, b"y")
            assert "discovery_sends_failed_total 2" in node.metrics_text()
        async with Discovery(ANY) as node:
            node.send(Address("255.255.255.255", 9), b"x")
            assert "discovery_sends_failed_total 1" in node.metrics_text()
        assert caplog.text.count("could not be sent") == 2

    run(main())


def unreachable(address: Address, packet: bytes) -> None:
    raise OSError(errno.ENETUNREACH, "no route")


def test_the_previous_record_goes_on() -> None:
    async def main() -> None:
        key = Secret(b"\x05" * 32)
        previous = EnrBuilder(key, 9).set("k", b"v").build()
        async with Discovery(ANY, private_key=key, fields={"k": b"v"}, previous=previous) as node:
            assert node.record == previous
        async with Discovery(ANY, private_key=key, previous=previous) as node:
            assert node.record == previous
        async with Discovery(ANY, private_key=key, fields={"k": b"w"}, previous=previous) as node:
            assert node.record.seq == 10

    run(main())


def test_the_record_follows_what_others_see() -> None:
    async def main() -> None:
        told: list[Address] = []
        config = DiscoveryConfig(auto_update=True)
        async with Discovery(ANY, advertise=ANY) as server:
            node = Discovery(
                ANY, bootstrap=[server.record], config=config, on_address_changed=told.append
            )
            async with node:
                await node.ping(server.record)
                assert told == [node.listening_address]
                assert node.record.address() == node.listening_address

    run(main())


def test_an_address_that_the_caller_found_out_is_followed_by_what_others_see() -> None:
    async def main() -> None:
        config = DiscoveryConfig(auto_update=True)
        found = Address("127.0.0.7", 9)
        async with Discovery(ANY, advertise=ANY) as server:
            async with Discovery(ANY, bootstrap=[server.record], config=config) as node:
                before = node.record.seq
                record = node.update_external_ip(found)
                assert (record.address(), record.seq) == (found, before + 1)
                await node.ping(server.record)
                assert node.record.address() == node.listening_address
            given = Discovery(ANY, advertise=found, bootstrap=[server.record], config=config)
            async with given:
                await given.ping(server.record)
                assert given.record.address() == found  # one that was given stays

    run(main())


def test_a_handler_that_fails_gives_the_empty_answer(caplog: pytest.LogCaptureFixture) -> None:
    def fail(node_id: NodeId, address: Address, payload: bytes) -> bytes:
        raise ValueError("no")

    async def main() -> None:
        async with Discovery(ANY, advertise=ANY) as server, Discovery(ANY) as client:
            server.register_talk_protocol(b"bad", fail)
            server.register_talk_protocol(b"big", lambda *_: bytes(2000))
            assert await client.talk_request(server.record, b"bad", b"") == b""
            assert await client.talk_request(server.record, b"big", b"") == b""
        assert "handler failed" in caplog.text

    run(main())


def test_asynchronous_handlers_answer_later_and_in_bounds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    at_work, go_on = 0, asyncio.Event()

    async def slow(node_id: NodeId, address: Address, payload: bytes) -> bytes:
        nonlocal at_work
        at_work += 1
        if payload != b"never":
            await go_on.wait()
            return payload * 2
        await asyncio.Future()
        return b""

    async def fail(node_id: NodeId, address: Address, payload: bytes) -> bytes:
        raise ValueError("no")

    async def main() -> None:
        config = DiscoveryConfig(response_timeout=0.4, retransmit_after=5.0, talk_handlers=2)
        async with (
            Discovery(ANY, advertise=ANY, config=config) as server,
            Discovery(ANY, config=DiscoveryConfig(retransmit_after=5.0)) as client,
        ):
            server.register_talk_protocol(b"slow", slow)
            server.register_talk_protocol(b"fail", fail)
            assert await client.talk_request(server.record, b"fail", b"x") == b""
            assert "handler failed" in caplog.text
            async with asyncio.TaskGroup() as tasks:
                for payload in (b"one", b"two"):
                    asked = client.talk_request(server.record, b"slow", payload)
                    asking = tasks.create_task(asked)
                await until(lambda: at_work == 2)
                assert (await client.ping(server.record)).enr_seq == server.record.seq
                third = tasks.create_task(client.talk_request(server.record, b"slow", b"three"))
                await until(lambda: NO_RESPONSE not in server.metrics_text())
                assert (at_work, third.done()) == (2, False)  # nothing was begun nor answered
                go_on.set()
                assert await asking == b"twotwo"
                third.cancel()
            async with asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(client.talk_request(server.record, b"slow", b"never"))
                await until(lambda: "took too long" in caplog.text)
                assert not waiting.done()
                waiting.cancel()

    run(main())


def test_closing_ends_handlers_at_work() -> None:
    ended = False

    async def slow(node_id: NodeId, address: Address, payload: bytes) -> bytes:
        nonlocal ended
        begun.set()
        try:
            await asyncio.Future()
        finally:
            await asyncio.sleep(0)
            ended = True
        return b""

    begun = asyncio.Event()

    async def main() -> None:
        async with Discovery(ANY) as client, asyncio.TaskGroup() as tasks:
            async with Discovery(ANY, advertise=ANY) as server:
                server.register_talk_protocol(b"slow", slow)
                asking = tasks.create_task(client.talk_request(server.record, b"slow", b"x"))
                await begun.wait()
            assert ended
            asking.cancel()

    run(main())


def test_metrics_for_prometheus() -> None:
    client = pytest.importorskip("prometheus_client")

    async def main() -> None:
        registry = client.CollectorRegistry()
        async with Discovery(ANY, advertise=ANY) as server, Discovery(ANY) as node:
            registry.register(server.metrics_collector())
            await node.ping(server.record)
            value = registry.get_sample_value("discovery_handshakes_accepted_total")
            assert value == 1

    run(main())


def test_lookup_distances() -> None:
    target, node = NodeId(bytes(32)), NodeId(bytes(31) + b"\x08")
    assert lookup_distances(target, node, 3) == (4, 5, 3)
