"""`ginnel signer`: the process with the admin key; the manager starts it."""

from __future__ import annotations

import os

import click

from ginnel.daemon import privileges
from ginnel.daemon.paths import NetworkPaths


@click.command(hidden=True)
@click.argument("network")
@click.option("--manager-fd", type=int, required=True)
@click.option("--tunnel-fd", type=int, required=True)
@click.option("--no-sandbox", is_flag=True, help="Without Landlock and seccomp, to debug.")
@click.option("--debug", is_flag=True, help="Log more.")
def signer(network: str, manager_fd: int, tunnel_fd: int, no_sandbox: bool, debug: bool) -> None:
    """Run the signer; its descriptors come from the manager."""
    privileges.die_with_parent()  # at once: what follows imports for a while
    from ginnel.daemon.signer import run_signer

    run_signer(
        NetworkPaths(network),
        manager_fd=manager_fd,
        tunnel_fd=tunnel_fd,
        environ=os.environ,
        has_sandbox=not no_sandbox,
        debug=debug,
    )
