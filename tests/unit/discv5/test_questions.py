"""Questions that are waited for to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from ginnel.base.types import Address, NodeId
from ginnel.discv5 import Discovery, DiscoveryConfig, NoAddressError, RequestRefused
from ginnel.discv5.enr import sign_enr
from support.eventually import until

ANY = Address("127.0.0.1", 0)
SILENT = sign_enr(b"\x01" * 32, 1, {"ip": b"\x7f\x00\x00\x01", "udp": 9})
NOWHERE = sign_enr(b"\x02" * 32, 1, {})
QUICK = DiscoveryConfig(response_timeout=0.3, retransmit_after=0.1)


def test_populate_ends_when_the_table_is_filled() -> None:
    async def main() -> None:
        async with Discovery(ANY, advertise=ANY) as server:
            others = [Discovery(ANY, advertise=ANY, bootstrap=[server.record]) for _ in range(3)]
            for other in others:
                other.open()
                await other.ping(server.record)
                other.start()
            await until(lambda: len(server.neighbours(server.node_id, seen_only=True)) == 3)
            node = Discovery(ANY, bootstrap=[server.record])
            node.open()
            assert node.seed() == 0  # `open` did it
            assert await node.populate() == node.nodes_discovered == 4
            both = await asyncio.gather(node.populate(), node.populate())
            assert both == [4, 4]
            for closing in (node, *others):
                await closing.close_wait()

    asyncio.run(main())


def test_populate_ends_where_nobody_answers() -> None:
    async def main() -> None:
        node = Discovery(ANY, bootstrap=[SILENT], config=QUICK)
        node.open()
        assert await node.populate() == 1
        node.close()
        alone = Discovery(ANY)
        alone.open()
        assert await alone.populate() == 0
        alone.close()

    asyncio.run(main())


def test_revalidate_marks_replaces_and_fetches() -> None:
    async def main() -> None:
        async with Discovery(ANY, advertise=ANY) as server:
            node = Discovery(ANY, bootstrap=[], config=QUICK)
            node.open()
            node.add_node(server.record)
            node.add_node(SILENT)
            assert node.neighbours(node.node_id, seen_only=True) == []
            assert await node.revalidate(server.record)
            assert node.neighbours(node.node_id, seen_only=True) == [server.record]
            newer = server.update_record({"k": b"new"})
            assert await node.revalidate(server.record)
            assert node.nodes()[0] == newer
            with pytest.raises(NoAddressError):
                await node.revalidate(NOWHERE)
            async with asyncio.TaskGroup() as tasks:  # others are heard, so the node is to blame
                check = tasks.create_task(node.revalidate(SILENT))
                await asyncio.sleep(0)
                await node.ping(server.record)
            assert check.result() is False
            assert node.nodes() == [newer]
            await node.close_wait()

    asyncio.run(main())


def test_what_is_too_much_is_refused() -> None:
    async def main() -> None:
        config = DiscoveryConfig(lookup_limit=1, request_limit=2)
        node = Discovery(ANY, bootstrap=[SILENT], config=config)
        node.open()
        target = NodeId(bytes(32))
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(node.lookup(target))]
            await asyncio.sleep(0)
            for question in (node.lookup, node.query, node.resolve):
                with pytest.raises(RequestRefused, match="too many"):
                    await question(target)
            running[0].cancel()
            pings = [tasks.create_task(_refused(node.ping(SILENT))) for _ in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(RequestRefused, match="too many"):
                await node.revalidate(SILENT)
            await node.close_wait()
            assert all([await ping for ping in pings])

    async def _refused(question: Coroutine[Any, Any, object]) -> bool:
        with pytest.raises(RequestRefused):
            await question
        return True

    asyncio.run(main())
