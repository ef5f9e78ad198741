"""URIs of STUN and TURN servers."""

import random

import pytest

from ginnel.base.errors import UsageError
from ginnel.base.servers import (
    Transport,
    parse_ports,
    parse_server,
    parse_stun,
    parse_turn,
    parse_turn_uri,
)


@pytest.mark.parametrize(
    ("uri", "host", "port", "transport"),
    [
        ("turn:relay.example.org", "relay.example.org", 3478, Transport.UDP),
        ("turn:192.0.2.7:99?transport=udp", "192.0.2.7", 99, Transport.UDP),
        ("turn:192.0.2.7?transport=tcp", "192.0.2.7", 3478, Transport.TCP),
        ("turns:[2001:db8::7]:443", "2001:db8::7", 443, Transport.TLS),
        ("turns:relay.example.org?transport=tcp", "relay.example.org", 5349, Transport.TLS),
    ],
)
def test_turn_uris(uri: str, host: str, port: int, transport: Transport) -> None:
    server = parse_turn(f"{uri} me a:b")
    assert (server.host, server.port, server.transport) == (host, port, transport)
    assert (server.username, server.password.reveal()) == ("me", b"a:b")
    assert parse_turn_uri(uri, "me", "a:b") == server
    assert "a:b" not in repr(server)


@pytest.mark.parametrize(
    "text",
    [
        "turn:host",
        "turn:host me",
        "turns:host?transport=udp me hush",
        "turn:host?transport=sctp me hush",
        "turn:h:0 me hush",
        "turn:h:99999 me hush",
        "stun:host me hush",
        "http://host me hush",
    ],
)
def test_others_are_refused_without_showing_the_password(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_turn(text)
    assert "hush" not in str(caught.value)


def test_stun_uris() -> None:
    assert (parse_stun("stun:a.example").host, parse_stun("stun:a.example").port) == (
        "a.example",
        3478,
    )
    assert str(parse_stun("stun:[2001:db8::1]:5")) == "[2001:db8::1]:5/udp"
    for text in ("turn:a", "stun:a?transport=udp", "stun:"):
        with pytest.raises(UsageError):
            parse_stun(text)


def test_ports_are_drawn_from_their_range_until_none_is_left() -> None:
    rng, ports = random.Random(1), parse_ports("50000-50002")
    taken: list[int] = []
    while (port := ports.draw(taken, rng)) is not None:
        taken.append(port)
    assert sorted(taken) == [50000, 50001, 50002]


def test_a_server_of_either_kind() -> None:
    assert parse_server("stun:h") == parse_stun("stun:h")
    assert parse_server("turn:h me x") == parse_turn("turn:h me x")
    assert [parse_server(t).is_turn for t in ("stun:h", "turns:h me x")] == [False, True]
    with pytest.raises(UsageError, match="stun:HOST"):
        parse_server("stun:h me x")
