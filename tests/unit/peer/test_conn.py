"""A connection's answers to what the other side signals, driven by hand."""

import random
from dataclasses import replace

from ginnel.base.dataplane import HandshakeCompleted, RemovePeer, SetPeer
from ginnel.base.types import Address
from ginnel.ice.candidate import Candidate, CandidateKind, make_host, make_remote
from ginnel.ice.events import Drop
from ginnel.ice.reasons import NatKind
from ginnel.peer.conn import VAIN_AFTER, ConnCore
from ginnel.peer.events import (
    ConnConfig,
    ConnEvent,
    Engine,
    PeerStateChanged,
    SendAnswer,
    SendCandidates,
    SendOffer,
)
from ginnel.peer.signal import OfferAnswer
from ginnel.peer.status import Stage
from ginnel.peer.timers import OFFER_LIFE
from ginnel.peer.turns import ANSWER_WAIT, PER_PLACE, Place, Turns, Urgency

LOCAL = make_host(Address("192.168.1.2", 4000))
REMOTE = make_remote(CandidateKind.HOST, Address("198.51.100.7", 5000), 9, "f")
OFFER = OfferAnswer(b"o" * 16, "them", "p" * 24, (REMOTE,))


def make_conn(
    candidates: tuple[Candidate, ...] = (LOCAL,), *, turns: Turns | None = None
) -> ConnCore:
    rng = random.Random(4)
    ips = ("100.64.7.1/32", "fd00::1/128")
    config = ConnConfig(b"\x01" * 32, b"\x02" * 32, ips, turns=turns or Turns())
    conn = ConnCore(config, random_bytes=rng.randbytes, rng=rng)
    conn.set_local_candidates(candidates, now=0.0)
    return conn


def take(conn: ConnCore) -> list[ConnEvent]:
    events = []
    while (event := conn.poll_event()) is not None:
        events.append(event)
    return events


def offers(events: list[ConnEvent]) -> list[OfferAnswer]:
    return [event.offer for event in events if isinstance(event, SendOffer)]


def answers(events: list[ConnEvent]) -> list[OfferAnswer]:
    return [event.answer for event in events if isinstance(event, SendAnswer)]


def test_opening_offers_with_all_candidates_and_repeats() -> None:
    conn = make_conn()
    assert conn.open(0.0)
    assert conn.open(0.0)
    (offer,) = offers(take(conn))
    assert [c.address for c in offer.candidates] == [LOCAL.address]
    assert conn.state.stage is Stage.OFFERING
    conn.handle_timeout(now=ANSWER_WAIT)
    deadline = conn.poll_deadline()
    assert deadline is not None
    assert deadline.at == 3.0
    conn.handle_timeout(now=3.0)
    assert offers(take(conn)) == [offer]
    later: list[OfferAnswer] = []
    for step in range(31, 300):
        conn.handle_timeout(now=step / 10)
        later += offers(take(conn))
    assert later[0].session == offer.session
    assert later[-1].session != offer.session
    assert len(later) < 8


def test_without_addresses_it_waits_for_some() -> None:
    conn = make_conn(())
    conn.open(0.0)
    assert offers(take(conn)) == []
    assert conn.state.stage is Stage.GATHERING
    conn.set_local_candidates([LOCAL], now=1.0)
    assert len(offers(take(conn))) == 1


def test_an_offer_is_answered_and_its_repetition_too() -> None:
    conn = make_conn()
    conn.open(0.0)
    take(conn)
    assert conn.on_remote_offer(OFFER, now=0.1)
    (answer,) = answers(take(conn))
    assert answer.session == OFFER.session
    assert conn.on_remote_offer(OFFER, now=0.2)
    assert answers(take(conn)) == [answer]


def test_a_restart_in_the_same_session_replaces_what_was_tried_and_old_offers_are_dead() -> None:
    conn = make_conn()
    conn.open(0.0)
    conn.on_remote_offer(OFFER, now=0.1)
    (first,) = answers(take(conn))
    restart = replace(OFFER, ufrag="else")
    assert conn.on_remote_offer(restart, now=0.3)
    (second,) = answers(take(conn))
    assert second.session == first.session
    assert second.ufrag != first.ufrag
    assert not conn.on_remote_offer(OFFER, now=0.4)
    assert not conn.on_remote_answer(OFFER, now=0.4)
    assert conn.on_remote_answer(restart, now=0.5)


