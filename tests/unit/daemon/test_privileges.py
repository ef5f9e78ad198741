"""What is left to a process after `drop`: asked of the kernel, in a child."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.daemon import privileges
from ginnel.daemon.privileges import Confinement, Separation
from support.confined import can_enter_namespaces, enter_namespaces, forbid_calls, in_child

UID = privileges.FIRST_UID + 90  # of no network here
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: drops to another uid")
DENIED = (errno.EACCES, errno.EPERM)


def error_of(action: Callable[[], Any]) -> int:
    """Return the errno that the action fails with, 0 if it doesn't."""
    try:
        action()
    except OSError as error:
        return error.errno or -1
    return 0


def signal_parent() -> None:
    os.kill(os.getppid(), 0)
    os.kill(os.getppid(), signal.SIGCONT)


def look_around(state: Path, secret: Path) -> dict[str, Any]:
    """Try what the tunnel must not be able to do, from a thread too."""
    statuses: list[str] = []

    def read_status() -> None:
        statuses.append(os.pread(status_fd, 65536, 0).decode())

    status_fd = STATUS[0]
    read_status()
    thread = threading.Thread(target=read_status)
    thread.start()
    thread.join()
    return {
        "uid": os.getresuid(),
        "groups": os.getgroups(),
        "statuses": statuses,
        "key": error_of(lambda: secret.read_bytes()),
        "memory": error_of(lambda: os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY)),
        "environ": error_of(lambda: os.open(f"/proc/{os.getppid()}/environ", os.O_RDONLY)),
        "etc": error_of(lambda: Path("/etc/ginnel-test").write_text("x")),
        "passwd": error_of(lambda: Path("/etc/passwd").read_text()),
        "own": error_of(lambda: (state / "file").write_text("x")),
        "rename": error_of(lambda: (state / "file").rename(state / "other")),
        "execute": error_of(lambda: os.execv("/bin/true", ["true"])),
        "setuid": error_of(lambda: os.setuid(0)) if os.getuid() else errno.EPERM,
        "signal": error_of(signal_parent),
        "resolver": error_of(lambda: Path("/etc/resolv.conf").read_text()),
        "routes": error_of(lambda: Path("/proc/net/route").read_text()),
        "run": error_of(lambda: os.listdir("/run")),
    }


STATUS: list[int] = []


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Return a state folder that the uid owns and a key file that it must not read."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder not in (Path("/"), Path("/tmp")):
            folder.chmod(0o711)
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    secret = tmp_path / "wireguard.key"
    secret.write_text("secret")
    secret.chmod(0o600)
    return state, secret


def drop_and_look(
    folders: tuple[Path, Path], uid: int | None, *, in_namespace: bool
) -> tuple[Separation, dict[str, Any]]:
    state, secret = folders

    def child() -> tuple[Separation, dict[str, Any]]:
        if in_namespace:
            enter_namespaces()
        STATUS.append(os.open("/proc/self/status", os.O_RDONLY))
        separation = privileges.drop(Confinement(uid, uid, [state]))
        return separation, look_around(state, secret)

    if uid is not None and not in_namespace:
        os.chown(state, uid, uid)
    return in_child(child)


def check(found: dict[str, Any]) -> None:
    for text in found["statuses"]:
        fields = dict(line.split(":\t", 1) for line in text.splitlines())
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(fields[name], 16) == 0, name
        assert fields["NoNewPrivs"] == "1"
    for name in ("key", "memory", "environ", "etc", "passwd", "execute", "setuid", "signal"):
        assert found[name] in DENIED, name
    assert found["own"] == found["rename"] == found["resolver"] == found["routes"] == 0
    assert not Path("/etc/ginnel-test").exists()


@NEEDS_ROOT
def test_root_drops_to_the_uid_and_keeps_only_its_state_folder(folders: tuple[Path, Path]) -> None:
    separation, found = drop_and_look(folders, UID, in_namespace=False)
    check(found)
    assert separation.uid == UID
    assert separation.landlock_abi >= 1
    assert found["uid"] == (UID, UID, UID)
    assert found["groups"] == []
    assert f"uid {UID}" in separation.describe()


@pytest.mark.skipif(not can_enter_namespaces(), reason="no user namespaces here")
def test_one_mapped_uid_is_separated_by_landlock_and_an_empty_run(
    folders: tuple[Path, Path],
) -> None:
    separation, found = drop_and_look(folders, UID, in_namespace=True)
    check(found)
    assert separation.uid is None
    assert separation.has_empty_run
    assert found["run"] in DENIED
    assert "no uid of its own" in separation.describe()


@pytest.mark.skipif(not can_enter_namespaces(), reason="no user namespaces here")
def test_without_network_there_is_none(folders: tuple[Path, Path]) -> None:
    def child() -> tuple[list[str], int]:
        enter_namespaces()
        privileges.drop(Confinement(None, None, [folders[0]], has_network=False))
        with socket.socket() as stream:
            error = error_of(lambda: stream.connect(("127.0.0.1", 9)))
        return [name for _, name in socket.if_nameindex()], error

    names, error = in_child(child)
    assert names == ["lo"]
    assert error in DENIED


def test_threads_are_refused(tmp_path: Path) -> None:
    def child() -> str:
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait)
        thread.start()
        try:
            privileges.drop(Confinement(None, None, [tmp_path]))
        except SystemFailure as error:
            return str(error)
        finally:
            stop.set()
        return ""

    assert "before any thread; there are 2" in in_child(child)


CREATE_RULESET, RESTRICT_SELF = 444, 446  # the same on all machines


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ({CREATE_RULESET: errno.ENOSYS}, "only one uid is mapped and the kernel has no Landlock"),
        ({RESTRICT_SELF: errno.EPERM}, "Landlock failed: Operation not permitted"),
    ],
)
@pytest.mark.skipif(not can_enter_namespaces(), reason="no user namespaces or no TUN here")
def test_without_landlock_nothing_runs_but_by_no_sandbox(
    errors: dict[int, int], message: str, tmp_path: Path
) -> None:
    def child() -> tuple[str, str]:
        enter_namespaces()
        forbid_calls(errors)
        pid = os.fork()  # what is dropped on the way is gone for good
        if pid == 0:
            try:
                privileges.drop(Confinement(None, None, [tmp_path]))
            except SystemFailure as error:
                (tmp_path / "refused").write_text(str(error))
            os._exit(0)
        os.waitpid(pid, 0)
        refused = (tmp_path / "refused").read_text()
        without = Confinement(None, None, [tmp_path], has_sandbox=False)
        return refused, privileges.drop(without).describe()

    refused, described = in_child(child)
    assert message in refused
    assert described.startswith("no uid of its own, no Landlock, no capabilities, no_new_privs")


def test_describe_names_what_is_missing() -> None:
    text = Separation(64100, 0).describe()
    assert text == "uid 64100, no Landlock, no capabilities, no_new_privs"
