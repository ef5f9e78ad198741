"""Nodes as text, and kept on disk."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from ginnel.base.types import Address, NodeId
from ginnel.discv5 import Discovery, DiscoveryConfig, RequestTimeout, aio
from ginnel.discv5.enr import Enr, sign_enr
from ginnel.discv5.saved import choose_nodes, format_nodes, parse_nodes
from ginnel.discv5.table import RoutingTable, TableLimits
from support.eventually import until

ANY = Address("127.0.0.1", 0)
SILENT = sign_enr(b"\x01" * 32, 1, {"ip": b"\x7f\x00\x00\x01", "udp": 9})
QUICK = DiscoveryConfig(response_timeout=0.05, retransmit_after=0.02)
NODES = [sign_enr(bytes([index]) * 32, 1, {}) for index in range(1, 6)]


def node(index: int, seq: int = 1) -> Enr:
    return sign_enr(bytes([index + 1]) * 32, seq, {"ip": bytes([203, 0, index, 1]), "udp": 9})


def test_nodes_come_back_and_other_lines_are_left_out() -> None:
    text = "# nodes\n\nenr:nonsense\n" + format_nodes(NODES).replace("\n", "  # x\n", 1)
    assert parse_nodes(text, 10) == NODES
    assert parse_nodes(text, 2) == NODES[:2]
    assert parse_nodes("", 10) == []


def test_nodes_that_answered_are_kept_then_loaded_ones_that_have_a_place() -> None:
    old = [node(index) for index in range(6)]
    new = [node(index) for index in range(6, 9)]
    table = RoutingTable(NodeId(bytes(32)), TableLimits())
    for record in (*old, *new):
        table.add(record)
    rng = random.Random(1)
    assert choose_nodes(table, old, 4, rng) is None
    for record in (old[5], *new[:2]):
        table.mark_seen(record.node_id)
    table.replace(old[0].node_id)
    newer = node(1, seq=2)
    table.add(newer)
    chosen = choose_nodes(table, old, 5, rng)
    assert chosen is not None
    assert set(chosen[:3]) == {old[5], *new[:2]}
    assert chosen[3:] == [newer, old[2]]
    fewest = choose_nodes(table, old, 2, rng)
    assert fewest is not None
    assert len(fewest) == 2


def test_nodes_are_saved_every_few_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "SAVE_INTERVAL", 0.05)
    path = tmp_path / "nodes"

    async def main() -> None:
        async with (
            Discovery(ANY, advertise=ANY) as server,
            Discovery(ANY, bootstrap=[server.record], nodes_file=path),
        ):
            await until(lambda: path.exists() and server.record.to_text() in path.read_text())

    asyncio.run(main())


def test_nodes_are_saved_and_read(tmp_path: Path) -> None:
    path = tmp_path / "nodes"

    async def main() -> None:
        async with Discovery(ANY, advertise=ANY) as server:
            async with Discovery(ANY, bootstrap=[server.record], nodes_file=path) as client:
                await client.lookup(client.node_id)
            assert path.read_text() == server.record.to_text() + "\n"
            async with Discovery(ANY, nodes_file=path) as client:
                assert await client.lookup(NodeId(bytes(32))) == (server.record,)
            nowhere = tmp_path / "no" / "nodes"
            async with Discovery(ANY, bootstrap=[server.record], nodes_file=nowhere) as client:
                await client.ping(server.record)  # that it can't be saved is no reason to fail

    asyncio.run(main())


def test_a_run_in_which_nobody_answers_leaves_the_saved_nodes_alone(tmp_path: Path) -> None:
    path = tmp_path / "nodes"
    path.write_text(SILENT.to_text() + "  # kept\n")

    async def main() -> None:
        async with Discovery(ANY, nodes_file=path, config=QUICK) as client:
            with pytest.raises(RequestTimeout):
                await client.ping(SILENT)

    asyncio.run(main())
    assert path.read_text() == SILENT.to_text() + "  # kept\n"
