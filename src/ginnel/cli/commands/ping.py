"""`ginnel ping`: a peer's answer through the tunnel, by the mesh's own control port."""

from __future__ import annotations

import time

import click

from ginnel.base.errors import GinnelError
from ginnel.cli.client import Json, ask_tunnel, making_sense
from ginnel.cli.commands.status import format_path
from ginnel.cli.networks import find_network, json_option, network_option
from ginnel.cli.render import SCHEMA, show_json


class Unanswered(GinnelError):
    """No ping was answered."""


@click.command()
@click.argument("peer")
@click.option(
    "-c", "--count", type=click.IntRange(1), default=4, show_default=True, help="How many pings."
)
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(0, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two.",
)
@network_option
@json_option
def ping(peer: str, count: int, interval: float, network: str | None, as_json: bool) -> None:
    """Ping PEER (its name or overlay address) through the tunnel.

    Works without any TUN: peers answer each other inside WireGuard themselves.

    \b
    Examples:
      ginnel ping pi
      ginnel ping -c 1 --json pi.home.internal
    """
    paths = find_network(network)
    answers: list[Json] = []
    for number in range(count):
        if number:
            time.sleep(interval)
        answer = ask_tunnel(paths.tunnel_socket, "POST", "/v1/ping", {"peer": peer})
        answers.append(answer)
        if not as_json:
            with making_sense():
                line = _line(peer, answer)
            click.echo(line)
    good = [answer["latency_s"] for answer in answers if answer.get("latency_s") is not None]
    if as_json:
        show_json({"schema": SCHEMA, "peer": peer, "answers": answers, "received": len(good)})
    else:
        click.echo(f"{len(answers)} sent, {len(good)} answered")
    if not good:
        raise Unanswered(f"{peer} did not answer: see `ginnel status`")


def _line(peer: str, answer: Json) -> str:
    if answer.get("latency_s") is None:
        return f"no answer from {peer}: {answer.get('reason', 'timed out')}"
    return (
        f"answer from {answer['name']} ({answer['address']}): "
        f"{answer['latency_s'] * 1000:.1f} ms over {format_path(answer.get('path'))}"
    )
