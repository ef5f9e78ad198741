"""CoderVPN's first lines from hand-written bytes: both dialects, and what is none of them."""

from __future__ import annotations

import pytest

from ginnel.base.errors import RemoteProtocolError
from ginnel.codervpn.header import Dialect, Role, Version, parse_header
from ginnel.codervpn.manager_role import ManagerCore
from ginnel.codervpn.speaker import Negotiated, StreamClosed
from ginnel.codervpn.tunnel_role import TunnelCore
from support.codervpn_bytes import (
    SEED_MANAGER,
    SEED_TUNNEL,
    manager_events,
    sent,
    tunnel_events,
)


@pytest.mark.parametrize(
    ("line", "role", "versions", "dialect"),
    [
        (b"codervpn 1.0 manager", Role.MANAGER, [(1, 0)], Dialect.SEED),
        (b"codervpn 12.34 tunnel", Role.TUNNEL, [(12, 34)], Dialect.SEED),
        (b"codervpn manager 1.3", Role.MANAGER, [(1, 3)], Dialect.SHIPPED),
        (b"codervpn tunnel 1.2,2.4,3.2", Role.TUNNEL, [(1, 2), (2, 4), (3, 2)], Dialect.SHIPPED),
    ],
)
def test_headers(
    line: bytes, role: Role, versions: list[tuple[int, int]], dialect: Dialect
) -> None:
    header = parse_header(line)
    assert (header.role, list(header.versions), header.dialect) == (role, versions, dialect)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"codervpn",
        b"codervpn 1.0",
        b"codervpn 1.0 manager ",
        b"codervpn  1.0 manager",
        b"codervpn 1.0 manager\r",
        b"codervpn 1 manager",
        b"codervpn 1.0.0 manager",
        b"codervpn 01.0 manager",
        b"codervpn 0.9 manager",
        b"codervpn 1.0 Manager",
        b"codervpn 1.0 server",
        b"codervpn manager",
        b"codervpn manager ",
        b"codervpn manager 1.0,",
        b"codervpn manager 1.0,1.1",
        b"codervpn manager 2.0,1.0",
        b"codervpn manager 0.1",
        b"codervpn manager 1.99999999999",
        "codervpn manager ١.0".encode(),
        b"GET / HTTP/1.1",
        b"codervpn manager " + b"1" * 240,
    ],
)
def test_bad_headers(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_header(line)
    core = TunnelCore(now=0.0)
    core.handle_bytes(line + b"\n", now=0.0)
    assert [type(event) for event in tunnel_events(core)] == [StreamClosed]


def test_a_header_that_does_not_end_is_cut_off() -> None:
    core = ManagerCore(now=0.0)
    core.handle_bytes(b"codervpn " + b"x" * 255, now=0.0)
    assert manager_events(core) == [StreamClosed("header longer than 255 bytes")]


def test_the_tunnel_mirrors_the_managers_dialect() -> None:
    for header, answer in (
        (b"codervpn 1.3 manager\n", b"codervpn 1.3 tunnel\n"),
        (b"codervpn manager 1.0\n", b"codervpn tunnel 1.3\n"),
    ):
        core = TunnelCore(now=0.0)
        assert sent(core) == b""
        for index in range(len(header)):
            core.handle_bytes(header[index : index + 1], now=0.0)
        assert sent(core) == answer


def test_a_tunnel_that_hears_nothing_speaks_the_seeds_form_after_a_second() -> None:
    core = TunnelCore(now=0.0)
    core.handle_timeout(now=0.9)
    assert sent(core) == b""
    core.handle_timeout(now=1.0)
    core.handle_timeout(now=1.1)
    assert sent(core) == SEED_TUNNEL
    core.handle_bytes(b"codervpn manager 1.1\n", now=2.0)
    assert sent(core) == b""
    assert tunnel_events(core) == [Negotiated(Version(1, 1), Dialect.SHIPPED)]


def test_a_manager_that_is_slow_to_say_its_line_is_not_interrupted() -> None:
    core = TunnelCore(now=0.0)
    for second, part in enumerate((b"codervpn", b" manager", b" 1.3")):
        core.handle_bytes(part, now=0.9 * second)
        core.handle_timeout(now=0.9 * (second + 1))
        assert sent(core) == b""
    core.handle_bytes(b"\n", now=2.7)
    assert sent(core) == b"codervpn tunnel 1.3\n"
    half = TunnelCore(now=0.0)
    half.handle_bytes(b"codervpn", now=0.9)
    half.handle_timeout(now=1.9)  # not a word more: then we speak
    assert sent(half) == SEED_TUNNEL


def test_no_header_within_five_seconds_closes() -> None:
    core = ManagerCore(now=0.0)
    assert sent(core) == SEED_MANAGER
    core.handle_timeout(now=4.9)
    assert manager_events(core) == []
    core.handle_timeout(now=5.0)
    assert manager_events(core) == [StreamClosed("no header within 5 s")]


def test_same_role_and_no_common_version_are_told_apart() -> None:
    core = ManagerCore(now=0.0)
    core.handle_bytes(SEED_MANAGER, now=0.0)
    assert manager_events(core) == [StreamClosed("both sides are manager")]
    tunnel = TunnelCore(now=0.0)
    tunnel.handle_bytes(b"codervpn manager 2.0\n", now=0.0)
    assert sent(tunnel) == b"codervpn tunnel 1.3\n"  # so that the other side can say so too
    assert tunnel_events(tunnel) == [StreamClosed("no common version: we have 1.3, not 2.0")]


@pytest.mark.parametrize("role", [ManagerCore, TunnelCore])
def test_two_of_one_role_both_say_so_and_close(role: type[ManagerCore] | type[TunnelCore]) -> None:
    one, other = role(now=0.0), role(now=0.0)
    for _ in range(2):  # two tunnels speak after a second
        one.handle_timeout(now=1.0)
        other.handle_timeout(now=1.0)
        to_other, to_one = sent(one), sent(other)
        one.handle_bytes(to_one, now=1.0)
        other.handle_bytes(to_other, now=1.0)
    for core in (one, other):
        name = "manager" if role is ManagerCore else "tunnel"
        assert core.poll_event() == StreamClosed(f"both sides are {name}")
        assert core.poll_event() is None


@pytest.mark.parametrize(
    "line",
    [
        b"codervpn 1.3 tunnel\n",
        b"codervpn tunnel 1.3\n",
        b"codervpn 2.0 manager\n",
        b"SSH-2.0\n",
        b"codervpn " + b"x" * 255,
    ],
)
def test_a_tunnel_says_who_it_is_before_it_closes(line: bytes) -> None:
    tunnel = TunnelCore(now=0.0)
    tunnel.handle_bytes(line, now=0.0)
    assert sent(tunnel) in (b"codervpn 1.3 tunnel\n", b"codervpn tunnel 1.3\n")
    (event,) = tunnel_events(tunnel)
    assert isinstance(event, StreamClosed)
    assert event.error
