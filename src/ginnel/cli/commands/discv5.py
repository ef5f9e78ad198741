"""`ginnel discv5`: a node of any discv5 network, and questions to others."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.base.types import Address, NodeId, Secret
from ginnel.cli.render import SCHEMA, milliseconds, show_json, table

if TYPE_CHECKING:
    from ginnel.cli.discv5_node import Found, NodeOptions
    from ginnel.discv5.enr import Enr

ANY_PORT = Address("0.0.0.0", 0)
NODE_PORT = 9000  # UDP, what most discv5 nodes use
MAX_SEQ = 2**64 - 1  # of a record
MAX_CRAWL = 100_000  # nodes
NO_ADDRESS = (
    "This record has no address: others can't find this node. "
    "With --listen IP:PORT, one of this machine's, it has."
)
Command = Callable[..., None]


def node_options(command: Command) -> Command:
    """Add the options that every command with a node has; it gets them as `options`."""

    @click.option("--bootnodes", multiple=True, metavar="ENR[,ENR...]", help="Nodes to begin with.")
    @click.option("--protocol-id", default="discv5", show_default=True, help="6 bytes.")
    @click.option("--listen", "address", metavar="IP:PORT", help="Listen here, and publish it.")
    @click.option(
        "--key-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Private key as hex; made if it is not there.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @wraps(command)
    def wrapped(
        *args: Any,  # noqa: ANN401  (click's)
        bootnodes: tuple[str, ...],
        protocol_id: str,
        address: str | None,
        key_file: Path | None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        from ginnel.cli.discv5_node import make_options

        options = make_options(address, bootnodes, protocol_id, key_file)
        command(*args, options=options, **kwargs)

    return wrapped


@click.group()
def discv5() -> None:
    """Speak discv5: find nodes, ask them, be one.

    These commands work in any discv5 network, Ethereum's for one; Ginnel's own has
    --protocol-id ginnel.

    \b
    Examples:
      ginnel discv5 listen --listen 192.0.2.7:9000
      ginnel discv5 ping enr:-...
      ginnel discv5 crawl --bootnodes enr:-... --output nodes.txt
    """


@discv5.command()
@node_options
@click.option("--echo", multiple=True, metavar="PROTOCOL", help="Answer TALKREQs with themselves.")
def listen(options: NodeOptions, echo: tuple[str, ...], as_json: bool) -> None:
    """Run a node until Ctrl-C; its first line is its ENR."""
    from ginnel.cli.discv5_node import running_node

    async def main() -> None:
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        default = Address(ANY_PORT.ip, NODE_PORT)
        protocols = [name.encode() for name in echo]
        async with running_node(options, default, protocols) as node:
            text = node.record.to_text()
            click.echo(json.dumps({"schema": SCHEMA, "enr": text}) if as_json else text)
            sys.stdout.flush()
            if not node.record.addresses:
                click.echo(NO_ADDRESS, err=True)
            await ended.wait()

    asyncio.run(main())


@discv5.command()
@node_options
@click.argument("enr")
@click.option("--count", default=1, show_default=True, type=click.IntRange(1, 1000))
def ping(options: NodeOptions, enr: str, count: int, as_json: bool) -> None:
    """Ask a node whether it is there, and how it sees us."""
    from ginnel.cli.discv5_node import parse_record, running_node

    async def main() -> None:
        record = parse_record(enr)
        async with running_node(options, _any_port(record)) as node:
            for _ in range(count):
                began = time.perf_counter()
                pong = await node.ping(record)
                seconds = time.perf_counter() - began
                if as_json:
                    show_json(
                        {
                            "schema": SCHEMA,
                            "seconds": seconds,
                            "enr_seq": pong.enr_seq,
                            "address": str(pong.address),
                        }
                    )
                else:
                    text = f"{milliseconds(seconds)}, record {pong.enr_seq}, sees us at"
                    click.echo(f"{text} {pong.address}")

    asyncio.run(main())


@discv5.command()
@node_options
@click.argument("enr")
@click.argument("distances", nargs=-1, type=click.IntRange(0, 256))
def findnode(options: NodeOptions, enr: str, distances: tuple[int, ...], as_json: bool) -> None:
    """Ask a node for the nodes it knows at log2 distances (0: its own record; default 254-256)."""
    from ginnel.cli.discv5_node import parse_record, running_node

    async def main() -> None:
        record = parse_record(enr)
        async with running_node(options, _any_port(record)) as node:
            _show_nodes(await node.find_node(record, distances or (256, 255, 254)), as_json)

    asyncio.run(main())


@discv5.command()
@node_options
@click.argument("enr")
@click.argument("protocol")
@click.argument("payload")
def talk(options: NodeOptions, enr: str, protocol: str, payload: str, as_json: bool) -> None:
    """Send a request of another protocol; PAYLOAD is text, or 0x and hex."""
    from ginnel.cli.discv5_node import parse_record, running_node

    async def main() -> None:
        record = parse_record(enr)
        async with running_node(options, _any_port(record)) as node:
            answer = await node.talk_request(record, protocol.encode(), _bytes_of(payload))
            if not answer:
                click.echo("An empty answer: nodes give it to protocols they don't know.", err=True)
            if as_json:
                show_json({"schema": SCHEMA, "answer": answer.hex()})
            elif payload.startswith("0x") or not answer.isascii():
                click.echo("0x" + answer.hex())
            else:
                click.echo(answer.decode())

    asyncio.run(main())


@discv5.command()
@node_options
@click.argument("target", required=False)
def lookup(options: NodeOptions, target: str | None, as_json: bool) -> None:
    """Find the nodes closest to a node id (64 hex digits or an ENR; at random if left out)."""
    from ginnel.cli.discv5_node import running_node

    async def main() -> None:
        _need_bootnodes(options)
        async with running_node(options, ANY_PORT) as node:
            found = await node.lookup(_node_id_of(target))
            if not found:
                raise SystemFailure("no node answered: name another one by --bootnodes")
            _show_nodes(found, as_json)

    asyncio.run(main())


@discv5.command()
@node_options
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write here, a line a node."
)
@click.option("--limit", default=MAX_CRAWL, show_default=True, type=click.IntRange(1, MAX_CRAWL))
def crawl(options: NodeOptions, output: Path | None, limit: int, as_json: bool) -> None:
    """Find every node that can be found; writes `answered|silent ENR` a line.

    Ctrl-C ends it, and what was found by then is written.
    """
    from ginnel.cli.discv5_node import crawl as crawl_from
    from ginnel.cli.discv5_node import running_node
    from ginnel.net.files import replace_text

    last = 0.0

    def progress(found: int, asked: int, answered: int) -> None:
        nonlocal last
        if time.monotonic() >= last + 1 or found == asked:
            last = time.monotonic()
            click.echo(f"{found} found, {asked} asked, {answered} answered", err=True)

    async def main() -> None:
        _need_bootnodes(options)
        _need_folder(output)
        found: list[Found] = []
        try:
            async with running_node(options, ANY_PORT) as node:
                await crawl_from(node, progress, limit, found)
        finally:  # also after Ctrl-C
            if found:
                write(found)

    def write(found: list[Found]) -> None:
        rows = [
            {"enr": item.record.to_text(), "answered": item.answered, "named": item.named}
            for item in found
        ]
        text = "".join(
            f"{'answered' if item.answered else 'silent'} {item.record.to_text()}\n"
            for item in found
        )
        if as_json:
            text = json.dumps({"schema": SCHEMA, "nodes": rows}, indent=2) + "\n"
        if output is None:
            click.echo(text, nl=False)
        else:
            replace_text(output, text)

    asyncio.run(main())


@discv5.command()
@click.argument("text", metavar="[ENR]", required=False)
@click.option("--key-file", type=click.Path(path_type=Path, dir_okay=False), help="Make one.")
@click.option("--ip", "ips", multiple=True, help="Of a new one; IPv4 or IPv6.")
@click.option("--udp", type=click.IntRange(1, 65535))
@click.option("--tcp", type=click.IntRange(1, 65535))
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Text, or 0x and hex.")
@click.option("--seq", default=1, show_default=True, type=click.IntRange(0, MAX_SEQ))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def enr(text: str | None, key_file: Path | None, as_json: bool, **fields: Any) -> None:  # noqa: ANN401
    """Show what is in an ENR, or make a new one (with --key-file, or a key of its own)."""
    from ginnel.cli.discv5_node import parse_record

    if text and (key_file or any(value for key, value in fields.items() if key != "seq")):
        raise UsageError("an ENR is shown as it is: leave it out to make one, or leave out options")
    record = parse_record(text) if text else _new_record(key_file, **fields)
    facts = {
        "enr": record.to_text(),
        "node_id": record.node_id.hex(),
        "seq": record.seq,
        "addresses": [str(address) for address in record.addresses],
        "fields": {key: _shown(value) for key, value in record.items},
    }
    if as_json:
        show_json({"schema": SCHEMA, **facts})
        return
    if not text:
        click.echo(facts["enr"])
    click.echo(f"node id  {record.node_id.hex()}\nseq      {record.seq}")
    for address in record.addresses:
        click.echo(f"udp      {address}")
    for key, value in record.items:
        click.echo(f"{key:8} {_shown(value)}")


def _new_record(
    key_file: Path | None,
    ips: Sequence[str],
    udp: int | None,
    tcp: int | None,
    pairs: Sequence[str],
    seq: int,
) -> Enr:
    from ginnel.cli.discv5_node import read_key
    from ginnel.discv5.enr import EnrBuilder
    from ginnel.discv5.keys import new_private_key

    key = read_key(key_file) if key_file else Secret(new_private_key(os.urandom))
    builder = EnrBuilder(key, seq)
    for ip in ips:
        try:
            builder.ip(ip)
        except UsageError as error:
            raise UsageError(f"--ip {ip}: {error}; write one of IPv4 or IPv6") from None
    if udp is not None:
        builder.udp(udp)
    if tcp is not None:
        builder.tcp(tcp)
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair}: write KEY=VALUE")
        builder.set(name, _bytes_of(value))
    return builder.build()


def _show_nodes(nodes: Sequence[Enr], as_json: bool) -> None:
    if as_json:
        rows = [
            {
                "enr": node.to_text(),
                "node_id": node.node_id.hex(),
                "seq": node.seq,
                "addresses": [str(address) for address in node.addresses],
            }
            for node in nodes
        ]
        show_json({"schema": SCHEMA, "nodes": rows})
        return
    lines = [
        (
            node.node_id.hex()[:16],
            str(node.seq),
            ", ".join(map(str, node.addresses)),
            node.to_text(),
        )
        for node in nodes
    ]
    click.echo(table(("node", "seq", "address", "enr"), lines))


def _shown(value: Any) -> Any:  # noqa: ANN401  (bytes, or nested lists of them)
    return "0x" + value.hex() if isinstance(value, bytes) else [_shown(item) for item in value]


def _bytes_of(text: str) -> bytes:
    if not text.startswith("0x"):
        return text.encode()
    try:
        return bytes.fromhex(text[2:])
    except ValueError:
        raise UsageError(f"not hex: {text}; write 0x and two digits a byte") from None


def _node_id_of(text: str | None) -> NodeId:
    from ginnel.cli.discv5_node import parse_record

    if text is None:
        return NodeId(os.urandom(32))
    if text.startswith("enr:"):
        return parse_record(text).node_id
    node_id = _bytes_of(text if text.startswith("0x") else f"0x{text}")
    if len(node_id) != 32:
        raise UsageError("a node id has 64 hex digits: write those, or an ENR")
    return NodeId(node_id)


def _need_bootnodes(options: NodeOptions) -> None:
    if not options.bootnodes:
        raise UsageError("name a node to begin with: --bootnodes enr:...")


def _need_folder(output: Path | None) -> None:
    """Say before hours of work that its result could not be written."""
    if output is not None and not os.access(output.absolute().parent, os.W_OK | os.X_OK):
        raise UsageError(f"--output {output}: make its folder first, or name one you may write to")


def _any_port(record: Enr) -> Address:
    """Return where to listen to reach this node."""
    is_ipv6 = record.address() is None and record.address(ipv6=True) is not None
    return Address("::", 0) if is_ipv6 else ANY_PORT
