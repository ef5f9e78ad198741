"""A TURN server and clients joined by hand, on a clock of their own; packets may be changed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from ginnel.base.types import Address, Transmit
from ginnel.ice.turn import TurnClient
from ginnel.ice.turn_events import TurnConfig, TurnEvent
from ginnel.ice.turn_ports import HoldPort
from ginnel.ice.turn_server import TurnServer

SERVER = Address("203.0.113.1", 41640)


def grant_ports(server: TurnServer, *, now: float) -> bool:
    """Say that each port that the server wants is held; return whether it wanted any."""
    any_command = False
    while (command := server.poll_event()) is not None:
        any_command = True
        if isinstance(command, HoldPort):
            server.on_port(command.port, True, now=now)
    return any_command


@dataclass
class Client:
    """One client at one address, and what it told."""

    core: TurnClient
    address: Address
    events: list[TurnEvent] = field(default_factory=list)

    def of(self, kind: type) -> list[TurnEvent]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


class TurnWorld:
    """One server, its clients; `pump` carries packets until none is left."""

    def __init__(self, seed: int = 1) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.server = TurnServer(
            ip=SERVER.ip, random_bytes=self.rng.randbytes, rng=self.rng, now=self.now
        )
        self.clients: dict[Address, Client] = {}
        self.sent: list[tuple[str, bytes]] = []
        self.is_deaf = False

    def add_client(
        self,
        number: int,
        member: bytes = b"",
        *,
        nonce: bytes | None = None,
        password: str | None = None,
    ) -> Client:
        """Make a client with credentials of its own, and let it allocate."""
        given = self.server.issue(member or bytes([number]), now=self.now)
        config = TurnConfig(
            SERVER,
            given.username,
            given.password if password is None else type(given.password)(password.encode()),
            realm=given.realm,
            nonce=given.nonce if nonce is None else nonce,
        )
        core = TurnClient(config, random_bytes=self.rng.randbytes, rng=self.rng)
        client = Client(core, Address("198.51.100.1", 5000 + number))
        self.clients[client.address] = client
        core.start(now=self.now)
        self.pump()
        return client

    def pump(self) -> None:
        """Carry packets and collect events until nothing moves."""
        moved = True
        while moved:
            moved = False
            for client in self.clients.values():
                while (out := client.core.poll_transmit()) is not None:
                    moved = True
                    self._to_server(client, out)
                while (event := client.core.poll_event()) is not None:
                    client.events.append(event)
            moved |= grant_ports(self.server, now=self.now)
            while (answer := self.server.poll_transmit()) is not None:
                moved = True
                self.sent.append(("server", answer.data))
                target = self.clients.get(answer.destination)
                if target is not None:
                    target.core.handle_datagram(answer.data, SERVER, now=self.now)

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass in steps."""
        ends_at = self.now + seconds
        while self.now < ends_at:
            self.now += step
            self.server.handle_timeout(now=self.now)
            for client in self.clients.values():
                client.core.handle_timeout(now=self.now)
            self.pump()

    def _to_server(self, client: Client, out: Transmit) -> None:
        self.sent.append(("client", out.data))
        if not self.is_deaf:
            self.server.handle_datagram(out.data, client.address, now=self.now)
