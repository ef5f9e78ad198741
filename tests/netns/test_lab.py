"""The lab's NATs behave as RFC 4787 names them, seen by real sockets.

    one home per kind --- its router --- the Internet --- node1, node2 (two sockets each)

node1 gets a packet from each host; what comes back from its second socket, and from node2, which
the host never wrote to, tells the filter. Nothing waits for a packet that must not come: one that
must come is sent after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ginnel.lab import Home, Lab, LabTopology, NatKind, PublicMachine
from support.labs import Agent

pytestmark = pytest.mark.netns(tun=False)

KINDS = [kind for kind in NatKind if kind is not NatKind.NONE]
INDEPENDENT = (
    NatKind.PORT_RESTRICTED,
    NatKind.FULL_CONE,
    NatKind.ADDR_RESTRICTED,
    NatKind.CGNAT,
    NatKind.HAIRPIN,
    NatKind.LEAKY,
)
DEPENDENT = (NatKind.SYMMETRIC, NatKind.SYMMETRIC_SEQ)
MAIN, OTHER = 5000, 5001  # ports of both public machines
HOST_PORT = 41000

type_of_new_agent = Callable[[str], Agent]


def home_name(kind: NatKind) -> str:
    return str(kind).replace("port-restricted", "port").replace("addr-restricted", "addr")[:10]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    homes = []
    for kind in KINDS:
        name = home_name(kind)
        hosts = (f"{name}1", f"{name}2") if kind in (NatKind.HAIRPIN, NatKind.FULL_CONE) else ()
        homes.append(Home(name, kind, hosts))
    homes += [Home("second", NatKind.PORT_RESTRICTED), Home("third", NatKind.SYMMETRIC)]
    public = (PublicMachine("node1"), PublicMachine("node2"))
    with Lab.create(LabTopology(tuple(homes), public)) as made:
        yield made


@pytest.fixture
def new_agent(lab: Lab) -> Iterator[type_of_new_agent]:
    agents = []

    def make(name: str) -> Agent:
        agent = Agent(lab.machine(name))
        agents.append(agent)
        return agent

    yield make
    for agent in agents:
        agent.close()


class Scene:
    """One host and the two public machines, with sockets open."""

    def __init__(self, new_agent: type_of_new_agent, host: str, port: int = HOST_PORT) -> None:
        self.host, self.node1, self.node2 = (new_agent(name) for name in (host, "node1", "node2"))
        self.port = self.host.open("s", port)
        for node in (self.node1, self.node2):
            node.open("main", MAIN)
            node.open("other", OTHER)
        self.main1 = (self.node1.machine.address, MAIN)
        self.main2 = (self.node2.machine.address, MAIN)

    def mapped(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """Return how node1 and node2 see the host."""
        self.host.send("s", self.main1)
        self.host.send("s", self.main2)
        return self.node1.source_of_next("main"), self.node2.source_of_next("main")

    def filtering(self) -> str:
        """Return who may answer: after one packet to node1's main port."""
        self.host.send("s", self.main1)
        outer = self.node1.source_of_next("main")
        self.node2.send("main", outer, "stranger")
        self.node1.send("other", outer, "other port")
        self.node1.send("main", outer, "answer")
        got = []
        while not got or got[-1] != "answer":
            got.append(self.host.receive_text("s") or "answer")
        return {
            ("answer",): "address and port",
            ("other port", "answer"): "address",
            ("stranger", "other port", "answer"): "nothing",
        }[tuple(got)]


def first_host(kind: NatKind) -> str:
    two = kind in (NatKind.HAIRPIN, NatKind.FULL_CONE)
    return home_name(kind) + ("1" if two else "")


@pytest.mark.parametrize("kind", INDEPENDENT)
def test_mapping_is_endpoint_independent_and_keeps_the_port(
    new_agent: type_of_new_agent, kind: NatKind
) -> None:
    scene = Scene(new_agent, first_host(kind))
    one, two = scene.mapped()
    assert one == two
    assert one[1] == scene.port
    assert one[0] != scene.host.machine.address


