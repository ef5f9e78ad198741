"""`ginnel netcheck`: what the network around this machine allows, and what to do about it."""

from __future__ import annotations

import click

from ginnel.cli.client import ask_tunnel
from ginnel.cli.networks import find_network, json_option, network_argument
from ginnel.cli.render import SCHEMA, show_json


@click.command()
@network_argument
@json_option
def netcheck(network: str | None, as_json: bool) -> None:
    """Say what the network around this machine allows.

    Shows the kind of NAT as other nodes see it, whether UDP gets out, whether this machine can be
    reached from outside, and clashes of addresses.

    \b
    Examples:
      ginnel netcheck
      ginnel netcheck home --json
    """
    answer = ask_tunnel(find_network(network).tunnel_socket, "GET", "/v1/netcheck")
    if as_json:
        show_json({"schema": SCHEMA, **answer})
        return
    for name, value in answer["facts"].items():
        click.echo(f"{name + ':':26}{value}")
    for text in answer["advice"]:
        click.echo(f"\n{text}")
