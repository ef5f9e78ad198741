"""`ginnel down`: stop the manager, which takes addresses, routes and the TUN back."""

from __future__ import annotations

import click

from ginnel.cli.client import NotRunning, ask_manager
from ginnel.cli.networks import find_network, network_argument, require_root


@click.command()
@network_argument
def down(network: str | None) -> None:
    """Stop Ginnel on this machine; addresses and routes are taken back.

    \b
    Examples:
      sudo ginnel down
      sudo ginnel down home
    """
    require_root("down")
    paths = find_network(network)
    try:
        ask_manager(paths.manager_socket, "down")
    except NotRunning:
        click.echo(f"{paths.name} is not running")
        return
    click.echo(f"{paths.name} is down")
