"""`ginnel demo`: machines behind NATs find each other, in a lab on this machine."""

from __future__ import annotations

import time

import click

from ginnel.base.errors import GinnelError, SystemFailure
from ginnel.cli.commands.lab import keep_lab, running_lab
from ginnel.cli.networks import json_option
from ginnel.cli.render import SCHEMA, show_json, table


class DemoFailed(GinnelError):
    """A pair is not connected, or relayed although it can be direct."""


@click.command()
@click.option("--keep", is_flag=True, help="Leave the lab running afterwards, to look around.")
@json_option
def demo(keep: bool, as_json: bool) -> None:
    """Show machines behind NATs finding each other, without any server.

    Makes networks with real NATs in namespaces of their own, runs a user's own commands there
    (init, invite, join, approve, up), then shows each pair's path, ping and transfer. Touches
    nothing outside, and takes everything down at the end.

    \b
    Examples:
      ginnel demo
      ginnel demo --keep
      ginnel demo --json
    """
    from ginnel.lab import tun_problem
    from ginnel.lab.demo import Demo, make_demo_lab

    if keep and running_lab() is not None:
        raise SystemFailure("a lab is up already: `ginnel lab down` first")
    began = time.monotonic()

    def say(who: str, text: str) -> None:
        click.echo(f"{time.monotonic() - began:5.1f} s  {who:<6} {text}", err=as_json)

    try:
        lab = make_demo_lab()
    except SystemFailure as error:
        from ginnel.lab import requirements

        raise SystemFailure("\n".join(requirements()) or str(error)) from None
    try:
        problem = tun_problem()
        if problem:
            say("lab", f"without network devices ({problem}): pings only, no transfers")
        run = Demo(lab, say, use_tun=problem is None)
        result = run.run()
        if keep:
            keep_lab(lab)
        else:
            run.stop()
    except BaseException:
        lab.destroy()
        raise
    if not keep:
        lab.destroy()
    _show(result, as_json=as_json)
    if keep:
        click.echo(
            "\nThe lab stays up. Look around:\n"
            "  ginnel lab exec anna -- ginnel status\n"
            "  ginnel lab exec ben -- ping -c3 ADDRESS\n"
            "  ginnel lab exec anna-gw -- nft list ruleset\n"
            "  ginnel lab down",
            err=as_json,
        )
    if not result["ok"]:
        raise DemoFailed("not every pair came out as it should; see the lines above")


def _show(result: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        show_json({"schema": SCHEMA, **result})
        return
    from ginnel.lab.demo import describe

    pairs = result["pairs"]
    assert isinstance(pairs, list)
    rows = [(" - ".join(pair["pair"]), " - ".join(pair["nats"]), describe(pair)) for pair in pairs]
    click.echo("\n" + table(("PAIR", "NATS", "RESULT"), rows))
    click.echo(f"\n{'All as it should be' if result['ok'] else 'FAILED'} in {result['seconds']} s.")
