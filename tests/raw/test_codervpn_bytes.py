"""CoderVPN from hand-written bytes: frames and fields as others send them."""

from __future__ import annotations

import pytest

from ginnel.base.types import Secret
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.header import Dialect
from ginnel.codervpn.manager_role import Answered, Ask, LogReceived, ManagerCore, SettingsRequested
from ginnel.codervpn.messages import LogLevel, LogRecord, Start, make_agent
from ginnel.codervpn.speaker import Drop, Failure, Negotiated, StreamClosed
from ginnel.codervpn.tunnel_role import (
    SettingsAnswered,
    StartRequested,
    StopRequested,
    TunnelCore,
    TunnelEvent,
    WakeRequested,
)
from support.codervpn_bytes import (
    SEED_MANAGER,
    START,
    STARTED,
    STOP,
    STOPPED,
    manager_events,
    open_manager,
    open_tunnel,
    sent,
    tunnel_events,
)


def test_start_settings_and_stop_as_bytes() -> None:
    manager = open_manager()
    manager.start(Start(4, "u", Secret(b"t")), now=1.0)
    assert sent(manager) == START
    tunnel = open_tunnel()
    tunnel.handle_bytes(START, now=1.0)
    (event,) = tunnel_events(tunnel)
    assert isinstance(event, StartRequested)
    assert event.start == Start(4, "u", Secret(b"t"))
    assert "token=<secret>" in repr(event)
    tunnel.finish_start(None)
    assert sent(tunnel) == STARTED
    manager.handle_bytes(STARTED, now=1.0)
    assert manager_events(manager) == [Answered(Ask.START, 1, None)]
    manager.stop(now=2.0)
    assert sent(manager) == STOP
    tunnel.handle_bytes(STOP, now=2.0)
    assert tunnel_events(tunnel) == [StopRequested()]
    tunnel.finish_stop()
    assert not tunnel.speaker.is_write_finished
    assert sent(tunnel) == STOPPED
    assert tunnel.speaker.is_write_finished
    manager.handle_bytes(STOPPED, now=2.0)
    manager.handle_eof(now=2.0)
    assert manager_events(manager) == [Answered(Ask.STOP, 2, None), StreamClosed(None)]


def test_a_stop_answers_what_is_open_before_its_own_reply() -> None:
    tunnel = open_tunnel()
    # the full set, msg_id 3: it waits, because the stream isn't free before `sent`
    tunnel.handle_bytes(START + bytes.fromhex("000000060a0208031200") + STOP, now=0.0)
    requested, stop = tunnel_events(tunnel)
    assert isinstance(requested, StartRequested)
    assert stop == StopRequested()
    tunnel.finish_stop()
    # TunnelMessage{rpc{response_to 1}, start{error_message "stopped"}}, {rpc{3}, peer_update{}}
    answers = "0000000f 0a021001 2a091207 73746f70706564 00000006 0a021003 1a00"
    tunnel.finish_start(None)  # too late
    assert sent(tunnel) == bytes.fromhex(answers.replace(" ", "")) + STOPPED
    assert not tunnel.is_running


def test_who_only_stops_writing_gets_the_answers_to_what_it_asked() -> None:
    tunnel = open_tunnel()
    settings = tunnel.request_settings(pb.NetworkSettingsRequest(), now=0.0)
    sent(tunnel)
    tunnel.handle_bytes(bytes.fromhex("000000060a0208031200") + STOP, now=0.0)
    tunnel.handle_eof(now=0.0)
    assert tunnel_events(tunnel) == [
        StopRequested(),
        SettingsAnswered(settings, "stream closed"),  # nobody can answer any more
    ]
    late = tunnel.request_settings(pb.NetworkSettingsRequest(), now=0.0)
    assert sent(tunnel) == bytes.fromhex("000000060a0210031a00")
    assert tunnel_events(tunnel) == [SettingsAnswered(late, "stream closed")]
    tunnel.finish_stop()
    assert sent(tunnel) == STOPPED
    assert tunnel_events(tunnel) == [StreamClosed(None)]


def test_an_answer_after_the_end_is_waited_for_five_seconds() -> None:
    tunnel = open_tunnel()
    tunnel.handle_bytes(STOP, now=0.0)
    tunnel.handle_eof(now=1.0)
    tunnel.handle_timeout(now=5.9)
    assert tunnel_events(tunnel) == [StopRequested()]
    tunnel.handle_timeout(now=6.0)
    assert tunnel_events(tunnel) == [StreamClosed(None)]
    tunnel.finish_stop()
    assert sent(tunnel) == b""


