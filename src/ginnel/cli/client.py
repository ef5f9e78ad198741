"""Speaks with a network's two sockets: JSON lines with the manager, HTTP with the tunnel.

A socket that is missing or that nobody answers means `NotRunning`: the text says what to do.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any, TypeAlias

from ginnel.base.errors import GinnelError, RemoteProtocolError, SystemFailure

MANAGER_TIMEOUT = 30.0  # seconds; `down` waits for the tunnel to take everything back
TUNNEL_TIMEOUT = 20.0  # seconds; the longest answer is a ping of a peer that is still searched
MAX_ANSWER = 16 * 1024 * 1024  # bytes; a status of 4096 peers takes some


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
        raise SystemFailure(f"the tunnel closed the connection: {error}") from None
    finally:
        connection.close()


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
        answer = json.loads(raw)
    except ValueError:
        raise RemoteProtocolError("the daemon's answer is no JSON") from None
    if not isinstance(answer, dict):
        raise RemoteProtocolError("the daemon's answer is no JSON object")
    if answer.get("error"):
        raise Refused(str(answer["error"]))
    return answer
