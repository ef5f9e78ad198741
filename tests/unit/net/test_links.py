"""Connections by number: opened, sent on, cut, and none that would need authorities we lack."""

import asyncio

import pytest

from ginnel.base.links import (
    CloseLink,
    LinkBytes,
    LinkEvent,
    LinkLost,
    LinkOpened,
    OpenLink,
    SendLink,
)
from ginnel.base.servers import Transport
from ginnel.base.types import Address
from ginnel.net.links import StreamLinks


def test_commands_reach_the_connection_of_their_number() -> None:
    async def main() -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(100):
                writer.write(data)
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        address = Address(*server.sockets[0].getsockname())
        told: asyncio.Queue[LinkEvent] = asyncio.Queue()
        links = StreamLinks(None, told.put_nowait)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(links.run())
            links.on_command(SendLink(3, b"to nobody", may_drop=False))
            links.on_command(OpenLink(4, address, Transport.TCP, ""))
            assert await told.get() == LinkOpened(4)
            links.on_command(SendLink(4, b"hello", may_drop=False))
            assert await told.get() == LinkBytes(4, b"hello")
            links.on_command(CloseLink(4))
            server.close()
            await server.wait_closed()
            links.on_command(OpenLink(5, address, Transport.TCP, ""))
            lost = await told.get()
            assert isinstance(lost, LinkLost)
            assert (lost.link, "no connection" in lost.reason) == (5, True)
            with pytest.raises(AssertionError, match="authorities"):
                links.on_command(OpenLink(6, address, Transport.TLS, "h"))
            links.close()
            running.cancel()

    asyncio.run(asyncio.wait_for(main(), 30.0))
