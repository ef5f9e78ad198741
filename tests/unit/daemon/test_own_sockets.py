"""What a tunnel opens itself."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.daemon.own_sockets import lone_settings, lone_state, open_listener, open_udp
from ginnel.daemon.paths import NetworkPaths


def test_settings_are_defaults_and_the_environments() -> None:
    settings = lone_settings({"GINNEL_MTU": "1400"}, 64_198)
    assert (settings.mtu, settings.tunnel_uid, settings.nodes) == (1400, 64_198, ())
    assert 20_000 <= settings.port <= 60_000
    assert lone_settings({"GINNEL_PORT": "7"}, 1).port == 7
    with pytest.raises(UsageError):
        lone_settings({"GINNEL_PORT": "x"}, 1)


def test_state_of_a_user_is_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/home/me/state")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert lone_state() == Path("/home/me/state/ginnel-tunnel")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert lone_state() == Path("/var/lib/ginnel-tunnel")


def test_udp_of_both_families_on_one_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 0))
        with pytest.raises(SystemFailure, match="in use"):
            open_udp(taken.getsockname()[1], os.geteuid())
    udp4, udp6 = open_udp(0, os.geteuid())
    for descriptor in filter(None, (udp4, udp6)):
        with socket.socket(fileno=descriptor) as opened:
            assert opened.getsockname()[1] > 0


def test_the_listener_is_where_status_asks(tmp_path: Path) -> None:
    paths = NetworkPaths("home", tmp_path, tmp_path, tmp_path / "run")
    with socket.socket(fileno=open_listener(paths)) as listener:
        assert listener.getsockname() == str(tmp_path / "run/home/tunnel.sock")
        assert paths.tunnel_socket.stat().st_mode & 0o777 == 0o666
    (tmp_path / "file").touch()
    with pytest.raises(SystemFailure, match="is not a folder"):
        open_listener(NetworkPaths("home", tmp_path, tmp_path, tmp_path / "file"))
