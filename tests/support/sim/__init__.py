"""A simulated Internet on virtual time: hosts, links, NATs of RFC 4787, any core of `ginnel`.

`World(seed)` is the whole network; the same seed and calls give the same run, byte for byte.

    world = World(7)
    server = world.add_public("server", "198.51.100.1")
    home = world.add_nat("home", "203.0.113.1", "port-restricted")
    laptop = home.add_host("laptop", "192.168.1.2")
    port = laptop.attach(core, 4000, on_event=events.append)
    core.ping(server_contact, now=world.now)
    assert world.run(until=lambda: events, timeout=5.0)

Reading order: `world`, `host`, `link`, `nat`.
"""

from support.sim.host import Attachment, Host
from support.sim.link import Link, Packet, Realm
from support.sim.nat import NAT_KINDS, Dependence, Nat, NatKind
from support.sim.world import StepsExceeded, World

__all__ = [
    "NAT_KINDS",
    "Attachment",
    "Dependence",
    "Host",
    "Link",
    "Nat",
    "NatKind",
    "Packet",
    "Realm",
    "StepsExceeded",
    "World",
]
