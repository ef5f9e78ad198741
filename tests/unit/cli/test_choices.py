import random

import pytest

from ginnel.base.config import FIRST_PORT, LAST_PORT
from ginnel.base.errors import UsageError
from ginnel.cli.choices import choose_port, choose_uids, member_name
from ginnel.daemon import privileges


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
