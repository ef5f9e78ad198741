"""All that network settings can change on a machine, as one text to compare."""

from __future__ import annotations

import subprocess

# A device that was up once keeps its queue, which is no setting; nor is what the kernel finds out
# in its own time about a cable: whether the other end is up, and with that IPv6's multicast route.
LOOK = """
ip -o link | sed "s/qdisc [a-z_]*//; s/NO-CARRIER,//; s/,LOWER_UP//; s/state [A-Z]*//"
ip -o addr; ip rule; ip -6 rule
(ip route show table all; ip -6 route show table all) |
    grep -v '^multicast ff00::/8' | sed "s/ linkdown//"
nft list ruleset | sed 's/packets.*drop/drop/'
grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf 2>/dev/null
cat /etc/resolv.conf
"""


def look() -> str:
    """Return links, addresses, rules, routes, nftables, switches and the resolver's file."""
    command = ["sh", "-c", LOOK]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
