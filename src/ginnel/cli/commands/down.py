"""`ginnel down`: stop the manager, which takes addresses, routes and the TUN back."""

from __future__ import annotations

import os

import click

from ginnel.cli.client import NotRunning, ask_manager
from ginnel.cli.networks import find_network, network_argument, require_root
from ginnel.daemon.paths import NetworkPaths


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
    from ginnel.daemon.resources import remove_run_folder

    paths = find_network(network)
    try:
        ask_manager(paths.manager_socket, "down")
        text = "is down"
    except NotRunning:
        _clear(paths)
        text = "is not running"
    remove_run_folder(paths)
    click.echo(f"{paths.name} {text}")


def _clear(paths: NetworkPaths) -> None:
    from ginnel.daemon.guard import clear_traces
    from ginnel.daemon.signer import read_settings
    from ginnel.net.tun import device_name

    clear_traces(device_name(paths.name), read_settings(paths, os.environ).tunnel_uid)
