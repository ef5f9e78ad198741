"""resolv.conf: our blocks go in, and out byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ginnel.base.errors import SystemFailure
from ginnel.net.dns import DnsPlan
from ginnel.net.dns_file import MAX_SIZE, ResolvConfFile, other_servers

PLAN = DnsPlan(("100.64.0.1", "fd12::1"), match=("home.internal",))
SEARCHING = DnsPlan(("100.64.0.1",), ("home.internal",))
OURS = "# ginnel gn-home begin\nnameserver 100.64.0.1\n# ginnel gn-home end\n"


def servers_of(path: Path) -> list[str]:
    return [line.split()[1] for line in path.read_text().splitlines() if line[:10] == "nameserver"]


def test_our_server_stands_first_and_the_others_behind(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\nsearch example.org\n")
    path.chmod(0o640)
    setter = ResolvConfFile("gn-home", path)
    setter.apply(PLAN)
    assert path.read_text() == OURS + "nameserver 192.0.2.1\nsearch example.org\n"
    setter.apply(SEARCHING)
    assert servers_of(path) == ["100.64.0.1", "192.0.2.1"]
    assert path.read_text().splitlines()[-2] == "search home.internal example.org"
    assert path.stat().st_mode & 0o777 == 0o640
    assert other_servers(path.read_text(), ["100.64.0.1"]) == ("192.0.2.1",)
    setter.take_back()
    setter.take_back()
    assert path.read_text() == "nameserver 192.0.2.1\nsearch example.org\n"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["resolv.conf"]


@given(st.binary(max_size=200), st.sampled_from([PLAN, SEARCHING]))
def test_any_file_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, before: bytes, plan: DnsPlan
) -> None:
    path = tmp_path_factory.mktemp("dns") / "resolv.conf"
    path.write_bytes(before)
    first, second = ResolvConfFile("gn-a", path), ResolvConfFile("gn-a1", path)
    first.apply(plan)
    second.apply(plan)
    ResolvConfFile("gn-a", path).apply(PLAN)  # a second start after a crash
    second.take_back()
    first.take_back()
    assert path.read_bytes() == before


def test_a_file_made_by_us_goes_with_us(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    setter = ResolvConfFile("gn-home", path)
    setter.take_back()
    setter.apply(PLAN)
    setter.apply(SEARCHING)
    assert servers_of(path) == ["100.64.0.1"]
    setter.take_back()
    assert not path.exists()


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("nameserver 192.0.2.1\n")
    path = tmp_path / "resolv.conf"
    path.symlink_to(target)
    setter = ResolvConfFile("gn-home", path)
    setter.apply(PLAN)
    assert path.is_symlink()
    assert servers_of(target) == ["100.64.0.1", "192.0.2.1"]
    setter.take_back()
    assert target.read_text() == "nameserver 192.0.2.1\n"


def test_a_monster_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(b"#" * (MAX_SIZE + 1))
    with pytest.raises(SystemFailure, match="larger"):
        ResolvConfFile("gn-home", path).apply(PLAN)
    assert path.stat().st_size == MAX_SIZE + 1
