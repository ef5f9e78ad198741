"""`ginnel up`: start Ginnel on this machine and show how far it gets."""

from __future__ import annotations

import time

import click

from ginnel.base.errors import SystemFailure
from ginnel.cli.client import Json, ask_tunnel, making_sense
from ginnel.cli.commands.status import alone_text, format_path
from ginnel.cli.launch import is_running, start_manager, wait_for_tunnel
from ginnel.cli.networks import find_network, network_argument, require_root
from ginnel.daemon.paths import NetworkPaths

POLL_S = 0.5  # seconds between two looks at the progress


@click.command()
@network_argument
@click.option("--port", type=click.IntRange(1, 65535), help="UDP port, kept in the settings.")
@click.option("--no-tun", is_flag=True, help="Without a network device: `ginnel ping` only.")
@click.option("--no-dns", is_flag=True, help="Leave this machine's resolver alone.")
@click.option("--no-sandbox", is_flag=True, help="No Landlock, no seccomp: only to debug.")
@click.option("--no-wait", is_flag=True, help="Return as soon as it runs.")
@click.option(
    "--timeout",
    type=click.IntRange(1),
    default=60,
    show_default=True,
    help="Seconds to wait for a peer.",
)
@click.option("--foreground", is_flag=True, help="Stay in the terminal and log there (services).")
@click.option("--debug", is_flag=True, help="Log more.")
@click.option(
    "--reset-clock", is_flag=True, help="Believe this machine's clock, though it went back."
)
def up(
    network: str | None,
    port: int | None,
    no_tun: bool,
    no_dns: bool,
    no_sandbox: bool,
    no_wait: bool,
    timeout: int,
    foreground: bool,
    debug: bool,
    reset_clock: bool,
) -> None:
    """Start Ginnel on this machine.

    Shows its progress until the first peer is connected. Goes on in the background; Ctrl-C ends
    only the showing.

    \b
    Examples:
      sudo ginnel up
      sudo ginnel up home --no-wait
    """
    require_root("up")
    paths = find_network(network)
    flags = {
        "--no-tun": no_tun,
        "--no-dns": no_dns,
        "--no-sandbox": no_sandbox,
        "--debug": debug,
        "--reset-clock": reset_clock,
    }
    options = [flag for flag, is_set in flags.items() if is_set]
    options += [] if port is None else ["--port", str(port)]
    if foreground:
        from ginnel.cli.commands.manager import run

        run(
            paths,
            port=port,
            use_tun=not no_tun,
            use_dns=not no_dns,
            has_sandbox=not no_sandbox,
            debug=debug,
            reset_clock=reset_clock,
        )
        return
    if is_running(paths):
        click.echo(f"{paths.name} is up already")
    else:
        start_manager(paths, options)
    wait_for_tunnel(paths)
    with making_sense():
        own = _tunnel_status(paths)["self"]
        text = f"{own['name']}.{paths.name}.internal is up: {', '.join(own['addresses'])}"
    click.echo(text)
    if not no_wait:
        show_progress(paths, timeout)


def show_progress(paths: NetworkPaths, timeout: float, poll_s: float = POLL_S) -> None:
    """Print each change of the peers' stages until one is connected.

    Raises:
        SystemFailure: none was in `timeout` seconds; the text says which stage fails, what to do.
    """
    shown: dict[str, str] = {}
    ends_at = time.monotonic() + timeout
    while True:
        with making_sense():
            status = _tunnel_status(paths)
            if _show(status, shown):
                return
        if time.monotonic() >= ends_at:
            break
        time.sleep(poll_s)
    with making_sense():
        advice = _advice(status)
    raise SystemFailure(
        f"no peer connected in {timeout} s; Ginnel goes on trying (`ginnel status`, "
        f"`ginnel netcheck`). {advice}"
    )


def _show(status: Json, shown: dict[str, str]) -> bool:
    """Print what has changed; say whether there is nothing more to wait for."""
    peers = status["peers"]
    for text in status.get("warnings", []):
        _tell(shown, "warning", text)
    _tell(shown, "reachable from outside", status["reachable"])
    if not peers:
        _tell(shown, "members", alone_text(status["self"]))
        if status["self"]["admin"]:
            return True
    for peer in peers:
        _tell(shown, peer["name"], _stage(peer))
    return any(peer["status"] == "connected" for peer in peers)


def _tunnel_status(paths: NetworkPaths) -> Json:
    return ask_tunnel(paths.tunnel_socket, "GET", "/v1/status")


def _tell(shown: dict[str, str], who: str, text: str) -> None:
    if shown.get(who) != text:
        shown[who] = text
        click.echo(f"{who}: {text}")


def _stage(peer: Json) -> str:
    if peer["status"] == "connected":
        return f"connected, {format_path(peer.get('path'))}"
    return str(peer.get("reason") or peer["stage"])


def _advice(status: Json) -> str:
    """Say which stage fails and what to do."""
    if not status["discovery"]["answers"]:
        from ginnel.daemon.report import NO_NODES

        return NO_NODES
    if not status["peers"]:
        return "Is the machine that let this one in up, and are both clocks right?"
    stages = {str(peer.get("reason") or peer["stage"]) for peer in status["peers"]}
    return f"Stages: {'; '.join(sorted(stages))}."
