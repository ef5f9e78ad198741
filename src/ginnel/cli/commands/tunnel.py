"""`ginnel tunnel`: the unprivileged process; the manager (or `ginnel join`) starts it."""

from __future__ import annotations

import os
import sys

import click

from ginnel.daemon import privileges
from ginnel.daemon.paths import NetworkPaths


@click.command(hidden=True)
@click.argument("network")
@click.option("--join", "is_joining", is_flag=True, help="Serve `ginnel join` on --signer-fd.")
@click.option("--rpc-read-fd", type=int)
@click.option("--rpc-write-fd", type=int)
@click.option("--udp4-fd", type=int, required=True)
@click.option("--udp6-fd", type=int)
@click.option("--listen-fd", type=int)
@click.option("--signer-fd", type=int)
@click.option("--dns-fd", "dns_fds", type=int, multiple=True)
@click.option("--no-sandbox", is_flag=True, help="Without Landlock and seccomp, to debug.")
@click.option("--reset-clock", is_flag=True, help="Forget the last confirmed time.")
@click.option("--uid", type=int, help="With --join: the uid to run under.")
@click.option("--node", "nodes", multiple=True, help="With --join: hints to start from.")
def tunnel(
    network: str,
    is_joining: bool,
    rpc_read_fd: int | None,
    rpc_write_fd: int | None,
    udp4_fd: int,
    udp6_fd: int | None,
    listen_fd: int | None,
    signer_fd: int | None,
    dns_fds: tuple[int, ...],
    no_sandbox: bool,
    reset_clock: bool,
    uid: int | None,
    nodes: tuple[str, ...],
) -> None:
    """Run the tunnel; its descriptors come from the manager, which speaks CoderVPN."""
    privileges.die_with_parent()  # at once: what follows imports for a while
    if is_joining:
        if signer_fd is None:
            raise click.UsageError("--join needs --signer-fd")
        _join(udp4_fd, udp6_fd, signer_fd, uid, nodes)
        return
    if rpc_read_fd is None or rpc_write_fd is None:
        raise click.UsageError("--rpc-read-fd and --rpc-write-fd: the manager names them")
    # All imports and all reading of root's files come before the rights go.
    from ginnel.daemon.name_service import read_upstream
    from ginnel.daemon.node_shell import read_hints
    from ginnel.daemon.signer import read_settings
    from ginnel.daemon.tunnel import TunnelOptions, run_tunnel

    paths = NetworkPaths(network)
    settings = read_settings(paths, os.environ)
    options = TunnelOptions(
        paths=paths,
        settings=settings,
        hints=tuple(read_hints(settings.nodes)),
        rpc_read_fd=rpc_read_fd,
        rpc_write_fd=rpc_write_fd,
        udp4_fd=udp4_fd,
        udp6_fd=udp6_fd,
        listen_fd=listen_fd,
        signer_fd=signer_fd,
        dns_fds=dns_fds,
        name_servers=read_upstream() if dns_fds else (),
        resets_clock=reset_clock,
    )
    uid = settings.tunnel_uid
    separation = privileges.drop(
        privileges.Confinement(uid, uid, [paths.state], has_sandbox=not no_sandbox)
    )
    error = run_tunnel(options, separation)
    if error is not None:
        click.echo(f"tunnel: {error}", err=True)
        sys.exit(1)


def _join(
    udp4_fd: int, udp6_fd: int | None, signer_fd: int, uid: int | None, nodes: tuple[str, ...]
) -> None:
    from ginnel.daemon.join_tunnel import run_join_tunnel
    from ginnel.daemon.node_shell import read_hints

    hints = read_hints(nodes)
    privileges.drop(privileges.Confinement(uid, uid, []))
    run_join_tunnel(signer_fd, udp4_fd, udp6_fd, hints, "ginnel")
