"""Answers `wg` and wg-quick on a Unix socket; what requests mean is in `engine/uapi.py`."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.daemon.unix_server import UnixServer
from ginnel.engine.relayed import RelayedEngine
from ginnel.engine.uapi import (
    MAX_LINE,
    MAX_REQUEST,
    Change,
    Configuration,
    Peer,
    UapiError,
    format_error,
    format_get,
    parse_set,
)

MAX_CONNECTIONS = 16  # at once; `wg` keeps none open
READ_TIMEOUT_S = 30.0  # seconds for one request

logger = logging.getLogger(__name__)


class UapiServer(UnixServer):
    """Serves a listener.

    Args:
        get: returns the answer to `get=1`.
        change: carries out a request, UapiError refuses it; None: nothing may be changed here.
    """

    def __init__(
        self, get: Callable[[], str], change: Callable[[Change], None] | None = None
    ) -> None:
        self._get = get
        self._change = change
        super().__init__(
            self._answer_all,
            name="configuration",
            max_connections=MAX_CONNECTIONS,
            line_limit=MAX_LINE,
        )

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while lines := await asyncio.wait_for(_read_request(reader), READ_TIMEOUT_S):
            writer.write(self._answer(lines).encode())
            await asyncio.wait_for(writer.drain(), READ_TIMEOUT_S)

    def _answer(self, lines: list[str]) -> str:
        try:
            match lines[0]:
                case "get=1":
                    return self._get()
                case "set=1":
                    if self._change is None:
                        raise UapiError("nothing may be changed here", errno.EPERM)
                    self._change(parse_set(lines[1:]))
                    return format_error(0)
                case _:
                    raise UapiError("neither get=1 nor set=1", errno.EPROTO)
        except UapiError as error:
            logger.info("a request was refused: %s", error)
            return format_error(error.number)
        except UsageError as error:
            logger.info("a request was refused: %s", error)
            return format_error(errno.EINVAL)
        except SystemFailure as error:
            logger.warning("a request failed: %s", error)
            return format_error(errno.EIO)


def describe_mesh(engine: RelayedEngine, port: int) -> str:
    """Return the answer to `get=1` for a network's device; keys stay where they are."""
    peers = {
        key: Peer(None, None, item.keepalive_s or 0, dict.fromkeys(item.allowed_ips))
        for key, item in engine.peers.items()
    }
    stats = {item.public_key: item for item in engine.peer_stats()}
    return format_get(Configuration(None, port, 0, peers), stats)


async def _read_request(reader: asyncio.StreamReader) -> list[str]:
    """Return the lines of one request, none at the end of the stream.

    Raises:
        ValueError: a line or the whole is too long, or not ASCII.
    """
    lines: list[str] = []
    size = 0
    while True:
        line = await reader.readline()
        size += len(line)
        if size > MAX_REQUEST:
            raise ValueError("a request is too long")
        if not line.endswith(b"\n"):
            return []
        if line != b"\n":
            lines.append(line[:-1].decode("ascii"))
        elif lines:
            return lines
