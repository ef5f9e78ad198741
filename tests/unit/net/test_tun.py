from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.net.tun import device_name, open_tun
from support.confined import can_enter_namespaces, enter_namespaces, in_child

IN_NAMESPACE = pytest.mark.skipif(
    not (can_enter_namespaces() and os.access("/dev/net/tun", os.R_OK | os.W_OK)),
    reason="no user namespaces or no TUN here",
)


@IN_NAMESPACE
def test_the_device_lives_as_long_as_its_descriptor() -> None:
    def child() -> None:
        enter_namespaces()
        device = open_tun("gn-test")
        assert device.name == "gn-test"
        assert not os.get_blocking(device.fd)
        assert fcntl.fcntl(device.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert "gn-test" in {name for _, name in socket.if_nameindex()}
        with pytest.raises(SystemFailure, match="in use"):
            open_tun("gn-test")
        os.close(device.fd)
        assert [name for _, name in socket.if_nameindex()] == ["lo"]

    in_child(child)


@IN_NAMESPACE
def test_a_name_of_another_kind_of_device_is_refused() -> None:
    def child() -> None:
        enter_namespaces()
        with pytest.raises(SystemFailure, match="lo"):
            open_tun("lo")

    in_child(child)


def test_without_the_device_file_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemFailure, match="modprobe tun"):
        open_tun("gn-test", path=tmp_path / "tun")


def test_without_permission_the_remedy_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "tun"
    closed.touch(mode=0o000)

    def child() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)  # root may open every file
        with pytest.raises(SystemFailure, match="chmod 0666"):
            open_tun("gn-test", path=closed)

    in_child(child)


@pytest.mark.parametrize("name", ["", "a" * 16])
def test_bad_names(name: str) -> None:
    with pytest.raises(UsageError):
        open_tun(name)


def test_device_names_are_short_and_distinct() -> None:
    assert device_name("home") == "gn-home"
    one, two = device_name("a-long-network-name-1"), device_name("a-long-network-name-2")
    assert one != two
    assert len(one) <= 15
    assert one.startswith("gn-a-long-")
