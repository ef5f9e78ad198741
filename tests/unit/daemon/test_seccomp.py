"""The filter, tried inside a process that it holds."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import threading
from collections.abc import Callable

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.daemon import seccomp
from support.confined import in_child

PR_SET_NO_NEW_PRIVS = 38


def error_of(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


def test_what_is_forbidden_fails_and_the_rest_works() -> None:
    def child() -> dict[str, int]:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        seccomp.install_filter()
        found: dict[str, int] = {}
        for name, number in seccomp.forbidden_calls(platform.machine()).items():
            ctypes.set_errno(0)
            libc.syscall(ctypes.c_long(number), *[ctypes.c_long(0)] * 6)
            found[name] = ctypes.get_errno()
        found["os.fork"] = error_of(os.fork)
        found["exec"] = error_of(lambda: os.execv("/bin/true", ["true"]))
        found["packet socket"] = error_of(lambda: socket.socket(socket.AF_PACKET))
        found["vsock"] = error_of(lambda: socket.socket(socket.AF_VSOCK))
        for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            socket.socket(family, socket.SOCK_DGRAM).close()
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()
        socket.socketpair()[0].close()
        ran: list[int] = []
        thread = threading.Thread(target=lambda: ran.append(error_of(os.fork)))
        thread.start()
        thread.join()
        assert ran == [errno.EPERM]
        return found

    found = in_child(child)
    for name in ("packet socket", "vsock"):
        assert found.pop(name) == errno.EAFNOSUPPORT, name
    assert {name: code for name, code in found.items() if code != errno.EPERM} == {}


def test_every_jump_stays_inside() -> None:
    for machine in ("x86_64", "aarch64"):
        code = seccomp.make_filter(machine)
        steps = [code[at : at + 8] for at in range(0, len(code), 8)]
        for index, step in enumerate(steps):
            assert index + 1 + max(step[2], step[3]) < len(steps) or step[0] == 6


def test_without_no_new_privs_it_is_refused_to_ordinary_users() -> None:
    def child() -> str:
        os.setresuid(65_534, 65_534, 65_534)
        try:
            seccomp.install_filter()
        except SystemFailure as error:
            return str(error)
        return ""

    if os.geteuid() != 0:
        pytest.skip("needs root: drops to another uid")
    assert "--no-sandbox" in in_child(child)
