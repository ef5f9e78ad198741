"""A hostile tunnel gets nothing: each case is refused by name, the machine stays as it was.

The test is the tunnel: it speaks raw frames with a real manager over a socket, in one namespace.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.messages import make_settings
from support import hostile_tunnel
from support.confined import can_enter_namespaces
from support.machine_state import look
from support.raw_tunnel import Stream, in_namespaces, manager

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        not (can_enter_namespaces() and os.access("/dev/net/tun", os.R_OK | os.W_OK)),
        reason="no user namespaces or no TUN here",
    ),
]
GOOD = make_settings(["100.64.7.1/16", "fd12:3456::7/48"], ["100.64.0.0/16"], mtu=1380)


def test_every_field_that_a_tunnel_can_fill_has_a_case() -> None:
    named = {name.partition(":")[0] for name in hostile_tunnel.cases()}
    assert set(hostile_tunnel.fields_of()) - named == {
        "peer_update.upserted_agents.last_ping.did_p2p"
    }


def test_every_case_is_refused_by_name_and_changes_nothing(tmp_path: Path) -> None:
    def body() -> None:
        with manager(tmp_path) as (stream, log):
            stream.begin()
            assert stream.ask(GOOD).success
            before = look()
            assert "100.64.7.1/16" in before
            for name, message in hostile_tunnel.cases().items():
                check(stream, log, name, message)
                assert look() == before, name

    in_namespaces(tmp_path, body)


def check(stream: Stream, log: Path, name: str, message: pb.TunnelMessage) -> None:
    """Send one case; the refusal, or the log where there is no answer, names the field."""
    field = name.partition(":")[0]
    if message.HasField("network_settings"):
        answer = stream.ask(message.network_settings)
        assert not answer.success, name
        assert names(field.partition(".")[2], answer.error_message), (name, answer.error_message)
        assert len(answer.error_message) < 300
        assert answer.error_message.isprintable()
        return
    size = log.stat().st_size
    stream.say(message)
    assert not stream.ask(pb.NetworkSettingsRequest(mtu=1)).success  # it has read the case by now
    text = log.read_bytes()[size:].decode()
    assert "deleted" in name or names(field, text), (name, text[:1000])
    assert all(line.isprintable() for line in text.splitlines()), name
    assert len(text) < 40_000


def names(field: str, text: str) -> bool:
    """Say whether a text names a field, or the list of routes that it is in."""
    route, _, part = field.rpartition(".")
    is_in_route = part in ("destination", "mask", "router", "prefix_length") and "_routes" in route
    return (route if is_in_route else field.removesuffix("_no_search")) in text


def test_answers_that_nobody_asked_for_and_wrong_answers(tmp_path: Path) -> None:
    def body() -> None:
        with manager(tmp_path) as (stream, log):
            stream.begin()
            before = look()
            for answer in (
                pb.TunnelMessage(start=pb.StartResponse(success=True)),
                pb.TunnelMessage(stop=pb.StopResponse(success=True)),
                pb.TunnelMessage(wake=pb.WakeResponse(success=True)),
                pb.TunnelMessage(start=pb.StartResponse(error_message=hostile_tunnel.LONG)),
                pb.TunnelMessage(stop=pb.StopResponse(error_message=hostile_tunnel.CONTROL)),
            ):
                stream.say(answer)
                answer.rpc.response_to = 2**64 - 1
                stream.say(answer)
                stream.ask(pb.NetworkSettingsRequest(mtu=1))
                assert look() == before
            assert log.read_text().isascii()

    in_namespaces(tmp_path, body)


def test_a_refused_start_ends_with_its_reason_escaped(tmp_path: Path) -> None:
    def body() -> None:
        before = look()
        with manager(tmp_path) as (stream, log):
            stream.start(hostile_tunnel.CONTROL + hostile_tunnel.LONG)
        text = log.read_text()
        assert "\\x1b[2J\\x0a\\u202e" in text
        assert len(text) < 40_000
        assert look() == before

    in_namespaces(tmp_path, body)


def test_settings_are_applied_at_a_bounded_rate(tmp_path: Path) -> None:
    def body() -> None:
        with manager(tmp_path) as (stream, _):
            stream.begin()
            answers = [stream.ask(GOOD) for _ in range(15)]
            assert answers[0].success
            assert "network_settings: asked for too often" in answers[-1].error_message

    in_namespaces(tmp_path, body)
