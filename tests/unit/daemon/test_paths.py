from __future__ import annotations

from pathlib import Path

import pytest

from ginnel.base.errors import UsageError
from ginnel.daemon.paths import NetworkPaths, network_folders


def test_all_paths_of_a_network() -> None:
    paths = NetworkPaths("home")
    assert str(paths.settings) == "/etc/ginnel/home/settings.toml"
    assert str(paths.state) == "/var/lib/ginnel/home"
    assert str(paths.signer_state) == "/var/lib/ginnel/home-signer"
    assert str(paths.manager_socket) == "/run/ginnel/home/manager.sock"
    assert str(paths.tunnel_socket) == "/run/ginnel/home/tunnel.sock"
    assert paths.lock.parent == paths.run


@pytest.mark.parametrize("name", ["", "..", "a/b", "Home", "a" * 64, "a\0", "é"])
def test_names_that_are_no_file_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        NetworkPaths(name)


def test_networks_are_folders_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "home").mkdir()
    for name in ("Not A Network", "home.bak", "x" * 64):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    assert network_folders(tmp_path) == ["home", "work"]
    assert network_folders(tmp_path / "none") == []
