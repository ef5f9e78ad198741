"""A LAN without Internet, without any public node: its machines find each other by multicast.

anna ---+
ben  ---+--- router whose line is cut
cleo ---+
"""

from __future__ import annotations

import sys

import pytest

from ginnel.lab import Home, Lab, LabTopology, NatKind, tun_problem
from ginnel.lab.scenario import Scenario

pytestmark = pytest.mark.netns(tun=False)

NAMES = ("anna", "ben", "cleo")
LIMIT_S = 60.0  # seconds; it takes one or two after the start


ASK = """
import os, select, sys
from ginnel.base.types import Address, Secret, Transmit
from ginnel.discv5.enr import EnrBuilder
from ginnel.mesh.lan import GROUP4, GROUP6, PORT, encode_announcement
from ginnel.net.interfaces import InterfaceAddress
from ginnel.net.multicast import MulticastSource
from ginnel.net.udp import UdpSocket
ip, is_ipv6 = sys.argv[1], ":" in sys.argv[1]
own = UdpSocket.open(Address("::" if is_ipv6 else "0.0.0.0", 0))
fds = {"udp4": None, "udp6": None, "udp6" if is_ipv6 else "udp4": own.fileno()}
groups = {False: GROUP4, True: GROUP6}
source = MulticastSource(own, **fds, groups=groups, port=PORT)
source.set_addresses([InterfaceAddress("eth0", ip, 24, is_up=True)])
hello = encode_announcement(EnrBuilder(Secret(os.urandom(32))).build(), serves=False)
source.send([Transmit(hello, Address(groups[is_ipv6], PORT), ip)])
heard = []
while len({address.ip for address in heard}) < 3 and select.select([source], [], [], 10)[0]:
    heard += [item.source for item in source.receive(64) if item.source.port != own.address.port]
print(len({address.ip for address in heard if address.ip != ip}), ip in [a.ip for a in heard])
"""


def say(_who: str, _text: str) -> None:
    pass


@pytest.mark.parametrize("version", [4, 6])
def test_members_of_a_lan_meet_without_any_node(version: int) -> None:
    home = Home("flat", NatKind.PORT_RESTRICTED, hosts=NAMES)
    with Lab.create(LabTopology(homes=(home,), ipv6=True)) as lab:
        lab.router("flat").run(["ip", "link", "set", "dev", "wan", "down"])
        for name in NAMES:  # the other IP version is not there at all
            other = 6 if version == 4 else 4
            lab.machine(name).run(["ip", f"-{other}", "address", "flush", "dev", "eth0"])
        use_tun = tun_problem() is None  # meeting needs no device
        scenario = Scenario(lab, say, use_tun=use_tun)
        scenario.init("anna")
        scenario.join_all("anna", ["ben", "cleo"])

        def are_connected() -> bool:
            return (scenario.peer("ben", "cleo") or {}).get("status") == "connected"

        assert scenario.wait_until(are_connected, LIMIT_S), scenario.status("ben")
        peer = scenario.peer("ben", "cleo")
        assert peer is not None
        for end, name in (("local", "ben"), ("remote", "cleo")):
            machine = lab.machine(name)
            ip = machine.address if version == 4 else f"[{machine.address6}]"
            assert peer["path"][end]["kind"] == "host"
            assert peer["path"][end]["address"].rpartition(":")[0] == ip
        assert not scenario.status("anna")["reachable"].startswith("yes")
        # Another network's process on ben's machine, of another uid, hears the group all the same.
        ben = lab.machine("ben")
        ip = ben.address if version == 4 else str(ben.address6)
        assert ben.run([sys.executable, "-c", ASK, ip]).stdout.split() == ["2", "True"]
