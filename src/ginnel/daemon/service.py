"""Ginnel as a systemd service: the unit's text, how it is put in place, and the word READY.

The steps work without a running systemd too (a container, an image that is being built): then files
are written and links made, and nothing is started.

Source: systemd.service(5), systemd.exec(5), sd_notify(3).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ginnel.base.errors import SystemFailure
from ginnel.daemon.paths import NetworkPaths

UNIT_FOLDER = Path("/etc/systemd/system")
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
    program = " ".join(
        _quote(word) for word in command or (sys.executable, "-m", "ginnel.cli.main")
    )
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


def install(
    paths: NetworkPaths, *, folder: Path = UNIT_FOLDER, command: Sequence[str] | None = None
) -> list[str]:
    """Write and enable the unit; return what was done, in words.

    Raises:
        SystemFailure: a file can't be written, or systemd refuses.
    """
    unit = folder / unit_name(paths.name)
    link = folder / f"{_WANTED_BY}.wants" / unit.name
    try:
        link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        new = unit.with_suffix(".new")
        new.write_text(unit_text(paths.name, command))
        new.chmod(0o644)
        new.replace(unit)
        if not link.is_symlink():
            link.symlink_to(unit)
    except OSError as error:
        raise SystemFailure(f"{error.filename}: {error.strerror}") from None
    done = [f"wrote {unit}", "it starts at boot"]
    if _systemd_runs():
        _systemctl("daemon-reload")
        _systemctl("restart", unit.name)
        done.append("started")
    return done


def remove(paths: NetworkPaths, *, folder: Path = UNIT_FOLDER) -> list[str]:
    """Stop the service and remove what `install` made; harmless without it."""
    unit = folder / unit_name(paths.name)
    if _systemd_runs() and unit.exists():
        _systemctl("stop", unit.name)
    try:
        (folder / f"{_WANTED_BY}.wants" / unit.name).unlink(missing_ok=True)
        unit.unlink(missing_ok=True)
    except OSError as error:
        raise SystemFailure(f"{error.filename}: {error.strerror}") from None
    if _systemd_runs():
        _systemctl("daemon-reload")
    return [f"removed {unit}"]


def status(paths: NetworkPaths, *, folder: Path = UNIT_FOLDER) -> dict[str, object]:
    """Say whether the unit is there, starts at boot, and runs."""
    unit = folder / unit_name(paths.name)
    return {
        "unit": str(unit),
        "installed": unit.exists(),
        "starts_at_boot": (folder / f"{_WANTED_BY}.wants" / unit.name).is_symlink(),
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


def _systemctl(*arguments: str, check: bool = True) -> str:
    try:
        done = subprocess.run(
            ["systemctl", *arguments],
            capture_output=True,
            text=True,
            timeout=TOOL_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemFailure(f"systemctl {arguments[0]}: {error}") from None
    if check and done.returncode != 0:
        raise SystemFailure(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _quote(word: str) -> str:
    """Quote for a unit file (systemd.service(5), "Command lines")."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if " " in word else text
