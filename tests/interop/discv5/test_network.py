"""Lookups through one network of 30 nodes: ten of ours, ten of go-ethereum, ten of the Rust crate.

All join through one node, take turns of kinds as neighbours, and look up the same targets.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack

import pytest

from ginnel.base.types import NodeId
from ginnel.discv5.aio import Discovery
from ginnel.discv5.enr import Enr
from support.discv5_peers import Peer, PeerError, free_address, missing

pytestmark = pytest.mark.interop

OF_EACH = 10  # nodes
TARGETS = 6  # lookups by each kind
WANTED = 16  # results of a full lookup
RECALL = 0.95  # of the true closest, over all lookups of one kind
JOIN_LIMIT = 60.0  # seconds until our nodes know enough
LIMIT = 150.0  # seconds of the test


def closest(target: NodeId, records: list[Enr]) -> list[NodeId]:
    """Return the ids of the nodes truly closest to the target."""
    number = int.from_bytes(target, "big")
    ids = [record.node_id for record in records]
    return sorted(ids, key=lambda node_id: int.from_bytes(node_id, "big") ^ number)[:WANTED]


async def until_joined(nodes: list[Discovery], peers: list[Peer]) -> None:
    """Wait until every node knows 16 others; peers that know fewer look around once more.

    On a busy machine the others may lose the one node they know to a timeout, for good: a peer that
    knows few is told three of our nodes.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + JOIN_LIMIT
    while True:
        few = [node for node in nodes if len(node.nodes()) < WANTED]
        tables = [(peer, await peer.ask_records("table")) for peer in peers]
        short = [(peer, len(table)) for peer, table in tables if len(table) < WANTED]
        if not few and not short:
            return
        state = [len(node.nodes()) for node in few], [(peer.kind, n) for peer, n in short]
        assert loop.time() < ends_at, f"these know too few others: {state}"
        searches = [node.query_random() for node in few]
        for peer, _ in short:
            for node in nodes[:3]:
                await peer.ask("add", enr=node.record.to_text())
        asked = [peer.ask("lookup", target=peer.enr.node_id.hex()) for peer, _ in short]
        await asyncio.gather(*searches, *asked, return_exceptions=True)


@pytest.mark.parametrize("first", ["ours", "go", "rust"])
def test_lookups_find_the_closest_of_a_mixed_network(first: str) -> None:
    for kind in ("go", "rust"):
        if (reason := missing(kind)) is not None:
            pytest.skip(reason)
    asyncio.run(asyncio.wait_for(mixed_network(first), LIMIT))


async def mixed_network(first: str) -> None:
    """Join all through a first node of this kind, then look up from every kind."""
    async with AsyncExitStack() as stack:
        nodes: list[Discovery] = []
        peers: list[Peer] = []

        async def add(kind: str, bootstrap: list[Enr]) -> Enr:
            if kind == "ours":
                address = free_address()
                node = Discovery(address, advertise=address, bootstrap=bootstrap)
                nodes.append(await stack.enter_async_context(node))
                return node.record
            peers.append(await stack.enter_async_context(Peer(kind, bootnodes=bootstrap)))
            return peers[-1].enr

        records = [await add(first, [])]
        kinds = [kind for _ in range(OF_EACH) for kind in ("ours", "go", "rust")]
        kinds.remove(first)
        for kind in kinds:
            records.append(await add(kind, records[:1]))
        await until_joined(nodes, peers)
        recall = {"ours": 0, "go": 0, "rust": 0}
        for number in range(TARGETS):
            target = NodeId(hashlib.sha256(bytes((number,))).digest())
            truth = closest(target, records)
            found = await nodes[number].lookup(target)
            recall["ours"] += count(found, nodes[number].node_id, truth)
            for kind in ("go", "rust"):
                asker = [peer for peer in peers if peer.kind == kind][number]
                try:
                    results = await asker.ask_records("lookup", target=target.hex())
                except PeerError:
                    results = []
                recall[kind] += count(tuple(results), asker.enr.node_id, truth)
        assert all(found >= RECALL * TARGETS * WANTED for found in recall.values()), recall


def count(found: tuple[Enr, ...], asker: NodeId, truth: list[NodeId]) -> int:
    """Count the true closest that were found; the asker does not find itself."""
    ids = {record.node_id for record in found} | {asker}
    return sum(node_id in ids for node_id in truth)
