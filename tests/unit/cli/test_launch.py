import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.cli.launch import is_running, start_manager, tell_ready, wait_for_tunnel
from ginnel.daemon.paths import NetworkPaths
from support.answering import answer_line, serving
from support.umask import umask


def paths_in(root: Path, name: str = "no-such-network") -> NetworkPaths:
    paths = NetworkPaths(name, root / "etc", root / "state", root / "run")
    paths.run.mkdir(parents=True)
    return paths


def status(state: str, last_error: str | None = None) -> dict[str, Any]:
    return {"tunnel": {"state": state, "last_error": last_error}}


def manager(paths: NetworkPaths, answers: Sequence[dict[str, Any]]) -> AbstractContextManager[None]:
    """Answer one status after the other, a connection each."""
    return serving(paths.manager_socket, *map(answer_line, answers))


def test_whether_it_runs(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    assert not is_running(paths)
    with manager(paths, [status("running")]):
        assert is_running(paths)


def test_a_tunnel_that_starts_is_waited_for(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    with manager(paths, [status("starting"), status("running")]):
        assert wait_for_tunnel(paths) == status("running")


def test_a_tunnel_that_fails_is_told_at_once(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    answers = [status("restarting", "this machine's certificate is not accepted")]
    with manager(paths, answers), pytest.raises(SystemFailure, match="certificate is not accepted"):
        wait_for_tunnel(paths)


def test_the_real_managers_own_error_is_shown(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    with pytest.raises(SystemFailure, match=r"no-such-network/settings\.toml can't be read"):
        start_manager(paths, [])


def test_everybody_may_enter_the_folder_of_the_sockets(tmp_path: Path) -> None:
    paths = NetworkPaths("no-such-network", tmp_path, tmp_path, tmp_path / "run")
    with umask(0o077), pytest.raises(SystemFailure):
        start_manager(paths, [])
    for folder in (paths.run_root, paths.run):
        assert folder.stat().st_mode & 0o777 == 0o755


def test_last_words_of_a_manager_that_never_told(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    with pytest.raises(SystemFailure, match="--nonsense"):
        start_manager(paths, ["--nonsense"])


def test_telling_that_it_listens() -> None:
    for error, told in ((None, {}), ("no TUN", {"error": "no TUN"})):
        read_fd, write_fd = os.pipe()
        tell_ready(write_fd, error)
        assert json.loads(os.read(read_fd, 4096)) == told
        assert os.read(read_fd, 1) == b""  # closed
        os.close(read_fd)
    tell_ready(None)


def test_nobody_waits_any_more() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    tell_ready(write_fd, "too late")
    os.close(write_fd)
