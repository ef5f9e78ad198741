"""How a manager starts its tunnel: the command, and under which numbers it gets what.

Ours gets the stream as 3, UDP as 5 and 6, the listener as 7, the signer's channel as 8, the list of
other name servers as 9, port 53 from 10 on, `wg`'s listener as 20; any other program gets the
stream only. The TUN comes along with Start, or as 4.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from ginnel.daemon.manager_config import ManagerConfig
from ginnel.daemon.resources import Resources
from ginnel.daemon.signer_link import SignerLink
from ginnel.daemon.supervise import Child, start_child

STREAM_FD = 3
STREAM_OPTIONS = ("--rpc-read-fd", str(STREAM_FD), "--rpc-write-fd", str(STREAM_FD))


def common_options(config: ManagerConfig) -> list[str]:
    """Return the options that tunnel and signer have in common."""
    return ["--no-sandbox"] * (not config.has_sandbox) + ["--debug"] * config.debug


def start_tunnel(
    config: ManagerConfig,
    resources: Resources,
    stream: socket.socket,
    signer: SignerLink | None,
    on_line: Callable[[str], None],
    *,
    is_first: bool,
) -> Child:
    """Start the tunnel with its end of the stream; a signer starts anew with it.

    Raises:
        SystemFailure: the program could not be started.
    """
    given = {STREAM_FD: stream.fileno()}
    if resources.device is not None and not config.passes_tun:
        given[Resources.TUN_FD] = resources.device.fd
    if config.spawn:
        return start_child("tunnel", [*config.spawn, *STREAM_OPTIONS], given, on_line)
    argv = [*config.command, "tunnel", config.paths.name, *STREAM_OPTIONS]
    argv += common_options(config)
    if config.resets_clock and is_first:
        argv.append("--reset-clock")
    udp6, note, wg = resources.udp6, resources.upstream, resources.uapi_listener
    handed: list[tuple[str, int, int | None]] = [
        ("--udp4-fd", 5, resources.udp4.fileno()),
        ("--udp6-fd", 6, None if udp6 is None else udp6.fileno()),
        ("--listen-fd", 7, resources.tunnel_listener.fileno()),
        ("--uapi-fd", 20, None if wg is None else wg.fileno()),
        ("--upstream-fd", 9, None if note is None else note.reader_fd),
        *(("--dns-fd", 10 + index, opened.fileno()) for index, opened in enumerate(resources.dns)),
    ]
    with contextlib.ExitStack() as stack:
        if signer is not None:
            handed.append(("--signer-fd", 8, stack.enter_context(signer.renew()).fileno()))
        for option, number, descriptor in handed:
            if descriptor is not None:
                given[number] = descriptor
                argv += [option, str(number)]
        return start_child("tunnel", argv, given, on_line)
