"""Connections of one machine: one to each peer, and in turn."""

import asyncio
from dataclasses import replace

import pytest

from ginnel.base.errors import UsageError
from ginnel.base.types import Address
from ginnel.ice.candidate import make_host
from ginnel.net.udp import UdpSocket
from ginnel.peer import Conn, ConnGroup
from ginnel.peer.errors import ConnectionClosed
from ginnel.peer.events import ConnConfig
from unit.peer.test_aio import KEYS, make_handlers


def test_a_second_connection_to_a_peer_is_refused_until_the_first_is_closed() -> None:
    """Seed 000's weak point: closed before it is opened, the first one must not stay."""

    async def main() -> None:
        source, group = UdpSocket.open(Address("127.0.0.1", 0)), ConnGroup()
        first = Conn(ConnConfig(KEYS[1], KEYS[0]), source, make_handlers(), group=group)
        with pytest.raises(UsageError, match="there is a connection"):
            Conn(ConnConfig(KEYS[1], KEYS[0]), source, make_handlers(), group=group)
        first.close()
        second = Conn(ConnConfig(KEYS[1], KEYS[0]), source, make_handlers(), group=group)
        with pytest.raises(ConnectionClosed):
            await first.open()
        with pytest.raises(UsageError, match="there is a connection"):
            Conn(ConnConfig(KEYS[1], KEYS[0]), source, make_handlers(), group=group)
        second.close()
        source.close()

    asyncio.run(asyncio.wait_for(main(), 20.0))


def test_a_group_connects_to_one_at_a_time_and_to_all() -> None:
    """Nobody answers: each place is given on after 2 s, to the connections that wait."""

    async def main() -> None:
        group, order = ConnGroup(1), []
        sources = [UdpSocket.open(Address("127.0.0.1", 0)) for _ in range(3)]
        done = asyncio.Event()

        def note(number: int) -> None:
            if number not in order:
                order.append(number)
            if len(order) == 3:
                done.set()

        conns = []
        for number, source in enumerate(sources):
            handlers = replace(make_handlers(), signal_offer=lambda _, n=number: note(n))
            config = ConnConfig(bytes([number]) * 32, KEYS[0])
            conns.append(Conn(config, source, handlers, group=group))
            conns[-1].set_local_candidates([make_host(source.address)])
        tasks = [asyncio.ensure_future(conn.open()) for conn in conns]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == [0]
        await done.wait()
        assert order == [0, 1, 2]
        for conn, task in zip(conns, tasks, strict=True):
            conn.close()
            with pytest.raises(ConnectionClosed):
                await task
        for source in sources:
            source.close()

    asyncio.run(asyncio.wait_for(main(), 60.0))
