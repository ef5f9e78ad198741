"""Names of members and what stands behind them."""

from __future__ import annotations

from ginnel.mesh import names
from support.members import MemberKeys, NetworkFactory

NET = NetworkFactory()
PI, LAPTOP = MemberKeys("raspberry-pi"), MemberKeys("laptop-alice")


def test_hosts_by_name_full_name_and_address() -> None:
    membership = NET.membership(PI, LAPTOP)
    listed = names.hosts(membership)
    assert [host.name for host in listed] == ["laptop-alice", "raspberry-pi"]
    pi = listed[1]
    assert pi.full_name == "raspberry-pi.meadowbrook.internal"
    assert pi.addresses[0] == "100.80.0.1"
    for text in ("raspberry-pi", "RASPBERRY-PI.meadowbrook.internal.", *pi.addresses):
        assert names.resolve(membership, text) == pi
    assert names.resolve(membership, "raspberry") is None


def test_the_loser_of_a_name_is_shown_with_a_suffix() -> None:
    membership = NET.membership(PI)
    raw = NET.cert(LAPTOP, 2, name="raspberry-pi", since=NET.now - 100)
    membership.add_object(raw, unix_now=NET.now)
    shown = [host.name for host in names.hosts(membership)]
    assert shown[0] == "raspberry-pi"
    assert shown[1] == f"raspberry-pi-{LAPTOP.member_id.hex()[:4]}"


def test_allowed_ips_are_single_addresses() -> None:
    cert = NET.membership(PI).certificates()[0]
    v4, v6 = names.allowed_ips(cert)
    assert v4 == "100.80.0.1/32"
    assert v6.endswith("/128")
