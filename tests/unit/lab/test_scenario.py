"""What of a scenario needs no lab; tests/netns runs it on machines."""

import pytest

from ginnel.base.errors import UsageError
from ginnel.lab.networks import Lab
from ginnel.lab.scenario import Scenario, peer_of, stage_of

PEERS = {"peers": [{"name": "ben", "stage": "searching", "reason": ""}]}


def make() -> Scenario:
    return Scenario(Lab({}, holder_pid=0), lambda _who, _text: None)


def test_a_peer_is_found_by_name() -> None:
    ben = peer_of(PEERS, "ben")
    assert ben is not None
    assert stage_of(ben) == "searching"
    assert stage_of(ben | {"reason": "needs a relay"}) == "needs a relay"
    assert peer_of(PEERS, "anna") is None


def test_waiting_ends_when_it_holds_or_is_late() -> None:
    looks = iter([True])
    assert make().wait_until(lambda: next(looks), 60.0)
    assert not make().wait_until(lambda: False, 0.0)


def test_hints_name_each_public_node() -> None:
    scenario = make()
    scenario.records += ["enr:a", "enr:b"]
    assert scenario.hints() == ["--node", "enr:a", "--node", "enr:b"]


def test_a_machine_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="no machine"):
        make().status("anna")
