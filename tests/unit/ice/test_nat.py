"""Every behaviour has its term."""

from __future__ import annotations

from ginnel.ice.nat import Behaviour, Filtering, Mapping, format_filtering, format_mapping


def test_every_kind_has_its_term() -> None:
    assert format_mapping(Mapping.INDEPENDENT) == "endpoint-independent"
    assert format_filtering(Filtering.ADDRESS_AND_PORT) == "address- and port-dependent"
    assert all(format_mapping(kind) for kind in Mapping)
    assert all(format_filtering(kind) for kind in Filtering)


def test_who_keeps_a_port() -> None:
    assert [kind for kind in Mapping if kind.keeps_port] == [Mapping.NONE, Mapping.INDEPENDENT]
    assert Behaviour() == Behaviour(Mapping.UNKNOWN, Filtering.UNKNOWN)
