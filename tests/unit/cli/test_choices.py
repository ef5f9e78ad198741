import random

import pytest

from ginnel.base.config import FIRST_PORT, LAST_PORT
from ginnel.base.errors import UsageError
from ginnel.cli.choices import choose_port, choose_uids, member_name, taken_prefixes
from ginnel.daemon import privileges
from ginnel.daemon.paths import NetworkPaths
from ginnel.net.routes import ipv4_routes
from support.console import ginnel, on_machine


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("pi", "pi"),
        ("Attic.example.org", "attic"),
        ("a-1", "a-1"),
        ("x", "x"),
        ("A" * 63, "a" * 63),
    ],
)
def test_a_host_name_becomes_a_members_name(text: str, name: str) -> None:
    assert member_name(text) == name


@pytest.mark.parametrize("text", ["", ".", "-a", "a-", "a_b", "bücher", "a" * 64, "a b", "a\n"])
def test_a_name_that_can_not_be_says_how_to_choose_one(text: str) -> None:
    with pytest.raises(UsageError, match="choose one by --name"):
        member_name(text)


def test_ports_are_drawn_from_the_whole_range() -> None:
    ports = [choose_port(random.Random(seed)) for seed in range(200)]
    assert min(ports) >= FIRST_PORT
    assert max(ports) <= LAST_PORT
    assert len(set(ports)) > 150


def test_uids_are_different_and_not_the_public_nodes() -> None:
    uids = choose_uids(2)
    assert len(set(uids)) == 2
    assert all(privileges.FIRST_UID <= uid < privileges.LONE_UID for uid in uids)


def test_networks_of_this_machine_hold_their_prefixes_also_when_they_are_down() -> None:
    def run() -> list[str]:
        for name, prefix in (("one", "100.70.0.0/16"), ("two", "10.9.0.0/18"), ("three", "")):
            assert ginnel("init", name, *(["--ipv4-prefix", prefix] if prefix else [])).code == 0
        (NetworkPaths("three").etc / "network.obj").write_bytes(b"damaged")
        return [prefix for prefix in taken_prefixes() if prefix not in ipv4_routes()]

    assert sorted(on_machine(run)) == ["10.9.0.0/18", "100.70.0.0/16"]
