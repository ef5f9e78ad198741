"""What a tunnel opens itself when its manager hands over no more than the stream.

A manager of Ginnel's binds UDP and the listener, so that both outlive a tunnel that crashes. Any
other manager of the protocol gives a stream, a TUN and the keys: the rest is opened here, before
the rights go.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Mapping
from pathlib import Path

from ginnel.base.config import FIRST_PORT, LAST_PORT, Settings, parse_settings
from ginnel.base.errors import SystemFailure
from ginnel.daemon.admin_socket import listen_unix
from ginnel.daemon.paths import NetworkPaths
from ginnel.daemon.resources import bind_udp, bind_udp6, keep_outside
from ginnel.storage.files import make_open_folder

LONE_STATE = Path("/var/lib/ginnel-tunnel")


def lone_settings(environ: Mapping[str, str], uid: int) -> Settings:
    """Return the settings of a tunnel that has no settings file: defaults, and the environment.

    Raises:
        UsageError: a variable is wrong.
    """
    port = random.SystemRandom().randint(FIRST_PORT, LAST_PORT)
    return parse_settings(f"port = {port}\ntunnel_uid = {uid}\n", environ)


def lone_state() -> Path:
    """Return the folder of a tunnel without a network's settings."""
    if os.geteuid() == 0:
        return LONE_STATE
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / LONE_STATE.name


def open_udp(port: int, uid: int) -> tuple[int, int | None]:
    """Return UDP descriptors of both families; as root's, their packets never enter the overlay.

    Raises:
        SystemFailure: the port is in use.
    """
    udp4 = bind_udp(socket.AF_INET, port)
    udp6 = bind_udp6(port)
    for opened in (udp4, udp6):
        if opened is not None:
            with contextlib.suppress(SystemFailure):  # no right to mark: no TUN of ours either
                keep_outside(opened, uid)
    return udp4.detach(), udp6.detach() if udp6 is not None else None


def open_listener(paths: NetworkPaths) -> int:
    """Listen where `ginnel status` asks.

    Raises:
        SystemFailure: the folder or the socket can't be made.
    """
    make_open_folder(paths.run)
    return listen_unix(paths.tunnel_socket, mode=0o666).detach()
