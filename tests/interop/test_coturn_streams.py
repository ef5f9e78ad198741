"""Our TURN client and coturn over TCP and TLS on loopback: both ways of data, a server that ends.

Debian's package `coturn`; the tests start their own server and end it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ginnel.base.links import LinkCommand
from ginnel.base.servers import Transport
from ginnel.base.types import Address, Secret, Transmit
from ginnel.ice.turn_events import TurnConfig
from ginnel.mesh.relay_events import Arrived
from ginnel.mesh.relays import Relays
from ginnel.net.link import make_tls_context
from ginnel.net.links import StreamLinks
from support.coturn import PASSWORD, USER, coturn_argv

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("turnserver") is None, reason="Debian's coturn is not here"),
]

WAIT = 30.0  # seconds until something must have happened
TICK = 0.02  # seconds between two looks
STREAMS = [Transport.TCP, Transport.TLS]


def free_ports() -> list[int]:
    with socket.socket() as first, socket.socket() as second:
        for found in (first, second):
            found.bind(("127.0.0.1", 0))
        return [first.getsockname()[1], second.getsockname()[1]]


class Coturn:
    """One server on loopback."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.port, self.tls_port = free_ports()
        self._argv = coturn_argv(
            folder, "127.0.0.1", self.port, tls_port=self.tls_port, more="--allow-loopback-peers"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(self._argv, stdout=log, stderr=log, cwd=self.folder)
        ends_at = time.monotonic() + WAIT
        while not (self.accepts(self.port) and self.accepts(self.tls_port)):
            assert time.monotonic() < ends_at, (self.folder / "log").read_text()
            self._process.poll()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def accepts(self, port: int) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", port)) == 0

    def config(self, transport: Transport, password: str = PASSWORD) -> TurnConfig:
        port = self.tls_port if transport is Transport.TLS else self.port
        secret = Secret(password.encode())
        server = Address("127.0.0.1", port)
        return TurnConfig(server, USER, secret, transport=transport, host="127.0.0.1")

    def tls(self) -> ssl.SSLContext:
        return make_tls_context(self.folder / "tls" / "cert.pem")


class Client:
    """One member's relaying part with real connections, without any UDP."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.relays = Relays(random_bytes=os.urandom, rng=random.Random())
        self.links = StreamLinks(tls, self._tell)
        self.received: list[Arrived] = []

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def address(self) -> Address | None:
        return self.relays.stream_address(ipv6=False)

    def _tell(self, event: object) -> None:
        self.relays.on_link(event, now=self.now)  # type: ignore[arg-type]  # a LinkEvent
        self.drain()

    def send(self, data: bytes, peer: Address) -> None:
        self.relays.send(Transmit(data, peer, relayed_from=self.address), now=self.now)
        self.drain()

    def data(self) -> list[bytes]:
        return [arrived.data for arrived in self.received]

    def drain(self) -> None:
        command: LinkCommand | None
        while (command := self.relays.poll_link()) is not None:
            self.links.on_command(command)
        while (event := self.relays.poll_event()) is not None:
            if isinstance(event, Arrived):
                self.received.append(event)
        assert self.relays.poll_transmit() is None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.links.run())
            while True:
                await a_while()
                self.relays.handle_timeout(now=self.now)
                self.drain()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():
            await a_while()


async def a_while() -> None:
    """Let the clients and the other program work."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), TICK)


@asynccontextmanager
async def clients(server: Coturn, *configs: TurnConfig) -> AsyncIterator[list[Client]]:
    found = [Client(server.tls()) for _ in configs]
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(client.run()) for client in found]
        for client, config in zip(found, configs, strict=True):
            client.relays.add_server(config, now=client.now)
            client.drain()
        yield found
        for client in found:
            client.relays.close(now=client.now)
            client.drain()
            client.links.close()
        for task in running:
            task.cancel()
    for _ in range(10):  # asyncio closes sockets a turn later
        await asyncio.sleep(0)


@pytest.mark.parametrize("transport", STREAMS)
def test_data_goes_both_ways(transport: Transport, tmp_path: Path) -> None:
    async def scenario(server: Coturn) -> None:
        server.start()
        config = server.config(transport)
        async with clients(server, config, config) as (one, other):
            await until(lambda: one.address is not None and other.address is not None)
            for number in range(1, 6):  # an indication first, then a channel
                data = b"packet %d" % number * number

                def both_have(data: bytes = data) -> bool:
                    for client, peer in ((one, other), (other, one)):
                        assert peer.address is not None
                        client.send(data, peer.address)  # again: leave may come later there
                    return all(data in client.data() for client in (one, other))

                await until(both_have)
            assert one.received[-1].peer == other.address

    run(scenario, tmp_path)


@pytest.mark.parametrize("transport", STREAMS)
def test_an_allocation_comes_back_with_the_server(transport: Transport, tmp_path: Path) -> None:
    async def scenario(server: Coturn) -> None:
        server.start()
        async with clients(server, server.config(transport)) as (client,):
            await until(lambda: client.address is not None)
            server.stop()
            await until(lambda: client.address is None)
            assert client.relays.candidates() == ()
            server.start()
            await until(lambda: client.address is not None)

    run(scenario, tmp_path)


def test_a_wrong_password_and_a_strange_certificate_give_no_address(tmp_path: Path) -> None:
    async def scenario(server: Coturn) -> None:
        server.start()
        stranger = Coturn(tmp_path / "stranger")  # its authority is not the server's
        tcp = server.config(Transport.TCP, "wrong")
        async with clients(server, tcp) as (client,):
            await until(lambda: "credentials" in client.relays.why_no_address())
        async with clients(stranger, server.config(Transport.TLS)) as (client,):
            await until(lambda: "not trusted" in client.relays.why_no_address())

    run(scenario, tmp_path)


def run(scenario: Callable[[Coturn], object], folder: Path) -> None:
    server = Coturn(folder / "server")
    try:
        asyncio.run(scenario(server))  # type: ignore[arg-type]  # a coroutine function
    finally:
        server.stop()
