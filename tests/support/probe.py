"""Tries, inside the real tunnel and signer, what these must not be able to do.

`install` runs before Ginnel is imported (see `witness.environment`). In a tunnel or signer it first
asks the manager something, while the process still is root: it must be refused as the manager's
child. Then it waits for SIGUSR1, and tries the rest under the restrictions that the process has
given itself. Errors are noted by number, 0 for what worked, in a file that is open from the start.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from support.witness import open_high

ROLES = ("tunnel", "signer")
MOST_PIDS = 600  # process numbers of a young lab are below
WAIT_S = 5.0  # seconds for the manager to refuse
KEY_FILES = ("node.key", "admin.key", "settings.toml", "cert.obj")
OPEN = Path("/etc/ginnel-open")  # a folder of the test's that everybody may read and write
PUBLIC = ("198.51.100.1", 9)

Found = dict[str, object]


def install(folder: str) -> None:
    """Become a probe if this process is a tunnel or signer that the manager started."""
    words = sys.orig_argv
    role = next((word for word in ROLES if word in words and "ginnel.cli.main" in words), None)
    if role is None:
        return
    network = words[words.index(role) + 1]
    descriptor = open_high(Path(folder) / f"{role}-{os.getpid()}.json")
    first: Found = {"uid_before": os.geteuid(), "refused_before": ask_manager(network)}

    def look(_number: int, _frame: object) -> None:
        found = first | look_around(network, role)
        os.write(descriptor, json.dumps(found).encode() + b"\n")

    signal.signal(signal.SIGUSR1, look)


def error_of(action: Callable[[], object]) -> int:
    """Return the number that the action fails with, 0 if it doesn't."""
    try:
        action()
    except OSError as error:
        return error.errno or -1
    return 0


def ask_manager(network: str) -> str:
    """Ask for the status at manager.sock; return the answer or the error."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(WAIT_S)
        try:
            stream.connect(f"/run/ginnel/{network}/manager.sock")
            stream.sendall(b'{"verb": "status"}\n')
            return repr(stream.recv(100))
        except OSError as error:
            return type(error).__name__


def open_udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.sendto(b"x", PUBLIC)


def connect_tcp() -> None:
    with socket.socket() as stream:
        stream.settimeout(WAIT_S)
        stream.connect(PUBLIC)


def look_around(network: str, role: str) -> Found:
    """Try everything; return what came of it."""
    etc = Path("/etc/ginnel") / network
    own = Path("/var/lib/ginnel") / (network if role == "tunnel" else f"{network}-signer")
    manager = os.getppid()
    others = [pid for pid in range(1, MOST_PIDS) if pid != os.getpid()]
    denied: dict[str, Callable[[], object]] = {
        **{name: (etc / name).read_bytes for name in KEY_FILES},
        "list of keys": lambda: os.listdir(etc),
        "manager's memory": lambda: os.open(f"/proc/{manager}/mem", os.O_RDONLY),
        "manager's memory, to write": lambda: os.open(f"/proc/{manager}/mem", os.O_WRONLY),
        "manager's environment": Path(f"/proc/{manager}/environ").read_bytes,
        "manager's descriptors": lambda: os.listdir(f"/proc/{manager}/fd"),
        "signal to the manager": lambda: os.kill(manager, 0),
        "new file in /etc": lambda: Path("/etc/probe").write_text("x"),
        "new file among the keys": lambda: (etc / "probe").write_text("x"),
        "program": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        # From here on by Landlock alone: modes would allow these.
        "file that all may read": (OPEN / "readable").read_bytes,
        "new file where all may write": lambda: (OPEN / "new").write_text("x"),
        "new file in /tmp": lambda: Path("/tmp/ginnel-probe").write_text("x"),
    }
    return {
        "pid": os.getpid(),
        "uids": os.getresuid(),
        "groups": os.getgroups(),
        "denied": {name: error_of(action) for name, action in denied.items()},
        "memories": [pid for pid in others if not error_of(Path(f"/proc/{pid}/mem").open)],
        "manager.sock": ask_manager(network),
        "own file": error_of(lambda: (own / "probe").write_text("x")),
        "devices": [name for _, name in socket.if_nameindex()],
        "udp": error_of(open_udp),
        "tcp": error_of(connect_tcp),
    }
