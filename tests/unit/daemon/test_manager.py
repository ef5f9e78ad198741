"""The manager without a TUN and with a tunnel that fails; all else is in tests/netns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ginnel.codervpn.messages import LogLevel
from ginnel.daemon import privileges
from ginnel.daemon.tunnel_child import STREAM_FD

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: the manager keeps a few capabilities"
)

PROGRAM = """
import os, sys
from pathlib import Path
from ginnel.daemon.manager import run_manager
from ginnel.daemon.manager_config import ManagerConfig
from ginnel.daemon.paths import NetworkPaths

root = Path(sys.argv[1])
run_manager(
    ManagerConfig(
        paths=NetworkPaths("test", root / "etc", root / "state", root / "run"),
        port=0,
        make_token=lambda: "ginnel1:bm90aGluZw",
        url="ginnel:test",
        tunnel_uid=os.geteuid(),
        command=(sys.executable, "-c", sys.argv[2]),
        use_tun=False,
    ),
    on_ready=lambda: print("READY", flush=True),
)
"""


TUNNEL = """
import asyncio
from ginnel.codervpn import Tunnel
from ginnel.codervpn.messages import LogLevel

class Handlers:
    async def on_start(self, start):
        for level in LogLevel:
            self.tunnel.log(level, f"{level.name} of\\nours", ["net", "magic"], [("Peer", "pi")])
    async def on_stop(self): return "not saved\\x1b"
    async def on_wake(self): pass

async def main():
    handlers = Handlers()
    handlers.tunnel = Tunnel(3, 3, handlers)
    await handlers.tunnel.run()

asyncio.run(main())
"""


def test_a_tunnels_log_records_reach_the_system_log_whole(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), TUNNEL], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        lines = []
        while not lines or "FATAL" not in lines[-1]:
            lines.append(process.stderr.readline())
            assert lines[-1]
    finally:
        process.kill()
        process.communicate()
    words = ["unspecified", "unspecified", "info", "warn", "error", "critical", "fatal"]
    assert [line for line in lines if "magic" in line] == [
        f"{word} tunnel: net.magic: {level.name} of\\x0aours peer=pi\n"
        for word, level in zip(words, LogLevel, strict=True)  # 0 is no level in the seed's dialect
    ]


def test_a_stop_that_failed_is_logged(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), TUNNEL], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        while "CoderVPN 1.3" not in (line := process.stderr.readline()):
            assert line
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=20)
        assert "warn manager: stop: not saved\\x1b\n" in rest
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_a_tunnel_that_fails_is_told_and_tried_again_until_we_are_stopped(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), "raise SystemExit('no node answers')"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert process.stdout.readline() == "READY\n"
        assert "no node answers" in process.stderr.readline()
        line = process.stderr.readline()
        assert "tunnel ended with exit code 1: no node answers; it starts again in 1 s" in line
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=20)
        assert "Traceback" not in rest
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_a_manager_can_not_be_inspected_and_adopts_orphans(tmp_path: Path) -> None:
    code = f"import os\nwhile os.read({STREAM_FD}, 4096): pass"  # until the manager ends
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), code], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "READY\n"
        if not privileges.can_become(privileges.FIRST_UID):
            assert Path(f"/proc/{process.pid}/mem").stat().st_uid != os.geteuid()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()
