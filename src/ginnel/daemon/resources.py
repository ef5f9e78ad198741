"""What only root can get for a network: lock, TUN, UDP sockets, listeners, state folders.

All of it stays while tunnels come and go. What a manager left behind that was killed is cleared at
the next start: sockets' files are replaced, and the TUN with its routes went with its descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import ClassVar, TypeVar

from ginnel.base.errors import SystemFailure
from ginnel.daemon import privileges
from ginnel.daemon.admin_socket import is_listening, listen_unix
from ginnel.daemon.guard import TUNNEL_MARK
from ginnel.daemon.paths import NetworkPaths
from ginnel.net.dns_upstream import UpstreamNote
from ginnel.net.tun import TunDevice, device_name, open_tun
from ginnel.storage.files import make_folder, make_open_folder

SOCKET_BUFFER = 7 * 1024 * 1024  # bytes, each way; what wireguard-go asks for
UAPI_FOLDER = Path("/var/run/wireguard")  # where `wg` looks for INTERFACE.sock
PATIENCE = 2.0  # seconds until what a dying tunnel holds counts as somebody else's
DNS_PORT = 53
DNS_BACKLOG = 16  # connections that wait for accept
_IP_FREEBIND = 15  # before the device has the address
_IPV6_FREEBIND = 78
_BUFFERS = (  # what goes beyond net.core.{r,w}mem_max (needs CAP_NET_ADMIN), and what does not
    (33, socket.SO_RCVBUF),  # SO_RCVBUFFORCE
    (32, socket.SO_SNDBUF),  # SO_SNDBUFFORCE
)

ValueT = TypeVar("ValueT")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resources:
    """Open descriptors; owned by `open_resources`."""

    TUN_FD: ClassVar[int] = 4  # the TUN's number in the tunnel

    device: TunDevice | None
    udp4: socket.socket
    udp6: socket.socket | None
    tunnel_listener: socket.socket
    dns: tuple[socket.socket, ...] = ()  # on port 53 of our overlay addresses, UDP and TCP
    upstream: UpstreamNote | None = None  # the servers that other names are asked at
    uapi_listener: socket.socket | None = None  # where `wg show` asks


@contextlib.contextmanager
def open_resources(
    paths: NetworkPaths,
    *,
    port: int,
    tunnel_uid: int,
    signer_uid: int | None = None,
    use_tun: bool = True,
    dns_addresses: Sequence[str] = (),
) -> Iterator[Resources]:
    """Open everything, and close it at the end.

    Raises:
        SystemFailure: one of them can't be had; nothing is left open.
    """
    with contextlib.ExitStack() as stack:
        _make_folder(paths.run_root)
        _make_folder(paths.run)
        stack.callback(os.close, _lock(paths.lock))
        _make_folder(paths.state_root)
        _make_folder(paths.state, uid=tunnel_uid)
        if signer_uid is not None:
            _make_folder(paths.signer_state, uid=signer_uid)
        udp4 = stack.enter_context(_patiently(lambda: bind_udp(socket.AF_INET, port)))
        udp6 = bind_udp6(port)
        if udp6 is not None:
            stack.enter_context(udp6)
        device = None
        if use_tun:
            device = _patiently(lambda: open_tun(device_name(paths.name), vnet_header=True))
            stack.callback(os.close, device.fd)
        listener = stack.enter_context(listen_unix(paths.tunnel_socket, mode=0o666))
        stack.callback(paths.tunnel_socket.unlink, missing_ok=True)
        for opened in (udp4, udp6):
            if opened is not None and device is not None:  # no device: no overlay to stay out of
                keep_outside(opened, tunnel_uid)
        dns: tuple[socket.socket, ...] = ()
        note: UpstreamNote | None = None
        if device is not None and dns_addresses:
            dns = _patiently(lambda: bind_dns(dns_addresses))
            note = UpstreamNote()
            stack.callback(note.close)
        for opened in dns:
            stack.enter_context(opened)
        uapi = None if device is None else stack.enter_context(_listen_for_wg(device.name))
        yield Resources(device, udp4, udp6, listener, dns, note, uapi)


@contextlib.contextmanager
def _listen_for_wg(device: str) -> Iterator[socket.socket | None]:
    """Open the socket at which `wg show` asks root's questions; without it all else works."""
    path = UAPI_FOLDER / f"{device}.sock"
    try:
        make_open_folder(UAPI_FOLDER)
        listener = listen_unix(path, mode=0o600)
    except SystemFailure as error:
        logger.warning("`wg show` will not see %s: %s", device, error)
        yield None
        return
    try:
        with listener:
            yield listener
    finally:
        path.unlink(missing_ok=True)


