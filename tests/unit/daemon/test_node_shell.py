"""Two nodes on loopback with real sockets and clocks; the texts for addresses and hints."""

import asyncio
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from ginnel.base.errors import UsageError
from ginnel.base.types import Address, Secret
from ginnel.daemon.node_core import NodeCore, NodeEvent
from ginnel.daemon.node_shell import NodeShell, parse_advertised, read_hints, record_fields
from ginnel.daemon.wall_clock import WallClock
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.events import NodeAdded, ReflexiveChanged
from ginnel.discv5.protocol import DiscoveryCore
from ginnel.mesh.rendezvous import contact_of
from ginnel.net.udp import UdpSocket
from ginnel.storage.identity import draw_secp256k1

WAIT = 10.0  # seconds, at most


@dataclass
class Node:
    """A shell and what it told."""

    shell: NodeShell
    source: UdpSocket
    events: list[NodeEvent]


def make_node() -> Node:
    """Make a node that says it is reachable at its loopback address."""
    source = UdpSocket.open(Address("127.0.0.1", 0))
    now = asyncio.get_running_loop().time()
    key: Secret = draw_secp256k1(os.urandom)
    discovery = DiscoveryCore(
        DiscoveryConfig(protocol_id=b"ginnel"),
        key,
        fields=record_fields(serves=True),
        endpoint=source.address,
        bootstrap=[],
        random_bytes=os.urandom,
        rng=random.Random(1),
        now=now,
    )
    core = NodeCore(discovery, clock=WallClock.at(time.time(), now))
    events: list[NodeEvent] = []
    return Node(NodeShell(core, source, events.append, port=source.address.port), source, events)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110  # events are told to a plain callback
            await asyncio.sleep(0)


@pytest.mark.parametrize("short", [False, True], ids=["a record", "key and address"])
def test_two_nodes_find_each_other_by_a_hint(short: bool) -> None:
    async def play() -> None:
        one, two = make_node(), make_node()
        one.shell.start()
        record = one.shell.core.discovery.record
        contact = contact_of(record)
        assert contact is not None
        two.shell.start([contact if short else record])
        running = [asyncio.ensure_future(node.shell.run()) for node in (one, two)]
        await until(lambda: any(isinstance(event, NodeAdded) for event in two.events))
        await until(lambda: any(isinstance(event, ReflexiveChanged) for event in two.events))
        assert abs(two.shell.unix_now - time.time()) < 5.0
        two.shell.on_wake()
        for node in (one, two):
            node.shell.stop()
        await asyncio.gather(*running)
        for node in (one, two):
            node.source.close()

    asyncio.run(play())


def test_a_shell_that_was_stopped_takes_no_commands() -> None:
    async def play() -> None:
        node = make_node()
        node.shell.start()
        running = asyncio.ensure_future(node.shell.run())
        await asyncio.sleep(0)
        node.shell.stop()
        node.shell.stop()  # a second signal does no harm
        node.shell.changed()
        await running
        node.source.close()

    asyncio.run(play())


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("192.0.2.7", Address("192.0.2.7", 41000)),
        ("192.0.2.7:5", Address("192.0.2.7", 5)),
        ("2001:db8::7", Address("2001:db8::7", 41000)),
        ("[2001:db8::7]", Address("2001:db8::7", 41000)),
        ("[2001:db8::7]:5", Address("2001:db8::7", 5)),
    ],
)
def test_an_address_that_is_advertised(text: str, address: Address | None) -> None:
    assert parse_advertised(text, 41000) == address


@pytest.mark.parametrize(
    "text", ["host", "192.0.2.7:", "192.0.2.7:x", "192.0.2.7:70000", "[::1", "::1]:5x", ":", "1.2"]
)
def test_what_can_not_be_advertised(text: str) -> None:
    with pytest.raises(UsageError, match=r"--advertise .* write IP"):
        parse_advertised(text, 41000)


def test_hints_that_can_not_be_used_now_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    assert read_hints(["nonsense", "enr:-x"]) == []
    assert "KEY-HEX@NAME:PORT" in caplog.text


def test_a_record_tells_everybody_only_what_the_node_offers() -> None:
    assert record_fields(serves=True) == {"ginnel": [1, 1]}
    assert record_fields(serves=False) == {}
