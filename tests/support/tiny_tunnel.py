"""A tunnel program and a signer program of a few lines, for tests of the manager.

The tunnel drops its rights, asks for fixed settings, and writes what it could not do into its state
folder. Started by the manager as `tiny_tunnel.py tunnel NAME --rpc-read-fd 3 ...`.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path

from ginnel.codervpn.aio import Tunnel
from ginnel.codervpn.messages import LogLevel, Start, make_agent, make_settings
from ginnel.daemon import privileges
from ginnel.daemon.paths import NetworkPaths

ROOT = Path(os.environ["GINNEL_TEST_ROOT"])
UID = privileges.FIRST_UID + 91
ADDRESSES = ("100.64.7.1/16", "fd12:3456::7/48")
ROUTES = ("100.64.0.0/16", "fd12:3456::/48")


class Handlers:
    """What the manager asks for."""

    tunnel: Tunnel
    found: dict[str, object]

    async def on_start(self, start: Start) -> str | None:
        self.found["is_tun"] = os.fstat(start.file_descriptor).st_rdev == os.makedev(10, 200)
        self.found["token"] = start.token.reveal().decode()
        self.found["refused"] = await self.tunnel.network_settings(
            make_settings(ADDRESSES, ["0.0.0.0/0"], mtu=1280)
        )
        error = await self.tunnel.network_settings(make_settings(ADDRESSES, ROUTES, mtu=1380))
        self.tunnel.upsert(agents=[make_agent(b"a" * 16, "pi\x1b[1m", latency_s=0.01, direct=True)])
        self.tunnel.log(LogLevel.INFO, "hello\nfrom the tunnel", ["tiny"], [("PEER", "pi")])
        found = NetworkPaths("test", *(ROOT / name for name in ("etc", "state", "run"))).state
        (found / "new").write_text(json.dumps(self.found))
        (found / "new").rename(found / "found.json")
        return error

    async def on_stop(self) -> str | None:
        return None

    async def on_wake(self) -> None:
        self.tunnel.log(LogLevel.INFO, "woken")


def try_manager_socket(paths: NetworkPaths) -> str:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(2)
        try:
            stream.connect(str(paths.manager_socket))
            stream.sendall(b'{"verb": "down"}\n')
            return repr(stream.recv(100))
        except OSError as error:
            return type(error).__name__


async def serve_tunnel(found: dict[str, object]) -> None:
    handlers = Handlers()
    handlers.found = found
    handlers.tunnel = Tunnel(3, 3, handlers)
    await handlers.tunnel.run()


def run_signer() -> None:
    with socket.socket(fileno=3) as manager:
        while request := manager.recv(4096):
            asked = json.loads(request)
            number = asked.pop("id")
            manager.send(json.dumps({"asked": asked, "id": number}).encode())


def main() -> None:
    privileges.die_with_parent()
    if sys.argv[1] == "signer":
        run_signer()
        return
    paths = NetworkPaths("test", *(ROOT / name for name in ("etc", "state", "run")))
    separation = privileges.drop(privileges.Confinement(UID, UID, [paths.state]))
    found: dict[str, object] = {
        "separation": separation.describe(),
        "manager.sock": try_manager_socket(paths),
        "arguments": sys.argv[1:],
        "port": socket.socket(fileno=os.dup(5)).getsockname()[1],
        "listens": socket.socket(fileno=os.dup(7)).getsockname(),
    }
    asyncio.run(serve_tunnel(found))


if __name__ == "__main__":
    main()
