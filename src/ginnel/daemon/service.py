"""Ginnel as a systemd service: the unit, the users of its processes, and the word READY.

The steps work without a running systemd too (a container, an image that is being built): then files
are written and links made, and nothing is started.

Source: systemd.service(5), systemd.exec(5), sysusers.d(5), sd_notify(3).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ginnel.base.errors import SystemFailure
from ginnel.daemon.command import COMMAND
from ginnel.daemon.paths import NetworkPaths
from ginnel.storage.files import make_open_folder

ROOT = Path("/")  # of the system that is changed; a test or an image has another
UNIT_FOLDER = Path("etc/systemd/system")
USERS_FOLDER = Path("etc/sysusers.d")
SYSTEMD_RUNS = Path("/run/systemd/system")  # there if systemd is process 1 (sd_booted(3))
TOOL_TIMEOUT = 60.0  # seconds for one systemctl; a start waits for READY
_WANTED_BY = "multi-user.target"
# What the manager needs, and what its children have before they drop all.
CAPABILITIES = (
    "CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_SETUID CAP_SETGID CAP_SETPCAP CAP_KILL CAP_CHOWN "
    "CAP_FOWNER CAP_DAC_OVERRIDE CAP_SYS_ADMIN"
)


def unit_name(network: str) -> str:
    """Return the unit's name."""
    return f"ginnel-{network}.service"


def unit_text(network: str, command: Sequence[str] | None = None) -> str:
    """Return the unit of one network; `command` is how `ginnel` is called."""
    program = " ".join(_quote(word) for word in command or COMMAND)
    return f"""[Unit]
Description=Ginnel network {network}
Documentation=man:ginnel(1)
Wants=network.target
After=network-pre.target network.target systemd-resolved.service dbus.service

[Service]
Type=notify
NotifyAccess=main
ExecStart={program} up {network} --foreground
ExecStop={program} down {network}
ExecStopPost={program} down {network}
Restart=on-failure
RestartSec=2
TimeoutStopSec=30
KillMode=mixed
CapabilityBoundingSet={CAPABILITIES}
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
LockPersonality=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectSystem=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
UMask=0077

[Install]
WantedBy={_WANTED_BY}
"""


def users_text(network: str, uids: Mapping[str, int]) -> str:
    """Return users and groups by process (`tunnel`, `signer`), as systemd-sysusers reads them.

    The processes need numbers only; with an entry nobody else is given them, and tools show a name.
    """
    return "".join(
        f'u {_user_name(uid)} {uid} "Ginnel {process} of {network}" / /usr/sbin/nologin\n'
        for process, uid in uids.items()
    )


def install(
    paths: NetworkPaths,
    uids: Mapping[str, int],
    *,
    root: Path = ROOT,
    command: Sequence[str] | None = None,
) -> list[str]:
    """Make users and groups, write and enable the unit; return what was done, in words.

    Raises:
        SystemFailure: a file can't be written, or systemd refuses.
    """
    unit, link, users = _files(paths.name, root)
    try:
        _write(users, users_text(paths.name, uids))
        _write(unit, unit_text(paths.name, command))
        make_open_folder(link.parent)
        if not link.is_symlink():
            link.symlink_to(unit)
    except OSError as error:
        raise SystemFailure(f"{error.filename}: {error.strerror}") from None
    done = [f"wrote {users}", f"wrote {unit}", "it starts at boot"]
    if shutil.which("systemd-sysusers") is not None:
        _run("systemd-sysusers", f"--root={root}", str(users))
        done.insert(1, f"users and groups: {', '.join(map(_user_name, uids.values()))}")
    if _systemd_runs():
        _systemctl("daemon-reload")
        _systemctl("restart", unit.name)
        done.append("started")
    return done


def remove(paths: NetworkPaths, *, root: Path = ROOT) -> list[str]:
    """Stop the service and remove what `install` made; harmless without it."""
    unit, link, users = _files(paths.name, root)
    if _systemd_runs() and unit.exists():
        _systemctl("stop", unit.name)
    try:
        names = [line.split()[1] for line in users.read_text().splitlines()]
    except OSError:
        names = []
    done = [f"removed {unit}"]
    for name in names:
        try:
            _run("userdel", "--prefix", str(root), name)
            _run("groupdel", "--prefix", str(root), name, check=False)  # where userdel leaves it
        except SystemFailure as error:
            done.append(f"the user {name} stays: {error}")
    try:
        for path in (link, unit, users):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise SystemFailure(f"{error.filename}: {error.strerror}") from None
    if _systemd_runs():
        _systemctl("daemon-reload")
    return done


def status(paths: NetworkPaths, *, root: Path = ROOT) -> dict[str, object]:
    """Say whether the unit is there, starts at boot, and runs."""
    unit, link, _ = _files(paths.name, root)
    return {
        "unit": str(unit),
        "installed": unit.exists(),
        "starts_at_boot": link.is_symlink(),
        "state": _systemctl("is-active", unit.name, check=False) if _systemd_runs() else None,
    }


def notify(state: str) -> None:
    """Tell the service manager (`READY=1`, `STOPPING=1`); nothing happens without one."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        sender.sendto(state.encode(), address)


def _systemd_runs() -> bool:
    return SYSTEMD_RUNS.is_dir() and shutil.which("systemctl") is not None


def _files(network: str, root: Path) -> tuple[Path, Path, Path]:
    """Return the unit, the link that starts it at boot, and the list of users."""
    unit = root / UNIT_FOLDER / unit_name(network)
    link = unit.parent / f"{_WANTED_BY}.wants" / unit.name
    return unit, link, root / USERS_FOLDER / f"ginnel-{network}.conf"


def _write(path: Path, text: str) -> None:
    make_open_folder(path.parent)
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)


def _user_name(uid: int) -> str:
    return f"ginnel-{uid}"  # a network's name may be longer than a user's may


def _systemctl(*arguments: str, check: bool = True) -> str:
    return _run("systemctl", *arguments, check=check)


def _run(*command: str, check: bool = True) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TOOL_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemFailure(f"{command[0]}: {error}") from None
    if check and done.returncode != 0:
        raise SystemFailure(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _quote(word: str) -> str:
    """Quote for a unit file (systemd.service(5), "Command lines")."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if " " in word else text
