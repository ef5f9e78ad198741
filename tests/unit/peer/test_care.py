"""What follows when data stays unanswered, by hand; and the values that are spec."""

from ginnel.base.dataplane import DataUnanswered
from ginnel.peer import care
from ginnel.peer.timers import HANDSHAKE_TIMEOUT
from unit.peer.test_conn import make_conn, offers, take


def test_who_has_no_path_or_another_key_is_not_suspected() -> None:
    conn = make_conn()
    conn.open(0.0)
    take(conn)
    conn.on_engine_event(DataUnanswered(conn.config.key, 1.0), now=0.1)
    conn.on_engine_event(DataUnanswered(b"\x07" * 32, 1.0), now=0.1)
    assert take(conn) == []


def test_two_seconds_are_enough_for_suspicion_and_restart() -> None:
    detection, round_trip = 1.0, 0.1
    patience = max(care.MIN_PATIENCE, care.PATIENCE_ROUND_TRIPS * round_trip)
    assert detection + patience + 5 * round_trip < 2.0


def test_a_dead_wireguard_is_dropped_long_before_its_next_handshake_is_due() -> None:
    assert 15.0 + care.LAST_HANDSHAKE_TIMEOUT < HANDSHAKE_TIMEOUT


def test_a_wake_sends_the_offer_anew_and_touches_nothing_that_is_closed() -> None:
    conn = make_conn()
    conn.on_network_changed(now=0.0)
    assert take(conn) == []
    conn.open(0.0)
    (first,) = offers(take(conn))
    conn.on_network_changed(now=0.5)
    assert offers(take(conn)) == []
    conn.on_network_changed(now=1.5)
    assert offers(take(conn)) == [first]
    conn.on_network_changed(now=20.0)
    (later,) = offers(take(conn))
    assert later.session != first.session  # who was asked has given the first one up
    conn.close(21.0)
    take(conn)
    conn.on_network_changed(now=30.0)
    assert take(conn) == []
