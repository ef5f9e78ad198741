"""`ginnel service`: start Ginnel at boot, by systemd."""

from __future__ import annotations

import json
import os

import click

from ginnel.cli.networks import find_network, json_option, network_argument, require_root


@click.group()
def service() -> None:
    """Start Ginnel at boot: a systemd service for a network.

    \b
    Examples:
      sudo ginnel service install
      sudo ginnel service remove home
    """


@service.command()
@network_argument
def install(network: str | None) -> None:
    """Make the users of its processes, write the unit, enable and (re)start it.

    \b
    Examples:
      sudo ginnel service install
      sudo ginnel service install home
    """
    require_root("service install")
    from ginnel.daemon import service as units
    from ginnel.daemon.signer import read_settings

    paths = find_network(network)
    settings = read_settings(paths, os.environ)
    uids = {"tunnel": settings.tunnel_uid}
    if settings.signer_uid:
        uids["signer"] = settings.signer_uid
    for line in units.install(paths, uids):
        click.echo(line)


@service.command()
@network_argument
def remove(network: str | None) -> None:
    """Stop the service; remove its unit and users.

    \b
    Examples:
      sudo ginnel service remove
    """
    require_root("service remove")
    from ginnel.daemon import service as units

    for line in units.remove(find_network(network)):
        click.echo(line)


@service.command()
@network_argument
@json_option
def status(network: str | None, as_json: bool) -> None:
    """Say whether the service is installed, starts at boot, and runs.

    \b
    Examples:
      ginnel service status
      ginnel service status --json
    """
    from ginnel.daemon import service as units

    found = units.status(find_network(network))
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{found['unit']}: {'installed' if found['installed'] else 'not installed'}")
    click.echo(f"starts at boot: {'yes' if found['starts_at_boot'] else 'no'}")
    click.echo(f"state: {found['state'] or 'unknown (systemd does not run here)'}")
