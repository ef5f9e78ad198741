"""Which network a command means, and what every command needs of its files.

A machine with one network needs no name; with several the name must be given.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.daemon.paths import ETC_ROOT, RUN_ROOT, NetworkPaths, network_folders

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def network_argument(command: CommandT) -> CommandT:
    """Add the optional argument NETWORK to a command."""
    return click.argument("network", required=False)(command)


def network_option(command: CommandT) -> CommandT:
    """Add the option --network to a command that has other arguments."""
    return click.option("-n", "--network", metavar="NAME", help="Which network, if not the only.")(
        command
    )


def json_option(command: CommandT) -> CommandT:
    """Add the option --json to a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def known_networks() -> list[str]:
    """Return the networks that have files here, or sockets (an ordinary user sees only these)."""
    found: list[str] = []
    with contextlib.suppress(SystemFailure):
        found += network_folders(ETC_ROOT)
    with contextlib.suppress(SystemFailure):
        found += [name for name in network_folders(RUN_ROOT) if _has_socket(name)]
    return sorted(set(found))


def _has_socket(name: str) -> bool:
    paths = NetworkPaths(name)
    return any(os.path.exists(path) for path in (paths.tunnel_socket, paths.manager_socket))


def find_network(name: str | None) -> NetworkPaths:
    """Return the paths of the named network, or of the only one.

    Raises:
        SystemFailure: there is none. UsageError: there are several, or none of that name.
    """
    names = known_networks()
    if name is not None:
        if name not in names:
            there = f"here are: {', '.join(names)}" if names else "here is none"
            raise UsageError(f"no network {name!r} on this machine ({there})")
        return NetworkPaths(name)
    if not names:
        raise SystemFailure(
            "no network on this machine: make one with `sudo ginnel init NAME`, "
            "or join one with `sudo ginnel join`"
        )
    if len(names) > 1:
        raise UsageError(f"which network? {', '.join(names)}")
    return NetworkPaths(names[0])


def require_root(what: str) -> None:
    """Raise SystemFailure unless we are root."""
    if os.geteuid() != 0:
        raise SystemFailure(f"{what} needs root: try `sudo ginnel {what}`")