def test_a_start_without_url_or_token_fails_and_stop_before_start_succeeds() -> None:
    tunnel = open_tunnel()
    # start{fd 4}, msg_id 1
    tunnel.handle_bytes(bytes.fromhex("000000080a02080122020804"), now=0.0)
    assert tunnel_events(tunnel) == []
    assert b"Start has no URL" in sent(tunnel)
    # start{url "u"}, msg_id 2
    tunnel.handle_bytes(bytes.fromhex("000000090a0208022203120175"), now=0.0)
    assert b"Start has no token" in sent(tunnel)
    tunnel.handle_bytes(STOP, now=0.0)
    tunnel.finish_stop()
    assert sent(tunnel) == STOPPED


def test_a_second_start_succeeds_without_an_event() -> None:
    tunnel = open_tunnel()
    tunnel.handle_bytes(START, now=0.0)
    tunnel.finish_start(None)
    tunnel_events(tunnel)
    sent(tunnel)
    tunnel.handle_bytes(START, now=0.0)
    assert tunnel_events(tunnel) == []
    assert sent(tunnel) == STARTED
    assert tunnel.double_starts == 1


@pytest.mark.parametrize("version", [b"1.0", b"1.2", b"1.3"])
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_request_given_up_before_the_header_costs_nothing_behind_it(
    version: bytes, is_cancelled: bool
) -> None:
    manager = ManagerCore(now=0.0)
    request = manager.wake(now=0.0, timeout=1.0)  # which 1.3 alone knows
    reason = Failure.CANCELLED if is_cancelled else Failure.TIMEOUT
    if is_cancelled:
        manager.speaker.cancel(request)
    manager.handle_timeout(now=1.0)
    # TunnelMessage{rpc{msg_id 5}, network_settings{mtu 1280}}
    behind = bytes.fromhex("000000090a020805220310800a")
    manager.handle_bytes(b"codervpn " + version + b" tunnel\n" + behind, now=1.5)
    answered, negotiated, asked = manager_events(manager)
    assert answered == Answered(Ask.WAKE, request, reason.value)
    assert isinstance(negotiated, Negotiated)
    assert isinstance(asked, SettingsRequested)
    assert sent(manager) == SEED_MANAGER


def test_settings_are_answered_out_of_order_and_late_answers_are_dropped() -> None:
    tunnel = open_tunnel()
    first = tunnel.request_settings(pb.NetworkSettingsRequest(mtu=1280), now=0.0, timeout=1.0)
    second = tunnel.request_settings(pb.NetworkSettingsRequest(mtu=1281), now=0.0, timeout=9.0)
    # TunnelMessage{rpc{msg_id}, network_settings{mtu}}
    assert sent(tunnel) == bytes.fromhex("000000090a0208012203108 00a".replace(" ", "")) + (
        bytes.fromhex("000000090a020802220310810a")
    )
    # ManagerMessage{rpc{response_to 2}, network_settings{error_message "no"}}
    tunnel.handle_bytes(bytes.fromhex("0000000a0a021002 1a0412026e6f".replace(" ", "")), now=0.5)
    assert tunnel_events(tunnel) == [SettingsAnswered(second, "no")]
    tunnel.handle_timeout(now=1.0)
    assert tunnel_events(tunnel) == [SettingsAnswered(first, "no response in time")]
    tunnel.handle_bytes(bytes.fromhex("000000080a0210011a020801"), now=1.5)
    assert tunnel_events(tunnel) == []
    assert tunnel.speaker.drops[Drop.UNKNOWN_RESPONSE] == 1


def test_the_manager_sees_settings_and_answers_with_the_requests_id() -> None:
    manager = open_manager()
    manager.handle_bytes(bytes.fromhex("000000090a020805220310800a"), now=0.0)
    (event,) = manager_events(manager)
    assert isinstance(event, SettingsRequested)
    assert event.settings.mtu == 1280
    manager.finish_settings(event.request, None)
    assert sent(manager) == bytes.fromhex("000000080a0210051a020801")
    manager.finish_settings(event.request, None)
    assert sent(manager) == b""


