"""`ginnel lab`: a network of NATs on this machine, to try Ginnel in and to look around."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

import click

from ginnel.base.errors import GinnelError, SystemFailure, UsageError
from ginnel.lab import (
    Home,
    Lab,
    Link,
    NatKind,
    PublicMachine,
    make_topology,
    parse_home,
    requirements,
)

NAMES = ("anna", "ben", "cleo", "dora", "emil", "flora", "gus", "hanna", "ida", "jon", "kim")
DEFAULT_KINDS = (
    NatKind.PORT_RESTRICTED,
    NatKind.PORT_RESTRICTED,
    NatKind.FULL_CONE,
    NatKind.SYMMETRIC,
)
DEFAULT_PUBLIC = ("node1", "node2")
STATE_FILE = "lab.json"
_KINDS = ", ".join(NatKind)


def state_folder() -> Path:
    """Return the folder of the running lab's state, made if missing, and nobody else's.

    Raises:
        SystemFailure: it belongs to somebody else.
    """
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        folder = Path(runtime) / "ginnel-lab"
    elif os.geteuid() == 0:
        folder = Path("/run/ginnel-lab")
    else:
        folder = Path(f"/tmp/ginnel-lab-{os.geteuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise SystemFailure(f"{folder}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise SystemFailure(f"{folder} belongs to somebody else: remove it")
    return folder


def running_lab() -> Lab | None:
    """Return the lab that is up, if any; forget one that has died."""
    file = state_folder() / STATE_FILE
    try:
        found = Lab.attach(json.loads(file.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        found = None  # cut off or of another version: no lab that could still be used
    if found is None:
        file.unlink(missing_ok=True)
    return found


def choose_sites(
    kinds: Sequence[str], homes: Sequence[str], link: Link
) -> list[Home | PublicMachine]:
    """Return the sites that the options ask for; four homes if they ask for none."""
    sites = [parse_home(text, link) for text in homes]
    taken = [site.name for site in sites]
    free = [name for name in NAMES if name not in taken]
    wanted = [*kinds] if kinds or homes else [*DEFAULT_KINDS]
    if len(wanted) > len(free):
        raise UsageError(f"at most {len(free)} --kind; name further homes by --home")
    sites += [parse_home(f"{name}:{kind}", link) for name, kind in zip(free, wanted, strict=False)]
    return sites


@click.group(context_settings={"max_content_width": 100})
def lab() -> None:
    """Make networks with NATs on this machine, to look around in.

    Needs root, or a kernel that lets ordinary users make namespaces; touches nothing outside of
    them.

    \b
    Examples:
      ginnel lab up
      ginnel lab exec anna -- ping -c1 node1
      ginnel lab exec anna -- bash
      ginnel lab exec anna-gw -- nft list ruleset
      ginnel lab down
    """


@lab.command()
@click.option(
    "--kind", "kinds", multiple=True, metavar="KIND", help=f"Add a home of this kind: {_KINDS}."
)
@click.option(
    "--home",
    "homes",
    multiple=True,
    metavar="NAME:KIND[:HOSTS]",
    help="Add a home; with several hosts these are called NAME1, NAME2 and so on.",
)
@click.option(
    "--public",
    multiple=True,
    metavar="NAME",
    help="Add a public machine (node1 and node2 if none is named).",
)
@click.option(
    "--delay", type=click.FloatRange(0, 10_000), default=0, help="Of the homes' lines, ms one way."
)
@click.option(
    "--loss", type=click.FloatRange(0, 100), default=0, help="Of the homes' lines, percent one way."
)
@click.option("--ipv6", is_flag=True, help="Give all machines public IPv6 addresses too.")
def up(
    kinds: tuple[str, ...],
    homes: tuple[str, ...],
    public: tuple[str, ...],
    delay: float,
    loss: float,
    ipv6: bool,
) -> None:
    """Build a lab and leave it running until `ginnel lab down`.

    \b
    Examples:
      ginnel lab up                                       four homes, two public machines
      ginnel lab up --kind symmetric --kind cgnat         a home each, with names of its own choice
      ginnel lab up --home flat:hairpin:2 --delay 25      machines flat1 and flat2
    """
    if running_lab() is not None:
        raise SystemFailure("a lab is up already: ginnel lab down")
    sites = choose_sites(kinds, homes, Link(delay / 1000, loss / 100))
    nodes = [PublicMachine(name) for name in public or DEFAULT_PUBLIC]
    topology = make_topology(sites, public=nodes, ipv6=ipv6)
    try:
        made = Lab.create(topology)
    except SystemFailure as error:
        raise SystemFailure("\n".join(requirements()) or str(error)) from error
    try:
        names = {home.name: home.kind.value for home in topology.homes}
        owners = {host: home.name for home in topology.homes for host in home.machine_names}
        for name, machine in made.machines.items():
            behind = f"{names[owners[name]]} NAT" if name in owners else "public"
            click.echo(f"{name:<12}  {machine.address:<15}  {behind}")
        keep_lab(made)
    except BaseException:
        made.destroy()
        raise
    click.echo(
        "\nginnel lab exec MACHINE -- COMMAND   runs a command there; ginnel lab down ends it"
    )


def keep_lab(made: Lab) -> None:
    """Let the lab outlive this process, as the one that `exec` and `down` mean."""
    file = state_folder() / STATE_FILE
    new = file.with_suffix(".new")
    new.write_text(json.dumps(made.detach()))
    new.replace(file)


@lab.command(
    "exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("machine")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def exec_(context: click.Context, machine: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on MACHINE; ends with its exit code. HOME-gw is the router of a home.

    \b
    Examples:
      ginnel lab exec anna -- ip route
      ginnel lab exec anna -- ginnel netcheck
    """
    found = running_lab()
    if found is None:
        raise GinnelError("no lab is up: ginnel lab up")
    argv = command[1:] if command[0] == "--" else command
    if not argv:
        raise UsageError("which command? ginnel lab exec MACHINE -- COMMAND")
    process = subprocess.Popen(found.machine(machine).command(argv))
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            continue  # the command got it too, and it decides
        break
    context.exit(code if code >= 0 else 128 - code)


@lab.command()
def down() -> None:
    """End the lab and all that runs in it.

    \b
    Examples:
      ginnel lab down
    """
    found = running_lab()
    if found is not None:
        found.destroy()
    folder = state_folder()
    (folder / STATE_FILE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another `up` may have begun
        folder.rmdir()
    click.echo("no lab is up" if found is None else "the lab is down")
