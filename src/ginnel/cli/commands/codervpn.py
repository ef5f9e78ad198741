"""`ginnel codervpn`: a conformance check for programs that speak CoderVPN."""

from __future__ import annotations

import sys
from typing import IO

import click

from ginnel.base.errors import UsageError
from ginnel.cli.spawn import split_command


@click.group()
def codervpn() -> None:
    """Check programs that speak CoderVPN, the protocol between a VPN's manager and its tunnel.

    \b
    Examples:
      ginnel codervpn probe --spawn './my-tunnel'
      ginnel codervpn probe --spawn './my-manager --debug' --role manager --dialect shipped
    """


@codervpn.command()
@click.option("--spawn", required=True, metavar="CMD", help="The program, as in a shell.")
@click.option(
    "--role",
    type=click.Choice(["tunnel", "manager"]),
    default="tunnel",
    show_default=True,
    help="What the program is.",
)
@click.option(
    "--dialect",
    type=click.Choice(["seed", "shipped"]),
    default="seed",
    show_default=True,
    help="The form of our header.",
)
@click.option(
    "--speak",
    default="1.3",
    show_default=True,
    metavar="MAJOR.MINOR",
    help="The protocol version that we speak.",
)
@click.option("--url", default="https://probe.invalid", show_default=True, help="For Start.")
@click.option(
    "--token-file",
    type=click.File(),
    metavar="FILE",
    help="Start's token, so that a tunnel can really start; - is the standard input.",
)
@click.option("--quick", is_flag=True, help="One conversation, without the bad beginnings.")
def probe(
    spawn: str,
    role: str,
    dialect: str,
    speak: str,
    url: str,
    token_file: IO[str] | None,
    quick: bool,
) -> None:
    """Run a program as a child and check the whole conversation, step by step.

    It gets `--rpc-read-fd 3 --rpc-write-fd 4`. Exit code 1 if a step failed.

    \b
    Examples:
      ginnel codervpn probe --spawn './my-tunnel'
      ginnel codervpn probe --spawn './my-tunnel' --speak 1.0 --dialect shipped
      ginnel codervpn probe --spawn 'ginnel manager home --no-tun' --role manager
    """
    from ginnel.codervpn.header import Dialect, Role, Version
    from ginnel.daemon.codervpn_probe import Probe

    parts = speak.split(".")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"--speak {speak!r}: MAJOR.MINOR belongs here, as 1.3")
    version = Version(int(parts[0]), int(parts[1]))
    probed = Probe(
        split_command(spawn),
        Role(role),
        Dialect(dialect),
        version,
        token="probe" if token_file is None else _read_token(token_file),
        must_start=token_file is not None,
        url=url,
        is_thorough=not quick,
    )
    steps = probed.run()
    for step in steps:
        click.echo(
            f"{'ok    ' if step.problem is None else 'FAILED'} {step.name}"
            + (f": {step.problem}" if step.problem else "")
        )
    if any(step.problem for step in steps):
        sys.exit(1)


def _read_token(file: IO[str]) -> str:
    try:
        return file.read().strip()
    except UnicodeDecodeError:
        raise UsageError(f"{file.name} is no text") from None
