"""The manager's socket: one JSON object a line, fixed keys per verb, one request a connection.

Only uid 0 may ask, and no process that the manager itself started (the tunnel, the signer, what
they start): they are refused before a byte is read.

Source: DESIGN, "Processes" (manager.sock).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ginnel.base.errors import GinnelError, SystemFailure, UsageError
from ginnel.daemon.supervise import is_descendant

MAX_REQUEST = 4096  # bytes of a line
MAX_CONNECTIONS = 8  # at once; more are closed unanswered
READ_TIMEOUT = 5.0  # seconds for the whole line
FINISH_TIMEOUT = 1.0  # seconds for open connections at the end
BACKLOG = 16  # connections that wait for accept

Json: TypeAlias = dict[str, Any]
Handler: TypeAlias = Callable[[str, Json], Awaitable[Json]]

VERBS: Mapping[str, Mapping[str, type]] = {  # the keys of each verb; null stands for "not given"
    "status": {},
    "down": {},
    "wake": {},
    "approve": {"name": str, "code": str, "relay": bool},
    "invite": {"expires_s": int, "auto": bool},
    "pending": {},
}

log = logging.getLogger(__name__)


def parse_request(line: bytes) -> tuple[str, Json]:
    """Return the verb and its keys.

    Raises:
        UsageError: not a JSON object of a known verb with its keys only.
    """
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError("the request is no JSON") from None
    if not isinstance(request, dict):
        raise UsageError("the request is no JSON object")
    verb = request.pop("verb", None)
    if not isinstance(verb, str) or verb not in VERBS:
        raise UsageError(f"unknown verb; there are {', '.join(VERBS)}")
    for key, value in request.items():
        kind = VERBS[verb].get(key)
        if kind is None:
            raise UsageError(f"{verb} takes no key {key[:40]!r}")
        if value is not None and type(value) is not kind:
            raise UsageError(f"{verb}: {key} is not of type {kind.__name__}")
    return verb, request


def why_refused(connection: socket.socket, manager_pid: int) -> str | None:
    """Say why the process at the other end may not ask, or None if it may."""
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _ = struct.unpack("3i", credentials)
    if uid != 0:
        return f"uid {uid} is not root"
    if is_descendant(pid, manager_pid):
        return f"process {pid} was started by the manager"
    return None


class AdminSocket:
    """Listens on a path and answers through `handler`; serve with `run`."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path = path
        self._handler = handler
        self._listener = listen_unix(path, mode=0o600)
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            while True:
                connection, _ = await loop.sock_accept(self._listener)
                reason = why_refused(connection, os.getpid())
                if reason is None and self._open < MAX_CONNECTIONS:
                    self._open += 1
                    self._idle.clear()
                    tasks.create_task(self._serve(connection))
                    continue
                log.warning("manager.sock: refused: %s", reason or "too many connections")
                connection.close()

    async def finish(self) -> None:
        """Wait a moment for answers that are on their way."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_TIMEOUT):
                await self._idle.wait()

    def close(self) -> None:
        """Stop listening and remove the socket's file."""
        self._listener.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                line = await self._read_line(connection)
            answer = await self._answer(line)
            async with asyncio.timeout(READ_TIMEOUT):
                await loop.sock_sendall(connection, json.dumps(answer).encode() + b"\n")
        except (OSError, TimeoutError) as error:
            log.debug("manager.sock: %s", error)
        finally:
            connection.close()
            self._open -= 1
            if self._open == 0:
                self._idle.set()

    async def _read_line(self, connection: socket.socket) -> bytes:
        loop = asyncio.get_running_loop()
        data = b""
        while b"\n" not in data and len(data) <= MAX_REQUEST:
            more = await loop.sock_recv(connection, MAX_REQUEST + 1)
            if not more:
                break
            data += more
        return data

    async def _answer(self, data: bytes) -> Json:
        line, newline, rest = data.partition(b"\n")
        try:
            if not newline or len(line) > MAX_REQUEST or rest:
                raise UsageError(f"one line of at most {MAX_REQUEST} bytes is expected")
            verb, keys = parse_request(line)
            return await self._handler(verb, keys)
        except GinnelError as error:
            return {"error": str(error)}


def is_listening(path: Path) -> bool:
    """Say whether somebody listens on a Unix socket; a stale file is nobody."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asker:
        return asker.connect_ex(str(path)) in (0, errno.EAGAIN)  # EAGAIN: too many wait there


def listen_unix(path: Path, *, mode: int) -> socket.socket:
    """Return a non-blocking listener on a fresh Unix socket; a stale file is replaced.

    Raises:
        SystemFailure: the path can't be bound.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SystemFailure(f"can't listen on {path}: {error.strerror or error}") from None
    finally:
        os.umask(mask)
    return listener
