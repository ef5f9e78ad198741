"""Names of members, rules and filter on real machines: there with `up`, gone however it ends.

anna ── LAN ── ben        (no internet; anna advertises)
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ginnel.lab import Home, Lab, LabTopology, Machine, NatKind
from ginnel.lab.scenario import Scenario

pytestmark = pytest.mark.netns

LIMIT_S = 30.0
LOOKS = (
    "ip -o addr | sed 's/^[0-9]*: //; s/valid_lft.*//'",
    "ip rule; ip -6 rule",
    "ip route show table all; ip -6 route show table all",
    "nft list ruleset",
    "cat /etc/resolv.conf",
)


def look(machine: Machine) -> list[str]:
    return [machine.run(["sh", "-c", command]).stdout for command in LOOKS]


@pytest.fixture(scope="module")
def joined() -> Iterator[tuple[Scenario, list[str]]]:
    """Return two connected members and how anna's network looked before."""
    home = Home("flat", NatKind.PORT_RESTRICTED, hosts=("anna", "ben"))
    with Lab.create(LabTopology(homes=(home,))) as lab:
        scenario = Scenario(lab, lambda _who, _text: None)
        anna = lab.machine("anna")
        before = look(anna)
        scenario.ginnel(
            "anna", "init", "demo", "--name", "anna", "--advertise", anna.address, "--json"
        )
        scenario.up("anna")
        scenario.join_all("anna", ["ben"])

        def are_connected() -> bool:
            return (scenario.peer("anna", "ben") or {}).get("status") == "connected"

        assert scenario.wait_until(are_connected, LIMIT_S)
        yield scenario, before


def test_members_are_reached_by_name(joined: tuple[Scenario, list[str]]) -> None:
    scenario, _ = joined
    anna = scenario.machine("anna")
    assert "1 received" in anna.run(["ping", "-c1", "-W5", "ben.demo.internal"]).stdout
    found = anna.run(["getent", "ahosts", "ben.demo.internal"]).stdout
    addresses = scenario.status("ben")["self"]["addresses"]
    assert all(address in found for address in addresses)
    for address in addresses:
        assert "ben.demo.internal" in anna.run(["getent", "hosts", address]).stdout
    text = anna.run(["cat", "/etc/resolv.conf"]).stdout
    own = scenario.status("anna")["self"]["addresses"][0]
    assert text.startswith(f"# ginnel gn-demo begin\nnameserver {own}\n")


def test_overlay_routes_stand_in_a_table_of_their_own(joined: tuple[Scenario, list[str]]) -> None:
    scenario, before = joined
    anna = scenario.machine("anna")
    main = anna.run(["sh", "-c", "ip route; ip -6 route"]).stdout
    assert not [line for line in main.splitlines() if "gn-demo" in line and "fe80" not in line]
    target = scenario.status("ben")["self"]["addresses"][0]
    assert "dev gn-demo table" in anna.run(["ip", "route", "get", target]).stdout
    assert look(anna) != before


def test_kill_9_then_down_leaves_nothing(joined: tuple[Scenario, list[str]]) -> None:
    scenario, before = joined
    anna = scenario.machine("anna")
    status = json.loads(anna.run(["ginnel", "status", "--json"]).stdout)
    assert status
    anna.run(
        ["sh", "-c", "kill -9 $(ps -eo pid,args | awk '/[g]innel.cli.main manager/{print $1}')"]
    )

    def is_gone() -> bool:
        return "gn-demo" not in anna.run(["sh", "-c", "ip -o link"]).stdout

    assert scenario.wait_until(is_gone, LIMIT_S)
    anna.run(["ginnel", "down"])
    assert look(anna) == before


def test_up_and_down_leave_nothing_and_no_dns_touches_no_file(
    joined: tuple[Scenario, list[str]],
) -> None:
    scenario, before = joined
    anna = scenario.machine("anna")
    scenario.up("anna")
    assert look(anna) != before
    anna.run(["ginnel", "down"])
    assert look(anna) == before
    anna.run(["ginnel", "up", "--no-wait", "--no-dns"])
    assert look(anna)[4] == before[4]
    anna.run(["ginnel", "down"])
    assert look(anna) == before
