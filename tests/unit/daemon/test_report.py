from dataclasses import replace

import pytest

from ginnel.base.dataplane import PeerStats
from ginnel.base.types import Address, MemberId
from ginnel.daemon.report import (
    NO_NODES,
    NOT_OPEN,
    SYMMETRIC,
    describe_mtus,
    describe_nat,
    describe_network,
    describe_peer,
    has_answers,
)
from ginnel.discv5.events import ReflexiveChanged
from ginnel.mesh.events import PeerChanged
from ginnel.peer.status import ConnStatus, PeerState
from support.mesh_world import MeshWorld

OUTSIDE = Address("192.0.2.9", 41000)
HERE = ("192.168.1.2",)


def seen(
    address: Address | None = OUTSIDE, *, symmetric: bool = False, observers: int = 2
) -> dict[bool, ReflexiveChanged]:
    return {False: ReflexiveChanged(address, symmetric, observers, False)}


@pytest.mark.parametrize(
    ("views", "ips", "text"),
    [
        ({}, HERE, "nobody has told"),
        (seen(None), HERE, "nobody has told"),
        (seen(symmetric=True), HERE, "symmetric"),
        (seen(), ("192.0.2.9",), "none: seen as 192.0.2.9:41000"),
        (seen(observers=1), HERE, "two are needed"),
        (seen(), HERE, "the same port for every destination"),
    ],
)
def test_the_kind_of_nat(
    views: dict[bool, ReflexiveChanged], ips: tuple[str, ...], text: str
) -> None:
    assert text in describe_nat(views, ips)


STATE = PeerState(
    bytes(32),
    ConnStatus.CONNECTED,
    changed_at=90.0,
    local_kind="host",
    local_address=Address("192.168.1.2", 7),
    remote_kind="srflx",
    remote_address=OUTSIDE,
    direct=True,
    latency_s=0.02,
)
PEER = PeerChanged(
    MemberId(b"\1" * 32), "pi", "pi.home.internal", ("100.80.0.2",), STATE, "connected"
)


def test_a_connected_peer_has_a_path() -> None:
    stats = PeerStats(bytes(32), OUTSIDE, 10, 20, 1000.0, 5.0)
    facts = describe_peer(PEER, stats, now=100.0, mtu=1420)
    assert facts["path"] == {
        "direct": True,
        "why_relayed": "",
        "mtu": 1420,
        "local": {"kind": "host", "address": "192.168.1.2:7"},
        "remote": {"kind": "srflx", "address": "192.0.2.9:41000"},
    }
    assert (facts["rx_bytes"], facts["tx_bytes"], facts["handshake_age_s"]) == (10, 20, 5.0)
    assert facts["since_s"] == 10.0
    assert facts["member_id"] == "01" * 32


def test_a_peer_that_is_not_connected_has_none_but_a_reason() -> None:
    state = replace(STATE, status=ConnStatus.CONNECTING, reason="needs a relay: both change ports")
    facts = describe_peer(replace(PEER, state=state), None, now=50.0)
    assert facts["path"] is None
    assert facts["reason"] == "needs a relay: both change ports"
    assert facts["since_s"] == 0.0  # a clock that seems to go back is no negative time
    assert facts["handshake_age_s"] is None


def test_netcheck_says_what_to_do() -> None:
    alone = MeshWorld(1, publics=1).nodes[0]
    report = describe_network(alone, HERE, "unknown yet", ["a warning"])
    assert "MTU" not in report["facts"]  # netcheck adds it: the kernel's, of the way to a node
    assert report["facts"]["MTU in the tunnel"] == "not known: no peer is connected"
    assert report["facts"]["UDP"] == "no answer yet"
    assert report["facts"]["public addresses"] == "none"
    assert report["advice"] == ["a warning", NO_NODES]
    assert describe_network(alone, HERE, "yes (advertised)", [])["advice"] == []
    assert alone.discovery.add_node(MeshWorld(1, publics=2).records[1], 0.0)
    cached = describe_network(alone, HERE, "yes (advertised)", [])
    assert cached["advice"] == [NO_NODES]  # known, but silent: UDP may be blocked
    assert not has_answers(alone)
    alone.own.reflexive.update(seen(symmetric=True))
    assert has_answers(alone)
    report = describe_network(alone, ("192.0.2.9",), "no (behind a NAT)", [])
    assert report["facts"]["UDP"] == "gets out and back"
    assert report["facts"]["public addresses"] == "192.0.2.9"
    assert SYMMETRIC in report["advice"]
    alone.own.reflexive.update(seen())
    report = describe_network(alone, (), "no (behind a NAT)", [])
    assert NOT_OPEN in report["advice"]
    assert report["facts"]["addresses"] == "none"


@pytest.mark.parametrize(
    ("mtus", "text"),
    [
        ([], "not known: no peer is connected"),
        ([("ben", 1420), ("cleo", 1420)], "1420 bytes to each peer"),
        ([("cleo", None), ("ben", 1240)], "1240 (ben), not known yet (cleo)"),
        ([("ben", None)], "not known yet (ben)"),
    ],
)
def test_mtus_in_words(mtus: list[tuple[str, int | None]], text: str) -> None:
    assert describe_mtus(mtus) == text
