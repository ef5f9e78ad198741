"""Namespaces of Linux: making them, and running a command inside those of another process.

Run as a script (`python -I -S enter.py --pid PID -- CMD...`) it takes the namespaces of process
PID and becomes CMD there. It imports nothing of Ginnel, so that this takes a few milliseconds, and
it stays a process between the caller and CMD only where a new process id namespace makes that
necessary; then it passes signals on, and CMD dies with it.

Source: namespaces(7), setns(2), pid_namespaces(7), user_namespaces(7).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
NAMESPACES = (  # in the order in which they are to be entered: rights first, files last
    ("user", CLONE_NEWUSER),
    ("pid", CLONE_NEWPID),
    ("ipc", CLONE_NEWIPC),
    ("uts", CLONE_NEWUTS),
    ("net", CLONE_NEWNET),
    ("mnt", CLONE_NEWNS),
)
PR_SET_PDEATHSIG = 1
PR_SET_TIMERSLACK = 29
EXIT_CANNOT_RUN = 126  # as shells do
EXIT_NOT_FOUND = 127

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Give this process new namespaces. Raises OSError."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def enter_namespace(descriptor: int, kind: int) -> None:
    """Enter one namespace (setns). Raises OSError."""
    _checked(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), "setns")


def set_death_signal() -> None:
    """Let the kernel kill this process when its parent dies."""
    _checked(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def set_timer_slack(nanoseconds: int) -> None:
    """Let sleeps of this thread end that much late at most (50 us by default)."""
    _checked(_libc.prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(nanoseconds), 0, 0, 0), "prctl")


def become_root_of_user_namespace(uid: int, gid: int) -> None:
    """Map the caller's ids (as seen outside) to 0 in the user namespace just made."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def unshare_all(*, user: bool | None = None) -> bool:
    """Make user (where needed), mount, network, pid, UTS and IPC namespaces; say if user.

    As root without a user namespace, because processes there may change to many uids; a root
    that may not do so (in a container) and everybody else get one. The pid namespace holds for
    children only: fork after this.

    Raises:
        OSError: the system allows neither; `requirements()` says what to do.
    """
    others = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and not user:
        try:
            unshare(others)
        except PermissionError:
            if user is False:
                raise
        else:
            return False
    unshare(CLONE_NEWUSER | others)
    become_root_of_user_namespace(uid, gid)
    return True


def fork_and_stand_for() -> None:
    """Fork; return in the child only. The parent waits, passes signals on and ends as the child.

    The child dies with the parent, also when that is killed.
    """
    parent_alive, ours = os.pipe()
    pid = os.fork()
    if pid:
        os.close(parent_alive)
        _stand_for(pid)
    os.close(ours)
    set_death_signal()
    os.set_blocking(parent_alive, False)
    try:
        if not os.read(parent_alive, 1):  # end of file: the parent died before set_death_signal
            os._exit(EXIT_CANNOT_RUN)
    except BlockingIOError:
        pass
    os.close(parent_alive)


def _stand_for(pid: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, (*_FORWARDED, signal.SIGCHLD))
    # Standard streams belong to the child alone, or their readers would wait for us too.
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(quiet, descriptor)
    while True:
        _reap(pid)
        received = signal.sigwaitinfo((*_FORWARDED, signal.SIGCHLD))
        # What the terminal sends (positive code), it sends to the child too.
        if received.si_signo != signal.SIGCHLD and received.si_code <= 0:
            os.kill(pid, received.si_signo)


def _reap(pid: int) -> None:
    """Take the ends of children; end as `pid` did once it has ended."""
    try:
        ended, status = os.waitpid(-1, os.WNOHANG)
        while ended not in (0, pid):
            ended, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        os._exit(EXIT_CANNOT_RUN)
    if ended == 0:
        return
    if not os.WIFSIGNALED(status):
        os._exit(os.waitstatus_to_exitcode(status))
    number = os.WTERMSIG(status)
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # the init of a pid namespace cannot kill itself


def enter_process_namespaces(pid: int) -> None:
    """Take all namespaces of a process; fork if its pid namespace is not ours. Raises OSError."""
    folder = os.getcwd()
    wanted = []
    for name, kind in NAMESPACES:
        descriptor = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        if os.fstat(descriptor).st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:
            wanted.append((kind, descriptor))
        else:
            os.close(descriptor)
    for kind, descriptor in wanted:
        enter_namespace(descriptor, kind)
        os.close(descriptor)
    if any(kind == CLONE_NEWPID for kind, _ in wanted):
        fork_and_stand_for()
    try:
        os.chdir(folder)
    except OSError:
        os.chdir("/")


def run_command(argv: list[str]) -> None:
    """Become the command, with the interpreter's folder and the system's tools in PATH."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    extra = [os.path.dirname(sys.executable), *path, "/usr/sbin", "/sbin"]
    os.environ["PATH"] = os.pathsep.join(dict.fromkeys(extra))
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        print(f"{argv[0]}: {error.strerror}", file=sys.stderr)
        missing = isinstance(error, FileNotFoundError)
        os._exit(EXIT_NOT_FOUND if missing else EXIT_CANNOT_RUN)


def enter_namespaces(argv: list[str]) -> None:
    """Run a command in new user, mount, network and pid namespaces, and end as it ends.

    All that it starts dies with this process. Does not return. Raises OSError.
    """
    unshare_all()
    fork_and_stand_for()  # the child is the pid namespace's init: its end ends all in there
    make_mounts_private()
    mount_proc()
    fork_and_stand_for()  # the command is not init itself, which ignores most signals
    run_command(argv)


MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 4096, 8192, 16384, 1 << 18
_AT_FDCWD, _AT_RECURSIVE, _SYS_MOUNT_SETATTR = -100, 0x8000, 442  # one number on all platforms


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mount, as mount(2). Raises OSError."""
    result = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    _checked(result, f"mount {target}")


def make_mounts_private() -> None:
    """Keep every mount made from now on inside this mount namespace. Raises OSError."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)


def make_read_only(path: str) -> None:
    """Make a mount and all mounts under it read-only (Linux 5.12). Raises OSError."""
    attributes = (ctypes.c_uint64 * 4)(1, 0, 0, 0)  # MOUNT_ATTR_RDONLY is to be set
    result = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        path.encode(),
        ctypes.c_uint(_AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    _checked(result, f"mount_setattr {path}")


def mount_proc() -> bool:
    """Show this pid namespace in /proc; say if the system let us.

    A container that hides parts of /proc does not; then the outer one stays, which works but for
    the process numbers in it.
    """
    try:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError:
        return False
    return True


def main() -> None:
    """Run as a script: enter the namespaces of `--pid PID`, run what follows `--`."""
    if len(sys.argv) < 5 or sys.argv[1] != "--pid" or sys.argv[3] != "--":
        sys.exit("usage: enter.py --pid PID -- COMMAND [ARGUMENT]...")
    try:
        enter_process_namespaces(int(sys.argv[2]))
    except OSError as error:
        print(f"cannot enter the lab's machine: {error}", file=sys.stderr)
        sys.exit(EXIT_CANNOT_RUN)
    run_command(sys.argv[4:])


if __name__ == "__main__":
    main()