def test_logs_and_peers_are_one_way_without_rpc() -> None:
    tunnel = open_tunnel()
    assert tunnel.write_log(LogRecord(LogLevel.WARN, "hi", ("a", "b"), (("k", "v"),)))
    line = sent(tunnel)
    # TunnelMessage{log{level 2, message "hi", logger_names, fields{k, v}}}
    assert line == bytes.fromhex("0000001612140802120268691a01611a016222060a016b120176")
    manager = open_manager()
    manager.handle_bytes(line, now=0.0)
    (event,) = manager_events(manager)
    assert isinstance(event, LogReceived)
    assert event.record == LogRecord(LogLevel.WARN, "hi", ("a", "b"), (("k", "v"),))
    tunnel.upsert(agents=[make_agent(b"id", "pi")])
    # TunnelMessage{peer_update{upserted_agents{id, name}}}
    assert sent(tunnel) == bytes.fromhex("0000000c1a0a12080a02696412027069")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\0\0\0\1\xff", "a frame that is no protobuf message"),
        (b"\1\0\0\1", "a frame of 16777217 bytes; the limit is 16777216"),
        (b"\xff\xff\xff\xff", "a frame of 4294967295 bytes; the limit is 16777216"),
        # 200,000 times the empty field 1 of field 3, which is a message in both directions
        (
            bytes.fromhex("00061a84 1a80b518") + b"\x0a\0" * 200_000,
            "a frame of more than 131072 values",
        ),
    ],
)
def test_fatal_frames(data: bytes, error: str) -> None:
    tunnel = open_tunnel()
    tunnel.handle_bytes(data, now=0.0)
    assert tunnel_events(tunnel) == [StreamClosed(error)]
    manager = open_manager()
    request = manager.stop(now=0.0)
    manager.handle_bytes(data, now=0.0)
    assert manager_events(manager) == [
        Answered(Ask.STOP, request, "stream closed"),
        StreamClosed(error),
    ]


def test_the_end_in_mid_frame_and_before_the_header() -> None:
    tunnel = open_tunnel()
    tunnel.handle_bytes(b"\0\0", now=0.0)
    tunnel.handle_eof(now=0.0)
    assert tunnel_events(tunnel) == [StreamClosed("the stream ended in the middle of a frame")]
    tunnel = TunnelCore(now=0.0)
    tunnel.handle_eof(now=0.0)
    assert tunnel_events(tunnel) == [StreamClosed("the stream ended before the header")]


def test_messages_without_effect_are_counted() -> None:
    tunnel = open_tunnel()
    tunnel.handle_bytes(b"\0\0\0\0", now=0.0)  # empty
    tunnel.handle_bytes(bytes.fromhex("000000040a020809"), now=0.0)  # only an id
    tunnel.handle_bytes(bytes.fromhex("000000022a00"), now=0.0)  # stop without id
    tunnel.handle_bytes(bytes.fromhex("000000060a0208091a00"), now=0.0)  # answer as request
    tunnel.handle_bytes(bytes.fromhex("000000060a02080a7a00"), now=0.0)  # field 15
    assert tunnel_events(tunnel) == []
    assert sent(tunnel) == b""
    assert tunnel.speaker.drops[Drop.EMPTY] == 3
    assert tunnel.speaker.drops[Drop.UNEXPECTED] == 2


def test_both_ids_mean_a_response_and_a_wrong_kind_fails_the_request() -> None:
    manager = open_manager()
    manager.stop(now=0.0)
    manager.handle_bytes(bytes.fromhex("0000000a0a040807100132020801"), now=0.0)
    manager.stop(now=0.0)
    manager.handle_bytes(bytes.fromhex("000000080a0210022a020801"), now=0.0)
    assert manager_events(manager) == [
        Answered(Ask.STOP, 1, None),
        Answered(Ask.STOP, 2, "response of another kind"),
    ]


def test_a_double_request_id_is_dropped_while_the_first_is_open() -> None:
    tunnel = open_tunnel()
    tunnel.handle_bytes(STOP + STOP, now=0.0)
    assert tunnel_events(tunnel) == [StopRequested()]
    assert tunnel.speaker.drops[Drop.DOUBLE_REQUEST] == 1


def test_wake_is_answered_always_and_acted_on_every_five_seconds() -> None:
    tunnel = open_tunnel()
    for now, events in ((0.0, [WakeRequested()]), (4.9, []), (5.0, [WakeRequested()])):
        tunnel.handle_bytes(bytes.fromhex("000000060a0208033200"), now=now)
        assert tunnel_events(tunnel) == events
        assert sent(tunnel) == bytes.fromhex("000000080a0210033a020801")


