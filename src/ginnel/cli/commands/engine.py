"""`ginnel engine`: the data plane, that of a network and one alone."""

from __future__ import annotations

import os
import subprocess
import sys

import click

from ginnel import __version__
from ginnel.base.errors import SystemFailure
from ginnel.cli.client import NotRunning, ask_tunnel, making_sense
from ginnel.cli.networks import json_option, known_networks, require_root
from ginnel.cli.render import SCHEMA, show_json
from ginnel.daemon.command import COMMAND
from ginnel.daemon.paths import NetworkPaths


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def engine(context: click.Context, as_json: bool) -> None:
    """Show the data plane in use and its offloads; `engine run` starts one alone.

    \b
    Examples:
      ginnel engine
      sudo ginnel engine run wg0
    """
    if context.invoked_subcommand is not None:
        return
    from ginnel._native import cipher

    networks, ciphers = {}, {}
    for name in known_networks():
        try:
            answer = ask_tunnel(NetworkPaths(name).tunnel_socket, "GET", "/v1/status")
        except NotRunning:
            continue
        with making_sense():
            networks[name] = answer["offloads"]
        ciphers[name] = answer.get("cipher", "an older Ginnel")
    if as_json:
        show_json(
            {"schema": SCHEMA, "engine": "embedded", "version": __version__}
            | {"cipher": cipher(), "networks": networks, "ciphers": ciphers}
        )
        return
    click.echo(f"The embedded data plane of Ginnel {__version__}, gotatun's handshake.")
    click.echo(f"A tunnel that starts here now: packets sealed by {cipher()}")
    if not networks:
        click.echo("No network of this machine is up.")
    lines = []
    with making_sense():
        for name, offloads in networks.items():
            lines.append(f"{name}: packets sealed by {ciphers[name]}")
            for offload, works in offloads.items():
                how = "in use" if works else "not offered by this system"
                lines.append(f"{name}: {offload:12} {how}")
    for line in lines:
        click.echo(line)


@engine.command()
@click.argument("interface")
@click.option("--background", is_flag=True, help="Return when the interface is there.")
@click.option("--ready-fd", type=int, hidden=True)
def run(interface: str, background: bool, ready_fd: int | None) -> None:
    """Run one WireGuard interface without a mesh, for `wg` and wg-quick.

    A drop-in for `wireguard-go -f INTERFACE`; with WG_QUICK_USERSPACE_IMPLEMENTATION set to
    `ginnel-wireguard` wg-quick uses it. It ends when the interface is removed.

    \b
    Examples:
      sudo ginnel engine run wg0
      sudo WG_QUICK_USERSPACE_IMPLEMENTATION=ginnel-wireguard wg-quick up wg0
    """
    require_root("engine run")
    if background:
        _start_in_background(interface)
        return
    from ginnel.daemon.wireguard_device import run_device

    def on_ready() -> None:
        if ready_fd is not None:
            os.write(ready_fd, b"ready\n")
            os.close(ready_fd)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stderr.fileno())  # the terminal is our starter's
            os.close(nowhere)

    run_device(interface, on_ready)


def _start_in_background(interface: str) -> None:
    """Start this command again, apart from its terminal, and wait until it is ready."""
    reading, writing = os.pipe()
    argv = [*COMMAND, "engine", "run", interface]
    with os.fdopen(reading) as answers:
        child = subprocess.Popen(
            [*argv, "--ready-fd", str(writing)],
            pass_fds=(writing,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        os.close(writing)
        if not answers.readline():
            raise SystemFailure(f"{interface} did not start: exit code {child.wait()}")
    child.returncode = 0  # it goes on without us


def wireguard() -> None:
    """Run `ginnel-wireguard [-f] INTERFACE`: wireguard-go's command line."""
    from ginnel.cli.main import main

    words = [word for word in sys.argv[1:] if word not in ("-f", "--foreground")]
    in_front = len(words) < len(sys.argv) - 1
    main(["engine", "run", *([] if in_front else ["--background"]), *words])
