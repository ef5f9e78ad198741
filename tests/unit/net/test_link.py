"""Connections over TCP and TLS to servers on loopback."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from ginnel.base.types import Address
from ginnel.net.link import MAX_UNSENT, LinkHandlers, StreamLink, make_tls_context
from support.certificates import make_certificate

WAIT = 10.0  # seconds until something must have happened
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Told:
    """What a link told."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.lost: asyncio.Queue[str] = asyncio.Queue()
        self.data = b""
        self.handlers = LinkHandlers(self.opened.set, self._take, self.lost.put_nowait)

    def _take(self, data: bytes) -> None:
        self.data += data


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
        if data == b"end":
            break
    writer.close()


@contextmanager
def serving_tls(certificate: Path, key: Path) -> Iterator[Address]:
    """Answer one TLS connection after the other with what it says, in a thread."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def serve() -> None:
        while True:
            accepted, _ = listener.accept()
            try:
                with context.wrap_socket(accepted, server_side=True) as stream:
                    data = stream.recv(100)
                    stream.send(data)
            except OSError:
                accepted.close()
            else:
                if data == b"stop":
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = Address(*listener.getsockname())
        yield address
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(tuple(address)) as last, trusting.wrap_socket(last) as stop:
            stop.send(b"stop")
            thread.join(WAIT)


@asynccontextmanager
async def serving(handler: Handler = echo) -> AsyncIterator[Address]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    ip, port = server.sockets[0].getsockname()
    async with server:
        yield Address(ip, port)


@asynccontextmanager
async def linked(link: StreamLink) -> AsyncIterator[None]:
    async with asyncio.timeout(WAIT), asyncio.TaskGroup() as tasks:
        tasks.create_task(link.run())
        yield
        link.close()
    for _ in range(5):  # asyncio closes the socket of a TLS handshake that failed a turn later
        await asyncio.sleep(0)


def test_bytes_go_both_ways_and_the_end_is_told() -> None:
    async def scenario() -> None:
        told = Told()
        async with serving() as server, linked(StreamLink(server, told.handlers)):
            pass
        async with serving() as server:
            link = StreamLink(server, told.handlers)
            assert not link.send(b"too early")
            async with linked(link):
                await told.opened.wait()
                assert link.send(b"end")
                assert "closed" in await told.lost.get()
                assert told.data == b"end"
                assert not link.send(b"too late")
        assert told.lost.empty()

    asyncio.run(scenario())


def test_a_closed_port_is_told_in_words() -> None:
    async def scenario() -> None:
        async with serving() as server:
            pass
        told = Told()
        async with linked(StreamLink(server, told.handlers)):
            assert "no connection" in await told.lost.get()

    asyncio.run(scenario())


def test_datagrams_are_dropped_while_the_system_takes_no_more() -> None:
    async def never_reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.transport.abort()

    done = asyncio.Event()

    async def scenario() -> None:
        told = Told()
        async with serving(never_reads) as server:
            link = StreamLink(server, told.handlers)
            async with linked(link):
                await told.opened.wait()
                sent = 0
                while link.send(bytes(60_000), may_drop=True):
                    sent += 60_000
                    assert sent < 64 * MAX_UNSENT
                assert link.dropped == 1
                assert link.send(b"what must arrive")
                done.set()
                await told.lost.get()

    asyncio.run(scenario())


def test_tls_needs_a_certificate_that_is_trusted(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path / "here")
    other, _ = make_certificate(tmp_path / "other")
    wrong, wrong_key = make_certificate(tmp_path / "elsewhere", "127.0.0.9")

    async def scenario() -> None:
        told = Told()
        with serving_tls(certificate, key) as server:
            link = StreamLink(server, told.handlers, tls=make_tls_context(certificate))
            async with linked(link):
                await told.opened.wait()
                link.send(b"hello")
                assert "closed" in await told.lost.get()
                assert told.data == b"hello"
            async with linked(StreamLink(server, told.handlers, tls=make_tls_context(other))):
                assert "not trusted" in await told.lost.get()
        with serving_tls(wrong, wrong_key) as server:
            async with linked(StreamLink(server, told.handlers, tls=make_tls_context(wrong))):
                assert "not trusted" in await told.lost.get()

    asyncio.run(scenario())


def test_old_tls_is_refused_and_a_bad_file_too(tmp_path: Path) -> None:
    assert make_tls_context().minimum_version >= ssl.TLSVersion.TLSv1_2
    (tmp_path / "bad").write_text("no certificate")
    for path in (tmp_path / "bad", tmp_path / "none"):
        with pytest.raises((ssl.SSLError, FileNotFoundError)):
            make_tls_context(path)
