"""Local candidates from addresses that others found."""

from ginnel.base.types import Address
from ginnel.ice.candidate import MAX_LOCAL_CANDIDATES, CandidateKind
from ginnel.ice.gather import gather_candidates


def test_reflexive_addresses_get_the_first_host_of_their_family_as_base() -> None:
    seen = [Address("203.0.113.1", 7), Address("2001:db8::1", 4000)]
    found = gather_candidates(["192.168.1.2", "10.0.0.2", "2001:db8::1"], 4000, seen)
    assert [c.kind for c in found] == [CandidateKind.HOST] * 3 + [CandidateKind.SRFLX]
    assert found[3].base == Address("192.168.1.2", 4000)


def test_the_number_is_bounded() -> None:
    ips = [f"10.0.0.{number}" for number in range(1, 60)]
    assert len(gather_candidates(ips, 4000)) == MAX_LOCAL_CANDIDATES
