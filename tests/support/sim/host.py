"""A simulated machine: interfaces with addresses, and cores attached to its UDP ports.

It does for a core what `net/driver.py` does: after each change it drains transmits and events and
arms one timer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ginnel.base.core import Core
from ginnel.base.types import Address, Deadline, Transmit
from support.sim.link import Link, Packet, Realm

if TYPE_CHECKING:
    from support.sim.world import Timer, World

MAX_DRAIN = 10_000  # transmits and events that one change may cause; more is an endless loop
MAX_IDLE_TIMEOUTS = 1_000  # handle_timeout calls at one instant; more is a timer that never moves


@dataclass(slots=True)
class Interface:
    """One address of a host, and its access link."""

    host: Host
    ip: str
    realm: Realm
    link: Link

    def receive(self, packet: Packet) -> None:
        """Hand a packet to the core on its port."""
        attachment = self.host.attachment_at(packet.destination.port)
        if attachment is None:
            self.host.world.count("port closed")
            return
        attachment.receive(packet)


class Host:
    """A machine; make it with `World.add_public` or `Nat.add_host`."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.interfaces: list[Interface] = []
        self._attachments: dict[int, Attachment] = {}

    @property
    def ip(self) -> str:
        """Return the first address."""
        return self.interfaces[0].ip

    @property
    def ips(self) -> list[str]:
        """Return all addresses."""
        return [interface.ip for interface in self.interfaces]

    @property
    def link(self) -> Link:
        """Return the access link of the first interface."""
        return self.interfaces[0].link

    def add_interface(self, ip: str, realm: Realm, link: Link | None = None) -> Interface:
        """Give the host a further address, in any realm."""
        interface = Interface(self, ip, realm, link or Link())
        realm.add(ip, interface)
        self.interfaces.append(interface)
        return interface

    def renumber(self, old_ip: str, new_ip: str, realm: Realm | None = None) -> None:
        """Exchange an address, in another realm if one is given (the host moved)."""
        interface = next(i for i in self.interfaces if i.ip == old_ip)
        target = realm or interface.realm
        target.add(new_ip, interface)
        interface.realm.remove(old_ip)
        interface.ip, interface.realm = new_ip, target

    def attach(
        self, core: Core[Any], port: int, on_event: Callable[[Any], None] | None = None
    ) -> Attachment:
        """Run a core on a UDP port of all addresses; its events go to `on_event`.

        Raises:
            ValueError: the port is taken.
        """
        if port in self._attachments:
            raise ValueError(f"port {port} of {self.name} is taken")
        attachment = Attachment(self, core, port, on_event)
        self._attachments[port] = attachment
        attachment.wake()
        return attachment

    def attachment_at(self, port: int) -> Attachment | None:
        """Return what runs on the port."""
        return self._attachments.get(port)

    def attachments(self) -> list[Attachment]:
        """Return all that runs here."""
        return list(self._attachments.values())

    def release(self, port: int) -> None:
        """Free the port."""
        self._attachments.pop(port, None)

    def send(self, transmit: Transmit, port: int) -> None:
        """Send one datagram from the port; what has no way is counted and lost."""
        interface = self._interface_for(transmit)
        if interface is None:
            self.world.count("no source address")
            return
        source = Address(interface.ip, port)
        interface.realm.send(source, transmit.destination, transmit.data, interface.link)

    def _interface_for(self, transmit: Transmit) -> Interface | None:
        destination = transmit.destination
        if transmit.source_ip is not None:
            return next((i for i in self.interfaces if i.ip == transmit.source_ip), None)
        family = [i for i in self.interfaces if (":" in i.ip) == destination.is_ipv6]
        on_link = (i for i in family if destination.ip in i.realm)
        return next(on_link, family[0] if family else None)


class Attachment:
    """One core on one port: delivers, drains, keeps its timer."""

    def __init__(
        self,
        host: Host,
        core: Core[Any],
        port: int,
        on_event: Callable[[Any], None] | None = None,
    ) -> None:
        self.host = host
        self.core = core
        self.port = port
        self.events: list[Any] = []  # all so far, when no on_event was given
        self.sent = 0
        self.received = 0
        self.sent_bytes = 0
        self._on_event = on_event or self.events.append
        self._timer: Timer | None = None
        self._is_attached = True
        self._is_draining = False
        self._timeouts = (float("-inf"), 0)

    @property
    def address(self) -> Address:
        """Return the first address of the host with this port."""
        return Address(self.host.ip, self.port)

    def detach(self) -> None:
        """Stop the core at once, as a crash would."""
        self._is_attached = False
        self.host.release(self.port)
        if self._timer is not None:
            self._timer.cancel()

    def wake(self) -> None:
        """Drain and re-arm, after a command to the core."""
        if self._is_attached and not self._is_draining:
            self._drain()

    def receive(self, packet: Packet) -> None:
        """Hand over a datagram."""
        self.received += 1
        self.core.handle_datagram(
            packet.data,
            packet.source,
            now=self.host.world.now,
            local_ip=packet.destination.ip,
        )
        self.wake()

    def _drain(self) -> None:
        self._is_draining = True
        try:
            for _ in range(MAX_DRAIN):
                if not self._send_one() and not self._tell_one():
                    break
            else:
                raise RuntimeError(f"{self.host.name}:{self.port} never stops to send or to tell")
        finally:
            self._is_draining = False
        self._arm(self.core.poll_deadline())

    def _send_one(self) -> bool:
        transmit = self.core.poll_transmit()
        if transmit is None:
            return False
        self.sent += 1
        self.sent_bytes += len(transmit.data)
        self.host.send(transmit, self.port)
        return True

    def _tell_one(self) -> bool:
        event = self.core.poll_event()
        if event is None:
            return False
        self._on_event(event)
        return self._is_attached

    def _arm(self, deadline: Deadline | None) -> None:
        if self._timer is not None:
            if deadline is not None and self._timer.at == max(deadline.at, self.host.world.now):
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None and self._is_attached:
            self._timer = self.host.world.call_at(deadline.at, lambda: self._fire(deadline))

    def _fire(self, deadline: Deadline) -> None:
        self._timer = None
        now = self.host.world.now
        at, count = self._timeouts
        self._timeouts = (now, count + 1 if at == now else 1)
        if self._timeouts[1] > MAX_IDLE_TIMEOUTS:
            raise RuntimeError(f"{self.host.name}:{self.port}: timer {deadline} never moves")
        self.core.handle_timeout(now=now)
        self.wake()
