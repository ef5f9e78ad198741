"""Turn a topology into nodes (network namespaces), devices, addresses and rules; as values only.

The Internet is one namespace that routes between one /24 per site; what it has no route for it
drops without a word, so that packets to nowhere cause no errors:

    anna --- anna-gw ---+                       +--- node1      (public machine)
     eth0  lan    wan   +--- the Internet ------+
    ben ---- ben-gw ----+                       +--- node2
             192.168.N.0/24      .2 - .1

A site's addresses come from the documentation prefixes, then from 198.18.0.0/15.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ginnel.lab.nat import hairpin_routes, make_ruleset
from ginnel.lab.topology import Home, LabTopology, Link, NatKind, PublicMachine

DOCUMENTATION_PREFIXES = ("192.0.2", "198.51.100", "203.0.113")  # RFC 5737
FIRST_HOST = 10  # last byte of a home's first machine
TOOLS_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"  # where nft and ip are, for users without sbin
LOSS_STEPS = 10_000  # resolution of losses by nftables

INTERNET = "internet"
WIRES = "wires"


@dataclass(frozen=True)
class WirePlan:
    """Two devices of the namespace `wires` between which frames are carried late."""

    device_a: str
    device_b: str
    delay_s: float
    loss: float
    seed: int
    reorder: float = 0.0


@dataclass
class NodePlan:
    """One network namespace: what to run and write in it, in this order."""

    key: str
    hostname: str
    machine: bool = False  # gets files of its own
    sysctls: dict[str, str] = field(default_factory=dict)
    plain_devices: list[str] = field(default_factory=list)  # to lose their offloads
    ip_lines: list[str] = field(default_factory=list)
    ruleset: str = ""
    addresses: dict[str, str] = field(default_factory=dict)  # "ipv4", "ipv6"
    wires: list[WirePlan] = field(default_factory=list)

    def add_device(self, device: str, *addresses: str) -> None:
        """Configure a device and bring it up."""
        self.ip_lines.append(f"link set dev {device} addrgenmode none")
        for address in addresses:
            if ":" in address:  # a router without a link-local address finds no neighbours
                local = f"fe80::{address.rpartition(':')[2]}"
                self.ip_lines.append(f"address add {local} dev {device} nodad")
                self.ip_lines.append(f"address add {address} dev {device} nodad")
            else:
                self.ip_lines.append(f"address add {address} dev {device}")
        self.ip_lines.append(f"link set dev {device} up")


@dataclass
class LabPlan:
    """All namespaces, the cables between them, and where each link can be captured."""

    nodes: dict[str, NodePlan] = field(default_factory=dict)
    cables: list[tuple[str, str, str, str]] = field(default_factory=list)  # node, device, twice
    links: dict[str, tuple[str, str]] = field(default_factory=dict)  # name: node, device
    hosts: dict[str, str] = field(default_factory=dict)  # names of public machines

    def add_node(self, key: str, hostname: str, *, machine: bool = False) -> NodePlan:
        """Add a namespace with a loopback device."""
        node = NodePlan(key, hostname, machine, {"net/ipv4/conf/all/rp_filter": "0"})
        node.ip_lines.append("link set dev lo up")
        self.nodes[key] = node
        return node

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values, for the process that builds it."""
        return asdict(self)


def plan_from_json(value: dict[str, Any]) -> LabPlan:
    """Return what `to_json` was called on."""
    nodes = {}
    for key, fields in value["nodes"].items():
        wires = [WirePlan(**wire) for wire in fields.pop("wires")]
        nodes[key] = NodePlan(**fields, wires=wires)
    cables = [(a, b, c, d) for a, b, c, d in value["cables"]]
    links = {name: (node, device) for name, (node, device) in value["links"].items()}
    return LabPlan(nodes, cables, links, value["hosts"])


def machine_key(name: str) -> str:
    """Return the key of a machine's namespace."""
    return f"machine:{name}"


def router_key(home: str) -> str:
    """Return the key of a home's router."""
    return f"router:{home}"


def carrier_key(home: str) -> str:
    """Return the key of the second router, at the carrier, of a cgnat home."""
    return f"carrier:{home}"


def make_plan(topology: LabTopology) -> LabPlan:
    """Plan the whole lab."""
    plan = LabPlan()
    internet = plan.add_node(INTERNET, INTERNET)
    internet.sysctls |= {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}
    internet.ip_lines += ["route add blackhole default", "route add blackhole ::/0"]
    sites: list[PublicMachine | Home] = [*topology.public, *topology.homes]
    for index, site in enumerate(sites):
        if isinstance(site, PublicMachine):
            _plan_public(plan, site, index, ipv6=topology.ipv6)
        else:
            _plan_home(plan, site, index, ipv6=topology.ipv6)
    return plan


def _site_prefix(index: int) -> str:
    if index < len(DOCUMENTATION_PREFIXES):
        return DOCUMENTATION_PREFIXES[index]
    return f"198.18.{index}"


def _plan_public(plan: LabPlan, site: PublicMachine, index: int, *, ipv6: bool) -> None:
    node = plan.add_node(machine_key(site.name), site.name, machine=True)
    _connect_to_internet(plan, node, "eth0", site.link, index, ipv6=ipv6)
    plan.links[site.name] = (node.key, "eth0")
    plan.hosts[site.name] = node.addresses["ipv4"]


