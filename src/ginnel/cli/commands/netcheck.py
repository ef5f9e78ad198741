"""`ginnel netcheck`: what the network around this machine allows, and what to do about it."""

from __future__ import annotations

import asyncio
import socket
import time

import click

from ginnel.cli.client import Json, NotRunning, ask_tunnel, making_sense
from ginnel.cli.networks import find_network, json_option, network_argument
from ginnel.cli.render import SCHEMA, show_json
from ginnel.daemon.paths import NetworkPaths

CHECK_TIMEOUT = 60.0  # seconds; silence takes some, and a router may be slow


@click.command()
@network_argument
@json_option
@click.option("--node", "nodes", multiple=True, metavar="HINT", help="Ask this node too, or alone.")
def netcheck(network: str | None, as_json: bool, nodes: tuple[str, ...]) -> None:
    """Say what the network around this machine allows.

    Tests UDP, IPv4 and IPv6, how the NAT maps and filters (RFC 5780), hairpin, port mapping at the
    router, reachability, names and path MTU, with the help of nodes. With a running tunnel it adds
    what that knows. Without one the nodes of the settings are asked (as root), or those of --node.
    It takes some seconds.

    \b
    Examples:
      ginnel netcheck
      ginnel netcheck home --json
      ginnel netcheck --node enr:...
    """
    answer = _check_alone(nodes) if nodes else _check(find_network(network))
    if as_json:
        show_json({"schema": SCHEMA, **answer})
        return
    with making_sense():
        lines = [f"{name + ':':26}{value}" for name, value in answer["facts"].items()]
        lines += [f"\n{text}" for text in answer["advice"]]
    click.echo("\n".join(lines))


def _check(paths: NetworkPaths) -> Json:
    """Ask the tunnel; without one, test with the nodes of the settings."""
    try:
        answer = ask_tunnel(paths.tunnel_socket, "GET", "/v1/netcheck", timeout=CHECK_TIMEOUT)
    except NotRunning:
        from ginnel.base.config import parse_settings

        try:
            settings = parse_settings(paths.settings.read_text())
        except PermissionError:
            raise NotRunning(
                f"not running: start it with `sudo ginnel up {paths.name}`, or test without it as "
                "root or with --node"
            ) from None
        return _check_alone(settings.nodes, settings.protocol_id)
    with making_sense():
        own = ask_tunnel(paths.tunnel_socket, "GET", "/v1/status")["self"]
        answer["checks"]["dns"] = resolves = _resolves(own["fqdn"], own["addresses"])
        names = "the system's resolver knows" if resolves else "the system's resolver does not know"
        answer["facts"]["DNS"] = f"{names} {own['fqdn']}"
    return answer


def _check_alone(hints: tuple[str, ...], protocol_id: str = "ginnel") -> Json:
    """Test without any tunnel."""
    from ginnel.daemon.netcheck import check_network, checks_of, clock_text, facts_of
    from ginnel.daemon.node_shell import read_hints
    from ginnel.daemon.report import NO_NODES
    from ginnel.net.interfaces import host_addresses

    nodes = read_hints(hints)
    ips = [address.ip for address in host_addresses()]
    finding = asyncio.run(check_network(nodes, protocol_id, ips))
    facts = {"addresses": ", ".join(ips) or "none"}
    facts |= facts_of(finding, ips, has_nodes=bool(nodes))
    facts["reachable from outside"] = "not tested: the tunnel is not running"
    facts["clock"] = clock_text(time.time())
    facts["DNS"] = "not tested: the tunnel is not running"
    advice = [] if finding.seen or finding.seen6 else [NO_NODES]
    return {"facts": facts, "advice": advice, "checks": checks_of(finding)}


def _resolves(name: str, addresses: list[str]) -> bool:
    try:
        found = socket.getaddrinfo(name, None)
    except OSError:
        return False
    return any(str(entry[4][0]) in addresses for entry in found)
