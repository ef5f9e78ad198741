import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.storage.files import (
    check_folder,
    make_folder,
    make_open_folder,
    read_private,
    write_atomic,
)
from support.umask import umask


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let files grow to this size only, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert read_private(path) == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_keys_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_atomic(path, b"one", replace=False)
    with pytest.raises(UsageError, match="exists"):
        write_atomic(path, b"two", replace=False)
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["key"]


def test_a_temporary_file_that_somebody_laid_out_is_not_written_to(tmp_path: Path) -> None:
    bait = tmp_path / f".file.{os.getpid()}.tmp"
    with bait.open("w+b") as held:
        bait.chmod(0o666)
        write_atomic(tmp_path / "file", b"secret")
        assert held.read() == b""
    assert read_private(tmp_path / "file") == b"secret"


@pytest.mark.parametrize("replace", [True, False])
def test_a_full_disk_leaves_nothing_half(tmp_path: Path, replace: bool) -> None:
    path = tmp_path / "file"
    with full_disk(10), pytest.raises(SystemFailure, match="no room"):
        write_atomic(path, b"x" * 100, replace=replace)
    assert os.listdir(tmp_path) == []
    write_atomic(path, b"old")
    with full_disk(10), pytest.raises(SystemFailure):
        write_atomic(path, b"x" * 100)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o700 | 0o010])
def test_wrong_permissions_are_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    write_atomic(path, b"x")
    path.chmod(mode)
    with pytest.raises(SystemFailure, match="chmod 600"):
        read_private(path)


def test_another_owner_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_atomic(path, b"x")
    with pytest.raises(SystemFailure, match="chown"):
        read_private(path, owners=(os.geteuid() + 1,))


def test_links_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    write_atomic(tmp_path / "key", b"x")
    (tmp_path / "link").symlink_to(tmp_path / "key")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, word in (("link", "symbolic"), ("pipe", "no file"), ("missing", "can't be read")):
        with pytest.raises(SystemFailure, match=word):
            read_private(tmp_path / name)


def test_a_folder_must_be_private(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    make_folder(folder)
    make_folder(folder)
    check_folder(folder)
    folder.chmod(0o755)
    with pytest.raises(SystemFailure, match="chmod 700"):
        check_folder(folder)
    with pytest.raises(SystemFailure):
        check_folder(tmp_path / "missing")


def test_a_folder_that_is_missing_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(SystemFailure):
        write_atomic(tmp_path / "missing" / "file", b"x")


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o027, 0o077])
def test_the_umask_has_no_say_in_folders(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        make_folder(tmp_path / "lib" / "ginnel" / "home")
        make_open_folder(tmp_path / "run" / "ginnel" / "home")
    made = [path for path in tmp_path.rglob("*") if path.name != "home"]
    assert {path.stat().st_mode & 0o777 for path in made} == {0o755}
    assert (tmp_path / "lib" / "ginnel" / "home").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "run" / "ginnel" / "home").stat().st_mode & 0o777 == 0o755


def test_a_folder_that_is_there_is_not_opened(tmp_path: Path) -> None:
    root = tmp_path / "private"
    root.mkdir(mode=0o700)
    make_open_folder(root)
    make_folder(root / "home")
    assert root.stat().st_mode & 0o777 == 0o700


def test_a_file_where_a_folder_belongs_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemFailure, match="is not a folder"):
        make_open_folder(tmp_path / "file" / "folder")
    with pytest.raises(SystemFailure, match="is not a folder"):
        make_open_folder(tmp_path / "file")
