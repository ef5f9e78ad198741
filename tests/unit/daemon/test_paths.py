from __future__ import annotations

from pathlib import Path

import pytest

from ginnel.base.errors import UsageError
from ginnel.daemon.paths import NetworkPaths, known_networks


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


def test_known_networks_are_the_folders(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "Not A Network").mkdir()
    (tmp_path / "file").touch()
    assert known_networks(tmp_path) == ["home", "work"]
    assert known_networks(tmp_path / "none") == []
