from __future__ import annotations

import os
import subprocess

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.net.netlink import NO_ADDRESS_GENERATION, Netlink
from ginnel.net.tun import open_tun
from support.confined import can_enter_namespaces, enter_namespaces, in_child

pytestmark = pytest.mark.skipif(
    not (can_enter_namespaces() and os.access("/dev/net/tun", os.R_OK | os.W_OK)),
    reason="no user namespaces or no TUN here",
)


def test_everything_is_set_read_and_removed_twice() -> None:
    def child() -> None:
        enter_namespaces()
        open_tun("gn-test")
        with Netlink() as netlink:
            netlink.set_mtu("gn-test", 1400)
            netlink.set_address_generation("gn-test", NO_ADDRESS_GENERATION)
            netlink.set_up("gn-test")
            for address in ("100.64.0.1/16", "fd00::1/48"):
                netlink.add_address("gn-test", address)
            for route in ("100.64.0.0/16", "fd00::/48", "0.0.0.0/0"):
                netlink.add_route("gn-test", route)
            assert netlink.mtu_of("gn-test") == 1400
            assert netlink.addresses("gn-test") == ["100.64.0.1/16", "fd00::1/48"]
            assert netlink.routes("gn-test") == ["0.0.0.0/0", "100.64.0.0/16", "fd00::/48"]
            for _ in range(2):
                for address in ("100.64.0.1/16", "fd00::1/48"):
                    netlink.remove_address("gn-test", address)
                for route in ("100.64.0.0/16", "fd00::/48", "0.0.0.0/0"):
                    netlink.remove_route("gn-test", route)
            assert netlink.addresses("gn-test") == []
            assert netlink.routes("gn-test") == []

    in_child(child)


def test_no_address_of_the_kernels_own() -> None:
    def child() -> str:
        enter_namespaces()
        open_tun("gn-test")
        with Netlink() as netlink:
            before = netlink.address_generation_of("gn-test")
            netlink.set_address_generation("gn-test", NO_ADDRESS_GENERATION)
            assert before != netlink.address_generation_of("gn-test") == NO_ADDRESS_GENERATION
            netlink.set_up("gn-test")
        command = ["ip", "-o", "address", "show", "dev", "gn-test"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert in_child(child) == ""


def test_refusals_name_the_item() -> None:
    def child() -> None:
        enter_namespaces()
        open_tun("gn-test")
        with Netlink() as netlink:
            netlink.set_up("gn-test")
            netlink.add_route("gn-test", "100.64.0.0/16")
            with pytest.raises(SystemFailure, match="0/16 to gn-test: File exists"):
                netlink.add_route("gn-test", "100.64.0.0/16")
            with pytest.raises(SystemFailure, match="mtu 7000000 on gn-test"):
                netlink.set_mtu("gn-test", 7_000_000)
            with pytest.raises(SystemFailure, match="no device gn-none"):
                netlink.index_of("gn-none")

    in_child(child)
