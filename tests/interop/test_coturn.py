"""Our TURN client and coturn over loopback: allocations, both ways of data, refusals.

Debian's package `coturn`; the tests start their own server and end it.
"""

from __future__ import annotations

import random
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ginnel.base.types import Address, Secret
from ginnel.ice.turn import TurnClient
from ginnel.ice.turn_events import (
    Allocated,
    AllocationLost,
    PeerRefused,
    RelayReceived,
    TurnConfig,
    TurnEvent,
)
from support.coturn import coturn_argv

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("turnserver") is None, reason="Debian's coturn is not here"),
]

LIMIT_S = 10.0  # seconds until coturn has answered
OPTIONS = "--no-multicast-peers --allow-loopback-peers --user-quota=3"


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    folder: Path = tmp_path_factory.mktemp("coturn")
    address = Address("127.0.0.1", free_port())
    argv = coturn_argv(folder, address.ip, address.port, more=OPTIONS)
    with (
        open(folder / "log", "w") as log,
        subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder) as process,
    ):
        yield address
        process.terminate()


class Client:
    """One client on a socket of its own."""

    def __init__(self, server: Address, user: str = "user", password: str = "pass") -> None:
        rng = random.Random()
        config = TurnConfig(server, user, Secret(password.encode()))
        self.core = TurnClient(config, random_bytes=rng.randbytes, rng=rng)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.events: list[TurnEvent] = []
        self.core.start(now=time.monotonic())

    def of(self, kind: type) -> list[TurnEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    def turn(self) -> None:
        """Send and take what is there, and do what is due."""
        now = time.monotonic()
        deadline = self.core.poll_deadline()
        if deadline is not None and deadline.at <= now:
            self.core.handle_timeout(now=now)
        while (out := self.core.poll_transmit()) is not None:
            self.socket.sendto(out.data, tuple(out.destination))
        while True:
            try:
                data, source = self.socket.recvfrom(2048)
            except OSError:  # nothing there, or coturn is not up yet
                break
            self.core.handle_datagram(data, Address(*source), now=now)
        while (event := self.core.poll_event()) is not None:
            self.events.append(event)

    def texts(self) -> list[bytes]:
        return [event.data for event in self.events if isinstance(event, RelayReceived)]


def run(clients: list[Client], kind: type, count: int = 1) -> None:
    """Run until each client was told `count` events of this kind."""
    ends_at = time.monotonic() + LIMIT_S
    while not all(len(client.of(kind)) >= count for client in clients):
        assert time.monotonic() < ends_at, [client.events for client in clients]
        select.select([client.socket for client in clients], [], [], 0.05)
        for client in clients:
            client.turn()


@pytest.fixture
def pair(server: Address) -> Iterator[tuple[Client, Client]]:
    clients = Client(server), Client(server, "other", "word")
    run(list(clients), Allocated)
    yield clients
    for client in clients:
        client.core.close(now=time.monotonic())
        client.turn()
        client.socket.close()


def test_allocation_tells_both_addresses(pair: tuple[Client, Client]) -> None:
    for client in pair:
        assert client.core.relayed is not None
        assert 49200 <= client.core.relayed.port < 49300
        assert client.core.mapped == Address(*client.socket.getsockname())


def test_data_goes_both_ways_by_indication_then_channel(pair: tuple[Client, Client]) -> None:
    one, other = pair
    for number in range(1, 4):
        text = b"packet %d" % number
        ends_at = time.monotonic() + LIMIT_S
        while not all(text in client.texts() for client in pair):
            assert time.monotonic() < ends_at, [client.events for client in pair]
            for client, peer in ((one, other), (other, one)):
                assert peer.core.relayed is not None
                if text not in peer.texts():  # the first may come before its permission
                    client.core.send(text, peer.core.relayed, now=time.monotonic())
                client.turn()
            select.select([client.socket for client in pair], [], [], 0.05)
            for client in pair:
                client.turn()
    for client, peer in ((one, other), (other, one)):
        senders = {event.peer for event in client.events if isinstance(event, RelayReceived)}
        assert senders == {peer.core.relayed}
    assert one.core.knows_channel(0x4000)


def test_a_wrong_password_is_named(server: Address) -> None:
    client = Client(server, password="wrong")
    run([client], AllocationLost)
    assert "credentials" in client.core.failure
    client.socket.close()


def test_the_quota_is_named(server: Address) -> None:
    clients = [Client(server) for _ in range(4)]
    ends_at = time.monotonic() + LIMIT_S
    while not any(client.of(AllocationLost) for client in clients):
        assert time.monotonic() < ends_at
        for client in clients:
            client.turn()
    assert any("quota" in client.core.failure for client in clients)
    for client in clients:
        client.core.close(now=time.monotonic())
        client.turn()
        client.socket.close()


def test_a_forbidden_peer_is_named(pair: tuple[Client, Client]) -> None:
    client, _ = pair
    client.core.send(b"x", Address("224.0.0.1", 5), now=time.monotonic())  # --no-multicast-peers
    run([client], PeerRefused)
    [refused] = client.of(PeerRefused)
    assert isinstance(refused, PeerRefused)
    assert "does not relay" in refused.reason
