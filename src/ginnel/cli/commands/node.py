"""`ginnel node`: a public node that helps others to meet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from ginnel.base.addresses import is_public
from ginnel.base.errors import UsageError
from ginnel.base.types import Address
from ginnel.cli.render import SCHEMA

PORT = 41640  # UDP port of public nodes


@click.command()
@click.option(
    "--advertise",
    multiple=True,
    metavar="IP[:PORT]",
    help="The address under which others reach it; one of IPv4, one of IPv6, or both.",
)
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="HINT",
    help="Another node: enr:... or KEY-HEX@NAME:PORT; repeatable.",
)
@click.option("--state", type=click.Path(path_type=Path), help="Folder of its key.")
@click.option("--no-rendezvous", is_flag=True, help="Take part in the DHT, store nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def node(
    advertise: tuple[str, ...],
    port: int,
    nodes: tuple[str, ...],
    state: Path | None,
    no_rendezvous: bool,
    as_json: bool,
) -> None:
    """Run a public node, in the foreground.

    It is no member of any network and learns nothing of them: it answers where members can be
    found, and hands sealed messages on. One that others can reach is enough for a whole network.
    Prints its record, to be given to others as --node.

    \b
    Examples:
      ginnel node --advertise 192.0.2.7
      ginnel node --advertise 192.0.2.8 --advertise 2001:db8::8 --node enr:-...
    """
    import json

    from ginnel.daemon.hints import format_hint
    from ginnel.daemon.public_node import PublicNodeConfig, run_public_node
    from ginnel.discv5.enr import Enr

    def on_ready(record: Enr) -> None:
        hint = format_hint(record)
        if as_json:
            facts = {"schema": SCHEMA, "enr": record.to_text(), "hint": hint}
            click.echo(json.dumps(facts))
        else:
            click.echo(f"{record.to_text()}\nor: {hint}\nCtrl-C ends it.")

    config = PublicNodeConfig(
        state=state or _default_state(),
        port=port,
        advertise=_advertised(advertise, port),
        nodes=nodes,
        serves_rendezvous=not no_rendezvous,
    )
    run_public_node(config, on_ready)


def _advertised(texts: Sequence[str], port: int) -> tuple[Address, ...]:
    """Return the addresses to publish, IPv4 first."""
    from ginnel.daemon.node_shell import parse_advertised
    from ginnel.net.interfaces import list_addresses

    if given := [parse_advertised(text, port) for text in texts if text]:
        found_by = {address.is_ipv6: address for address in given if address is not None}
        if len(found_by) < len(given):
            raise UsageError("--advertise: at most one address of IPv4 and one of IPv6")
        return tuple(found_by[ipv6] for ipv6 in sorted(found_by))
    public = [item.ip for item in list_addresses() if is_public(item.ip)]
    own = [ip for ip in public if ":" not in ip] or public
    if len(own) != 1:
        found = ", ".join(own) or "none"
        raise UsageError(
            f"which address do others reach this machine at? Its public ones: {found}. "
            "Name it: ginnel node --advertise IP"
        )
    return (Address(own[0], port),)


def _default_state() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/ginnel-node")
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "ginnel-node"
