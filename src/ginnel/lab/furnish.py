"""Files of its own for each lab machine, in its mount namespace; the host's stay untouched.

/run is empty. /etc and /var/lib are new, with links to all that the host has there, which is
mounted read-only under `.host`; what a machine writes there stays its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from ginnel.lab.enter import (
    MS_BIND,
    MS_MOVE,
    MS_NODEV,
    MS_NOSUID,
    MS_REC,
    make_mounts_private,
    make_read_only,
    mount,
)

HOST_FOLDER = ".host"
TMPFS_OPTIONS = "mode=755,size=256m"  # size: a bound, memory is taken as files are written
RESOLV_CONF = "# The lab has no name server; /etc/hosts knows the public machines.\n"


def furnish(hostname: str, hosts: Mapping[str, str]) -> None:
    """Give this mount namespace a machine's own files. Raises OSError."""
    make_mounts_private()
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, TMPFS_OPTIONS)
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost", f"127.0.1.1 {hostname}"]
    lines += [f"{ip} {name}" for name, ip in hosts.items()]
    _shadow(
        "/etc",
        {
            "resolv.conf": RESOLV_CONF,
            "hostname": f"{hostname}\n",
            "hosts": "\n".join(lines) + "\n",
        },
    )
    _shadow("/var/lib", {})
    # Shows this namespace's devices. Refused in containers that hide parts of /sys: then netlink
    # tells all the same.
    with contextlib.suppress(OSError):
        mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV)


def _shadow(folder: str, files: Mapping[str, str]) -> None:
    """Put a tmpfs over a folder, with links to its old content and these files and `ginnel`."""
    new = "/run/ginnel-lab-new"
    os.mkdir(new)
    mount("tmpfs", new, "tmpfs", MS_NOSUID | MS_NODEV, TMPFS_OPTIONS)
    host = os.path.join(new, HOST_FOLDER)
    os.mkdir(host)
    mount(folder, host, None, MS_BIND | MS_REC)
    make_read_only(host)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name in files or entry.name in ("ginnel", HOST_FOLDER):
                continue
            is_link = entry.is_symlink()
            target = os.readlink(entry.path) if is_link else os.path.join(HOST_FOLDER, entry.name)
            os.symlink(target, os.path.join(new, entry.name))
    os.mkdir(os.path.join(new, "ginnel"), 0o755)
    for name, text in files.items():
        with open(os.path.join(new, name), "w") as file:
            file.write(text)
    mount(new, folder, None, MS_MOVE)
    os.rmdir(new)
