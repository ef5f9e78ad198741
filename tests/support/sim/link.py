"""What lies between the nodes: access links with delay, jitter and loss, joined in realms.

A realm is one address space: the Internet, or the inside of one NAT. A packet crosses the sender's
access link and the receiver's; jitter is drawn for each packet alone, so it also reorders them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ginnel.base.types import Address

if TYPE_CHECKING:
    from support.sim.nat import Nat
    from support.sim.world import World


@dataclass(slots=True)
class Link:
    """One access link; change its fields at any time.

    `delay` and `jitter` are seconds one way (the delay of a packet is delay..delay+jitter), `loss`
    and `duplicate` are shares of packets from 0 to 1.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    is_up: bool = True

    def cut(self) -> None:
        """Lose everything from now on, and what is under way."""
        self.is_up = False

    def restore(self) -> None:
        """Carry packets again."""
        self.is_up = True

    def sample_delay(self, rng: random.Random) -> float:
        """Draw the delay of one packet."""
        return self.delay + (rng.uniform(0.0, self.jitter) if self.jitter else 0.0)

    def loses(self, rng: random.Random) -> bool:
        """Draw whether one packet is lost."""
        return not self.is_up or (self.loss > 0.0 and rng.random() < self.loss)


@dataclass(frozen=True, slots=True)
class Packet:
    """One UDP packet as somebody on the wire of `realm` sees it."""

    at: float
    realm: str
    source: Address
    destination: Address
    data: bytes


class Node(Protocol):
    """What can have an address in a realm: a host's interface or a NAT's outer side."""

    link: Link

    def receive(self, packet: Packet) -> None:
        """Take a packet that arrived."""
        ...


class Realm:
    """One address space with its wire."""

    def __init__(self, world: World, name: str, gateway: Nat | None = None) -> None:
        self.world = world
        self.name = name
        self.gateway = gateway
        self._nodes: dict[str, Node] = {}

    def __contains__(self, ip: str) -> bool:
        return ip in self._nodes

    def add(self, ip: str, node: Node) -> None:
        """Give `ip` to the node.

        Raises:
            ValueError: the address is taken.
        """
        if ip in self._nodes or (self.gateway is not None and ip == self.gateway.inner_ip):
            raise ValueError(f"{ip} is taken in {self.name}")
        self._nodes[ip] = node

    def remove(self, ip: str) -> None:
        """Take the address away; what is under way to it is lost."""
        del self._nodes[ip]

    def send(self, source: Address, destination: Address, data: bytes, link: Link) -> None:
        """Put a packet on the wire; `link` is the sender's."""
        world = self.world
        packet = Packet(world.now, self.name, source, destination, data)
        world.show(packet)
        if link.loses(world.rng):
            world.count("lost")
            return
        copies = 2 if link.duplicate and world.rng.random() < link.duplicate else 1
        for _ in range(copies):
            self._carry(packet, link)

    def _carry(self, packet: Packet, link: Link) -> None:
        world = self.world
        delay = link.sample_delay(world.rng)
        target = self._nodes.get(packet.destination.ip)
        if target is None:
            if self.gateway is None:
                world.count("no route")
                return
            world.call_later(delay, lambda: self._leave(packet, link))
            return
        if target.link.loses(world.rng):
            world.count("lost")
            return
        delay += target.link.sample_delay(world.rng)
        world.call_later(delay, lambda: self._arrive(packet, link, target))

    def _leave(self, packet: Packet, link: Link) -> None:
        if not link.is_up or self.gateway is None:
            self.world.count("lost")
            return
        self.gateway.handle_outbound(packet)

    def _arrive(self, packet: Packet, link: Link, target: Node) -> None:
        is_moved = self._nodes.get(packet.destination.ip) is not target
        if is_moved or not link.is_up or not target.link.is_up:
            self.world.count("lost")
            return
        target.receive(packet)
