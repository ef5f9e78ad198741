from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.daemon import own_sockets, resources
from ginnel.daemon.admin_socket import is_listening
from ginnel.daemon.paths import NetworkPaths
from ginnel.daemon.resources import bind_udp, open_resources, remove_run_folder
from support.umask import umask


def paths_in(root: Path) -> NetworkPaths:
    return NetworkPaths("test", *(root / name for name in ("etc", "state", "run")))


def free_port() -> int:
    with bind_udp(socket.AF_INET, 0) as opened:
        return int(opened.getsockname()[1])


def test_everything_is_open_and_then_gone(tmp_path: Path) -> None:
    paths, uid, port = paths_in(tmp_path), os.geteuid(), free_port()
    with open_resources(paths, port=port, tunnel_uid=uid, signer_uid=uid, use_tun=False) as found:
        assert found.device is None
        assert found.udp4.getsockname() == ("0.0.0.0", port)
        assert found.udp6 is None or found.udp6.getsockname()[:2] == ("::", port)
        assert found.udp4.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
        assert paths.tunnel_socket.stat().st_mode & 0o777 == 0o666
        assert paths.state.stat().st_mode & 0o777 == 0o700
        assert paths.signer_state.is_dir()
        with (
            pytest.raises(SystemFailure, match="test is up already"),
            open_resources(paths, port=port, tunnel_uid=uid, use_tun=False),
        ):
            pass
    assert not paths.tunnel_socket.exists()
    with open_resources(paths, port=port, tunnel_uid=uid, use_tun=False):
        pass


def test_everybody_reaches_the_tunnels_socket_whatever_the_umask(tmp_path: Path) -> None:
    paths, uid = paths_in(tmp_path), os.geteuid()
    with umask(0o077), open_resources(paths, port=free_port(), tunnel_uid=uid, use_tun=False):
        for folder in (paths.run_root, paths.run, paths.state_root):
            assert folder.stat().st_mode & 0o777 == 0o755
        assert paths.tunnel_socket.stat().st_mode & 0o777 == 0o666
        assert paths.state.stat().st_mode & 0o777 == 0o700


def test_a_port_in_use_is_named_with_the_remedy() -> None:
    with bind_udp(socket.AF_INET, 0) as other:
        port = other.getsockname()[1]
        with pytest.raises(SystemFailure, match=f"UDP port {port} is in use.*--port"):
            bind_udp(socket.AF_INET, port)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    paths.run_root.mkdir()
    paths.run.touch()
    with (
        pytest.raises(SystemFailure, match="is not a folder"),
        open_resources(paths, port=0, tunnel_uid=os.geteuid(), use_tun=False),
    ):
        pass


def test_the_folder_of_the_sockets_goes_unless_a_manager_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "PATIENCE", 0.0)
    paths, uid, port = paths_in(tmp_path), os.geteuid(), free_port()
    with open_resources(paths, port=port, tunnel_uid=uid, use_tun=False):
        remove_run_folder(paths)
        assert paths.tunnel_socket.exists()
    (paths.run / "manager.log").touch()
    remove_run_folder(paths)
    assert list(paths.run_root.iterdir()) == []
    remove_run_folder(paths)


def test_the_socket_of_a_tunnel_under_another_manager_stays(tmp_path: Path) -> None:
    paths = paths_in(tmp_path)
    with socket.socket(fileno=own_sockets.open_listener(paths)):
        remove_run_folder(paths)
        assert is_listening(paths.tunnel_socket)
    remove_run_folder(paths)
    assert list(paths.run_root.iterdir()) == []
