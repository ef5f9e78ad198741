import pytest

from ginnel.lab.demo import HOMES, can_be_direct, describe
from ginnel.lab.scenario import Json
from ginnel.lab.topology import NatKind

K = NatKind


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (K.PORT_RESTRICTED, K.PORT_RESTRICTED, True),
        (K.FULL_CONE, K.SYMMETRIC, True),
        (K.ADDR_RESTRICTED, K.SYMMETRIC, True),
        (K.NONE, K.SYMMETRIC, True),
        (K.PORT_RESTRICTED, K.SYMMETRIC, False),
        (K.SYMMETRIC, K.SYMMETRIC_SEQ, False),
        (K.UDP_BLOCKED, K.NONE, False),
        (K.TCP443, K.FULL_CONE, False),
    ],
)
def test_which_nats_need_a_relay(one: NatKind, other: NatKind, expected: bool) -> None:
    assert can_be_direct(one, other) is expected
    assert can_be_direct(other, one) is expected


def test_the_demo_shows_each_kind_of_outcome() -> None:
    kinds = [home.kind for home in HOMES]
    outcomes = {can_be_direct(a, b) for a in kinds for b in kinds if a is not b}
    assert outcomes == {True, False}


END = {"kind": "srflx", "address": "192.0.2.1:7"}
CONNECTED: Json = {
    "status": "connected",
    "path": {"direct": True, "why_relayed": "", "local": END, "remote": END},
    "ping_ms": 1.25,
    "transfer_mbit_s": 100.0,
    "reason": "",
}


def test_a_pair_is_one_line() -> None:
    line = describe(CONNECTED)
    assert line.startswith("direct, srflx 192.0.2.1:7 <-> srflx 192.0.2.1:7; ping 1.2 ms")
    relayed = CONNECTED | {"path": {**CONNECTED["path"], "direct": False, "why_relayed": "NATs"}}
    assert describe(relayed).startswith("relayed by a member, ")
    assert "no answer" in describe(CONNECTED | {"ping_ms": None})
    assert describe({"status": "connecting", "reason": "needs a relay"}) == "needs a relay"
    assert "no reason" in describe({"status": "connecting", "reason": None})