@pytest.mark.parametrize("kind", DEPENDENT)
def test_mapping_depends_on_the_endpoint(new_agent: type_of_new_agent, kind: NatKind) -> None:
    one, two = Scene(new_agent, first_host(kind)).mapped()
    assert one[0] == two[0]
    assert one[1] != two[1]
    if kind is NatKind.SYMMETRIC_SEQ:
        assert {one[1] // 1000, two[1] // 1000} == {40}


@pytest.mark.parametrize(
    ("kind", "filtering"),
    [
        (NatKind.PORT_RESTRICTED, "address and port"),
        (NatKind.SYMMETRIC, "address and port"),
        (NatKind.SYMMETRIC_SEQ, "address and port"),
        (NatKind.CGNAT, "address and port"),
        (NatKind.HAIRPIN, "address and port"),
        (NatKind.ADDR_RESTRICTED, "address"),
        (NatKind.FULL_CONE, "nothing"),
    ],
)
def test_filtering(new_agent: type_of_new_agent, kind: NatKind, filtering: str) -> None:
    assert Scene(new_agent, first_host(kind), port=41100).filtering() == filtering


def test_full_cone_with_two_hosts_gives_each_its_own(new_agent: type_of_new_agent) -> None:
    first, second = Scene(new_agent, "full-cone1", 41150), new_agent("full-cone2")
    second.open("s", 41151)
    first.host.send("s", first.main1)
    first.node1.source_of_next("main")
    second.send("s", first.main1)
    outer = first.node1.source_of_next("main")
    first.node2.send("main", outer, "stranger")
    assert second.receive_text("s") == "stranger"


def test_port_restricted_pair_punches_through(new_agent: type_of_new_agent) -> None:
    one, other = Scene(new_agent, "port", 41200), new_agent("second")
    other.open("s", 41200)
    one_outer, _ = one.mapped()
    other.send("s", one.main1)
    other_outer = one.node1.source_of_next("main")
    one.host.send("s", other_outer, "first, lost")
    other.send("s", one_outer, "second")
    assert one.host.receive("s") == ("second", other_outer)
    one.host.send("s", other_outer, "third")
    assert other.receive("s") == ("third", one_outer)


def test_symmetric_pair_cannot_punch_through(new_agent: type_of_new_agent) -> None:
    one, other = Scene(new_agent, "symmetric", 41300), new_agent("third")
    other.open("s", 41300)
    one_outer, _ = one.mapped()
    other.send("s", one.main1)
    other_outer = one.node1.source_of_next("main")
    for _ in range(3):
        one.host.send("s", other_outer, "lost")
        other.send("s", one_outer, "lost")
    one.node1.send("main", one_outer, "end")
    one.node1.send("main", other_outer, "end")
    assert one.host.receive_text("s") == "end"
    assert other.receive_text("s") == "end"


def test_leaky_router_loses_the_port_to_an_unsolicited_packet(
    new_agent: type_of_new_agent, lab: Lab
) -> None:
    ports = {}
    for kind, port in ((NatKind.LEAKY, 41400), (NatKind.PORT_RESTRICTED, 41400)):
        scene = Scene(new_agent, first_host(kind), port)
        outer_ip = lab.router(home_name(kind)).address
        scene.node1.send("main", (outer_ip, port), "unsolicited")
        ports[kind] = scene.mapped()[0][1]
        for node in (scene.node1, scene.node2):
            node.close()
    assert ports[NatKind.PORT_RESTRICTED] == 41400
    assert ports[NatKind.LEAKY] != 41400


def test_two_hosts_of_one_home_meet_at_the_outer_address(new_agent: type_of_new_agent) -> None:
    one, other = Scene(new_agent, "hairpin1", 41500), new_agent("hairpin2")
    other.open("s", 41501)
    one_outer, _ = one.mapped()
    other.send("s", one.main1)
    other_outer = one.node1.source_of_next("main")
    one.host.send("s", other_outer, "one")
    assert other.receive("s") == ("one", one_outer)
    other.send("s", one_outer, "two")
    assert one.host.receive("s") == ("two", other_outer)


def test_two_hosts_of_one_home_meet_on_the_lan(new_agent: type_of_new_agent) -> None:
    one, other = new_agent("hairpin1"), new_agent("hairpin2")
    one.open("s", 41600)
    other.open("s", 41600)
    one.send("s", (other.machine.address, 41600), "lan")
    assert other.receive("s") == ("lan", (one.machine.address, 41600))


def test_cgnat_has_two_routers(new_agent: type_of_new_agent, lab: Lab) -> None:
    scene = Scene(new_agent, "cgnat", 41700)
    assert scene.mapped()[0][0] == lab.machine("cgnat-cg").address
    assert lab.router("cgnat").address.startswith("100.64.")


def test_blocked_kinds(new_agent: type_of_new_agent) -> None:
    scene = Scene(new_agent, "udp-blocke", 41800)
    only443 = new_agent("tcp443")
    only443.open("s", 41800)
    assert scene.node1.ask("listen", "a", 443)
    assert scene.node1.ask("listen", "b", 8080)
    for agent in (scene.host, only443):
        agent.send("s", scene.main1, "lost")
        assert agent.can_connect((scene.main1[0], 443), 3.0)
    scene.node2.send("main", scene.main1, "end")
    assert scene.node1.receive_text("main") == "end"
    assert scene.host.can_connect((scene.main1[0], 8080), 3.0)
    assert not only443.can_connect((scene.main1[0], 8080), 0.3)


def test_packets_to_nowhere_cause_no_error(new_agent: type_of_new_agent) -> None:
    agent = new_agent("port")
    agent.open("s", 41900)
    for ip in ("192.168.99.1", "10.1.2.3", "8.8.8.8"):
        agent.send("s", (ip, 9), "gone")