def bind_udp(family: int, port: int) -> socket.socket:
    """Return a non-blocking UDP socket on all addresses of a family, with a large buffer.

    Raises:
        SystemFailure: the port is in use, or the family is not there.
    """
    opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for forced, usual in _BUFFERS:
            try:
                opened.setsockopt(socket.SOL_SOCKET, forced, SOCKET_BUFFER)
            except OSError:
                opened.setsockopt(socket.SOL_SOCKET, usual, SOCKET_BUFFER)
        opened.bind(("", port))
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            raise SystemFailure(
                f"UDP port {port} is in use by another program: stop it, or choose another port "
                "(`port` in the settings, or --port)"
            ) from None
        raise SystemFailure(f"UDP port {port} can't be bound: {error.strerror}") from error
    return opened


def bind_dns(addresses: Sequence[str]) -> tuple[socket.socket, ...]:
    """Return sockets on port 53 of addresses that the device will have, of UDP and of TCP.

    Raises:
        SystemFailure: a socket was refused.
    """
    found: list[socket.socket] = []
    try:
        for kind, text in product((socket.SOCK_DGRAM, socket.SOCK_STREAM), addresses):
            family = socket.AF_INET6 if ":" in text else socket.AF_INET
            opened = socket.socket(family, kind | socket.SOCK_NONBLOCK)
            found.append(opened)
            level, name = (41, _IPV6_FREEBIND) if ":" in text else (0, _IP_FREEBIND)
            opened.setsockopt(level, name, 1)
            if kind == socket.SOCK_STREAM:  # connections of a manager before us may linger
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind((text, DNS_PORT))
            if kind == socket.SOCK_STREAM:
                opened.listen(DNS_BACKLOG)
    except OSError as error:
        for opened in found:
            opened.close()
        raise SystemFailure(
            f"port {DNS_PORT} of {text} can't be bound ({error.strerror}): is another DNS server "
            "listening on all addresses? `--no-dns` does without ours"
        ) from None
    return tuple(found)


def keep_outside(opened: socket.socket, tunnel_uid: int) -> None:
    """Mark a socket and give it to the tunnel's uid, so that its packets never enter the overlay.

    A rule by uid does not match a socket that root opened.

    Raises:
        SystemFailure: we may not mark.
    """
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, TUNNEL_MARK)
    except OSError as error:
        raise SystemFailure(f"a socket can't be marked: {error.strerror}") from None
    if privileges.can_become(tunnel_uid):
        os.fchown(opened.fileno(), tunnel_uid, tunnel_uid)


def _patiently(make: Callable[[], ValueT]) -> ValueT:
    """Try again for a moment: the tunnel of a manager that was just killed may still be dying."""
    gives_up_at = time.monotonic() + PATIENCE
    while True:
        try:
            return make()
        except SystemFailure:
            if time.monotonic() >= gives_up_at:
                raise
            time.sleep(PATIENCE / 20)


def bind_udp6(port: int) -> socket.socket | None:
    """Return `bind_udp` for IPv6, or None where this machine has none."""
    try:
        return bind_udp(socket.AF_INET6, port)
    except OSError:
        return None  # a kernel without IPv6
    except SystemFailure as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.EADDRNOTAVAIL:
            return None  # IPv6 is switched off
        raise


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        name = path.parent.name
        raise SystemFailure(
            f"{name} is up already: see `ginnel status`, or stop it with `ginnel down {name}`"
        ) from None
    if os.fstat(descriptor).st_nlink == 0:  # a `down` has just removed it: it would keep nobody out
        os.close(descriptor)
        raise SystemFailure(f"{path.parent.name} is being taken down: try again")
    return descriptor


def remove_run_folder(paths: NetworkPaths) -> None:
    """Remove the folder of the sockets when its manager is gone.

    One that runs again keeps it, and so does a tunnel that another program's manager started.
    """
    if not paths.run.is_dir():
        return
    try:
        lock = _patiently(lambda: _lock(paths.lock))
    except (OSError, SystemFailure):
        return
    try:
        if not is_listening(paths.tunnel_socket):
            shutil.rmtree(paths.run, ignore_errors=True)
    finally:
        os.close(lock)


def _make_folder(path: Path, *, uid: int | None = None) -> None:
    """Make a folder if it isn't there: everybody's, or one that only this uid may enter.

    The folder's parent belongs to root, so that nobody else can have put something there. The uid
    gets it where it is mapped.
    """
    if uid is None:
        make_open_folder(path)
    else:
        make_folder(path)
    try:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise SystemFailure(f"{path} is not a folder: move it away")
        if uid is not None and privileges.can_become(uid) and found.st_uid != uid:
            os.chown(path, uid, uid, follow_symlinks=False)
    except OSError as error:
        raise SystemFailure(f"{path} can't be made: {error.strerror}") from None