def _connect_to_internet(
    plan: LabPlan,
    node: NodePlan,
    device: str,
    link: Link,
    index: int,
    *,
    ipv6: bool,
    outer: str | None = None,
) -> None:
    """Give a node its public addresses and the line, good or bad, that leads to them."""
    prefix, prefix6, far = outer or _site_prefix(index), f"2001:db8:{index:x}:", f"i{index}"
    internet = plan.nodes[INTERNET]
    node.addresses["ipv4"] = f"{prefix}.2"
    if ipv6:
        node.addresses["ipv6"] = f"{prefix6}:2"
    node.add_device(device, f"{prefix}.2/24", *([f"{prefix6}:2/64"] if ipv6 else []))
    internet.add_device(far, f"{prefix}.1/24", *([f"{prefix6}:1/64"] if ipv6 else []))
    node.ip_lines.append(f"route add default via {prefix}.1")
    if ipv6:
        node.ip_lines.append(f"route add ::/0 via {prefix6}:1")
    if link.delay_s:
        _add_wire(plan, (INTERNET, far), (node.key, device), link, index)
        return
    plan.cables.append((INTERNET, far, node.key, device))
    if link.loss:
        drop = f"numgen random mod {LOSS_STEPS} < {round(link.loss * LOSS_STEPS)} drop"
        internet.ruleset += (
            f"table inet loss{index} {{\n  chain lose {{\n"
            "    type filter hook forward priority 0\n"
            f'    iifname "{far}" {drop}\n    oifname "{far}" {drop}\n  }}\n}}\n'
        )


def _add_wire(
    plan: LabPlan, end_a: tuple[str, str], end_b: tuple[str, str], link: Link, index: int
) -> None:
    wires = plan.nodes.get(WIRES) or plan.add_node(WIRES, WIRES)
    for letter, (key, device) in (("a", end_a), ("b", end_b)):
        inner = f"{letter}{index}"
        plan.cables.append((key, device, WIRES, inner))
        plan.nodes[key].plain_devices.append(device)
        wires.add_device(inner)
    devices = (f"a{index}", f"b{index}")
    wires.wires.append(WirePlan(*devices, link.delay_s, link.loss, link.seed, link.reorder))


def _plan_home(plan: LabPlan, home: Home, index: int, *, ipv6: bool) -> None:
    lan = home.lan or f"192.168.{index + 1}"
    first = f"{lan}.{FIRST_HOST}"
    router = _add_router(plan, router_key(home.name), f"{home.name}-gw", home)
    plan.links[f"{home.name}-wan"] = (router.key, "wan")
    if home.kind is NatKind.CGNAT:
        ipv6 = False  # carriers that do this give IPv6 too; a lab without it tests the hard case
        _plan_carrier(plan, home, router, index)
    else:
        _connect_to_internet(plan, router, "wan", home.link, index, ipv6=ipv6, outer=home.outer)
    router.ruleset = make_ruleset(
        home.kind,
        first_host=first,
        wan_ip=router.addresses["ipv4"],
    )
    prefix6 = f"2001:db8:{index:x}:1:"
    if home.kind is NatKind.HAIRPIN:
        outer = router.addresses["ipv4"]
        router.sysctls["net/ipv4/conf/all/accept_local"] = "1"
        router.ip_lines += hairpin_routes(outer, f"{outer.rpartition('.')[0]}.1")
    router.ip_lines.append("link add name lan type bridge")
    router.add_device("lan", f"{lan}.1/24", *([f"{prefix6}:1/64"] if ipv6 else []))
    if ipv6:
        plan.nodes[INTERNET].ip_lines.append(
            f"route add {prefix6}:/64 via {router.addresses['ipv6']}"
        )
    for number, name in enumerate(home.machine_names):
        host = plan.add_node(machine_key(name), name, machine=True)
        last = FIRST_HOST + number
        host.addresses["ipv4"] = f"{lan}.{last}"
        if ipv6:
            host.addresses["ipv6"] = f"{prefix6}:{last:x}"
        plan.cables.append((router.key, f"p{number}", host.key, "eth0"))
        router.add_device(f"p{number}")
        router.ip_lines.append(f"link set dev p{number} master lan")
        host.add_device("eth0", f"{lan}.{last}/24", *([f"{prefix6}:{last:x}/64"] if ipv6 else []))
        host.ip_lines.append(f"route add default via {lan}.1")
        if ipv6:
            host.ip_lines.append(f"route add ::/0 via {prefix6}:1")
        plan.links[name] = (host.key, "eth0")


def _add_router(plan: LabPlan, key: str, hostname: str, home: Home) -> NodePlan:
    router = plan.add_node(key, hostname)
    router.sysctls |= {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}
    if home.udp_timeout_s is not None:
        for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
            router.sysctls[f"net/netfilter/{name}"] = str(home.udp_timeout_s)
    return router


def _plan_carrier(plan: LabPlan, home: Home, router: NodePlan, index: int) -> None:
    prefix = f"100.64.{index + 1}"
    carrier = _add_router(plan, carrier_key(home.name), f"{home.name}-cg", home)
    _connect_to_internet(plan, carrier, "wan", home.link, index, ipv6=False)
    carrier.ruleset = make_ruleset(
        NatKind.PORT_RESTRICTED,
        first_host=f"{prefix}.2",
        wan_ip=carrier.addresses["ipv4"],
    )
    plan.cables.append((carrier.key, "lan", router.key, "wan"))
    carrier.add_device("lan", f"{prefix}.1/24")
    router.addresses["ipv4"] = f"{prefix}.2"
    router.add_device("wan", f"{prefix}.2/24")
    router.ip_lines.append(f"route add default via {prefix}.1")
    plan.links[f"{home.name}-carrier"] = (carrier.key, "wan")
