"""A LAN without internet and without any public node: one member that advertises is enough."""

from __future__ import annotations

import pytest

from ginnel.lab import Home, Lab, LabTopology, NatKind, tun_problem
from ginnel.lab.scenario import Scenario

pytestmark = pytest.mark.netns

NAMES = ("anna", "ben", "cleo")
LIMIT_S = 30.0  # seconds until the two that don't advertise are connected


def test_members_of_a_lan_meet_at_the_one_that_advertises() -> None:
    home = Home("flat", NatKind.PORT_RESTRICTED, hosts=NAMES)
    with Lab.create(LabTopology(homes=(home,))) as lab:
        use_tun = tun_problem() is None  # meeting needs no device
        scenario = Scenario(lab, lambda _who, _text: None, use_tun=use_tun)
        address = lab.machine("anna").address
        scenario.ginnel("anna", "init", "demo", "--name", "anna", "--advertise", address, "--json")
        scenario.up("anna")
        scenario.join_all("anna", ["ben", "cleo"])

        def are_connected() -> bool:
            return (scenario.peer("ben", "cleo") or {}).get("status") == "connected"

        assert scenario.wait_until(are_connected, LIMIT_S)
        peer = scenario.peer("ben", "cleo")
        assert peer is not None
        assert [peer["path"][end]["kind"] for end in ("local", "remote")] == ["host", "host"]
        assert scenario.status("anna")["reachable"].startswith("yes (advertised")
