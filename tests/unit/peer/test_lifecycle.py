"""Which path is worth a change."""

from ginnel.base.types import Address
from ginnel.ice.candidate import Candidate, CandidateKind, make_host, make_relayed, make_remote
from ginnel.peer.attempt import UNKNOWN_SCORE, path_score
from ginnel.peer.timers import HYSTERESIS


def path(local: Candidate, remote: str, kind: CandidateKind = CandidateKind.HOST) -> tuple:  # type: ignore[type-arg]
    return (local, make_remote(kind, Address(remote, 9), 5, "f"))


PUBLIC = path(make_host(Address("192.168.1.2", 7)), "198.51.100.7", CandidateKind.SRFLX)
LAN = path(make_host(Address("192.168.1.2", 7)), "192.168.1.3")
IPV6 = path(make_host(Address("2001:db8::1", 7)), "2001:db8::2")
RELAYED = path(make_relayed(Address("203.0.113.9", 7)), "203.0.113.8", CandidateKind.RELAY)


def test_a_shorter_round_trip_scores_better_and_lan_and_ipv6_count() -> None:
    assert path_score(PUBLIC, 0.02) < path_score(PUBLIC, 0.03)
    assert path_score(LAN, 0.02) < path_score(IPV6, 0.02) < path_score(PUBLIC, 0.02)


def test_any_direct_path_beats_any_relay() -> None:
    assert path_score(PUBLIC, 0.9) < path_score(RELAYED, 0.01) * HYSTERESIS


def test_what_is_not_known_is_worst() -> None:
    assert path_score(None, 0.1) == path_score(LAN, None) == UNKNOWN_SCORE
