"""Questions to a node that need no loop."""

from __future__ import annotations

import random

import pytest

from ginnel.base.errors import UsageError
from ginnel.base.types import NodeId, Secret
from ginnel.discv5.enr import sign_enr
from ginnel.discv5.keys import log_distance
from ginnel.discv5.protocol import DiscoveryCore
from ginnel.discv5.view import NodeView
from support.discv5_net import Net

KEY = Secret(b"\x09" * 32)
RECORDS = [
    sign_enr(bytes([i]) * 32, 1, {"ip": bytes((203, 0, i, 1)), "udp": 9, "k": bytes([i % 2])})
    for i in range(1, 9)
]


class Shown(NodeView):
    def __init__(self, core: DiscoveryCore) -> None:
        super().__init__(KEY, random.Random(1))
        self.shown = core

    @property
    def core(self) -> DiscoveryCore:
        return self.shown


@pytest.fixture
def view() -> Shown:
    net = Net(1)
    host = net.add(9, bootstrap=RECORDS[:1])
    for record in RECORDS:
        host.core.add_node(record, net.now)
    return Shown(host.core)


def test_the_table(view: Shown) -> None:
    assert view.nodes_discovered == 8
    assert {enr.node_id for enr in view.nodes()} == {enr.node_id for enr in RECORDS}
    assert view.get_node(RECORDS[3].node_id) == RECORDS[3]
    assert view.get_node(NodeId(bytes(32))) is None
    number = int.from_bytes(bytes(32), "big")
    near = sorted(RECORDS, key=lambda enr: int.from_bytes(enr.node_id, "big") ^ number)
    assert view.neighbours(NodeId(bytes(32)), 3) == near[:3]
    assert view.neighbours(NodeId(bytes(32)), 3, seen_only=True) == []
    distance = log_distance(view.node_id, RECORDS[0].node_id)
    assert RECORDS[0] in view.neighbours_at_distances([distance])
    assert view.neighbours_at_distances([distance], seen_only=True) == []


def test_random_nodes(view: Shown) -> None:
    assert len(view.random_nodes(3)) == 3
    assert len({enr.node_id for enr in view.random_nodes(100)}) == 8
    odd = view.random_nodes(100, enr_field=("k", b"\x01"))
    assert {enr.get("k") for enr in odd} == {b"\x01"}
    assert view.random_nodes(9, lambda enr: enr == RECORDS[2]) == [RECORDS[2]]
    assert view.random_nodes(9, seen_only=True) == []


def test_ourselves(view: Shown) -> None:
    assert view.record == view.local_node
    assert view.record.node_id == view.node_id
    assert view.bootstrap_records == (RECORDS[0],)
    assert "discovery_table_nodes 8" in view.metrics_text()
    assert sum(view.drops.values()) == 0


def test_a_second_handler_is_an_error(view: Shown) -> None:
    view.register_talk_protocol(b"a", lambda node_id, address, payload: b"")
    assert view.talk_protocols == (b"a",)
    with pytest.raises(UsageError):
        view.register_talk_protocol(b"a", lambda node_id, address, payload: b"")


def test_the_private_key_can_be_had_and_is_never_shown(view: Shown) -> None:
    assert view.private_key.reveal() == b"\x09" * 32
    assert "09" not in f"{view.private_key} {view.private_key!r}"
