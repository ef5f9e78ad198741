"""The name server over loopback: own names, forwarding, refusals, limits."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_network

import dns.message
import dns.rcode

from ginnel.net.dns_answers import Zone
from ginnel.net.dns_server import MAX_FORWARDED, DnsServer

ZONE = Zone("home.internal", {"pi.home.internal": ("100.64.0.2",)}, (ip_network("100.64.0.0/16"),))
Body = Callable[[DnsServer, socket.socket, socket.socket], Awaitable[None]]


def udp() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    opened.bind(("127.0.0.1", 0))
    return opened


def run(body: Body, upstream: tuple[str, ...] = ()) -> None:
    """Run the body with a server, a client connected to it, and the server behind it."""

    async def main() -> None:
        serving = udp()
        with udp() as client, udp() as behind:
            client.connect(serving.getsockname())
            port = behind.getsockname()[1]
            server = DnsServer([serving], lambda: ZONE, upstream=lambda: upstream, port=port)
            try:
                async with asyncio.timeout(20):
                    await body(server, client, behind)
            finally:
                server.close()

    asyncio.run(main())


def query(name: str) -> bytes:
    return dns.message.make_query(name, "A").to_wire()


async def answered(client: socket.socket) -> dns.message.Message:
    return dns.message.from_wire(await asyncio.get_running_loop().sock_recv(client, 4096))


def test_own_names_are_answered_and_others_refused() -> None:
    async def body(server: DnsServer, client: socket.socket, behind: socket.socket) -> None:
        client.send(query("pi.home.internal"))
        assert (await answered(client)).answer[0][0].to_text() == "100.64.0.2"
        client.send(query("example.com"))
        assert (await answered(client)).rcode() == dns.rcode.REFUSED

    run(body)


def test_other_names_are_asked_behind_and_a_silent_server_is_passed_over() -> None:
    async def body(server: DnsServer, client: socket.socket, behind: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        asked = query("example.com")
        client.send(asked)
        data, source = await loop.sock_recvfrom(behind, 4096)  # 127.0.0.2 refuses at once
        assert data == asked
        behind.sendto(b"\0\0not the answer", source)
        reply = dns.message.make_response(dns.message.from_wire(asked))
        behind.sendto(reply.to_wire(), source)
        assert (await answered(client)).id == reply.id

    run(body, ("127.0.0.2", "no address", "127.0.0.1"))


def test_no_server_left_means_servfail() -> None:
    async def body(server: DnsServer, client: socket.socket, behind: socket.socket) -> None:
        client.send(query("example.com"))
        assert (await answered(client)).rcode() == dns.rcode.SERVFAIL

    run(body, ("127.0.0.2",))


def test_questions_on_their_way_are_bounded() -> None:
    async def body(server: DnsServer, client: socket.socket, behind: socket.socket) -> None:
        for _ in range(MAX_FORWARDED + 1):
            client.send(query("example.com"))
        assert (await answered(client)).rcode() == dns.rcode.REFUSED

    run(body, ("127.0.0.1",))


def test_only_this_machine_may_ask() -> None:
    async def body(server: DnsServer, client: socket.socket, behind: socket.socket) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.9", 0))
            stranger.sendto(query("pi.home.internal"), client.getpeername())
        client.send(query("pi.home.internal"))
        await answered(client)
        assert server.refused == 1

    run(body)
