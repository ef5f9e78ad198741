"""`ginnel init`: make a new network, with this machine as its first member and admin."""

from __future__ import annotations

import errno
import os
import random
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from ginnel.base.errors import SystemFailure
from ginnel.cli.networks import json_option, require_root
from ginnel.cli.render import SCHEMA, show_json
from ginnel.daemon.paths import NetworkPaths

if TYPE_CHECKING:
    from ginnel.storage.network_files import Created

WORDS_IN_LINE = 6  # of the 24


@click.command()
@click.argument("network")
@click.option("--name", help="This machine's name in the network (default: its host name).")
@click.option("--port", type=click.IntRange(1, 65535), help="UDP port (default: drawn at random).")
@click.option(
    "--ipv4-prefix",
    metavar="PREFIX",
    help="IPv4 of the network (default: a free /16 of 100.64/10).",
)
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="HINT",
    help="A node to start from: enr:... or KEY-HEX@NAME:PORT; repeatable.",
)
@click.option("--advertise", metavar="IP[:PORT]", help="Others reach this machine under this.")
@click.option("--relay", is_flag=True, help="This machine relays for others who can't be direct.")
@json_option
def init(
    network: str,
    name: str | None,
    port: int | None,
    ipv4_prefix: str | None,
    nodes: tuple[str, ...],
    advertise: str | None,
    relay: bool,
    as_json: bool,
) -> None:
    """Make a new network called NETWORK, with this machine as its first member.

    Prints the recovery phrase, once: keep it apart from this machine. Without it a lost admin
    machine can't be replaced.

    \b
    Examples:
      sudo ginnel init home
      sudo ginnel init home --name attic --advertise 192.0.2.7 --relay
    """
    require_root("init")
    from ginnel.base.config import Settings, check_settings
    from ginnel.cli.choices import choose_port, choose_uids, member_name, taken_prefixes
    from ginnel.daemon.hints import parse_hint
    from ginnel.daemon.node_shell import parse_advertised
    from ginnel.mesh.objects import CAP_RELAY
    from ginnel.storage.network_files import NewNetwork, choose_ipv4_prefix, create_network

    paths = NetworkPaths(network)
    for hint in nodes:
        parse_hint(hint)
    rng = random.SystemRandom()
    tunnel_uid, signer_uid = choose_uids(2)
    port = port or choose_port(rng)
    parse_advertised(advertise or "", port)
    settings = Settings(
        port=port,
        tunnel_uid=tunnel_uid,
        signer_uid=signer_uid,
        ipv4_prefix=ipv4_prefix or choose_ipv4_prefix(taken_prefixes(), rng),
        advertise=advertise or "",
        nodes=nodes,
    )
    check_settings(settings)
    chosen = member_name(name or socket.gethostname())

    def show(created: Created) -> None:
        words = created.words.reveal().decode()
        if as_json:
            facts = {"schema": SCHEMA, "network": network, "name": chosen, "port": port}
            facts |= {"ipv4_prefix": settings.ipv4_prefix, "recovery_phrase": words}
            _print_all(lambda: show_json(facts))
            return
        host = f"{chosen}.{network}.internal"
        made = f"{network}, {settings.ipv4_prefix}; this machine is {host}"
        _print_all(lambda: _show(made, words))

    new = NewNetwork(network, chosen, settings, int(time.time()), CAP_RELAY if relay else 0)
    create_network(new, paths, os.urandom, show=show)


def _print_all(print_it: Callable[[], None]) -> None:
    """Print something that is shown only once.

    Raises:
        SystemFailure: standard output is closed, or does not take it.
    """
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        print_it()
        sys.stdout.flush()
    except OSError as error:
        raise SystemFailure(
            f"the recovery phrase can't be shown ({error.strerror}): nothing was made"
        ) from None


def _show(made: str, words: str) -> None:
    """Print what was made, and the recovery phrase in four lines."""
    click.echo(f"Network {made}")
    click.echo("\nThe recovery phrase, shown only now. Write it down and keep it apart:\n")
    parts = words.split()
    for start in range(0, len(parts), WORDS_IN_LINE):
        click.echo("  " + " ".join(parts[start : start + WORDS_IN_LINE]))
    click.echo("\nNext: sudo ginnel up")
