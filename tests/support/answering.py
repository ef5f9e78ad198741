"""A program's end of a Unix socket, in a thread: it speaks on one connection after the other."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Talk = Callable[[socket.socket], None]


@contextmanager
def serving(path: Path, *talks: Talk) -> Iterator[None]:
    """Accept a connection for each talk, one after the other; wait for all of them."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def run() -> None:
            for talk in talks:
                connection, _ = listener.accept()
                with connection:
                    talk(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            thread.join()


def answer(raw: bytes) -> Talk:
    """Return a talk: one request is read and answered with these bytes."""

    def talk(connection: socket.socket) -> None:
        request = connection.recv(65_536)
        while request.startswith(b"POST") and not request.endswith(b"}"):
            request += connection.recv(65_536)  # headers and body may come apart
        connection.sendall(raw)

    return talk


def answer_line(said: dict[str, Any]) -> Talk:
    """Return a talk: a manager says this."""
    return answer(json.dumps(said).encode() + b"\n")


def answer_http(said: dict[str, Any]) -> Talk:
    """Return a talk: a tunnel says this."""
    body = json.dumps(said).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n"
    return answer(head.encode() + body)
