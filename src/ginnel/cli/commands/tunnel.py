"""`ginnel tunnel`: the unprivileged process; a manager (or `ginnel join`) starts it."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from ginnel.cli.networks import known_networks
from ginnel.daemon import privileges
from ginnel.daemon.paths import NetworkPaths
from ginnel.storage.files import make_folder

if TYPE_CHECKING:
    from ginnel.daemon.tunnel import TunnelOptions


class Given(TypedDict):
    """The options that say what is handed over, and what stands in for the rest."""

    rpc_read_fd: int | None
    rpc_write_fd: int | None
    udp4_fd: int | None
    udp6_fd: int | None
    listen_fd: int | None
    uapi_fd: int | None
    signer_fd: int | None
    settings_fd: int | None
    dns_fds: tuple[int, ...]
    upstream_fd: int | None
    reset_clock: bool
    debug: bool
    uid: int | None
    port: int | None
    state: Path | None
    nodes: tuple[str, ...]


@click.command(hidden=True)
@click.argument("network", required=False)
@click.option("--join", "is_joining", is_flag=True, help="Serve `ginnel join` on --signer-fd.")
@click.option("--rpc-read-fd", type=int)
@click.option("--rpc-write-fd", type=int)
@click.option("--udp4-fd", type=int)
@click.option("--udp6-fd", type=int)
@click.option("--listen-fd", type=int)
@click.option("--uapi-fd", type=int)
@click.option("--signer-fd", type=int)
@click.option("--settings-fd", type=int, help="With --join: the settings to use.")
@click.option("--dns-fd", "dns_fds", type=int, multiple=True)
@click.option("--upstream-fd", type=int)
@click.option("--no-sandbox", is_flag=True, help="Without Landlock and seccomp, to debug.")
@click.option("--reset-clock", is_flag=True, help="Forget the last confirmed time.")
@click.option("--debug", is_flag=True, help="Log more.")
@click.option("--uid", type=int, help="Without NETWORK: the uid to run under.")
@click.option("--port", type=click.IntRange(1, 65535), help="Without --udp4-fd: to bind.")
@click.option("--state", type=click.Path(path_type=Path), help="Without NETWORK: its folder.")
@click.option("--node", "nodes", multiple=True, help="Hints to start from.")
def tunnel(network: str | None, is_joining: bool, no_sandbox: bool, **given: Unpack[Given]) -> None:
    """Run a tunnel for a manager that speaks CoderVPN over two descriptors.

    What the manager doesn't hand over is opened here; the keys come with Start. NETWORK, which the
    only one here needs not be named by, means root's settings, uid and state folder. Otherwise the
    defaults and GINNEL_* variables count, and --state names a folder as `ginnel join` made it.
    """
    privileges.die_with_parent()  # at once: what follows imports for a while
    if is_joining:
        _join(given)
        return
    # All imports and all reading of root's files come before the rights go.
    from ginnel.daemon.tunnel import run_tunnel

    options, uid = _options(network, given)
    separation = privileges.drop(
        privileges.Confinement(uid, uid, [options.state], has_sandbox=not no_sandbox)
    )
    error = run_tunnel(options, separation)
    if error is not None:
        click.echo(f"tunnel: {error}", err=True)
        sys.exit(1)


def _options(network: str | None, given: Given) -> tuple[TunnelOptions, int]:
    """Return what the tunnel is given, with what it has to open itself, and its uid."""
    from ginnel.daemon import own_sockets
    from ginnel.daemon.node_shell import read_hints
    from ginnel.daemon.signer import read_settings
    from ginnel.daemon.tunnel import TunnelOptions
    from ginnel.daemon.turn_links import tls_for

    rpc_read_fd, rpc_write_fd = given["rpc_read_fd"], given["rpc_write_fd"]
    if rpc_read_fd is None or rpc_write_fd is None:
        raise click.UsageError("--rpc-read-fd and --rpc-write-fd: the manager names them")
    known = known_networks() if os.geteuid() == 0 and given["state"] is None else []
    if network is None and len(known) == 1:
        network = known[0]
    paths = None if network is None else NetworkPaths(network)
    if paths is None:
        settings = own_sockets.lone_settings(os.environ, given["uid"] or privileges.LONE_UID)
    else:
        settings = read_settings(paths, os.environ)
    settings = replace(settings, debug=settings.debug or given["debug"])
    uid = settings.tunnel_uid
    owner = uid if privileges.can_become(uid) else None
    udp4_fd, udp6_fd, listen_fd = given["udp4_fd"], given["udp6_fd"], given["listen_fd"]
    if udp4_fd is None:
        udp4_fd, udp6_fd = own_sockets.open_udp(given["port"] or settings.port, uid)
        if paths is not None and listen_fd is None:
            listen_fd = own_sockets.open_listener(paths)
    state = given["state"] or own_sockets.lone_state() if paths is None else paths.state
    make_folder(state, uid=owner)
    options = TunnelOptions(
        state=state,
        settings=settings,
        hints=tuple(read_hints([*given["nodes"], *settings.nodes])),
        rpc_read_fd=rpc_read_fd,
        rpc_write_fd=rpc_write_fd,
        udp4_fd=udp4_fd,
        udp6_fd=udp6_fd,
        listen_fd=listen_fd,
        uapi_fd=given["uapi_fd"],
        signer_fd=given["signer_fd"],
        dns_fds=given["dns_fds"],
        upstream_fd=given["upstream_fd"],
        tls=tls_for(settings),
        resets_clock=given["reset_clock"],
    )
    return options, uid


def _join(given: Given) -> None:
    from ginnel.base.config import parse_settings
    from ginnel.daemon.join_tunnel import JoinTunnelOptions, run_join_tunnel
    from ginnel.daemon.node_shell import read_hints
    from ginnel.daemon.turn_links import tls_for

    signer_fd, udp4_fd, settings_fd = given["signer_fd"], given["udp4_fd"], given["settings_fd"]
    if signer_fd is None or udp4_fd is None or settings_fd is None:
        raise click.UsageError("--join needs --signer-fd, --settings-fd and --udp4-fd")
    with open(settings_fd, encoding="utf-8") as file:
        settings = parse_settings(file.read())
    options = JoinTunnelOptions(
        settings=settings,
        hints=tuple(read_hints(settings.nodes)),
        channel_fd=signer_fd,
        udp4_fd=udp4_fd,
        udp6_fd=given["udp6_fd"],
        tls=tls_for(settings),
    )
    uid = settings.tunnel_uid
    privileges.drop(privileges.Confinement(uid, uid, []))
    run_join_tunnel(options)
