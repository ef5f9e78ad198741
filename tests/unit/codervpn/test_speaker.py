"""The bounds of the speaker; its behaviour byte by byte is in tests/raw."""

from __future__ import annotations

import pytest

from ginnel.base.errors import UsageError
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.header import Role
from ginnel.codervpn.speaker import (
    MAX_QUEUED_BYTES,
    MAX_QUEUED_NOTICES,
    MAX_RECEIVED_REQUESTS,
    MAX_SENT_REQUESTS,
    Failure,
    RequestFailed,
    RequestReceived,
    Speaker,
    StreamClosed,
)


def open_speaker(role: Role = Role.MANAGER) -> Speaker:
    speaker = Speaker(role, now=0.0)
    speaker.handle_bytes(f"codervpn 1.3 {role.other.value}\n".encode(), now=0.0)
    speaker.poll_event()
    while speaker.poll_transmit():
        pass
    return speaker


def stop() -> pb.ManagerMessage:
    return pb.ManagerMessage(stop=pb.StopRequest())


def note(text: str = "x") -> pb.TunnelMessage:
    return pb.TunnelMessage(log=pb.Log(message=text))


def test_one_way_messages_are_dropped_when_nobody_reads() -> None:
    speaker = open_speaker(Role.TUNNEL)
    taken = sum(speaker.notify(note()) for _ in range(MAX_QUEUED_NOTICES + 5))
    assert taken == MAX_QUEUED_NOTICES
    assert speaker.lost_notices == 5
    speaker.poll_transmit()
    assert speaker.notify(note())


def test_one_way_messages_are_bounded_in_bytes_too() -> None:
    speaker = open_speaker(Role.TUNNEL)
    big = "x" * (MAX_QUEUED_BYTES // 4)
    taken = sum(speaker.notify(note(big)) for _ in range(10))
    assert taken == 4


def test_one_way_messages_before_the_header_are_bounded() -> None:
    speaker = Speaker(Role.TUNNEL, now=0.0)
    taken = sum(speaker.notify(note()) for _ in range(MAX_QUEUED_NOTICES + 5))
    assert taken == MAX_QUEUED_NOTICES


def test_open_requests_are_bounded() -> None:
    speaker = open_speaker()
    for _ in range(MAX_SENT_REQUESTS):
        speaker.request(stop(), now=0.0)
    assert speaker.poll_event() is None
    extra = speaker.request(stop(), now=0.0)
    assert speaker.poll_event() == RequestFailed(extra, Failure.TOO_MANY)


def test_a_peer_with_too_many_open_requests_is_cut_off() -> None:
    asker, speaker = open_speaker(), open_speaker(Role.TUNNEL)
    for _ in range(MAX_RECEIVED_REQUESTS + 1):
        asker.request(stop(), now=0.0)
    for _ in range(2):  # ids beyond the asker's own limit come from a second one
        while data := asker.poll_transmit():
            speaker.handle_bytes(data, now=0.0)
        asker = open_speaker()
        for _ in range(MAX_SENT_REQUESTS):
            asker.cancel(asker.request(stop(), now=0.0))
        asker.request(stop(), now=0.0)
    while data := asker.poll_transmit():
        speaker.handle_bytes(data, now=0.0)
    events = []
    while event := speaker.poll_event():
        events.append(event)
    assert sum(isinstance(event, RequestReceived) for event in events) == MAX_RECEIVED_REQUESTS
    assert isinstance(events[-1], StreamClosed)


def test_cancel_fails_once_and_close_fails_the_rest() -> None:
    speaker = open_speaker()
    first, second = speaker.request(stop(), now=0.0), speaker.request(stop(), now=0.0)
    speaker.cancel(first)
    speaker.cancel(first)
    speaker.close()
    speaker.close()
    third = speaker.request(stop(), now=0.0)
    events = []
    while event := speaker.poll_event():
        events.append(event)
    assert events == [
        RequestFailed(first, Failure.CANCELLED),
        RequestFailed(second, Failure.CLOSED),
        StreamClosed(None),
        RequestFailed(third, Failure.CLOSED),
    ]
    assert speaker.poll_deadline() is None
    assert not speaker.notify(stop())
    assert not speaker.respond(1, stop())


def test_the_deadline_is_the_earliest_request() -> None:
    speaker = open_speaker()
    speaker.request(stop(), now=0.0, timeout=9.0)
    speaker.request(stop(), now=0.0, timeout=3.0)
    deadline = speaker.poll_deadline()
    assert deadline is not None
    assert deadline.at == 3.0


def test_an_empty_request_is_our_fault() -> None:
    with pytest.raises(UsageError):
        open_speaker().request(pb.ManagerMessage(), now=0.0)


def events(speaker: Speaker) -> list[object]:
    return list(iter(speaker.poll_event, None))


def test_a_tunnel_that_only_starts_has_longer_until_its_first_byte_and_then_five_seconds() -> None:
    core = Speaker(Role.MANAGER, now=0.0, silence_timeout=30.0)
    core.handle_timeout(now=29.9)
    assert events(core) == []
    core.handle_timeout(now=30.0)
    assert events(core) == [StreamClosed("no header within 30 s")]
    core = Speaker(Role.MANAGER, now=0.0, silence_timeout=30.0)
    core.handle_bytes(b"coder", now=10.0)
    core.handle_bytes(b"vpn", now=14.0)
    core.handle_timeout(now=14.9)
    assert events(core) == []
    core.handle_timeout(now=15.0)
    assert events(core) == [StreamClosed("no header within 5 s")]
    core = Speaker(Role.MANAGER, now=0.0)  # one that runs: five seconds from the beginning
    core.handle_bytes(b"coder", now=4.0)
    core.handle_timeout(now=5.0)
    assert events(core) == [StreamClosed("no header within 5 s")]
