"""A hostile tunnel gets nothing: each request is refused by name, the machine stays as it was."""

from __future__ import annotations

import os
import subprocess

import pytest

from ginnel.base.errors import UsageError
from ginnel.daemon.guard import Guard
from ginnel.daemon.settings_apply import SettingsApplier
from ginnel.daemon.settings_check import Allowance, check_settings
from ginnel.net.tun import open_tun
from support.confined import can_enter_namespaces, enter_namespaces, in_child
from support.hostile_tunnel import cases

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        not (can_enter_namespaces() and os.access("/dev/net/tun", os.R_OK | os.W_OK)),
        reason="no user namespaces or no TUN here",
    ),
]
ALLOWANCE = Allowance.of(["100.64.0.0/16", "fd12::/48"], ["100.64.0.1", "fd12::1"], "home.internal")
LOOKS = (
    "ip -o link; ip -o addr",
    "ip rule; ip -6 rule",
    "ip route show table all; ip -6 route show table all",
    "nft list ruleset",
    "sysctl -a -r 'net.ipv[46].conf' 2>/dev/null",
    "cat /etc/resolv.conf",
)


def look() -> list[str]:
    return [
        subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False).stdout
        for command in LOOKS
    ]


def test_every_case_is_refused_by_name_and_changes_nothing() -> None:
    def child() -> None:
        enter_namespaces()
        device = open_tun("gn-test")
        Guard("gn-test", 64_191, ALLOWANCE).install()
        applier = SettingsApplier("gn-test", 64_191)
        before = look()
        for field, request in cases():
            with pytest.raises(UsageError) as caught:
                applier.apply(check_settings(request, ALLOWANCE))
            error = str(caught.value)
            assert field.split(".")[-1] in error, (field, error)
            assert len(error) < 300
            assert error.isprintable()
            assert look() == before, field
        os.close(device.fd)

    in_child(child)
