"""A seccomp filter for tunnel and signer: no new processes, no programs, no namespaces, no modules.

A list of what is forbidden rather than of what is allowed: the data plane, Python and its libraries
use some hundred system calls that change with their versions, while what an intruder would need
beyond reading and writing sockets is short and known. Forbidden calls fail with EPERM, `clone3`
with ENOSYS (its flags can't be looked at; libc then takes `clone`), sockets of other families with
EAFNOSUPPORT. A foreign architecture's call kills the process.

Source: seccomp(2), linux/filter.h, linux/audit.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct

from ginnel.base.errors import SystemFailure

_MODE_FILTER = 2
_PR_SET_SECCOMP = 22
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL_PROCESS = 0x80000000
_LOAD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _FIRST_ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data, little-endian
_CLONE_THREAD = 0x00010000
_X32_BIT = 0x40000000
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COMMON = {  # the same number everywhere
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
}
# name: x86_64, aarch64 (-1: it has none)
_FORBIDDEN = {
    "fork": (57, -1),
    "vfork": (58, -1),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "modify_ldt": (154, -1),
    "personality": (135, 92),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "lookup_dcookie": (212, 18),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "vmsplice": (278, 75),
}
_CLONE = (56, 220)
_CLONE3 = 435
_SOCKET = (41, 198)

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def install_filter() -> None:
    """Put the filter on this thread and all that come after it, for good.

    no_new_privs must be set.

    Raises:
        SystemFailure: this machine can't: stop the process (or `--no-sandbox`, to debug).
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise SystemFailure(
            f"no seccomp filter for {machine}: `--no-sandbox` runs without, to debug only"
        )
    code = make_filter(machine)
    program = _Program(len(code) // 8, code)
    arguments = (ctypes.c_ulong(_MODE_FILTER), ctypes.byref(program), ctypes.c_ulong(0))
    if _libc.prctl(ctypes.c_int(_PR_SET_SECCOMP), *arguments, ctypes.c_ulong(0)) != 0:
        raise SystemFailure(
            f"seccomp failed: {os.strerror(ctypes.get_errno())}: `--no-sandbox` runs without, "
            "to debug only"
        )


def forbidden_calls(machine: str) -> dict[str, int]:
    """Return the numbers of the calls that always fail."""
    column = 0 if machine == "x86_64" else 1
    own = {name: numbers[column] for name, numbers in _FORBIDDEN.items()}
    return {name: number for name, number in (_COMMON | own).items() if number >= 0}


def make_filter(machine: str) -> bytes:
    """Return the filter's instructions, 8 bytes each."""
    column = 0 if machine == "x86_64" else 1
    code = [
        _step(_LOAD, _ARCH_AT),
        _step(_JUMP_EQUAL, _ARCHITECTURES[machine], 1, 0),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _NUMBER_AT),
        _step(_JUMP_GREATER, _X32_BIT, 0, 1),
        _step(_RETURN, _KILL_PROCESS),
    ]
    for number in sorted(forbidden_calls(machine).values()):
        code += [_step(_JUMP_EQUAL, number, 0, 1), _step(_RETURN, _ERRNO | errno.EPERM)]
    code += [_step(_JUMP_EQUAL, _CLONE3, 0, 1), _step(_RETURN, _ERRNO | errno.ENOSYS)]
    code += [  # clone: threads only
        _step(_JUMP_EQUAL, _CLONE[column], 0, 4),
        _step(_LOAD, _FIRST_ARGUMENT_AT),
        _step(_JUMP_BITS, _CLONE_THREAD, 1, 0),
        _step(_RETURN, _ERRNO | errno.EPERM),
        _step(_RETURN, _ALLOW),
    ]
    code += [
        _step(_JUMP_EQUAL, _SOCKET[column], 0, len(_FAMILIES) + 2),
        _step(_LOAD, _FIRST_ARGUMENT_AT),
        *(
            _step(_JUMP_EQUAL, int(family), len(_FAMILIES) - index, 0)
            for index, family in enumerate(_FAMILIES)
        ),
        _step(_RETURN, _ERRNO | errno.EAFNOSUPPORT),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(code)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
