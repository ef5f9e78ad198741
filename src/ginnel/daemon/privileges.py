"""How the tunnel and the signer lose every right, before any thread and before they read a byte.

Own uid and groups, no capability in any set, no_new_privs, Landlock over files, ptrace, signals and
abstract sockets. Where only one uid is mapped (an ordinary user's namespace) Landlock separates
alone; where neither is to be had, `drop` refuses. Kernel interfaces by ctypes: capabilities and
Landlock have none in the standard library.

Invariant: after `drop` returned, nothing in this process can undo it.

Source: landlock(7), capabilities(7), prctl(2); DESIGN, "Processes".
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import stat
import struct
import sys
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from ginnel.base.errors import SystemFailure
from ginnel.daemon import seccomp

FIRST_UID = 64100  # uids, one for each unprivileged process; an entry in passwd isn't needed
LONE_UID = 64198  # of a tunnel without a network's settings
NODE_UID = 64199  # of `ginnel node`

# prctl(2)
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
# capabilities(7)
_CAPABILITY_VERSION_3 = 0x20080522
CAP_CHOWN = 0
CAP_DAC_OVERRIDE = 1
CAP_KILL = 5
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SETPCAP = 8
CAP_NET_ADMIN = 12
CAP_SYS_ADMIN = 21
# clone(2), mount(2)
_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_MS_NOSUID = 2
_MS_NODEV = 4
_MS_NOEXEC = 8
_MS_REC = 0x4000
_MS_PRIVATE = 1 << 18
# landlock(7); the numbers are the same on every architecture
_SYS_CREATE_RULESET = 444
_SYS_ADD_RULE = 445
_SYS_RESTRICT_SELF = 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_FS_RIGHTS_OF_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many rights an ABI knows
_FS_EXECUTE = 1 << 0
_FS_WRITE_FILE = 1 << 1
_FS_READ_FILE = 1 << 2
_FS_READ_DIR = 1 << 3
_FS_TRUNCATE = 1 << 14
_FS_MAKE_KINDS = 1 << 6 | 1 << 11 | 1 << 9 | 1 << 10  # character, block device; socket; fifo
_FILE_RIGHTS = _FS_EXECUTE | _FS_WRITE_FILE | _FS_READ_FILE | _FS_TRUNCATE | 1 << 15  # ioctl
_READ_RIGHTS = _FS_READ_FILE | _FS_READ_DIR
_NET_ABI = 4
_NET_TCP = 0b11  # bind, connect
_SCOPE_ABI = 6
_SCOPE_ALL = 0b11  # abstract Unix sockets, signals

SYSTEM_READ_PATHS = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/ssl",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/proc/net",
    "/sys/class/net",
    "/sys/devices/virtual/net",  # what the names in /sys/class/net point to
    "/usr/lib",  # shared libraries
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/usr/share/zoneinfo",
)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@dataclass(frozen=True, slots=True)
class Separation:
    """What keeps a process apart from the rest of the machine."""

    uid: int | None  # its own uid, or None where only one is mapped
    landlock_abi: int  # 0: this kernel has none
    has_empty_run: bool = False
    has_filter: bool = False  # seccomp

    def describe(self) -> str:
        """Say it in a line, for status and logs."""
        parts = [f"uid {self.uid}" if self.uid is not None else "no uid of its own"]
        parts.append(f"Landlock {self.landlock_abi}" if self.landlock_abi else "no Landlock")
        parts.append("no capabilities, no_new_privs" + (", seccomp" if self.has_filter else ""))
        if self.has_empty_run:
            parts.append("empty /run")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Confinement:
    """What a process may keep: its uid and gid (where they are mapped) and paths."""

    uid: int | None
    gid: int | None
    write_paths: Sequence[Path]
    read_paths: Sequence[Path] = ()  # besides those that every process needs
    has_sandbox: bool = True  # False: neither Landlock nor seccomp, to debug
    dies_with_parent: bool = True  # False: it may be started in the background
    has_network: bool = True  # False: a network namespace of its own, empty, and no TCP


def drop(confinement: Confinement) -> Separation:
    """Give up every right but those named; call it once, with one thread.

    Raises:
        SystemFailure: a step failed, or neither a uid nor Landlock can be had: stop the process.
    """
    _check_one_thread()
    uid = confinement.uid if confinement.uid is not None and can_become(confinement.uid) else None
    abi = landlock_abi() if confinement.has_sandbox else 0
    if uid is None and abi == 0 and confinement.has_sandbox:
        raise SystemFailure(
            "this process can't be separated: only one uid is mapped and the kernel has no "
            "Landlock (5.13 or newer with `landlock` in lsm=); run as root instead"
        )
    has_empty_run = uid is None and _hide_run()
    if not confinement.has_network:
        _leave_network()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _drop_bounding_set()
    if uid is not None:
        _become(uid, confinement.gid if confinement.gid is not None else uid)
    _drop_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    forbid_inspection()
    if confinement.dies_with_parent:
        die_with_parent()  # a change of uid cleared it
    _check_dropped(uid)
    if abi:
        _restrict(confinement, abi)  # late: it also hides /proc
    if confinement.has_sandbox:
        seccomp.install_filter()  # last: it forbids steps above
    return Separation(uid, abi, has_empty_run, has_filter=confinement.has_sandbox)


def can_become(uid: int) -> bool:
    """Say whether this process is root somewhere where the uid is mapped."""
    if os.geteuid() != 0:
        return False
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        start, _, count = (int(word) for word in line.split())
        if start <= uid < start + count:
            return True
    return False


def landlock_abi() -> int:
    """Return the kernel's Landlock version, 0 without Landlock."""
    version = _libc.syscall(
        _SYS_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION)
    )
    return max(0, int(version))


