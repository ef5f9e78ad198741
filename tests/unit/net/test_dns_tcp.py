"""The name server over TCP on loopback: own names, forwarding, limits, hostile bytes."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from ipaddress import ip_network

import dns.flags
import dns.message
import dns.rcode

from ginnel.net.dns_answers import Zone
from ginnel.net.dns_server import DnsServer
from ginnel.net.dns_tcp import MAX_CONNECTIONS, DnsTcpServer

MANY = tuple(f"fd12::{number:x}" for number in range(100))
ZONE = Zone(
    "home.internal",
    {"pi.home.internal": ("100.64.0.2",), "many.home.internal": MANY},
    (ip_network("100.64.0.0/16"), ip_network("fd12::/48")),
)
WAIT = 20.0  # seconds, at most
Body = Callable[[DnsTcpServer, int, socket.socket], Awaitable[None]]


def tcp() -> socket.socket:
    opened = socket.socket()
    opened.bind(("127.0.0.1", 0))
    opened.listen()
    return opened


def run(body: Body, upstream: tuple[str, ...] = ()) -> None:
    """Run the body with a server, its port, and the server behind it."""

    async def main() -> None:
        listener = tcp()
        own_port = listener.getsockname()[1]
        with tcp() as behind:
            behind.setblocking(False)
            port = behind.getsockname()[1]
            server = DnsTcpServer([listener], lambda: ZONE, upstream=lambda: upstream, port=port)
            try:
                async with asyncio.timeout(WAIT):
                    await body(server, own_port, behind)
            finally:
                server.close()

    asyncio.run(main())


def query(name: str, kind: str = "A") -> bytes:
    return dns.message.make_query(name, kind).to_wire(prepend_length=True)


async def answered(reader: asyncio.StreamReader) -> dns.message.Message:
    (size,) = struct.unpack("!H", await reader.readexactly(2))
    return dns.message.from_wire(await reader.readexactly(size))


def test_questions_one_after_the_other_and_in_pieces() -> None:
    async def body(server: DnsTcpServer, port: int, behind: socket.socket) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in query("pi.home.internal"):
            writer.write(bytes([byte]))
            await writer.drain()
        assert (await answered(reader)).answer[0][0].to_text() == "100.64.0.2"
        for name, rcode in (
            ("gone.home.internal", dns.rcode.NXDOMAIN),
            ("example.com", dns.rcode.REFUSED),
        ):
            writer.write(query(name))
            assert (await answered(reader)).rcode() == rcode
        writer.close()

    run(body)


def test_an_answer_too_long_for_a_datagram_comes_whole() -> None:
    async def body(server: DnsTcpServer, port: int, behind: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        asked = dns.message.make_query("many.home.internal", "AAAA").to_wire()
        serving = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        serving.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(serving.getsockname())
            datagrams = DnsServer([serving], lambda: ZONE)
            client.send(asked)
            short = dns.message.from_wire(await loop.sock_recv(client, 4096))
            datagrams.close()
        assert short.flags & dns.flags.TC
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(query("many.home.internal", "AAAA"))
        whole = await answered(reader)
        assert len(whole.answer[0]) == len(MANY)
        assert not whole.flags & dns.flags.TC
        writer.close()

    run(body)


def test_other_names_are_asked_behind() -> None:
    async def body(server: DnsTcpServer, port: int, behind: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(query("example.com"))
        connection, _ = await loop.sock_accept(behind)
        asked = dns.message.from_wire((await loop.sock_recv(connection, 4096))[2:])
        reply = dns.message.make_response(asked)
        connection.send(reply.to_wire(prepend_length=True))
        assert (await answered(reader)).id == reply.id
        connection.close()
        writer.close()

    run(body, ("127.0.0.2", "127.0.0.1"))


def test_nobody_behind_answers() -> None:
    async def body(server: DnsTcpServer, port: int, behind: socket.socket) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(query("example.com"))
        assert (await answered(reader)).rcode() == dns.rcode.SERVFAIL
        writer.close()

    run(body, ("127.0.0.2",))


def test_hostile_bytes_and_too_many_connections_are_closed() -> None:
    async def body(server: DnsTcpServer, port: int, behind: socket.socket) -> None:
        for data in (b"\xff\xff", b"\0\0", b"\0\5hello"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            assert await reader.read() == b""
            writer.close()
        writers = []
        for _ in range(MAX_CONNECTIONS + 1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
        assert await reader.read() == b""
        assert server.refused == 1
        for writer in writers:
            writer.close()

    run(body)


def test_only_this_machine_may_ask() -> None:
    async def body(server: DnsTcpServer, port: int, behind: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, local_addr=("127.0.0.9", 0)
        )
        assert await reader.read() == b""
        assert server.refused == 1
        writer.close()

    run(body)
