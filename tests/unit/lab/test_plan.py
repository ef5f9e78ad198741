import json
from ipaddress import ip_address

from ginnel.base.addresses import is_public
from ginnel.lab.plan import (
    INTERNET,
    WIRES,
    LabPlan,
    carrier_key,
    machine_key,
    make_plan,
    plan_from_json,
    router_key,
)
from ginnel.lab.topology import Home, LabTopology, Link, NatKind, PublicMachine


def example() -> LabPlan:
    homes = (
        Home("anna", link=Link(0.02, 0.1)),
        Home("flat", NatKind.HAIRPIN, ("ben", "cleo"), Link(loss=0.05)),
        Home("dora", NatKind.CGNAT, udp_timeout_s=20),
    )
    return make_plan(LabTopology(homes, (PublicMachine("node1"), PublicMachine("node2"))))


def test_public_addresses_count_as_public_and_are_each_in_a_prefix_of_their_own() -> None:
    topology = LabTopology(public=tuple(PublicMachine(f"n{i}") for i in range(60)))
    plan = make_plan(topology)
    addresses = [plan.nodes[machine_key(f"n{i}")].addresses["ipv4"] for i in range(60)]
    assert all(is_public(address) for address in addresses)
    assert len({ip_address(address).packed[:3] for address in addresses}) == 60


def test_homes_have_private_addresses_and_a_way_out() -> None:
    plan = example()
    for name, router in (("anna", "anna"), ("ben", "flat"), ("cleo", "flat"), ("dora", "dora")):
        node = plan.nodes[machine_key(name)]
        assert not is_public(node.addresses["ipv4"])
        assert any(line.startswith("route add default") for line in node.ip_lines)
        assert router_key(router) in plan.nodes
    assert plan.nodes[router_key("dora")].addresses["ipv4"].startswith("100.64.")
    assert is_public(plan.nodes[carrier_key("dora")].addresses["ipv4"])
    assert plan.nodes[carrier_key("dora")].sysctls["net/netfilter/nf_conntrack_udp_timeout"] == "20"


def test_links_with_delay_have_a_wire_and_links_with_loss_alone_a_rule() -> None:
    plan = example()
    wires = plan.nodes[WIRES].wires
    assert [(wire.delay_s, wire.loss) for wire in wires] == [(0.02, 0.1)]
    assert "mod 10000 < 500 drop" in plan.nodes[INTERNET].ruleset
    cabled = [end for a, b, c, d in plan.cables for end in ((a, b), (c, d))]
    assert len(cabled) == len(set(cabled))
    assert all(
        node in plan.nodes and (node, device) in cabled for node, device in plan.links.values()
    )


def test_ipv6_is_given_on_demand() -> None:
    plan = make_plan(LabTopology((Home("anna"),), (PublicMachine("node1"),), ipv6=True))
    assert is_public(plan.nodes[machine_key("anna")].addresses["ipv6"])
    assert "ipv6" not in example().nodes[machine_key("anna")].addresses


def test_a_plan_survives_json() -> None:
    plan = example()
    assert plan_from_json(json.loads(json.dumps(plan.to_json()))) == plan
