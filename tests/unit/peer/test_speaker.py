"""What a connection tells of its half of a session, however many addresses it has."""

from ginnel.base.types import Address
from ginnel.ice.candidate import make_host
from ginnel.peer.events import SendCandidates
from ginnel.peer.signal import MAX_CANDIDATES, decode_offer, encode_offer
from unit.peer.test_conn import make_conn, offers, take

MANY = tuple(make_host(Address(f"2001:db8::{number:x}", 4000)) for number in range(1, 16))


def test_what_does_not_fit_into_an_offer_follows_at_once() -> None:
    conn = make_conn(MANY)
    conn.open(0.0)
    events = take(conn)
    (offer,) = offers(events)
    assert not offer.complete
    assert decode_offer(encode_offer(offer)).session == offer.session
    later = [event for event in events if isinstance(event, SendCandidates)]
    assert all(event.session == offer.session for event in later)
    told = [c.address for part in (offer, *later) for c in part.candidates]
    assert sorted(map(str, told)) == sorted(str(candidate.address) for candidate in MANY)
    assert len(told) <= MAX_CANDIDATES


def test_an_offer_names_the_port_that_wireguard_shares() -> None:
    conn = make_conn()
    conn.open(0.0)
    (offer,) = offers(take(conn))
    assert offer.wg_listen_port == 4000
