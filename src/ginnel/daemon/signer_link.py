"""The manager's side of the signer: keeps it running and passes root's requests to it.

Two SEQPACKET channels: one between manager and signer (JSON, one object a message, a request at a
time), one between tunnel and signer. Each new tunnel gets a new channel, and with it a new signer;
a signer that dies alone gets the same channel again, whose end is kept open here.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from ginnel.base.errors import GinnelError, SystemFailure
from ginnel.daemon.logs import LogSink, RateLimited, escape_control, split_level
from ginnel.daemon.supervise import Backoff, Child, start_child

ANSWER_TIMEOUT = 10.0  # seconds; the signer signs within milliseconds
END_TIMEOUT = 2.0  # seconds from a closed channel until the process has ended and said why
MAX_ANSWER = 64 * 1024  # bytes of one message

Json: TypeAlias = dict[str, Any]

log = logging.getLogger(__name__)


class SignerLink:
    """Start with `run`; `renew` gives each new tunnel its end of a new channel."""

    def __init__(self, argv: Sequence[str], sink: LogSink) -> None:
        self._argv = list(argv)
        self._loop = asyncio.get_running_loop()
        self._log = RateLimited(sink, "signer", now=self._loop.time())
        self._backoff = Backoff()
        self._channel: socket.socket | None = None  # the signer's end of the tunnel's channel
        self._is_new = asyncio.Event()
        self._ended = asyncio.Event()  # of the present process: its end is in `_last_error`
        self._child: Child | None = None
        self._requests: socket.socket | None = None
        self._one_request = asyncio.Lock()
        self._last_error: str | None = None
        self._last_id = 0
        self._is_leaving = False

    def renew(self) -> socket.socket:
        """Make a new channel and return the tunnel's end; the signer starts anew with the other."""
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if self._channel is not None:
            self._channel.close()
        self._channel = ours
        self._is_new.set()
        return theirs

    def leave(self) -> None:
        """Expect the process to end for good: the tunnel is told to stop, and it goes with it."""
        self._is_leaving = True

    async def run(self) -> None:
        """Keep the signer running until cancelled."""
        try:
            while True:
                await self._run_once()
        finally:
            if self._channel is not None:
                self._channel.close()

    async def ask(self, request: Json) -> Json:
        """Pass a request on and return the answer.

        Raises:
            SystemFailure: the signer doesn't run or doesn't answer.
        """
        async with self._one_request:
            channel, ended = self._requests, self._ended
            if channel is None:
                raise SystemFailure(f"the signer does not run: {self._last_error or 'it starts'}")
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    return await self._exchange(channel, request)
            except TimeoutError:
                raise SystemFailure("the signer did not answer") from None
            except OSError as error:
                raise SystemFailure(await self._why_gone(ended, str(error.strerror))) from None

    def status(self) -> Json:
        """Return what is known about the process."""
        is_running = self._child is not None and self._child.is_running
        return {
            "state": "running" if is_running else "restarting",
            "pid": self._child.pid if self._child is not None and is_running else None,
            "restarts": self._backoff.count,
            "last_error": self._last_error,
        }

    async def _exchange(self, channel: socket.socket, request: Json) -> Json:
        """Ask, and wait for the answer with this request's id: a late one has another."""
        self._last_id += 1
        asked = json.dumps({**request, "id": self._last_id}).encode()
        await self._loop.sock_sendall(channel, asked)
        while True:
            raw = await self._loop.sock_recv(channel, MAX_ANSWER)
            if not raw:
                raise ConnectionResetError(errno.ECONNRESET, "it closed the channel")
            try:
                answer = json.loads(raw)
            except (ValueError, RecursionError):
                answer = None
            if not isinstance(answer, dict):
                raise SystemFailure("the signer gave no answer")
            if answer.pop("id", None) == self._last_id:
                return answer

    async def _why_gone(self, ended: asyncio.Event, error: str) -> str:
        """Return what a signer said that ended in mid-request, once its end is known."""
        with suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT):
                await ended.wait()
        return f"the signer is gone: {self._last_error or error}"

    async def _run_once(self) -> None:
        while self._channel is None:
            await self._is_new.wait()
        self._is_new.clear()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        argv = [*self._argv, "--manager-fd", "3", "--tunnel-fd", "4"]
        try:
            with theirs:
                descriptors = {3: theirs.fileno(), 4: self._channel.fileno()}
                self._child = child = start_child("signer", argv, descriptors, self._on_line)
        except GinnelError as error:
            ours.close()
            await self._after_death(self._loop.time(), str(error))
            return
        self._requests, self._ended = ours, asyncio.Event()
        try:
            is_replaced = await self._wait_for_end(child)
        finally:
            self._requests = None
            ours.close()
            await child.end()
        if not is_replaced:
            await self._after_death(child.started_at, child.describe_end())

    async def _wait_for_end(self, child: Child) -> bool:
        """Wait until the process is gone or a new tunnel needs a new one; say if the latter."""
        ending = asyncio.ensure_future(child.wait())
        renewing = asyncio.ensure_future(self._is_new.wait())
        try:
            await asyncio.wait([ending, renewing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
            renewing.cancel()
        return child.is_running

    async def _after_death(self, started_at: float, error: str) -> None:
        self._last_error = escape_control(error)
        self._ended.set()
        if self._is_leaving:
            await asyncio.Event().wait()  # until `run` is cancelled
        delay = self._backoff.on_death(started_at=started_at, now=self._loop.time())
        log.error("signer: %s; it starts again in %g s", self._last_error, delay)
        await asyncio.sleep(delay)

    def _on_line(self, line: str) -> None:
        self._log.write(*split_level(line), now=self._loop.time())
