"""/proc/net/route, as the kernel writes it."""

import sys
from pathlib import Path

import pytest

from ginnel.net.routes import ipv4_routes, parse_routes, strict_devices

TEXT = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
gn-home\t00004064\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
bad\tzz\t00\t1
"""


@pytest.mark.skipif(sys.byteorder == "big", reason="the sample is of a little-endian machine")
def test_prefixes_are_read_and_the_default_is_left_out() -> None:
    assert parse_routes(TEXT) == ["192.168.2.0/24", "100.64.0.0/16"]


def test_this_machine_can_be_read() -> None:
    assert all("/" in prefix for prefix in ipv4_routes())


@pytest.mark.parametrize(
    ("common", "strict"), [("0", ["lan0"]), ("1", ["lan0", "open0"]), ("2", [])]
)
def test_strict_devices_are_those_whose_larger_switch_is_1(
    tmp_path: Path, common: str, strict: list[str]
) -> None:
    switches = {"all": common, "default": "1", "lo": "1", "gn-test": "1"}
    switches |= {"lan0": "1", "open0": "0", "loose0": "2"}
    for name, value in switches.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "rp_filter").write_text(f"{value}\n")
    (tmp_path / "going0").mkdir()
    if common == "1":
        (tmp_path / "going0").rmdir()
    assert strict_devices(besides="gn-test", devices=tmp_path) == strict
