"""The nftables rules that make a Linux router behave as each kind of NAT.

A router has two devices, `wan` and `lan`. Where a kind sends outside packets to a host that asked
for none of them, the rules remember which host sent from which port, so that homes with several
machines work too; packets to a port that nobody used go to the home's first host.

Source: FACTS, "NAT lab" (measured); RFC 4787, sections 4 and 5.
"""

from __future__ import annotations

from ginnel.lab.topology import NatKind

MAPPING_LIFE_S = 300  # seconds a remembered host stays (RFC 4787, REQ-5 recommends 5 minutes)
TALKED_LIFE_S = 120  # seconds an address may answer (the kernel's udp_timeout_stream)
HAIRPIN_TABLE = 100  # of routes
SEQUENTIAL_PORTS = "40000-40999"  # the small range of symmetric-seq

_MASQUERADE = {
    NatKind.SYMMETRIC: "masquerade random,fully-random",
    NatKind.SYMMETRIC_SEQ: (
        f"meta l4proto {{ udp, tcp }} masquerade to :{SEQUENTIAL_PORTS} random,fully-random"
    ),
}
_BLOCKED = {
    NatKind.UDP_BLOCKED: ("meta l4proto udp drop",),
    NatKind.TCP443: ("meta l4proto udp drop", 'oifname "wan" tcp dport != 443 drop'),
}
_ESTABLISHED = 'iifname "wan" ct state established,related accept'
_NEIGHBOURS = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"
_DROP = 'iifname "wan" drop'
_MAPPED = f"""\
  map mapped {{
    type inet_proto . inet_service : ipv4_addr
    flags dynamic,timeout
    timeout {MAPPING_LIFE_S}s
  }}
  chain remember {{
    type filter hook forward priority -10
    iifname "lan" meta l4proto {{ udp, tcp }} \
update @mapped {{ meta l4proto . th sport : ip saddr }}
  }}
"""
_TALKED = f"""\
  map talked {{
    type ipv4_addr . inet_service : ipv4_addr
    flags dynamic,timeout
    timeout {TALKED_LIFE_S}s
  }}
  chain remember {{
    type filter hook forward priority -10
    oifname "wan" meta l4proto udp update @talked {{ ip daddr . udp sport : ip saddr }}
  }}
"""


def make_ruleset(kind: NatKind, *, first_host: str, wan_ip: str) -> str:
    """Return the whole ruleset of one router, for `nft -f`.

    Args:
        kind: how the router shall behave; a carrier's router is PORT_RESTRICTED.
        first_host: address that gets what no remembered host claims.
        wan_ip: the router's outer address.
    """
    return f"{_filter_table(kind)}{_nat_table(kind, first_host, wan_ip)}"


def hairpin_routes(wan_ip: str, gateway: str) -> list[str]:
    """Return the `ip` lines that lead the LAN's packets to the outer address out and back in.

    So a packet is translated on its way out like any other, and a second time on its way in. (With
    both at once a host can't reach itself: the kernel forwards nothing from an address to itself.)
    """
    return [
        f"route add default via {gateway} dev wan table {HAIRPIN_TABLE}",
        f"rule add pref 1 iif lan to {wan_ip} lookup {HAIRPIN_TABLE}",
        "rule add pref 2 lookup local",
        "rule del pref 0 lookup local",
    ]


def _filter_table(kind: NatKind) -> str:
    """Return the filter; IPv6 gets it too, so that a home's hosts are never open by IPv6."""
    if kind is NatKind.FULL_CONE:
        return ""
    forward = [*_BLOCKED.get(kind, ()), _ESTABLISHED]
    if kind in (NatKind.ADDR_RESTRICTED, NatKind.HAIRPIN):
        forward.append('iifname "wan" ct status dnat accept')
    chains = [("forward", [*forward, _DROP])]
    if kind is not NatKind.LEAKY:
        # Without this an unsolicited packet takes the port, and the host leaves from another.
        chains.append(("input", [_NEIGHBOURS, _ESTABLISHED, _DROP]))
    text = "".join(
        f"  chain {hook}s {{\n    type filter hook {hook} priority 0; policy accept\n    "
        + "\n    ".join(rules)
        + "\n  }\n"
        for hook, rules in chains
    )
    return f"table inet filter {{\n{text}}}\n"


def _nat_table(kind: NatKind, first_host: str, wan_ip: str) -> str:
    before, after, extra = [], [], ""
    if kind is NatKind.FULL_CONE:
        extra = _MAPPED
        match = 'iifname "wan" fib daddr type local meta l4proto { udp, tcp } dnat to'
        before = [f"{match} meta l4proto . th dport map @mapped", f"{match} {first_host}"]
    elif kind is NatKind.ADDR_RESTRICTED:
        extra = _TALKED
        before = ['iifname "wan" meta l4proto udp dnat to ip saddr . udp dport map @talked']
    elif kind is NatKind.HAIRPIN:
        extra = _MAPPED
        before = [
            f'iifname "wan" ip saddr {wan_ip} meta l4proto {{ udp, tcp }} '
            "dnat to meta l4proto . th dport map @mapped"
        ]
    if kind in _MASQUERADE:
        after.append(f'oifname "wan" {_MASQUERADE[kind]}')
    after.append('oifname "wan" masquerade')  # for symmetric-seq: all but UDP and TCP
    return (
        f"table ip nat {{\n{extra}"
        "  chain before {\n    type nat hook prerouting priority dstnat\n"
        + "".join(f"    {rule}\n" for rule in before)
        + "  }\n  chain after {\n    type nat hook postrouting priority srcnat\n"
        + "".join(f"    {rule}\n" for rule in after)
        + "  }\n}\n"
    )
