import pytest

from ginnel.base.errors import UsageError
from ginnel.lab.topology import (
    MAX_HOSTS,
    MAX_NAME_CHARS,
    MAX_SITES,
    Home,
    LabTopology,
    Link,
    NatKind,
    PublicMachine,
    make_topology,
    parse_home,
)


def test_homes_are_parsed() -> None:
    assert parse_home("anna") == Home("anna")
    assert parse_home("anna:symmetric") == Home("anna", NatKind.SYMMETRIC)
    assert parse_home("flat:hairpin:2") == Home("flat", NatKind.HAIRPIN, ("flat1", "flat2"))
    assert parse_home("pi:none", Link(0.1)) == PublicMachine("pi", Link(0.1))


@pytest.mark.parametrize(
    "text", ["anna:foo", "anna:leaky:0", "anna:leaky:x", "anna:leaky:51", "anna:none:2"]
)
def test_bad_homes_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_home(text)


@pytest.mark.parametrize(
    "name", ["", "Anna", "1a", "a b", "x-wan", "x-carrier", "a" * (MAX_NAME_CHARS + 1), "a\n"]
)
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="lab name"):
        LabTopology(public=(PublicMachine(name),))


def test_names_are_used_once() -> None:
    with pytest.raises(UsageError, match="twice"):
        LabTopology((Home("a"),), (PublicMachine("a"),))
    with pytest.raises(UsageError, match="twice"):
        LabTopology((Home("a", hosts=("b",)), Home("a", hosts=("c",))))


def test_sizes_are_bounded() -> None:
    LabTopology(tuple(Home(f"h{i}") for i in range(MAX_SITES)))
    with pytest.raises(UsageError, match="at most"):
        LabTopology(tuple(Home(f"h{i}") for i in range(MAX_SITES + 1)))
    with pytest.raises(UsageError, match="at most"):
        LabTopology((Home("a", hosts=tuple(f"h{i}" for i in range(MAX_HOSTS + 1))),))


def test_links_are_checked() -> None:
    for delay, loss in ((-1, 0), (11, 0), (0, -0.1), (0, 1.1)):
        with pytest.raises(UsageError):
            Link(delay, loss)


def test_sites_are_sorted_into_a_topology() -> None:
    made = make_topology([PublicMachine("pi"), Home("a")], public=[PublicMachine("n")], ipv6=True)
    assert made == LabTopology((Home("a"),), (PublicMachine("n"), PublicMachine("pi")), ipv6=True)
    with pytest.raises(UsageError):
        LabTopology((Home("a", NatKind.NONE),))
