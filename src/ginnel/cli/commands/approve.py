"""`ginnel approve`: let a machine in, after the codes on both screens were compared."""

from __future__ import annotations

import sys

import click

from ginnel.base.errors import UsageError
from ginnel.cli.client import Json, ask_manager
from ginnel.cli.networks import find_network, json_option, network_option, require_root
from ginnel.cli.render import SCHEMA, show_json, table


@click.command()
@click.argument("name", required=False)
@click.option("-y", "--yes", is_flag=True, help="Don't ask whether the codes are the same.")
@click.option("--code", help="The code on the other screen: approve only if it is this one.")
@click.option("--relay", is_flag=True, help="It may relay for members who can't be direct.")
@network_option
@json_option
def approve(
    name: str | None, yes: bool, code: str | None, relay: bool, network: str | None, as_json: bool
) -> None:
    """Let the machine NAME in; without NAME, list who waits.

    Compare the code with the one on the other machine's screen first: it shows that the request
    comes from there.

    \b
    Examples:
      sudo ginnel approve
      sudo ginnel approve pi
      sudo ginnel approve pi --code K7QF-2M9X
      sudo ginnel approve attic --relay
    """
    require_root("approve")
    paths = find_network(network)
    waiting = ask_manager(paths.manager_socket, "pending")["requests"]
    if name is None:
        _show(waiting, as_json)
        return
    found = [request for request in waiting if request["name"] == name]
    if code is not None:
        wanted = code.replace("-", "").upper()
        found = [item for item in found if item["code"].replace("-", "").upper() == wanted]
    if not found:
        names = ", ".join(item["name"] for item in waiting) or "nobody"
        which = "" if code is None else " with that code"
        raise UsageError(f"no request of {name!r}{which}; waiting: {names}")
    if len(found) > 1:
        codes = ", ".join(item["code"] for item in found)
        raise UsageError(f"{len(found)} machines ask as {name!r}: name one by --code ({codes})")
    request = found[0]
    if not yes and code is None:
        if not sys.stdin.isatty():
            raise UsageError("nobody can be asked here: compare the codes and name it by --code")
        click.confirm(f"Does {name} show the code {request['code']}?", abort=True)
    asked = {"name": name, "code": request["code"], "relay": relay}
    answer = ask_manager(paths.manager_socket, "approve", **asked)
    if as_json:
        show_json({"schema": SCHEMA, **answer})
    else:
        click.echo(f"{answer.get('name', name)} is a member now")


def _show(waiting: list[Json], as_json: bool) -> None:
    if as_json:
        show_json({"schema": SCHEMA, "requests": waiting})
    elif not waiting:
        click.echo("Nobody waits for approval.")
    else:
        rows = [(item["name"], item["code"]) for item in waiting]
        click.echo(table(("NAME", "CODE"), rows))
