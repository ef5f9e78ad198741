"""Speaks with a network's two sockets: JSON lines with the manager, HTTP with the tunnel.

A socket that is missing or that nobody answers means `NotRunning`: the text says what to do. The
tunnel is not trusted: no string that is returned or raised holds anything that a terminal would
obey, and its answer's shape is checked where it is read (`making_sense`).
"""

from __future__ import annotations

import http.client
import json
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from ginnel.base.errors import GinnelError, RemoteProtocolError, SystemFailure

MANAGER_TIMEOUT = 30.0  # seconds; `down` waits for the tunnel to take everything back
TUNNEL_TIMEOUT = 20.0  # seconds; the longest answer is a ping of a peer that is still searched
MAX_ANSWER = 16 * 1024 * 1024  # bytes; a status of 4096 peers takes some
MAX_DEPTH = 16  # lists and objects in each other; a status has five

Json: TypeAlias = dict[str, Any]


class NotRunning(SystemFailure):
    """Nobody answers on the socket: Ginnel is not up for this network."""


class Refused(GinnelError):
    """The daemon understood and said no; the text is its reason."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = _connect(self._path, self.timeout or TUNNEL_TIMEOUT)


def ask_manager(
    path: Path, verb: str, timeout: float = MANAGER_TIMEOUT, **keys: str | int | bool | None
) -> Json:
    """Send one verb to the manager and return its answer's object.

    Raises:
        NotRunning: no manager there. Refused: it said no. SystemFailure: no answer in time.
    """
    with _connect(path, timeout) as connection:
        try:
            connection.sendall(json.dumps({"verb": verb, **keys}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline(MAX_ANSWER + 1)
        except TimeoutError:
            raise SystemFailure(f"the manager did not answer `{verb}` in {timeout:.0f} s") from None
        except OSError:
            line = b""
    if not line:
        raise Refused("the manager closed the connection: only root may ask it")
    return _checked(line)


def ask_tunnel(
    path: Path, method: str, target: str, body: Json | None = None, timeout: float = TUNNEL_TIMEOUT
) -> Json:
    """Send one request to the tunnel and return its answer's object. Raises: as `ask_manager`."""
    connection = _UnixConnection(path, timeout)
    try:
        connection.request(method, target, body=None if body is None else json.dumps(body))
        return _checked(connection.getresponse().read(MAX_ANSWER + 1))
    except TimeoutError:
        raise SystemFailure(f"the tunnel did not answer in {timeout:.0f} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise SystemFailure(f"the tunnel closed the connection: {_escaped(str(error))}") from None
    finally:
        connection.close()


@contextmanager
def making_sense() -> Iterator[None]:
    """Read the tunnel's answer inside: what is missing there or of another type is its fault.

    Raises:
        RemoteProtocolError: in place of what came of it.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError):
        raise RemoteProtocolError("the tunnel's answer makes no sense") from None


def _connect(path: Path, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    try:
        connection.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        raise NotRunning(
            f"not running: start it with `sudo ginnel up {path.parent.name}`"
        ) from None
    except PermissionError:
        connection.close()
        raise Refused(f"only root may use {path}: try again with sudo") from None
    except TimeoutError:
        connection.close()
        raise SystemFailure(f"nobody answers on {path}") from None
    return connection


def _checked(raw: bytes) -> Json:
    if len(raw) > MAX_ANSWER:
        raise RemoteProtocolError(f"the daemon's answer has more than {MAX_ANSWER} bytes")
    try:
        answer = _harmless(json.loads(raw, parse_constant=_refuse_constant))
    except (ValueError, RecursionError):
        raise RemoteProtocolError("the daemon's answer is no JSON") from None
    if not isinstance(answer, dict):
        raise RemoteProtocolError("the daemon's answer is no JSON object")
    if answer.get("error"):
        raise Refused(str(answer["error"]))
    return answer


def _harmless(value: object, depth: int = 0) -> object:
    """Return it with all strings escaped. Raises ValueError: too deep, or no number of JSON."""
    if depth > MAX_DEPTH or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("not what a daemon says")
    if isinstance(value, str):
        return _escaped(value)
    if isinstance(value, list):
        return [_harmless(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_escaped(key): _harmless(item, depth + 1) for key, item in value.items()}
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")  # Python would take it, and print it with --json


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    from ginnel.daemon.logs import escape_control  # slow to import, and hardly ever needed

    return escape_control(text, len(text))
