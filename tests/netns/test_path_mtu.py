"""A path that is narrow in its middle: packets inside fit it, and no TCP connection hangs.

    anna --- anna-gw ====== the Internet --- ben-gw --- ben    IPv4 only
                     1300           |------ cleo-gw --- cleo   IPv6 only, in the DHT too
                                  node1 (IPv4), node2 (both)

First the routers say nothing of what doesn't fit, then they do. Ben and cleo share no IP version:
anna, who has both, relays for them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ginnel.lab import Home, Lab, LabTopology, PublicMachine
from ginnel.lab.demo import ping
from ginnel.lab.networks import Machine
from ginnel.lab.scenario import Json, Scenario
from ginnel.lab.transfer import transfer

pytestmark = pytest.mark.netns

NARROW = 1300  # bytes of the line's packets
HEADERS = {4: 20 + 8 + 32, 6: 40 + 8 + 32}  # bytes around an inner packet, by outer version
FAR = {"ben": 4, "cleo": 6}  # and the version by which anna reaches them
LIMIT_S = 60.0
COUNT = 2_000_000  # bytes of a transfer; a second, or never
SILENCE = (
    "table inet silence {\n  chain out {\n    type filter hook output priority 0\n"
    "    icmp type destination-unreachable drop\n    icmpv6 type packet-too-big drop\n  }\n}\n"
)


def say(_who: str, _text: str) -> None:
    pass


def middle(lab: Lab) -> list[Machine]:
    """Return both ends of the narrow line: anna's router and the Internet."""
    return [lab.router("anna"), lab.internet()]


@pytest.fixture(scope="module")
def scenario() -> Iterator[Scenario]:
    homes = tuple(Home(name) for name in ("anna", *FAR))
    public = (PublicMachine("node1"), PublicMachine("node2"))
    with Lab.create(LabTopology(homes=homes, public=public, ipv6=True)) as lab:
        for machine in middle(lab):
            machine.run(["nft", "-f", "-"], text=SILENCE)
        lab.router("anna").run(["ip", "link", "set", "dev", "wan", "mtu", str(NARROW)])
        near = f"dev {device_to_anna(lab)} mtu {NARROW}"
        lab.internet().run(["ip", "link", "set", *near.split()])
        lab.machine("ben").run(["ip", "-6", "address", "flush", "dev", "eth0"])
        lab.machine("cleo").run(["ip", "-4", "address", "flush", "dev", "eth0"])
        made = Scenario(lab, say)
        made.start_node("node1")
        six = lab.machine("node2").address6
        made.start_node("node2", "--advertise", f"[{six}]:41640")
        made.init("anna", "--relay")
        made.join_all("anna", list(FAR))
        yield made
        made.stop_nodes()


def device_to_anna(lab: Lab) -> str:
    """Return the Internet's device that leads to anna's router."""
    gateway = lab.router("anna").address
    found = lab.internet().run(["ip", "-o", "route", "get", gateway]).stdout
    return found.split(" dev ")[1].split()[0]


def wait_for_mtus(scenario: Scenario) -> dict[tuple[str, str], int]:
    """Wait until the MTU is known at both ends of both paths; return it, and the outer version."""
    found: dict[tuple[str, str], int] = {}

    def are_known() -> bool:
        for far in FAR:
            for one, other in (("anna", far), (far, "anna")):
                path: Json = (scenario.peer(one, other) or {}).get("path") or {}
                if not path.get("mtu"):
                    return False
                found[one, other] = path["mtu"]
        return True

    assert scenario.wait_until(are_known, LIMIT_S), {n: scenario.status(n) for n in ("anna", *FAR)}
    return found


def assert_all_fits(scenario: Scenario) -> None:
    for (one, other), mtu in wait_for_mtus(scenario).items():
        version = FAR[one if other == "anna" else other]
        assert 0 <= NARROW - HEADERS[version] - mtu < 4, (one, other)
    for far in FAR:
        for one, other in (("anna", far), (far, "anna")):
            for address in scenario.status(other)["self"]["addresses"]:
                rate = transfer(scenario.machine(one), scenario.machine(other), address, COUNT)
                assert rate > 1, (one, other, address)


@pytest.mark.parametrize("routers", ["say nothing", "tell"])
def test_tcp_goes_on_over_a_narrow_path(scenario: Scenario, routers: str) -> None:
    if routers == "tell":
        for machine in middle(scenario.lab):
            machine.run(["nft", "delete", "table", "inet", "silence"])
        scenario.ginnel("anna", "down", scenario.network)
        scenario.up("anna")
    assert_all_fits(scenario)
    drops = scenario.status("anna")["drops"]["data plane"]
    assert drops["too_big_answered"] <= drops["too_big"]
    shown = scenario.ginnel("anna", "netcheck", scenario.network, "--json")
    facts = shown["facts"]
    assert all(f"({name})" in facts["MTU in the tunnel"] for name in FAR), facts
    assert "MTU" in facts  # the kernel's, of the way to a node


def test_two_that_share_no_ip_version_are_relayed_by_one_that_has_both(scenario: Scenario) -> None:
    def are_connected() -> bool:
        ends = (scenario.peer("ben", "cleo"), scenario.peer("cleo", "ben"))
        return all(peer is not None and peer["status"] == "connected" for peer in ends)

    assert scenario.wait_until(are_connected, LIMIT_S), scenario.status("ben")
    peer = scenario.peer("ben", "cleo")
    assert peer is not None
    assert not peer["path"]["direct"]
    assert ping(scenario.machine("ben"), peer["addresses"][0]) is not None