def test_wake_is_not_sent_to_an_older_tunnel() -> None:
    manager = open_manager(b"codervpn 1.2 tunnel\n")
    request = manager.wake(now=0.0)
    assert sent(manager) == b""
    assert manager_events(manager) == [
        Answered(Ask.WAKE, request, "the other side's version doesn't know it")
    ]


def test_newer_fields_are_cut_off_for_an_older_peer() -> None:
    manager = open_manager(b"codervpn 1.0 tunnel\n")
    start = Start(4, "u", Secret(b"t"), headers=(("h", "v"),), device_id="d", device_os="o")
    manager.start(start, now=0.0)
    assert sent(manager) == START
    tunnel = open_tunnel(b"codervpn 1.0 manager\n")
    agent = make_agent(b"id", "pi", fqdn=["a", "b"], latency_s=0.5, direct=True)
    tunnel.upsert(agents=[agent])
    assert sent(tunnel) == bytes.fromhex("0000000f1a0d120b0a02696412027069220161")


def test_agents_come_again_every_five_seconds_in_the_shipped_dialect() -> None:
    tunnel = open_tunnel(b"codervpn manager 1.3\n")
    tunnel.upsert(agents=[make_agent(b"id", "pi")])
    update = sent(tunnel)
    tunnel.handle_timeout(now=4.9)
    assert sent(tunnel) == b""
    tunnel.handle_timeout(now=5.0)
    assert sent(tunnel) == update
    assert open_tunnel().poll_deadline() is None


def test_a_request_newer_than_the_version_is_not_answered() -> None:
    tunnel = open_tunnel(b"codervpn 1.2 manager\n")
    tunnel.handle_bytes(bytes.fromhex("000000060a0208033200"), now=0.0)
    assert tunnel_events(tunnel) == []
    assert sent(tunnel) == b""
    assert tunnel.speaker.drops[Drop.TOO_NEW] == 1


@pytest.mark.parametrize(
    ("header", "level"),
    [
        (b"codervpn 1.3 tunnel\n", LogLevel.UNSPECIFIED),
        (b"codervpn tunnel 1.3\n", LogLevel.DEBUG),
    ],
)
def test_log_level_0_depends_on_the_dialect(header: bytes, level: LogLevel) -> None:
    dialect = Dialect.SEED if level is LogLevel.UNSPECIFIED else Dialect.SHIPPED
    manager = ManagerCore(now=0.0, dialect=dialect)
    manager.handle_bytes(header + bytes.fromhex("00000005 1203120178".replace(" ", "")), now=0.0)
    assert manager_events(manager)[1:] == [LogReceived(LogRecord(level, "x"))]


def test_who_asks_without_reading_the_answers_is_cut_off() -> None:
    tunnel = open_tunnel()
    events: list[TunnelEvent] = []
    for n in range(1, 3000):
        msg_id = bytes([0x80 | n & 0x7F, 0x80 | n >> 7 & 0x7F, n >> 14])
        tunnel.handle_bytes(b"\0\0\0\x08\x0a\x04\x08" + msg_id + b"\x32\x00", now=0.0)
        events += tunnel_events(tunnel)
    assert events[-1] == StreamClosed("it asks and does not read the answers")
    assert len(sent(tunnel)) < 100_000


def test_full_sets_wait_for_the_reader() -> None:
    tunnel = open_tunnel()
    tunnel.upsert(agents=[make_agent(b"id", "x" * 100_000)])
    for msg_id in range(1, 101):
        tunnel.handle_bytes(bytes([0, 0, 0, 6, 0x0A, 2, 8, msg_id, 0x12, 0]), now=0.0)
    assert tunnel_events(tunnel) == []
    sizes = []
    while (frame := tunnel.poll_transmit()) is not None:
        sizes.append(len(frame))
        assert tunnel.speaker.is_idle  # one answer at a time is in memory
    assert len(sizes) == 101  # each answered, and the change once


def test_a_message_of_ours_over_the_limit_fails_its_request() -> None:
    manager = open_manager()
    request = manager.start(Start(4, "u" * 0x1000001, Secret(b"t")), now=0.0)
    assert sent(manager) == b""
    assert manager_events(manager) == [Answered(Ask.START, request, "over the frame's limit")]
    tunnel = open_tunnel()
    tunnel.upsert(agents=[make_agent(b"id", "x" * 0x1000001)])
    assert sent(tunnel) == b""
    assert tunnel.speaker.drops[Drop.TOO_LARGE] == 1
