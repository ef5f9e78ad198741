"""CoderVPN on asyncio: `Manager` and `Tunnel` over a pair of descriptors.

    tunnel = Tunnel(3, 3, handlers)         # a socket; or a pipe's two ends
    await tunnel.run()                      # until the stream ends

Both own the descriptors that they are given and close them; `net.byte_stream` moves the bytes.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self

from ginnel.base.errors import SystemFailure
from ginnel.codervpn import manager_role, tunnel_role
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.header import SUPPORTED_VERSIONS, Dialect, Version
from ginnel.codervpn.messages import LogLevel, LogRecord, Start
from ginnel.codervpn.speaker import (
    HANDSHAKE_TIMEOUT,
    REQUEST_TIMEOUT,
    Negotiated,
    Speaker,
    StreamClosed,
)
from ginnel.net.byte_stream import ByteStream

MAX_HANDLER_TASKS = 32  # handlers at work at once; one more wake-up is left out
MAX_WAITING_SETTINGS = 4  # requests of a tunnel behind the one that is applied; each may be large

log = logging.getLogger(__name__)


class _Shell:
    """What both facades share: open requests as futures, the end of the stream."""

    _speaker: Speaker
    _stream: ByteStream

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[str | None]] = {}
        self._closed: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._is_opened = asyncio.Event()  # both headers are there, or never will be
        self.version: Version | None = None
        self.dialect: Dialect | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_closed(self) -> bool:
        """Say whether the stream is over."""
        return self._closed.done()

    async def wait_closed(self) -> str | None:
        """Wait for the end of the stream; return its error, or None after a clean end."""
        return await asyncio.shield(self._closed)

    def close(self) -> None:
        """Close the stream now; open requests fail."""
        self._speaker.close()
        self._stream.drain()
        self._stream.close()

    async def _answer(self, request: int) -> str | None:
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiting[request] = future
        self._stream.drain()
        try:
            return await future
        finally:
            self._waiting.pop(request, None)
            self._speaker.cancel(request)

    def _resolve(self, request: int, error: str | None) -> None:
        future = self._waiting.get(request)
        if future is not None and not future.done():
            future.set_result(error)

    def _on_negotiated(self, event: Negotiated) -> None:
        self.version, self.dialect = event.version, event.dialect
        self._is_opened.set()

    def _on_closed(self, event: StreamClosed) -> None:
        if not self._closed.done():
            self._closed.set_result(event.error)
        self._is_opened.set()
        self._stream.close()


class TunnelHandlers(Protocol):
    """What a tunnel program does when its manager asks."""

    async def on_start(self, start: Start) -> str | None:
        """Start; return None once running, or what went wrong. A Stop meanwhile cancels this.

        Once running, the TUN's descriptor is the program's to close. After a refusal it isn't: one
        that came along is closed for it, an inherited one is there for the next Start.
        """
        ...

    async def on_stop(self) -> str | None:
        """Stop; return None once stopped, or what went wrong. Then this side is closed."""
        ...

    async def on_wake(self) -> None:
        """The machine woke up or changed networks."""
        ...


class Tunnel(_Shell):
    """A tunnel's end of the stream; make it inside a running loop, then `await run()`."""

    def __init__(
        self,
        read_fd: int,
        write_fd: int,
        handlers: TunnelHandlers,
        *,
        versions: Sequence[Version] = SUPPORTED_VERSIONS,
    ) -> None:
        super().__init__()
        self._handlers = handlers
        self._tasks: asyncio.TaskGroup | None = None
        self._task_count = 0
        self._starting: asyncio.Task[None] | None = None
        self._early: list[tunnel_role.TunnelEvent] = []  # came before `run`
        self._core = tunnel_role.TunnelCore(
            now=asyncio.get_running_loop().time(), versions=versions
        )
        self._speaker = self._core.speaker
        self._stream = ByteStream(read_fd, write_fd, self._core, self._on_change)
        self._stream.drain()

    @property
    def lost_records(self) -> int:
        """Return how many log records found no room: the manager reads too slowly."""
        return self._speaker.lost_notices

    async def run(self) -> str | None:
        """Serve the manager until the stream ends; return its error, or None.

        Handlers run as tasks of this call: cancel it and they are cancelled. A handler's exception
        ends the stream and comes out of here.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for event in self._early:
                    self._on_event(event)
                self._early.clear()
                return await self.wait_closed()
        finally:
            self._tasks = None
            self.close()

    async def network_settings(
        self, settings: pb.NetworkSettingsRequest, *, wait_s: float = REQUEST_TIMEOUT
    ) -> str | None:
        """Ask the manager to set the network up; return None once applied, or its refusal."""
        request = self._core.request_settings(settings, now=self._stream.now, timeout=wait_s)
        return await self._answer(request)

    def upsert(
        self, workspaces: Iterable[pb.Workspace] = (), agents: Iterable[pb.Agent] = ()
    ) -> None:
        """Add or change workspaces and agents; sent when the stream is free."""
        self._core.upsert(workspaces, agents)
        self._stream.drain()

    def delete(
        self, *, workspace_ids: Iterable[bytes] = (), agent_ids: Iterable[bytes] = ()
    ) -> None:
        """Remove workspaces and agents."""
        self._core.delete(workspace_ids=workspace_ids, agent_ids=agent_ids)
        self._stream.drain()

    def log(
        self,
        level: LogLevel,
        message: str,
        logger_names: Sequence[str] = (),
        fields: Sequence[tuple[str, str]] = (),
    ) -> bool:
        """Send a log record to the manager; False if there is no room or no stream for it."""
        if self.is_closed:
            return False
        record = LogRecord(level, message, tuple(logger_names), tuple(fields))
        is_sent = self._core.write_log(record)
        self._stream.drain()
        return is_sent

    def _on_change(self) -> None:
        while (event := self._core.poll_event()) is not None:
            if isinstance(event, Negotiated):
                self._on_negotiated(event)
            elif isinstance(event, StreamClosed):
                self._on_closed(event)
            elif isinstance(event, tunnel_role.SettingsAnswered):
                self._resolve(event.request, event.error)
            elif self._tasks is None:
                self._early.append(event)
            else:
                self._on_event(event)

    def _on_event(self, event: tunnel_role.TunnelEvent) -> None:
        assert self._tasks is not None
        is_wake = isinstance(event, tunnel_role.WakeRequested)  # of others the core has one open
        if is_wake and self._task_count >= MAX_HANDLER_TASKS:
            log.warning("codervpn: wake-ups come faster than they are handled")
            return
        self._task_count += 1
        task = self._tasks.create_task(self._handle(event))
        if isinstance(event, tunnel_role.StartRequested):
            self._starting = task
        task.add_done_callback(self._on_handled)

    def _on_handled(self, task: asyncio.Task[None]) -> None:
        self._task_count -= 1

    async def _handle(self, event: tunnel_role.TunnelEvent) -> None:
        if isinstance(event, tunnel_role.StartRequested):
            self._core.finish_start(await self._start(event.start))
        elif isinstance(event, tunnel_role.StopRequested):
            await self._stop()
        elif isinstance(event, tunnel_role.WakeRequested):
            await self._handlers.on_wake()
        self._stream.drain()

    async def _start(self, start: Start) -> str | None:
        descriptor = self._stream.take_descriptor()
        if descriptor is None:
            return await self._handlers.on_start(start)
        is_running = False
        try:
            start = replace(start, file_descriptor=descriptor)  # its number here
            error = await self._handlers.on_start(start)
            is_running = error is None
        finally:
            if not is_running:
                os.close(descriptor)
        return error

    async def _stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        try:
            error = await self._handlers.on_stop()
        except Exception as fault:  # the manager shall know; it ends the stream all the same
            self._core.finish_stop(str(fault) or type(fault).__name__)
            raise
        self._core.finish_stop(error)


class ManagerHandlers(Protocol):
    """What a manager program does with what its tunnel says; all of it is untrusted."""

    async def on_settings(self, settings: pb.NetworkSettingsRequest) -> str | None:
        """Apply network settings; return None once applied, or the refusal."""
        ...

    def on_peers(self) -> None:
        """The known workspaces or agents changed."""
        ...

    def on_log(self, record: LogRecord) -> None:
        """The tunnel logged a line."""
        ...


class Manager(_Shell):
    """A manager's end of the stream; make it inside a running loop, then `await run()`."""

    def __init__(
        self,
        read_fd: int,
        write_fd: int,
        handlers: ManagerHandlers,
        *,
        dialect: Dialect = Dialect.SEED,
        versions: Sequence[Version] = SUPPORTED_VERSIONS,
        silence_timeout: float = HANDSHAKE_TIMEOUT,
    ) -> None:
        """Take over both descriptors and write our header.

        `silence_timeout`: seconds until the tunnel's first byte; more than the handshake's 5 belong
        there if its process was only just started. From that byte on a handshake has its 5.
        """
        super().__init__()
        self._handlers = handlers
        self._settings: asyncio.Queue[manager_role.SettingsRequested] = asyncio.Queue()
        self._core = manager_role.ManagerCore(
            now=asyncio.get_running_loop().time(),
            dialect=dialect,
            versions=versions,
            silence_timeout=silence_timeout,
        )
        self._speaker = self._core.speaker
        self._stream = ByteStream(read_fd, write_fd, self._core, self._on_change)
        self._stream.drain()

    @property
    def workspaces(self) -> list[pb.Workspace]:
        """Return the workspaces as last told."""
        return list(self._core.workspaces.values())

    @property
    def agents(self) -> list[pb.Agent]:
        """Return the agents as last told."""
        return list(self._core.agents.values())

    @property
    def agents_with_age(self) -> list[tuple[pb.Agent, float]]:
        """Return the agents, each with the seconds since the tunnel last told of it."""
        now, told_at = self._stream.now, self._core.told_at
        return [(agent, now - told_at[key]) for key, agent in self._core.agents.items()]

    async def run(self) -> str | None:
        """Serve the tunnel, its settings one after the other, until the stream ends."""
        try:
            async with asyncio.TaskGroup() as tasks:
                worker = tasks.create_task(self._apply_settings())
                error = await self.wait_closed()
                worker.cancel()
            return error
        finally:
            self.close()

    async def start(
        self, start: Start, *, wait_s: float = REQUEST_TIMEOUT, pass_descriptor: bool = False
    ) -> None:
        """Start the tunnel; with `pass_descriptor` a copy of the TUN's descriptor goes along.

        Without, the number in `start` is the tunnel's own: it inherited the descriptor. `wait_s`
        begins with the handshake, which has limits of its own.

        Raises:
            SystemFailure: it didn't; the text is the tunnel's.
            UsageError: the stream is no Unix socket and can't pass a descriptor.
        """
        await self._is_opened.wait()
        if pass_descriptor and not self.is_closed:
            self._stream.send_descriptor(start.file_descriptor)
        await self._expect(self._core.start(start, now=self._stream.now, timeout=wait_s))

    async def stop(self, *, wait_s: float = REQUEST_TIMEOUT) -> None:
        """Stop the tunnel.

        Raises:
            SystemFailure: it didn't answer, or failed.
        """
        await self._expect(self._core.stop(now=self._stream.now, timeout=wait_s))

    async def wake(self, *, wait_s: float = REQUEST_TIMEOUT) -> None:
        """Tell the tunnel that the machine woke up or changed networks.

        Raises:
            SystemFailure: its version doesn't know that, or it failed.
        """
        await self._expect(self._core.wake(now=self._stream.now, timeout=wait_s))

    async def get_peers(self, *, wait_s: float = REQUEST_TIMEOUT) -> None:
        """Fetch the full set into `workspaces` and `agents`.

        Raises:
            SystemFailure: no answer.
        """
        await self._expect(self._core.get_peers(now=self._stream.now, timeout=wait_s))

    async def _expect(self, request: int) -> None:
        error = await self._answer(request)
        if error is not None:
            raise SystemFailure(error)

    async def _apply_settings(self) -> None:
        while True:
            event = await self._settings.get()
            error = await self._handlers.on_settings(event.settings)
            self._core.finish_settings(event.request, error)
            self._stream.drain()

    def _on_change(self) -> None:
        while (event := self._core.poll_event()) is not None:
            if isinstance(event, Negotiated):
                self._on_negotiated(event)
            elif isinstance(event, StreamClosed):
                self._on_closed(event)
            elif isinstance(event, manager_role.Answered):
                self._resolve(event.request, event.error)
            elif isinstance(event, manager_role.SettingsRequested):
                if self._settings.qsize() >= MAX_WAITING_SETTINGS:
                    self._core.finish_settings(event.request, "network_settings: too many at once")
                else:
                    self._settings.put_nowait(event)
            elif isinstance(event, manager_role.LogReceived):
                self._handlers.on_log(event.record)
            else:
                self._handlers.on_peers()
