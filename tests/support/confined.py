"""Runs a function in a child process, so that what it does to itself can't hurt the test run."""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import platform
import struct
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TypeVar, cast

ValueT = TypeVar("ValueT")

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
SOCKET_OPTION_CALLS = {"x86_64": (54, 55), "aarch64": (208, 209)}  # set, get


class ChildError(AssertionError):
    """The child failed; the text is its traceback."""


def in_child(function: Callable[[], ValueT]) -> ValueT:
    """Return what the function returns in a forked child; raise ChildError if it raises there."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = (True, function())
        except BaseException:
            answer = (False, traceback.format_exc())
        with os.fdopen(write_fd, "wb") as stream:
            stream.write(pickle.dumps(answer))
        os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as stream:
        data = stream.read()
    os.waitpid(pid, 0)
    if not data:
        raise ChildError("the child died without an answer")
    is_done, value = pickle.loads(data)
    if not is_done:
        raise ChildError(value)
    return cast(ValueT, value)


def unshare(flags: int) -> None:
    """Move this process into new namespaces."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def forbid_calls(errors: Mapping[int, int]) -> None:
    """Let system calls fail with an errno from now on, as an older kernel would (seccomp(2))."""
    steps = [(0x20, 0, 0, 0)]  # load the call's number
    for number, error in errors.items():
        steps += [(0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | error)]
    _filter_calls(steps)


def forbid_socket_options(level: int, names: Iterable[int]) -> None:
    """Let getsockopt and setsockopt of some options say that there is no such option, from now on
    and in all children, as an older kernel would."""
    steps = []
    for call, name in product(SOCKET_OPTION_CALLS[platform.machine()], names):
        # The call's number, then its second and third argument (their low halves).
        for offset, wanted, to_next in ((0, call, 5), (24, level, 3), (32, name, 1)):
            steps += [(0x20, 0, 0, offset), (0x15, 0, to_next, wanted)]
        steps.append((0x06, 0, 0, 0x50000 | errno.ENOPROTOOPT))
    _filter_calls(steps)


def _filter_calls(steps: Sequence[tuple[int, int, int, int]]) -> None:
    """Install a program of classic BPF; calls that pass its end are let through."""
    steps = [*steps, (0x06, 0, 0, 0x7FFF0000)]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    program = _Program(len(steps), code)
    if libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(program), 0, 0) != 0:  # PR_SET_SECCOMP
        raise OSError(ctypes.get_errno(), "seccomp")


def enter_namespaces(flags: int = CLONE_NEWNET | CLONE_NEWNS) -> None:
    """Move this process into a user namespace with one uid (mapped to 0) and others as named."""
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | flags)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def can_enter_namespaces() -> bool:
    """Say whether this machine lets us make user namespaces."""
    try:
        in_child(enter_namespaces)
    except ChildError:
        return False
    return True
