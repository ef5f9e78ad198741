"""Starts the manager in the background and waits until it, and then the tunnel, runs."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from functools import partial
from pathlib import Path

from ginnel.base.errors import SystemFailure
from ginnel.cli.client import Json, NotRunning, ask_manager
from ginnel.daemon.command import COMMAND
from ginnel.daemon.paths import NetworkPaths
from ginnel.storage.files import make_open_folder

READY_LIMIT_S = 60.0  # seconds for the manager to open TUN, ports and sockets
TUNNEL_LIMIT_S = 30.0  # seconds for the tunnel to start and the settings to be applied
POLL_S = 0.1  # seconds between two questions
LOG_TAIL = 3  # lines of the log that are shown when the manager ends at once


def is_running(paths: NetworkPaths) -> bool:
    """Say whether a manager answers for this network."""
    try:
        ask_manager(paths.manager_socket, "status")
    except NotRunning:
        return False
    return True


def start_manager(paths: NetworkPaths, options: list[str]) -> None:
    """Start the manager apart from this terminal and wait until it listens.

    Raises:
        SystemFailure: it did not come up; the text is its own.
    """
    log = paths.log
    make_open_folder(paths.run)
    ready, theirs = os.pipe()
    argv = [*COMMAND, "manager", paths.name, *options]
    try:
        log.unlink(missing_ok=True)
        with open(log, "ab", opener=partial(os.open, mode=0o600)) as output:
            process = subprocess.Popen(
                [*argv, "--ready-fd", str(theirs)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs,),
                start_new_session=True,
                cwd="/",
            )
        os.close(theirs)
        readable, _, _ = select.select([ready], [], [], READY_LIMIT_S)
        line = os.read(ready, 4096) if readable else b""
    finally:
        os.close(ready)
    if not line:
        process.terminate()
        process.wait()
        raise SystemFailure(_last_words(log) or f"the manager did not start: see {log}")
    answer = json.loads(line)
    if "error" in answer:
        process.wait()
        raise SystemFailure(answer["error"])


def wait_for_tunnel(paths: NetworkPaths) -> Json:
    """Wait until the tunnel runs; return the manager's status.

    Raises:
        SystemFailure: it failed or took too long; the manager goes on trying.
    """
    ends_at = time.monotonic() + TUNNEL_LIMIT_S
    while time.monotonic() < ends_at:
        status = ask_manager(paths.manager_socket, "status")
        tunnel = status["tunnel"]
        if tunnel["state"] == "running":
            return status
        if tunnel["last_error"]:
            raise SystemFailure(f"the tunnel does not start: {tunnel['last_error']}")
        time.sleep(POLL_S)
    raise SystemFailure(f"the tunnel did not start in {TUNNEL_LIMIT_S:.0f} s")


def tell_ready(descriptor: int | None, error: str | None = None) -> None:
    """Tell whoever started this manager that it listens, or why it can't."""
    if descriptor is None:
        return
    with contextlib.suppress(OSError):  # nobody waits any more
        os.write(descriptor, json.dumps({"error": error} if error else {}).encode())
        os.close(descriptor)


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-LOG_TAIL:])
