"""Serves a zone on sockets that the manager made; only this machine may ask.

Questions about other names are refused, or, where the system's resolver can't split names, sent to
the servers that it had before ours. Everything is bounded; nothing is cached (the system does).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ginnel.net.dns_answers import MAX_QUERY, Foreign, Zone, answer, failure

MAX_FORWARDED = 64  # questions on their way at once
FORWARD_TIMEOUT = 3.0  # seconds for one server
QUERIES_PER_WAKEUP = 64  # then other tasks get their turn

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Forwarded:
    query: bytes
    back: tuple[socket.socket, object]  # who asked
    servers: list[str]
    socket: socket.socket | None = None
    timer: asyncio.TimerHandle | None = None


class DnsServer:
    """A name server on the running loop; `close` ends it."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        zone: Callable[[], Zone],
        *,
        upstream: Callable[[], Sequence[str]] = tuple,
        port: int = 53,
    ) -> None:
        self.refused = 0  # questions from elsewhere
        self._loop = asyncio.get_running_loop()
        self._sockets = tuple(sockets)
        self._own = {opened.getsockname()[0] for opened in self._sockets}
        self._zone = zone
        self._upstream = upstream
        self._port = port  # of the servers that are asked
        self._forwarded: dict[int, _Forwarded] = {}
        for opened in self._sockets:
            opened.setblocking(False)
            self._loop.add_reader(opened.fileno(), self._on_query, opened)

    def close(self) -> None:
        """Close all sockets; open questions stay unanswered."""
        for key in list(self._forwarded):
            self._forget(key)
        for opened in self._sockets:
            self._loop.remove_reader(opened.fileno())
            opened.close()

    def _on_query(self, opened: socket.socket) -> None:
        for _ in range(QUERIES_PER_WAKEUP):
            try:
                query, source = opened.recvfrom(MAX_QUERY + 1)
            except OSError:  # nothing more, or an ICMP error of an earlier answer
                return
            if source[0] not in self._own:
                self.refused += 1
                continue
            found = answer(query, self._zone())
            if isinstance(found, bytes):
                self._send(opened, found, source)
            elif isinstance(found, Foreign):
                self._forward(query, (opened, source), found)

    def _forward(self, query: bytes, back: tuple[socket.socket, object], refusal: Foreign) -> None:
        servers = list(self._upstream())
        if not servers or len(self._forwarded) >= MAX_FORWARDED:
            self._send(back[0], refusal.refusal, back[1])
            return
        self._ask_next(_Forwarded(query, back, servers))

    def _ask_next(self, question: _Forwarded) -> None:
        while question.servers:
            server = question.servers.pop(0)
            family = socket.AF_INET6 if ":" in server else socket.AF_INET
            try:
                asking = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            except OSError:
                break
            try:  # connected: answers of others never arrive; the source port is drawn anew
                asking.connect((server, self._port))
                asking.send(question.query)
            except (OSError, ValueError):
                asking.close()
                continue
            key = asking.fileno()
            question.socket = asking
            question.timer = self._loop.call_later(FORWARD_TIMEOUT, self._on_late, key)
            self._forwarded[key] = question
            self._loop.add_reader(key, self._on_answer, key)
            return
        failed = failure(question.query)
        if failed is not None:
            self._send(question.back[0], failed, question.back[1])

    def _on_answer(self, key: int) -> None:
        question = self._forwarded[key]
        assert question.socket is not None
        try:
            data = question.socket.recv(65_535)
        except BlockingIOError:
            return
        except OSError:  # nobody listens there
            self._on_late(key)
            return
        if data[:2] == question.query[:2] and len(data) >= 12:
            self._forget(key)
            self._send(question.back[0], data, question.back[1])

    def _on_late(self, key: int) -> None:
        self._ask_next(self._forget(key))

    def _forget(self, key: int) -> _Forwarded:
        question = self._forwarded.pop(key)
        self._loop.remove_reader(key)
        assert question.socket is not None
        assert question.timer is not None
        question.timer.cancel()
        question.socket.close()
        return question

    @staticmethod
    def _send(opened: socket.socket, data: bytes, target: object) -> None:
        try:
            opened.sendto(data, target)  # type: ignore[call-overload]  # as recvfrom gave it
        except OSError as error:
            log.debug("dns: no answer sent: %s", os.strerror(error.errno or 0))