def test_crossed_offers_settle_without_a_second_round() -> None:
    conn = make_conn()
    conn.open(0.0)
    (offer,) = offers(take(conn))
    conn.on_remote_offer(OFFER, now=0.1)
    (answer,) = answers(take(conn))
    assert (answer.ufrag, answer.pwd) == (offer.ufrag, offer.pwd)
    assert conn.poll_transmit() is not None
    assert conn.on_remote_candidates(offer.session, [], now=0.2)
    assert conn.on_remote_candidates(OFFER.session, [], now=0.2)
    conn.handle_timeout(now=3.5)
    assert offers(take(conn)) == []


def test_an_early_offer_is_kept_until_it_is_open() -> None:
    conn = make_conn()
    assert conn.on_remote_offer(OFFER, now=0.0)
    assert take(conn) == []
    conn.open(1.0)
    events = take(conn)
    assert offers(events) == []
    assert len(answers(events)) == 1


def test_an_early_offer_that_its_sender_has_given_up_is_not_answered() -> None:
    conn = make_conn()
    conn.on_remote_offer(OFFER, now=0.0)
    conn.open(OFFER_LIFE)
    events = take(conn)
    assert len(offers(events)) == 1
    assert answers(events) == []


def busy(*, answers: int = 0) -> Turns:
    """Places of which those for offers are all taken, and so many of those for answers."""
    turns = Turns(1)
    assert turns.take(b"x" * 32, Urgency.FIRST)
    assert all(turns.answer(bytes([number]) * 32) for number in range(100, 100 + answers))
    return turns


def test_it_offers_when_its_turn_has_come() -> None:
    turns = busy()
    conn = make_conn(turns=turns)
    conn.open(0.0)
    assert offers(take(conn)) == []
    assert conn.state.stage is Stage.QUEUED
    assert conn.poll_deadline() is None
    turns.release(b"x" * 32)
    deadline = conn.poll_deadline()
    assert deadline is not None
    assert deadline.at <= 0.0
    conn.handle_timeout(now=7.0)
    assert len(offers(take(conn))) == 1
    assert conn.state.stage is Stage.OFFERING
    assert turns.count(Place.OFFER) == 1
    conn.handle_timeout(now=7.0 + ANSWER_WAIT)
    assert turns.count(Place.OFFER) == 0  # no answer: others go on


def test_an_offer_is_answered_though_ours_has_to_wait() -> None:
    turns = busy()
    conn = make_conn(turns=turns)
    conn.open(0.0)
    assert conn.on_remote_offer(OFFER, now=0.1)
    assert len(answers(take(conn))) == 1
    assert turns.waiting == 0


def test_the_newest_of_the_offers_that_wait_is_answered() -> None:
    turns = busy(answers=PER_PLACE)
    conn = make_conn(turns=turns)
    conn.open(0.0)
    newer = replace(OFFER, session=b"n" * 16, ufrag="new0")
    assert conn.on_remote_offer(OFFER, now=0.1)
    assert conn.on_remote_offer(newer, now=0.2)
    assert answers(take(conn)) == []
    turns.release(bytes([100]) * 32)
    conn.handle_timeout(now=1.0)
    (answer,) = answers(take(conn))
    assert answer.session == newer.session
    assert turns.count(Place.ANSWER) == PER_PLACE


def test_an_offer_that_has_waited_too_long_is_not_answered_but_ours_goes_out() -> None:
    turns = busy(answers=PER_PLACE)
    conn = make_conn(turns=turns)
    conn.open(0.0)
    conn.on_remote_offer(OFFER, now=0.1)
    turns.release(bytes([100]) * 32)
    conn.handle_timeout(now=0.1 + OFFER_LIFE)
    events = take(conn)
    assert answers(events) == []
    assert len(offers(events)) == 1


def test_an_offer_that_has_to_wait_again_is_no_younger() -> None:
    turns = busy(answers=PER_PLACE)
    conn = make_conn((), turns=turns)
    conn.open(0.0)
    conn.on_remote_offer(OFFER, now=0.1)
    conn.set_local_candidates([LOCAL], now=OFFER_LIFE - 1.0)  # now it could be answered
    assert answers(take(conn)) == []
    turns.release(bytes([100]) * 32)
    conn.handle_timeout(now=OFFER_LIFE + 1.0)
    events = take(conn)
    assert answers(events) == []
    assert len(offers(events)) == 1


def test_who_is_closed_leaves_the_queue() -> None:
    turns = busy()
    conn = make_conn(turns=turns)
    conn.open(0.0)
    assert turns.waiting == 1
    conn.close(0.1)
    assert turns.waiting == 0
    called = make_conn(turns=turns)
    called.open(0.2)
    turns.release(b"x" * 32)
    called.close(0.3)
    assert turns.count(Place.OFFER) == 0
    assert called.poll_deadline() is None


