"""`ginnel invite`: print a one-time invite as text and QR code."""

from __future__ import annotations

import io
import re
import sys

import click

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.cli.client import ask_manager
from ginnel.cli.commands.status import read_status
from ginnel.cli.networks import find_network, json_option, network_argument, require_root
from ginnel.cli.render import SCHEMA, show_json

UNITS = {"m": 60, "h": 3600, "d": 86_400}  # seconds


@click.command()
@network_argument
@click.option("--expires", default="24h", show_default=True, help="How long it is valid: 30m, 2d.")
@click.option("--auto", is_flag=True, help="Let the machine in without asking.")
@click.option("--qr/--no-qr", default=None, help="Print a QR code too (default: on a terminal).")
@json_option
def invite(network: str | None, expires: str, auto: bool, qr: bool | None, as_json: bool) -> None:
    """Print a one-time invite for another machine.

    Whoever has it can ask to join until it is used or expires, so hand it over privately. On the
    other machine run `sudo ginnel join`, then let it in here with `sudo ginnel approve NAME`.

    \b
    Examples:
      sudo ginnel invite
      sudo ginnel invite home --expires 30m --no-qr
    """
    require_root("invite")
    if sys.stdout is None:
        raise SystemFailure("standard output is closed, and the invite is shown only once")
    paths = find_network(network)
    lifetime = parse_lifetime(expires)
    answer = ask_manager(paths.manager_socket, "invite", expires_s=lifetime, auto=auto)
    if as_json:
        show_json({"schema": SCHEMA, "invite": answer["invite"], "expires": answer["expires"]})
        return
    click.echo(answer["invite"])
    if qr or (qr is None and sys.stdout.isatty()):
        click.echo(_qr(answer["invite"]))
    hint = "it is let in at once" if auto else "then `sudo ginnel approve NAME` here"
    click.echo(
        f"valid for {expires}, once; on the other machine: sudo ginnel join; {hint}", err=True
    )
    if not answer["nodes"]:
        click.echo("It names no node: join on this LAN, or add --node HINT of one there.", err=True)
    click.echo(f"reachable from outside: {read_status(paths).get('reachable', '?')}", err=True)


def parse_lifetime(text: str) -> int:
    """Return the seconds of `30m`, `24h` or `7d`, from one minute to 30 days."""
    match = re.fullmatch(r"([0-9]{1,4})([mhd])", text)
    seconds = int(match[1]) * UNITS[match[2]] if match else 0
    if not 60 <= seconds <= 30 * 86_400:
        raise UsageError(f"--expires {text!r}: write it like 30m, 24h or 7d (at most 30d)")
    return seconds


def _qr(text: str) -> str:
    import segno

    out = io.StringIO()
    # Upper case fits the QR code's alphanumeric mode: two thirds of the size; `join` reads both.
    segno.make(text.upper(), error="l").terminal(out=out, compact=True, border=2)
    return out.getvalue()
