"""What `init` and `join` choose for a machine: its name, UDP port, uids and addresses."""

from __future__ import annotations

import os
import re

from ginnel.base.chance import Rng
from ginnel.base.config import FIRST_PORT, LAST_PORT, parse_settings
from ginnel.base.errors import GinnelError, SystemFailure, UsageError
from ginnel.cli.networks import known_networks
from ginnel.daemon import privileges
from ginnel.daemon.paths import NetworkPaths
from ginnel.net.routes import ipv4_routes
from ginnel.storage.network_files import stored_ipv4_prefix

MAX_NAME = 63  # characters (FORMATS, "Ground rules")


def member_name(text: str) -> str:
    """Return a machine's name in the network: the first label, lower case.

    Raises:
        UsageError: nothing of it can be used.
    """
    name = text.split(".", 1)[0].lower()
    if not re.fullmatch(rf"[a-z0-9]([a-z0-9-]{{0,{MAX_NAME - 2}}}[a-z0-9])?", name):
        raise UsageError(f"{text!r} can't be a name: letters, digits, hyphen; choose one by --name")
    return name


def choose_port(rng: Rng) -> int:
    """Return a port of 20000 to 60000: one port for all machines would be easy to block."""
    return rng.randrange(FIRST_PORT, LAST_PORT + 1)


def taken_prefixes() -> list[str]:
    """Return the IPv4 prefixes that this machine routes, and those of its networks, up or not.

    Raises:
        SystemFailure: the routes can't be read.
    """
    networks = (stored_ipv4_prefix(NetworkPaths(name)) for name in known_networks())
    return [*ipv4_routes(), *(prefix for prefix in networks if prefix is not None)]


def choose_uids(count: int) -> list[int]:
    """Return uids of 64100 to 64199 that no other network here uses.

    Raises:
        SystemFailure: all are taken.
    """
    taken: dict[int, None] = {}
    for name in known_networks():
        try:
            settings = parse_settings(NetworkPaths(name).settings.read_text(), os.environ)
        except (OSError, ValueError, GinnelError):
            continue
        taken |= {settings.tunnel_uid: None, settings.signer_uid: None}
    # The last one is `ginnel node`'s.
    free = [uid for uid in range(privileges.FIRST_UID, privileges.LONE_UID) if uid not in taken]
    if len(free) < count:
        raise SystemFailure(f"no free uid in {privileges.FIRST_UID}-{privileges.LONE_UID - 1}")
    return free[:count]
