"""`ginnel manager`: the privileged process; `ginnel up` and services start it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from ginnel.base.errors import GinnelError
from ginnel.cli.launch import tell_ready
from ginnel.cli.spawn import split_command
from ginnel.daemon.paths import NetworkPaths

if TYPE_CHECKING:
    from ginnel.daemon.manager_config import ManagerConfig


@click.command(hidden=True)
@click.argument("network")
@click.option("--port", type=click.IntRange(1, 65535))
@click.option("--no-tun", is_flag=True)
@click.option("--no-dns", is_flag=True)
@click.option("--no-sandbox", is_flag=True)
@click.option("--spawn", metavar="CMD", default="", help="A tunnel program instead of ours.")
@click.option("--pass-tun", is_flag=True, help="With --spawn: the TUN comes along with Start.")
@click.option("--rpc-read-fd", type=int, help="Of a stream to a tunnel that runs already.")
@click.option("--rpc-write-fd", type=int)
@click.option("--dialect", type=click.Choice(["seed", "shipped"]), default="seed")
@click.option("--debug", is_flag=True)
@click.option("--reset-clock", is_flag=True)
@click.option("--ready-fd", type=int, help="Where to tell that it listens, or why it can't.")
def manager(
    network: str,
    port: int | None,
    no_tun: bool,
    no_dns: bool,
    no_sandbox: bool,
    spawn: str,
    pass_tun: bool,
    rpc_read_fd: int | None,
    rpc_write_fd: int | None,
    dialect: str,
    debug: bool,
    reset_clock: bool,
    ready_fd: int | None,
) -> None:
    """Run the manager in the foreground until `ginnel down`, SIGTERM or Ctrl-C.

    With --rpc-read-fd and --rpc-write-fd it serves the tunnel at the other end, until that ends.
    """
    if (rpc_read_fd is None) != (rpc_write_fd is None):
        raise click.UsageError("--rpc-read-fd and --rpc-write-fd belong together")
    stream = None
    if rpc_read_fd is not None and rpc_write_fd is not None:
        stream = (rpc_read_fd, rpc_write_fd)
    run(
        NetworkPaths(network),
        port=port,
        use_tun=not no_tun,
        use_dns=not no_dns,
        has_sandbox=not no_sandbox,
        spawn=split_command(spawn) if spawn else (),
        stream=stream,
        passes_tun=pass_tun or not spawn,
        dialect=dialect,
        debug=debug,
        reset_clock=reset_clock,
        ready_fd=ready_fd,
    )


def run(
    paths: NetworkPaths,
    *,
    port: int | None = None,
    use_tun: bool = True,
    use_dns: bool = True,
    has_sandbox: bool = True,
    spawn: Sequence[str] = (),
    stream: tuple[int, int] | None = None,
    passes_tun: bool = True,
    dialect: str = "seed",
    debug: bool = False,
    reset_clock: bool = False,
    ready_fd: int | None = None,
) -> None:
    """Run the manager of a network with its settings; a port that is given is kept in them.

    Raises:
        GinnelError: it can't run; also told on `ready_fd`.
    """
    from ginnel.codervpn.header import Dialect
    from ginnel.daemon.manager import run_manager

    try:
        config = _config(paths, port, reset_clock)
        config = replace(
            config,
            use_tun=use_tun,
            use_dns=use_dns and config.use_dns,
            has_sandbox=has_sandbox,
            spawn=spawn,
            stream=stream,
            passes_tun=passes_tun,
            dialect=Dialect(dialect),
            debug=debug or config.debug,
        )
        run_manager(config, on_ready=lambda: tell_ready(ready_fd))
    except GinnelError as error:
        tell_ready(ready_fd, str(error))
        raise


def _config(paths: NetworkPaths, port: int | None, reset_clock: bool) -> ManagerConfig:
    from ginnel.base.config import format_settings
    from ginnel.daemon.manager_config import ManagerConfig
    from ginnel.daemon.settings_check import Allowance
    from ginnel.daemon.signer import read_settings
    from ginnel.daemon.wire_settings import bundle_addresses, bundle_domain
    from ginnel.storage.files import write_atomic
    from ginnel.storage.network_files import has_admin_key, load_bundle

    settings = read_settings(paths, os.environ)
    if port is not None and port != settings.port:
        settings = replace(settings, port=port)
        write_atomic(paths.settings, format_settings(settings).encode())
    bundle = load_bundle(paths)
    prefixes, addresses = bundle_addresses(bundle)
    return ManagerConfig(
        paths=paths,
        port=settings.port,
        make_token=lambda: load_bundle(paths).to_bundle(),
        url=f"ginnel:{paths.name}",
        tunnel_uid=settings.tunnel_uid,
        signer_uid=settings.signer_uid if has_admin_key(paths) else None,
        allowance=Allowance.of(
            prefixes, addresses, bundle_domain(bundle), default_route=settings.default_route
        ),
        use_dns=settings.dns,
        resets_clock=reset_clock,
        debug=settings.debug,
    )
