"""Options and the crawl of `ginnel discv5`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ginnel.base.errors import UsageError
from ginnel.base.types import Address, Secret
from ginnel.cli.discv5_node import Found, crawl, make_options, parse_listen, running_node
from ginnel.discv5.aio import Discovery
from ginnel.discv5.enr import EnrBuilder, sign_enr

ANY = Address("127.0.0.1", 0)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1:9", Address("192.0.2.1", 9)),
        ("192.0.2.1", Address("192.0.2.1", 0)),
        ("9000", Address("0.0.0.0", 9000)),
        ("[::1]:9", Address("::1", 9)),
        ("::1", Address("::1", 0)),
    ],
)
def test_where_to_listen(text: str, address: Address) -> None:
    assert parse_listen(text) == address


def test_options() -> None:
    one, two = (sign_enr(bytes([i]) * 32, 1, {}) for i in (1, 2))
    options = make_options(None, [f"{one.to_text()},{two.to_text()}"], "discv5", None)
    assert options.bootnodes == (one, two)
    with pytest.raises(UsageError):
        make_options(None, [], "short", None)
    with pytest.raises(UsageError):
        make_options(None, ["enr:x"], "discv5", None)
    for listen, reason in (
        ("nowhere", "IP:PORT"),
        ("192.0.2.1:65536", "a port is"),
        ("65536", "a port is"),
        ("300.1.1.1:9", "300.1.1.1"),
        ("::1:9:x", "IP:PORT"),
    ):
        with pytest.raises(UsageError, match=reason):
            make_options(listen, [], "discv5", None)


def test_nodes_to_begin_with_are_reached_over_ipv6_too() -> None:
    six = Address("::1", 0)

    async def main() -> None:
        async with Discovery(six, advertise=six) as server:
            options = make_options(None, [server.record.to_text()], "discv5", None)
            async with running_node(options, Address("0.0.0.0", 0)) as node:
                assert await node.lookup(node.node_id) == (server.record,)

    asyncio.run(main())


def test_the_last_run_s_record_goes_on_without_an_address_nobody_listens_at(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key = Secret(bytes([7]) * 32)
    key_file.write_text(key.reveal().hex())
    last = EnrBuilder(key, 5).ip("203.0.113.1").udp(9).set("k", b"v").build()
    (tmp_path / "key.enr").write_text(last.to_text())

    async def main() -> None:
        async with running_node(
            make_options(None, [], "discv5", key_file), Address("0.0.0.0", 0)
        ) as node:
            assert (node.record.seq, node.record.get("k")) == (6, b"v")
            assert node.record.addresses == ()
        options = make_options("127.0.0.1", [], "discv5", key_file)
        async with running_node(options, ANY) as node:
            assert (node.record.seq, node.record.get("k")) == (7, b"v")
            assert node.record.addresses == (node.listening_address,)

    asyncio.run(main())


def test_a_crawl_finds_everybody_and_ends() -> None:
    async def main() -> None:
        boot = Discovery(ANY, advertise=ANY)
        boot.open()
        boot.start()
        nodes = [Discovery(ANY, advertise=ANY, bootstrap=[boot.record]) for _ in range(7)]
        for node in nodes:
            node.open()
            node.start()
            await node.lookup(node.node_id)
            await boot.ping(node.record)  # what it answers makes it one that is named to others
        steps: list[tuple[int, int, int]] = []
        async with Discovery(ANY, bootstrap=[boot.record]) as crawler:
            found: list[Found] = []
            few: list[Found] = []
            await crawl(crawler, lambda *step: steps.append(step), 100, found)
            await crawl(crawler, lambda *step: None, 3, few)
        everyone = {node.node_id for node in [boot, *nodes]}
        assert {item.record.node_id for item in found} == everyone
        assert all(item.answered for item in found)
        assert steps[-1] == (8, 8, 8)
        assert len(few) == 3
        for node in [boot, *nodes]:
            await node.close_wait()

    asyncio.run(main())
