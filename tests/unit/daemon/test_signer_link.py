"""The link with a real child process that answers as a signer does, or doesn't."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.daemon.logs import LogSink
from ginnel.daemon.signer_link import SignerLink

ECHO = """
import json, os, socket
manager, tunnel = socket.socket(fileno=3), socket.socket(fileno=4)
tunnel.send(str(os.getpid()).encode())
while request := manager.recv(4096):
    verb = json.loads(request)["verb"]
    if verb == "die":
        raise SystemExit("a reason")
    if verb == "late":
        manager.send(json.dumps({"id": 0, "verb": "of somebody who waits no more"}).encode())
    manager.send(b"no json" if verb == "bad" else request)
"""


def run(body: Callable[[SignerLink], Awaitable[None]]) -> None:
    async def main() -> None:
        sink = LogSink("ginnel", journal=Path("/nonexistent"), stream=io.StringIO())
        link = SignerLink([sys.executable, "-c", ECHO], sink)
        async with asyncio.timeout(30):
            running = asyncio.ensure_future(link.run())
            try:
                await body(link)
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running

    asyncio.run(main())


async def hello(channel: socket.socket) -> bytes:
    channel.setblocking(False)
    return await asyncio.get_running_loop().sock_recv(channel, 100)


def test_requests_are_answered_and_a_bad_answer_is_told() -> None:
    async def body(link: SignerLink) -> None:
        with pytest.raises(SystemFailure, match="the signer does not run"):
            await link.ask({"verb": "pending"})
        with link.renew() as channel:
            pid = int(await hello(channel))
            answers = await asyncio.gather(*(link.ask({"verb": "x", "n": n}) for n in range(3)))
            assert [answer["n"] for answer in answers] == [0, 1, 2]
            assert await link.ask({"verb": "late"}) == {"verb": "late"}
            with pytest.raises(SystemFailure, match="gave no answer"):
                await link.ask({"verb": "bad"})
            assert link.status() == {
                "state": "running",
                "pid": pid,
                "restarts": 0,
                "last_error": None,
            }

    run(body)


def test_a_signer_that_dies_comes_back_on_the_same_channel() -> None:
    async def body(link: SignerLink) -> None:
        with link.renew() as channel:
            first = await hello(channel)
            with pytest.raises(SystemFailure, match=r"the signer is gone: .*a reason"):
                await link.ask({"verb": "die"})
            assert await hello(channel) != first
            assert "exit code 1: a reason" in link.status()["last_error"]
            assert await link.ask({"verb": "x"}) == {"verb": "x"}

    run(body)


def test_the_end_of_a_signer_whose_tunnel_is_told_to_stop_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def body(link: SignerLink) -> None:
        with link.renew() as channel:
            await hello(channel)
            link.leave()
            with pytest.raises(SystemFailure, match=r"the signer is gone: .*a reason"):
                await link.ask({"verb": "die"})
            assert link.status()["restarts"] == 0

    run(body)
    assert "it starts again" not in caplog.text


def test_a_new_tunnel_gets_a_new_channel_and_a_new_signer() -> None:
    async def body(link: SignerLink) -> None:
        with link.renew() as old:
            first = await hello(old)
        with link.renew() as new:
            assert await hello(new) != first
            assert link.status()["restarts"] == 0

    run(body)
