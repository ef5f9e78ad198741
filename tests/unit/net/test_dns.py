"""resolvconf as a program, and which way of setting names is chosen."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.net.dns import DnsPlan, Resolvconf, find_setter, reverse_zones
from ginnel.net.dns_resolved import Resolved

SCRIPT = """#!/bin/sh
echo "$@" >> {log}
/bin/cat >> {log}
[ "$2" != "gn-bad.ginnel" ]
"""


def test_resolvconf_gets_a_record_and_loses_it(tmp_path: Path) -> None:
    program, log = tmp_path / "resolvconf", tmp_path / "log"
    program.write_text(SCRIPT.format(log=log))
    program.chmod(0o755)
    setter = Resolvconf("gn-home", str(program))
    setter.apply(DnsPlan(("100.64.0.1", "fd12::1"), ("home.internal",)))
    setter.take_back()
    assert log.read_text().splitlines() == [
        "-a gn-home.ginnel",
        "nameserver 100.64.0.1",
        "nameserver fd12::1",
        "search home.internal",
        "-d gn-home.ginnel",
    ]
    with pytest.raises(SystemFailure, match="dns_settings"):
        Resolvconf("gn-bad", str(program)).apply(DnsPlan(("100.64.0.1",)))
    with pytest.raises(SystemFailure, match="dns_settings"):
        Resolvconf("gn-home", str(tmp_path / "nothing")).take_back()


def test_without_a_bus_there_is_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/no-bus")
    assert Resolved.find("gn-home") is None
    assert find_setter("gn-home").name in ("resolvconf", "resolv.conf")


@pytest.mark.parametrize(
    ("prefix", "zones"),
    [
        ("100.64.0.0/16", ("64.100.in-addr.arpa",)),
        ("10.0.0.0/8", ("10.in-addr.arpa",)),
        ("100.64.8.0/23", ("8.64.100.in-addr.arpa", "9.64.100.in-addr.arpa")),
        ("fd12:3456:789a::/48", ("a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa",)),
        ("100.64.0.0/10", ()),
    ],
)
def test_reverse_zones(prefix: str, zones: tuple[str, ...]) -> None:
    assert reverse_zones(ip_network(prefix)) == zones
