"""A manager that is none of ours in anything but the protocol: TUN, stream, keys, no more.

    foreign_manager.py along|inherited TOKEN-FILE COMMAND...

It opens a TUN, starts the command with the stream, starts the tunnel with the TUN, grants what is
asked, and prints READY. When its standard input ends it stops the tunnel and tells the exit code.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from ginnel.base.types import Secret
from ginnel.codervpn import Manager
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.messages import LogRecord, Start
from ginnel.daemon.settings_apply import SettingsApplier
from ginnel.daemon.settings_check import Allowance, check_settings
from ginnel.net.tun import open_tun

DEVICE = "gn-foreign"
WAIT = 60.0  # seconds; a busy machine takes some to import a tunnel


class Handlers:
    """It sets up what it is asked for."""

    def __init__(self) -> None:
        self.applier = SettingsApplier(DEVICE)

    async def on_settings(self, settings: pb.NetworkSettingsRequest) -> str | None:
        await asyncio.to_thread(self.applier.apply, check_settings(settings, Allowance()))
        return None

    def on_peers(self) -> None:
        pass

    def on_log(self, record: LogRecord) -> None:
        print(record.level.name, record.message, file=sys.stderr)


def main(how: str, token_file: str, command: list[str]) -> None:
    token = Secret(Path(token_file).read_text().strip().encode())
    device = open_tun(DEVICE, vnet_header=how == "inherited")  # either kind of TUN will do
    ours, theirs = socket.socketpair()
    number = theirs.fileno()
    given = [number] if how == "along" else [number, device.fd]
    argv = [*command, "--rpc-read-fd", str(number), "--rpc-write-fd", str(number)]
    process = subprocess.Popen(argv, pass_fds=given)
    theirs.close()
    start = Start(device.fd, "https://example.org/demo", token)
    workspaces = asyncio.run(talk(ours.detach(), start, is_along=how == "along"))
    print(json.dumps({"exit": process.wait(WAIT), "workspaces": workspaces}), flush=True)


async def talk(descriptor: int, start: Start, *, is_along: bool) -> list[str]:
    manager = Manager(descriptor, descriptor, Handlers(), silence_timeout=WAIT)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(manager.run())
        await manager.start(start, wait_s=WAIT, pass_descriptor=is_along)
        os.close(start.file_descriptor)  # from here on it is the tunnel's alone
        print("READY", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        workspaces = [workspace.name for workspace in manager.workspaces]
        await manager.stop(wait_s=WAIT)
    return workspaces


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