def forbid_inspection() -> None:
    """Let nobody without CAP_SYS_PTRACE read this process's memory; no core dumps."""
    _prctl(_PR_SET_DUMPABLE, 0)


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it dies."""
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def keep_only(kept: Sequence[int], *, for_children: Sequence[int] = ()) -> None:
    """Drop all capabilities but `kept`; programs that we start may also have `for_children`.

    Call it with one thread.

    Raises:
        SystemFailure: the kernel refused.
    """
    _drop_bounding_set({*kept, *for_children})
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    masks = [sum(1 << number for number in kept) >> shift & 0xFFFFFFFF for shift in (0, 32)]
    data = b"".join(struct.pack("=III", mask, mask, 0) for mask in masks)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _call("capset", ctypes.create_string_buffer(header), ctypes.create_string_buffer(data, 24))


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent dies, so that they stay our descendants."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def interpreter_paths() -> list[Path]:
    """Return what Python and Ginnel themselves are read from."""
    package = Path(__file__).resolve().parent.parent
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    return list(dict.fromkeys([*(Path(prefix).resolve() for prefix in prefixes), package]))


def _check_one_thread() -> None:
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise SystemFailure(f"rights must be dropped before any thread; there are {threads}")


def _hide_run() -> bool:
    """Mount an empty /run in a mount namespace of our own; False where we may not."""
    if _libc.unshare(_CLONE_NEWNS) != 0:
        return False
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _call("mount", None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
    _call("mount", b"ginnel", b"/run", b"tmpfs", ctypes.c_ulong(flags), b"size=64k,mode=755")
    return True


def _leave_network() -> None:
    if _libc.unshare(_CLONE_NEWNET) != 0 and os.geteuid() == 0:
        raise SystemFailure(f"no empty network namespace: {_last_error()}")


def _drop_bounding_set(kept: Container[int] = ()) -> None:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        if capability in kept:
            continue
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 and os.geteuid() == 0:
            raise SystemFailure(f"capability {capability} can't be dropped: {_last_error()}")


def _become(uid: int, gid: int) -> None:
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise SystemFailure(f"can't become uid {uid}: {error.strerror}") from None


def _drop_capabilities() -> None:
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _call("capset", ctypes.create_string_buffer(header), ctypes.create_string_buffer(24))


def _restrict(confinement: Confinement, abi: int) -> None:
    """Build the ruleset and put it on this thread, for good."""
    rights = (1 << _FS_RIGHTS_OF_ABI.get(abi, 16)) - 1
    network = 0 if confinement.has_network or abi < _NET_ABI else _NET_TCP
    scope = _SCOPE_ALL if abi >= _SCOPE_ABI else 0
    attribute = struct.pack("=QQQ", rights, network, scope)
    size = 8 if abi < _NET_ABI else 16 if abi < _SCOPE_ABI else 24
    ruleset = _syscall(
        "Landlock", _SYS_CREATE_RULESET, attribute[:size], ctypes.c_size_t(size), ctypes.c_uint32(0)
    )
    try:
        for path in confinement.write_paths:
            _allow(ruleset, path, rights & ~_FS_EXECUTE & ~_FS_MAKE_KINDS)
        system = [Path(text) for text in SYSTEM_READ_PATHS]
        for path in [*interpreter_paths(), *system, *confinement.read_paths]:
            _allow(ruleset, path, _READ_RIGHTS)
        _syscall("Landlock", _SYS_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    """Allow rights beneath a path; a path that doesn't exist is left out."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        rights &= _FILE_RIGHTS
    rule = struct.pack("=Qi", rights, descriptor)
    _syscall(
        f"Landlock for {path}",
        _SYS_ADD_RULE,
        ctypes.c_int(ruleset),
        ctypes.c_int(_RULE_PATH_BENEATH),
        rule,
        ctypes.c_uint32(0),
    )
    if not path.is_relative_to("/proc"):  # there an open descriptor keeps the rule's inode in use
        os.close(descriptor)


def _check_dropped(uid: int | None) -> None:
    status = dict(
        line.split(":\t", 1) for line in Path("/proc/thread-self/status").read_text().splitlines()
    )
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    # Without rights from the start the bounding set can't be emptied; no_new_privs makes it void.
    left = [name for name in sets if int(status[name], 16) != 0 and name != "CapBnd"]
    if left or status["NoNewPrivs"] != "1" or (uid is not None and os.getresuid() != (uid,) * 3):
        raise SystemFailure(f"rights are left: {left or status['Uid']}")


def _prctl(option: int, argument: int) -> None:
    arguments = [ctypes.c_ulong(value) for value in (argument, 0, 0, 0)]
    _call("prctl", ctypes.c_int(option), *arguments)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        raise SystemFailure(f"{name} failed: {_last_error()}")


def _syscall(what: str, number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise SystemFailure(f"{what} failed: {_last_error()}")
    return result


def _last_error() -> str:
    return os.strerror(ctypes.get_errno())
