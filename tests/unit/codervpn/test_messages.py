from __future__ import annotations

import pickle

import pytest
from google.protobuf import text_format

from ginnel.base.errors import UsageError
from ginnel.base.types import Secret
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.header import Role
from ginnel.codervpn.messages import (
    LogLevel,
    LogRecord,
    Start,
    decode_log,
    decode_start,
    encode_log,
    encode_start,
    kind_of,
    make_agent,
    make_settings,
)
from ginnel.codervpn.speaker import Speaker


def test_start_and_log_come_back() -> None:
    start = Start(4, "u", Secret(b"t"), (("a", "b"),), "id", "linux")
    assert decode_start(encode_start(start)) == start
    record = LogRecord(LogLevel.FATAL, "x", ("a",), (("k", "v"),))
    assert decode_log(encode_log(record)) == record


def test_an_unknown_log_level_is_info() -> None:
    log = pb.Log()
    log.ParseFromString(bytes.fromhex("0863"))
    assert decode_log(log).level is LogLevel.INFO


def test_settings_of_both_families() -> None:
    request = make_settings(["100.64.0.1/16", "fd00::1/48"], ["100.64.0.0/16", "fd00::/48"], mtu=1)
    assert list(request.ipv4_settings.subnet_masks) == ["255.255.0.0"]
    assert list(request.ipv6_settings.prefix_lengths) == [48]
    assert request.ipv4_settings.included_routes[0].mask == "255.255.0.0"
    assert request.ipv6_settings.included_routes[0].destination == "fd00::"
    with pytest.raises(UsageError):
        make_settings(["nowhere"], mtu=1280)
    with pytest.raises(UsageError):
        make_settings([], ["100.64.0.1/16"], mtu=1280)


def test_an_agent_carries_times() -> None:
    agent = make_agent(b"x" * 16, "pi", last_handshake_unix=12.5, latency_s=0.25, direct=True)
    assert agent.last_handshake.ToNanoseconds() == 12_500_000_000
    assert agent.last_ping.latency.ToNanoseconds() == 250_000_000
    assert agent.last_ping.did_p2p
    assert not make_agent(b"", "pi").HasField("last_ping")


def test_kind_of_names_the_field() -> None:
    assert kind_of(pb.TunnelMessage()) is None
    assert kind_of(pb.ManagerMessage(stop=pb.StopRequest())) == "stop"


def test_a_token_is_in_no_repr_text_or_pickle_of_what_carried_it() -> None:
    start = Start(3, "https://example.org", Secret(b"hunter2"))
    message = pb.ManagerMessage(start=encode_start(start))
    speaker = Speaker(Role.MANAGER, now=0.0)
    speaker.handle_bytes(b"codervpn 1.3 tunnel\n", now=0.0)
    speaker.request(message, now=0.0)
    sent = [data for data in iter(speaker.poll_transmit, None) if b"hunter2" in data]
    assert len(sent) == 1
    received = pb.ManagerMessage.FromString(sent[0][4:])
    found = decode_start(received.start)
    assert found == start
    for shown in (message, received, start, found):
        texts = (repr(shown), str(shown), f"{shown}")
        assert all("<secret>" in text and "hunter2" not in text for text in texts)
        assert "hunter2" not in text_format.MessageToString(message)
    pickled = pickle.dumps([start, found])
    assert b"<secret>" in pickled
    assert b"hunter2" not in pickled
