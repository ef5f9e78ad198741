"""`ginnel status`: this machine, its peers and their paths."""

from __future__ import annotations

import click

from ginnel.base.errors import SystemFailure
from ginnel.cli.client import Json, NotRunning, Refused, ask_manager, ask_tunnel, making_sense
from ginnel.cli.networks import find_network, json_option, network_argument
from ginnel.cli.render import SCHEMA, duration, milliseconds, show_json, size, table
from ginnel.daemon.paths import NetworkPaths

TUNNEL_LIMIT_S = 5.0  # seconds for the tunnel's answer, then the manager is asked


@click.command()
@network_argument
@click.option("-d", "--detail", is_flag=True, help="Each pair of addresses that was tried.")
@json_option
def status(network: str | None, detail: bool, as_json: bool) -> None:
    """Show this machine, its peers and their paths.

    \b
    Examples:
      ginnel status
      ginnel status home --json
      ginnel status -d
    """
    answer = read_status(find_network(network))
    if as_json:
        show_json(answer)
    else:
        with making_sense():
            text = format_status(answer)
            if detail:
                text += "\n" + format_pairs(answer.get("peers", []))
        click.echo(text)


def read_status(paths: NetworkPaths) -> Json:
    """Ask the tunnel, or the manager if only that one answers.

    Raises:
        NotRunning: neither answers.
    """
    try:
        answer = ask_tunnel(paths.tunnel_socket, "GET", "/v1/status", timeout=TUNNEL_LIMIT_S)
        with making_sense():
            answer["warnings"] = [*answer.get("warnings", ()), *_managers_warnings(paths)]
        return {"schema": SCHEMA, **answer}
    except SystemFailure:  # not running, or stuck: the manager's socket is there without it
        try:
            return {"schema": SCHEMA, **ask_manager(paths.manager_socket, "status")}
        except Refused:
            raise NotRunning("the tunnel does not answer; ask again with sudo") from None


def _managers_warnings(paths: NetworkPaths) -> list[str]:
    """Return what only the manager knows; nothing for who may not ask it."""
    try:
        problem = ask_manager(paths.manager_socket, "status")["tunnel"]["problem"]
    except SystemFailure:
        return []
    return [problem] if problem else []


def format_status(answer: Json) -> str:
    """Return the status for people."""
    if "self" not in answer:
        return _manager_only(answer)
    own = answer["self"]
    lines = [
        f"{own['name']}.{answer['network']}.internal  {', '.join(own['addresses'])}",
        f"reachable from outside: {answer['reachable']}   UDP port {answer['port']}   "
        f"nodes known: {answer['discovery']['nodes']}",
        f"tunnel process: {answer['separation']}",
        f"offloads: {format_offloads(answer['offloads'])}",
    ]
    lines += [f"warning: {text}" for text in answer.get("warnings", [])]
    lines.append("")
    if not answer["peers"]:
        lines.append(alone_text(own))
        return "\n".join(lines)
    rows = [_peer_row(peer) for peer in answer["peers"]]
    lines.append(
        table(("PEER", "ADDRESS", "STATE", "PATH", "LATENCY", "HANDSHAKE", "IN", "OUT"), rows)
    )
    reasons = [f"{peer['name']}: {peer['reason']}" for peer in answer["peers"] if _has_more(peer)]
    return "\n".join([*lines, *([""] if reasons else []), *reasons])


def format_offloads(offloads: Json) -> str:
    """Return the offloads in use, and those that this system lacks."""
    used = ", ".join(name for name, works in offloads.items() if works)
    lacking = ", ".join(name for name, works in offloads.items() if not works)
    return (used or "none") + (f" (not here: {lacking})" if lacking else "")


def format_pairs(peers: list[Json]) -> str:
    """Return for each peer why it is relayed or not connected, and what was tried."""
    lines = []
    for peer in peers:
        why = (peer.get("path") or {}).get("why_relayed")
        note = f"relayed: {why}" if why else (peer.get("reason") or peer.get("stage", ""))
        mtu = (peer.get("path") or {}).get("mtu")
        note += f"; packets of up to {mtu} bytes" if mtu else ""
        lines += ["", f"{peer['name']}: {note}"]
        lines += [f"  {text}" for text in peer.get("pairs", ())] or ["  no pair of addresses yet"]
    return "\n".join(lines)


def alone_text(own: Json) -> str:
    """Return what a machine without peers is told; one that has joined must have some."""
    if own["admin"]:
        return "No other member yet. Let one in with `sudo ginnel invite`."
    return "No other member met yet: searching for the machine that let this one in."


def format_path(path: Json | None) -> str:
    """Return `host 10.0.0.2:7 <-> srflx 192.0.2.1:7`, or `-`."""
    if not path:
        return "-"
    return (
        f"{path['local']['kind']} {path['local']['address']} <-> "
        f"{path['remote']['kind']} {path['remote']['address']}"
    )


def _peer_row(peer: Json) -> tuple[str, ...]:
    connected = peer["status"] == "connected"
    state = peer["status"] if connected else str(peer.get("reason") or peer["stage"])
    age = peer.get("handshake_age_s")
    return (
        peer["name"],
        peer["addresses"][0] if peer["addresses"] else "-",
        state.split(":", 1)[0],  # the whole reason stands below the table
        format_path(peer.get("path")),
        milliseconds(peer.get("latency_s")),
        "never" if age is None else f"{duration(age)} ago",
        size(peer.get("rx_bytes", 0)),
        size(peer.get("tx_bytes", 0)),
    )


def _has_more(peer: Json) -> bool:
    return peer["status"] != "connected" and ":" in (peer.get("reason") or "")


def _manager_only(answer: Json) -> str:
    tunnel = answer["tunnel"]
    lines = [
        f"{answer['network']}: only the manager answers",
        f"tunnel process: {tunnel['state']}, started again {tunnel['restarts']} times",
    ]
    if tunnel["problem"]:
        lines.append(tunnel["problem"])
    elif tunnel["last_error"]:
        lines.append(f"last error: {tunnel['last_error']}")
    lines += workspace_lines(answer)
    if answer["peers"]:
        rows = [_known_peer_row(peer) for peer in answer["peers"]]
        lines += ["", table(("PEER", "ADDRESS", "STATE", "LATENCY"), rows)]
    if answer.get("peers_left_out"):
        lines.append(f"and {answer['peers_left_out']} more, for which the answer has no room")
    return "\n".join(lines)


def workspace_lines(answer: Json) -> list[str]:
    """Return the tunnel's workspaces; nothing where all is said by the network's own that runs."""
    told = answer.get("workspaces", [])
    if told == [{"name": answer["network"], "status": "running"}]:
        return []
    lines = [f"workspace {item['name']}: {item['status']}" for item in told]
    if answer.get("workspaces_left_out"):
        lines.append(f"and {answer['workspaces_left_out']} more workspaces")
    return lines


def _known_peer_row(peer: Json) -> tuple[str, ...]:
    latency = peer["latency_ms"]
    state = peer["problem"] or ("idle" if peer["idle"] else "connected")
    return (
        peer["name"],
        peer["addresses"][0] if peer["addresses"] else "-",
        f"{state} through {peer['through']}" if peer.get("through") else state,
        milliseconds(None if latency is None else latency / 1000),
    )
