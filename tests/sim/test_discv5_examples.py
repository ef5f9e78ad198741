"""The examples of docs/discv5.md, over loopback, and that the guide shows them as they are."""

from __future__ import annotations

import asyncio
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import ginnel.discv5
from ginnel.discv5 import Address, Discovery, Enr, EnrBuilder

DOCS = Path(__file__).resolve().parents[2] / "docs"
ANY = Address("127.0.0.1", 0)


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "examples" / "discv5" / f"{name}.py"))


async def network(count: int) -> list[Discovery]:
    """Return running nodes that have met; every third has the field."""
    nodes: list[Discovery] = []
    for index in range(count):
        fields = {"color": b"\x07"} if index % 3 == 0 else {}
        boot = [nodes[0].record] if nodes else []
        node = Discovery(ANY, advertise=ANY, fields=fields, bootstrap=boot)
        node.open()
        node.start()
        nodes.append(node)
        await node.lookup(node.node_id)
        if index:
            await nodes[0].ping(node.record)  # who answers it is named to others
    return nodes


def test_find_peers() -> None:
    async def main() -> None:
        nodes = await network(9)
        boot = [nodes[0].record.to_text()]
        found = await example("find_peers")["find_peers"]("color", b"\x07", boot, 3, ANY)
        assert {enr.node_id for enr in found} == {node.node_id for node in nodes[::3]}
        for node in nodes:
            await node.close_wait()

    asyncio.run(main())


def test_talk_protocol() -> None:
    async def main() -> None:
        module = example("talk_protocol")
        async with module["make_server"](Address("127.0.0.1", 0)) as server:
            text = server.record.to_text()
            assert await module["ask"](text, "one two three", ANY) == 3
        async with Discovery(ANY, advertise=ANY) as other:
            assert await module["ask"](other.record.to_text(), "one", ANY) is None

    asyncio.run(main())


def test_crawler() -> None:
    async def main() -> None:
        nodes = await network(7)
        found = await example("crawler")["crawl"]([nodes[0].record.to_text()], ANY)
        assert {enr.node_id for enr in found} == {node.node_id for node in nodes}
        assert all(found.values())
        for node in nodes:
            await node.close_wait()

    asyncio.run(main())


@pytest.mark.parametrize("name", ["find_peers", "talk_protocol", "crawler"])
def test_the_guide_names_each_example(name: str) -> None:
    guide = (DOCS / "discv5.md").read_text()
    assert f"examples/discv5/{name}.py" in guide


def test_the_guides_first_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "discv5.md").read_text(), re.DOTALL)
    assert block.rstrip().endswith("asyncio.run(main())")

    async def main() -> None:
        nodes = await network(3)
        program = block.replace('"0.0.0.0", 9000', '"127.0.0.1", 0')
        program = program.replace('"enr:-..."', repr(nodes[0].record.to_text()))
        names: dict[str, Any] = {}
        exec(program.rpartition("asyncio.run(main())")[0], names)
        await names["main"]()
        assert nodes[0].node_id.hex() in capsys.readouterr().out
        for node in nodes:
            await node.close_wait()

    asyncio.run(main())


@pytest.mark.parametrize("owner", [ginnel.discv5, Discovery, Enr, EnrBuilder])
def test_the_guide_names_all_that_is_public(owner: object) -> None:
    guide = (DOCS / "discv5.md").read_text()
    public = [name for name in dir(owner) if not name.startswith("_")]
    assert [name for name in public if name not in guide] == []


def test_every_name_of_the_package_is_there() -> None:
    for name in dir(ginnel.discv5):
        if not name.startswith("_"):
            assert getattr(ginnel.discv5, name) is not None
    with pytest.raises(AttributeError):
        _ = ginnel.discv5.nothing