def test_a_new_session_of_the_peer_replaces_the_attempt_and_the_old_one_is_dead() -> None:
    conn = make_conn()
    conn.open(0.0)
    conn.on_remote_offer(OFFER, now=0.1)
    newer = replace(OFFER, session=b"n" * 16, ufrag="new0")
    assert conn.on_remote_offer(newer, now=0.2)
    assert not conn.on_remote_offer(OFFER, now=0.3)
    assert not conn.on_remote_candidates(OFFER.session, [REMOTE], now=0.3)
    assert conn.on_remote_candidates(newer.session, [REMOTE], now=0.3)


def test_answers_of_other_sessions_are_refused() -> None:
    conn = make_conn()
    conn.open(0.0)
    assert not conn.on_remote_answer(OFFER, now=0.1)
    (offer,) = offers(take(conn))
    assert conn.on_remote_answer(replace(OFFER, session=offer.session), now=0.1)
    assert conn.state.stage is Stage.CHECKING


def test_new_addresses_trickle() -> None:
    conn = make_conn()
    conn.open(0.0)
    conn.on_remote_offer(OFFER, now=0.1)
    take(conn)
    more = make_host(Address("192.168.1.3", 4000))
    conn.set_local_candidates([LOCAL, more], now=0.2)
    sent = [event for event in take(conn) if isinstance(event, SendCandidates)]
    assert [event.candidates for event in sent] == [(more,)]


def test_candidates_that_do_not_fit_follow_the_offer() -> None:
    many = tuple(make_host(Address(f"2001:db8::1234:5678:{n:x}", 4000)) for n in range(1, 20))
    conn = make_conn(many)
    conn.open(0.0)
    events = take(conn)
    (offer,) = offers(events)
    rest = [c for event in events if isinstance(event, SendCandidates) for c in event.candidates]
    assert not offer.complete
    assert sorted([*offer.candidates, *rest], key=str) == sorted(many, key=str)


def test_closing_removes_the_peer_only_if_it_was_set() -> None:
    conn = make_conn()
    conn.open(0.0)
    conn.close(0.1)
    assert not any(isinstance(event, Engine) for event in take(conn))
    conn = make_conn()
    conn.open(0.0)
    conn.on_remote_offer(OFFER, now=0.1)
    conn.close(0.2)
    commands = [event.command for event in take(conn) if isinstance(event, Engine)]
    assert [type(command) for command in commands] == [SetPeer, RemovePeer]
    assert conn.poll_deadline() is None
    assert not conn.on_remote_offer(OFFER, now=0.3)
    assert conn.state.stage is Stage.CLOSED


def test_other_peers_events_and_foreign_packets_change_nothing() -> None:
    conn = make_conn()
    conn.open(0.0)
    take(conn)
    conn.on_engine_event(HandshakeCompleted(b"\x07" * 32, REMOTE.address), now=0.1)
    assert take(conn) == []
    conn.handle_datagram(b"no stun", REMOTE.address, now=0.1)
    assert conn.drops == {Drop.MALFORMED: 1}


def test_a_nat_that_is_known_later_is_told() -> None:
    conn = make_conn()
    conn.open(0.0)
    conn.on_remote_offer(OFFER, now=0.1)
    take(conn)
    conn.set_local_candidates([LOCAL], now=0.2, symmetric=True)
    sent = [event for event in take(conn) if isinstance(event, SendCandidates)]
    assert [(event.candidates, event.nat) for event in sent] == [((), NatKind.SYMMETRIC)]
    conn.set_local_candidates([LOCAL], now=0.3, symmetric=True)
    assert not [event for event in take(conn) if isinstance(event, SendCandidates)]


def test_an_offer_that_ends_a_vain_attempt_tells_both_nats() -> None:
    conn = make_conn()
    conn.open(0.0)
    conn.set_local_candidates([LOCAL], now=0.0, symmetric=True)
    conn.on_remote_offer(OFFER, now=0.1)
    take(conn)
    again = replace(OFFER, session=b"n" * 16, ufrag="new0", nat=NatKind.RESTRICTED)
    conn.on_remote_offer(again, now=0.1 + VAIN_AFTER)
    (reason, *_) = [e.state.reason for e in take(conn) if isinstance(e, PeerStateChanged)]
    assert "(symmetric, port-restricted)" in reason
