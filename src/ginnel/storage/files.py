"""Files that are there whole or not at all, and that only their owner can read.

Invariant: after an error neither the target nor a temporary file holds part of the data.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from ginnel.base.errors import SystemFailure, UsageError

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
OPEN_FOLDER = 0o755
MAX_FILE = 16 * 1024 * 1024  # bytes read at most; the largest file holds revocations


def write_atomic(path: Path, data: bytes, *, replace: bool = True, uid: int | None = None) -> None:
    """Write a file (0600) so that it is on disk whole when this returns.

    Args:
        path: the file; its folder must be there.
        data: the whole content.
        replace: False for keys: an existing file stays and is an error.
        uid: who shall own it, or None for ourselves.

    Raises:
        SystemFailure: the disk is full or refuses; nothing was changed.
        UsageError: it exists and `replace` is False.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write_new(temporary, data, uid)
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path, follow_symlinks=False)
        sync_folder(path.parent)
    except FileExistsError:
        raise UsageError(f"{path} exists and is not overwritten") from None
    except OSError as error:
        raise SystemFailure(_why_not(path, error, "written")) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_private(path: Path, *, owners: tuple[int, ...] | None = None) -> bytes:
    """Read a file that nobody but its owner may read or write.

    Args:
        path: the file, no symbolic link.
        owners: uids that may own it; None: root or ourselves.

    Raises:
        SystemFailure: it is missing, too large, or its permissions are wrong; the text names the
            remedy.
    """
    allowed = (0, os.geteuid()) if owners is None else owners
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SystemFailure(f"{path} is a symbolic link: put the file itself there") from None
        raise SystemFailure(f"{path} can't be read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise SystemFailure(f"{path} is no file")
        if status.st_uid not in allowed:
            raise SystemFailure(
                f"{path} belongs to uid {status.st_uid}: if you trust it, "
                f"`chown {allowed[0]} {path}`"
            )
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise SystemFailure(
                f"{path} has mode {mode:04o}, others may use it: `chmod 600 {path}`"
            )
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise SystemFailure(f"{path} is larger than {MAX_FILE} bytes")
    return data


def check_folder(path: Path) -> None:
    """Refuse a folder of keys that others may enter.

    Raises:
        SystemFailure: the text names the remedy.
    """
    try:
        status = os.lstat(path)
    except OSError as error:
        raise SystemFailure(f"{path} can't be read: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise SystemFailure(f"{path} is no folder")
    if status.st_uid not in (0, os.geteuid()):
        raise SystemFailure(f"{path} belongs to uid {status.st_uid}: `chown root {path}`")
    if status.st_mode & 0o077:
        raise SystemFailure(f"{path} may be entered by others: `chmod 700 {path}`")


def make_folder(path: Path, *, uid: int | None = None) -> None:
    """Make a private folder (0700); one that is there stays as it is.

    Raises:
        SystemFailure: it can't be made.
    """
    make_open_folder(path.parent)
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=PRIVATE_FOLDER)
            if uid is not None:
                os.chown(path, uid, uid)
        sync_folder(path.parent)
    except OSError as error:
        raise SystemFailure(_why_not(path, error, "made")) from None


def make_open_folder(path: Path) -> None:
    """Make a folder that everybody may enter (0755), and those above it; what is there stays.

    The umask has no say: the tunnel's uid must get through, and the umask is often 077, in our
    service for one.

    Raises:
        SystemFailure: it can't be made.
    """
    try:
        if path.is_dir():
            return
        make_open_folder(path.parent)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=OPEN_FOLDER)
            path.chmod(OPEN_FOLDER)
        if not path.is_dir():  # else somebody was quicker
            raise SystemFailure(f"{path} is not a folder: move it away")
    except OSError as error:
        raise SystemFailure(_why_not(path, error, "made")) from None


def sync_folder(path: Path) -> None:
    """Have the disk know the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_new(path: Path, data: bytes, uid: int | None) -> None:
    path.unlink(missing_ok=True)  # of a process of the same number that was killed
    # Never a file that is there: root writes into folders that others own.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, PRIVATE_FILE)
    try:
        os.fchmod(descriptor, PRIVATE_FILE)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if uid is not None and uid != os.geteuid():
            os.fchown(descriptor, uid, uid)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why_not(path: Path, error: OSError, done: str) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{path} was not {done}, no room on the disk: make some and try again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} was not {done} ({error.strerror}): try again as root"
    return f"{path} was not {done}: {error.strerror}"
