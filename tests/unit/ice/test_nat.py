"""Which behaviours of two sides let them be direct (RFC 4787)."""

from __future__ import annotations

import pytest

from ginnel.ice.nat import (
    Behaviour,
    Filtering,
    Mapping,
    can_be_direct,
    format_filtering,
    format_mapping,
)

PUBLIC = Behaviour(Mapping.NONE, Filtering.INDEPENDENT)
FULL_CONE = Behaviour(Mapping.INDEPENDENT, Filtering.INDEPENDENT)
ADDRESS = Behaviour(Mapping.INDEPENDENT, Filtering.ADDRESS)
PORT = Behaviour(Mapping.INDEPENDENT, Filtering.ADDRESS_AND_PORT)
SYMMETRIC = Behaviour(Mapping.ADDRESS_AND_PORT, Filtering.ADDRESS_AND_PORT)
LOOSE = Behaviour(Mapping.ADDRESS, Filtering.ADDRESS)
UNKNOWN = Behaviour()


@pytest.mark.parametrize(
    ("one", "other", "can"),
    [
        (PORT, PORT, True),
        (SYMMETRIC, PUBLIC, True),
        (SYMMETRIC, FULL_CONE, True),
        (SYMMETRIC, ADDRESS, True),
        (SYMMETRIC, PORT, False),
        (SYMMETRIC, SYMMETRIC, False),
        (SYMMETRIC, LOOSE, False),
        (LOOSE, LOOSE, False),
        (LOOSE, Behaviour(Mapping.ADDRESS, Filtering.INDEPENDENT), True),
        (LOOSE, PORT, False),
        (UNKNOWN, SYMMETRIC, True),
        (UNKNOWN, UNKNOWN, True),
        (Behaviour(Mapping.INDEPENDENT), SYMMETRIC, True),
    ],
)
def test_who_can_be_direct(one: Behaviour, other: Behaviour, can: bool) -> None:
    assert can_be_direct(one, other) is can
    assert can_be_direct(other, one) is can


def test_every_kind_has_its_term() -> None:
    assert format_mapping(Mapping.INDEPENDENT) == "endpoint-independent"
    assert all(format_mapping(kind) for kind in Mapping)
    assert all(format_filtering(kind) for kind in Filtering)
