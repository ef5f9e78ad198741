"""Opens the TUN device: one descriptor, and a device that lives as long as a descriptor of it.

The device is not persistent, so that it, its addresses and its routes vanish with the last
descriptor, whatever happens to the processes that held it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from ginnel.base.errors import SystemFailure, UsageError

TUN_PATH = Path("/dev/net/tun")
MAX_DEVICE_NAME = 15  # bytes (IFNAMSIZ without its NUL)
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TUN = 0x0001  # IP packets, no Ethernet
_IFF_NO_PI = 0x1000  # no extra header in front
_IFF_VNET_HDR = 0x4000  # a virtio header in front, for offloads
_IFREQ = struct.Struct("16sH22x")


@dataclass(frozen=True, slots=True)
class TunDevice:
    """An open TUN; the caller owns the descriptor."""

    fd: int
    name: str


DEVICE_PREFIX = "gn-"  # of every device of ours


def device_name(network: str) -> str:
    """Return the name of a network's device: `gn-NETWORK`, a long name cut and made unique."""
    if len(DEVICE_PREFIX + network) <= MAX_DEVICE_NAME:
        return DEVICE_PREFIX + network
    digest = hashlib.sha256(network.encode()).hexdigest()[:4]
    return f"{DEVICE_PREFIX}{network[:7]}-{digest}"


def open_tun(name: str, *, vnet_header: bool = False, path: Path = TUN_PATH) -> TunDevice:
    """Create the device `name` and return its descriptor, non-blocking and close-on-exec.

    `vnet_header` asks for a virtio header in front of each packet, which a data plane needs for
    offloads; a system that has none gives a plain device.

    Raises:
        UsageError: the name is empty or longer than 15 bytes.
        SystemFailure: the system has no TUN for us; the text names the remedy.
    """
    if not 0 < len(name.encode()) <= MAX_DEVICE_NAME:
        raise UsageError(f"{name!r} can't name a device: 1 to {MAX_DEVICE_NAME} bytes")
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SystemFailure(_explain_open(path, error)) from None
    try:
        answer = _create(fd, name, vnet_header=vnet_header)
    except OSError as error:
        os.close(fd)
        raise SystemFailure(_explain_create(name, error)) from None
    given = _IFREQ.unpack(answer)[0].rstrip(b"\0").decode()
    return TunDevice(fd, given)


def _create(fd: int, name: str, *, vnet_header: bool) -> bytes:
    flags = _IFF_TUN | _IFF_NO_PI
    if vnet_header:
        try:
            return fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), flags | _IFF_VNET_HDR))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
    return fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))


def _explain_open(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR):
        return (
            f"no {path}: load the module (`modprobe tun`), or give the container the device "
            f"(`--device {path}`); `ginnel up --no-tun` does without"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"{path} may not be opened: run as root, or let users open it (`chmod 0666 {path}`, "
            "the usual mode)"
        )
    return f"{path} can't be opened: {error.strerror}"


def _explain_create(name: str, error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"the device {name} can't be made: CAP_NET_ADMIN is needed, run as root"
    if error.errno == errno.EBUSY:
        return f"the device {name} exists and is in use: is another Ginnel running?"
    if error.errno == errno.EINVAL:
        return f"the name {name} belongs to a device of another kind, or can't name one"
    return f"the device {name} can't be made: {error.strerror}"
