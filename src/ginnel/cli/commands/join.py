"""`ginnel join`: join a network with an invite."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import click

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.cli.networks import require_root
from ginnel.cli.render import SCHEMA

MAX_INVITE = 4096  # characters that are read; an invite has about 1200
MAX_SETTINGS = 65_536  # characters that are read


@click.command()
@click.argument("source", required=False, metavar="[-]")
@click.option("--invite-file", type=click.Path(path_type=Path), help="A file with the invite.")
@click.option("--name", help="This machine's name in the network (default: its host name).")
@click.option("--port", type=click.IntRange(1, 65535), help="UDP port (default: drawn at random).")
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="HINT",
    help="A further node to start from: enr:... or KEY-HEX@NAME:PORT; repeatable.",
)
@click.option("--advertise", metavar="IP[:PORT]", help="Others reach this machine under this.")
@click.option(
    "--settings",
    type=click.Path(path_type=Path),
    help="Settings of this machine (TOML): `turn` where UDP is blocked, for instance.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
def join(
    source: str | None,
    invite_file: Path | None,
    name: str | None,
    port: int | None,
    nodes: tuple[str, ...],
    advertise: str | None,
    settings: Path | None,
    as_json: bool,
) -> None:
    """Join a network. Asks for the invite, or reads it from standard input with `-`.

    The invite is a secret, so it is never given as an argument, where other users could see it.
    Shows a code: compare it with the one that `ginnel approve` shows on the inviting machine.

    \b
    Examples:
      sudo ginnel join
      sudo ginnel join --invite-file invite.txt --name pi
      sudo ginnel join --settings mine.toml
      ssh attic sudo ginnel invite | sudo ginnel join -
    """
    if source not in (None, "-"):
        raise UsageError(
            "an invite is a secret and arguments can be seen by others: run `sudo ginnel join` and "
            "paste it, or pipe it to `sudo ginnel join -`, or use --invite-file. Make a new invite "
            "if others use this machine"
        )
    require_root("join")
    from ginnel.cli.choices import member_name
    from ginnel.daemon.join_run import JoinOptions, run_join

    options = JoinOptions(
        invite=_read_invite(source, invite_file),
        name=member_name(name or socket.gethostname()),
        port=port,
        nodes=nodes,
        advertise=advertise or "",
        settings=_read(settings, MAX_SETTINGS) if settings is not None else "",
        uid=_uid(),
    )

    def show(stage: str, code: str, waiting: bool) -> None:
        if as_json:
            facts = {"schema": SCHEMA, "stage": stage, "code": code, "waiting": waiting}
            click.echo(json.dumps(facts))
        else:
            click.echo(stage)
            if waiting:
                click.echo(f"On the inviting machine: sudo ginnel approve {options.name}")

    granted = run_join(options, show)
    if not as_json:
        network = granted.network_name
        click.echo(
            f"This machine is {granted.member_name}.{network}.internal. Next: sudo ginnel up"
        )


def _read_invite(source: str | None, file: Path | None) -> str:
    if file is not None:
        return _read(file, MAX_INVITE).strip()
    if source == "-" or not sys.stdin.isatty():
        try:
            return sys.stdin.read(MAX_INVITE).strip()
        except UnicodeDecodeError:
            raise UsageError("standard input is no text, so no invite") from None
    return str(click.prompt("Invite", hide_input=True)).strip()


def _read(file: Path, limit: int) -> str:
    try:
        with file.open(encoding="utf-8") as opened:
            return opened.read(limit)
    except (OSError, UnicodeDecodeError) as error:
        raise SystemFailure(f"{file} can't be read: {error}") from None


def _uid() -> int:
    from ginnel.cli.choices import choose_uids

    assert os.geteuid() == 0
    return choose_uids(1)[0]
