from __future__ import annotations

import pytest

from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.codervpn.header import (
    Dialect,
    Header,
    Role,
    Version,
    format_header,
    negotiate,
    parse_header,
)


def test_roles_know_each_other() -> None:
    assert Role.MANAGER.other is Role.TUNNEL
    assert Role.TUNNEL.other is Role.MANAGER


@pytest.mark.parametrize(
    ("ours", "theirs", "result"),
    [
        (((1, 2), (2, 4), (3, 2)), ((2, 3), (3, 3)), (3, 2)),
        (((1, 3),), ((1, 0),), (1, 0)),
        (((1, 0),), ((1, 9), (7, 0)), (1, 0)),
    ],
)
def test_the_highest_common_major_and_the_lower_minor(
    ours: tuple[tuple[int, int], ...],
    theirs: tuple[tuple[int, int], ...],
    result: tuple[int, int],
) -> None:
    agreed = negotiate(tuple(Version(*v) for v in ours), tuple(Version(*v) for v in theirs))
    assert agreed == result


def test_no_common_major_names_both() -> None:
    with pytest.raises(RemoteProtocolError, match=r"we have 1\.3, not 2\.0"):
        negotiate((Version(1, 3),), (Version(2, 0),))


def test_the_seeds_form_carries_the_highest_version() -> None:
    header = Header(Role.MANAGER, (Version(1, 3), Version(2, 0)), Dialect.SEED)
    assert format_header(header) == b"codervpn 2.0 manager\n"


def test_format_refuses_what_nobody_could_read() -> None:
    with pytest.raises(UsageError):
        format_header(Header(Role.MANAGER, (), Dialect.SEED))
    many = tuple(Version(major, 0) for major in range(1, 100))
    with pytest.raises(UsageError):
        format_header(Header(Role.TUNNEL, many, Dialect.SHIPPED))


def test_both_forms_come_back() -> None:
    for dialect in Dialect:
        header = Header(Role.TUNNEL, (Version(1, 3),), dialect)
        assert parse_header(format_header(header)[:-1]) == header
