"""The client against real sockets: each way in which a daemon can fail to answer."""

import json
import os
import socket
from pathlib import Path

import pytest

from ginnel.base.errors import RemoteProtocolError, SystemFailure
from ginnel.cli.client import (
    MAX_ANSWER,
    NotRunning,
    Refused,
    ask_manager,
    ask_tunnel,
    making_sense,
)
from support.answering import answer, serving
from support.confined import in_child
from support.console import NOBODY

SHORT = 0.05  # seconds


def silent(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


def http(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def test_a_verb_with_its_keys_is_one_json_line(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        seen.append(connection.recv(65_536))
        connection.sendall(b'{"invite": "ginnel:x"}\n')

    with serving(tmp_path / "s", serve):
        answer = ask_manager(tmp_path / "s", "invite", expires_s=60, auto=False)
    assert answer == {"invite": "ginnel:x"}
    assert json.loads(seen[0]) == {"verb": "invite", "expires_s": 60, "auto": False}
    assert seen[0].endswith(b"\n")


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b'{"error": "no such request"}\n', Refused),
        (b"", Refused),
        (b"nonsense\n", RemoteProtocolError),
        (b"[]\n", RemoteProtocolError),
        (b"\xff\xfe\n", RemoteProtocolError),
        (b'{"a": ' * 100_000 + b"\n", RemoteProtocolError),
        (b'{"a": %s}\n' % (b"[" * 20 + b"]" * 20), RemoteProtocolError),
        (b'{"a": NaN}\n', RemoteProtocolError),
        (b'{"a": 1e999}\n', RemoteProtocolError),
    ],
)
def test_bad_answers_of_the_manager(tmp_path: Path, raw: bytes, kind: type[Exception]) -> None:
    with serving(tmp_path / "s", answer(raw)), pytest.raises(kind):
        ask_manager(tmp_path / "s", "status")


def whole_answer(size: int) -> bytes:
    """Return an object of exactly this many bytes."""
    return b'{"peers": "%s"}' % (b"x" * (size - len(b'{"peers": ""}')))


def test_an_answer_of_16_mib_is_taken_and_a_larger_one_refused_by_its_size(tmp_path: Path) -> None:
    line = whole_answer(MAX_ANSWER - 1) + b"\n"
    with serving(tmp_path / "a", answer(line)):
        assert len(ask_manager(tmp_path / "a", "status")["peers"]) > MAX_ANSWER - 20
    with serving(tmp_path / "b", answer(http(whole_answer(MAX_ANSWER)))):
        assert len(ask_tunnel(tmp_path / "b", "GET", "/v1/status")["peers"]) > MAX_ANSWER - 20
    too_much = "more than 16777216 bytes"
    with (
        serving(tmp_path / "c", answer(b" " + line)),
        pytest.raises(RemoteProtocolError, match=too_much),
    ):
        ask_manager(tmp_path / "c", "status")
    with (
        serving(tmp_path / "d", answer(http(whole_answer(MAX_ANSWER + 1)))),
        pytest.raises(RemoteProtocolError, match=too_much),
    ):
        ask_tunnel(tmp_path / "d", "GET", "/v1/status")


def test_nobody_there_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    with pytest.raises(NotRunning, match="sudo ginnel up home"):
        ask_manager(folder / "manager.sock", "status")
    with socket.socket(socket.AF_UNIX) as left:  # of a daemon that was killed
        left.bind(str(folder / "tunnel.sock"))
    with pytest.raises(NotRunning, match="sudo ginnel up home"):
        ask_tunnel(folder / "tunnel.sock", "GET", "/v1/status")


def test_a_daemon_that_hangs_is_given_up(tmp_path: Path) -> None:
    with serving(tmp_path / "a", silent), pytest.raises(SystemFailure, match="did not answer"):
        ask_manager(tmp_path / "a", "down", timeout=SHORT)
    with serving(tmp_path / "b", silent), pytest.raises(SystemFailure, match="did not answer"):
        ask_tunnel(tmp_path / "b", "GET", "/v1/status", timeout=SHORT)


def test_a_socket_for_root_only_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()

    def child() -> str:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "manager.sock"))
            listener.listen()
            folder.chmod(0o000)
            if os.geteuid() == 0:
                os.setresuid(NOBODY, NOBODY, NOBODY)
            try:
                ask_manager(folder / "manager.sock", "status")
            except Refused as error:
                return str(error)
        return ""

    try:
        assert "try again with sudo" in in_child(child)
    finally:
        folder.chmod(0o700)


def test_the_tunnel_is_asked_by_http(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        request = b""
        while not request.endswith(b"}"):  # headers and body may come apart
            request += connection.recv(65_536)
        seen.append(request)
        connection.sendall(http(b'{"latency_s": 0.01}'))

    with serving(tmp_path / "s", serve):
        answer = ask_tunnel(tmp_path / "s", "POST", "/v1/ping", {"peer": "pi"})
    assert answer == {"latency_s": 0.01}
    assert seen[0].startswith(b"POST /v1/ping HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (http(b'{"error": "no member"}', "400 Bad Request"), Refused),
        (http(b"nonsense"), RemoteProtocolError),
        (b"no http at all\r\n\r\n", SystemFailure),
        (b"", SystemFailure),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{", RemoteProtocolError),
    ],
)
def test_bad_answers_of_the_tunnel(tmp_path: Path, raw: bytes, kind: type[Exception]) -> None:
    with serving(tmp_path / "s", answer(raw)), pytest.raises(kind):
        ask_tunnel(tmp_path / "s", "GET", "/v1/status")


EVIL = "\x1b]0;title\x07\x1b[2J\r\n\x7f\x9b\u202e\ud800"
SHOWN = "\\x1b]0;title\\x07\\x1b[2J\\x0d\\x0a\\x7f\\x9b\\u202e\\ud800"


def test_what_a_terminal_would_obey_is_escaped_wherever_it_stands(tmp_path: Path) -> None:
    said = {"a": [{EVIL: EVIL}, 1, None, True, 0.5], "name": "grün 日本"}
    with serving(tmp_path / "s", answer(http(json.dumps(said).encode()))):
        found = ask_tunnel(tmp_path / "s", "GET", "/v1/status")
    assert found == {"a": [{SHOWN: SHOWN}, 1, None, True, 0.5], "name": "grün 日本"}
    error = json.dumps({"error": EVIL}).encode()
    with serving(tmp_path / "e", answer(http(error))), pytest.raises(Refused) as refused:
        ask_tunnel(tmp_path / "e", "GET", "/v1/status")
    assert str(refused.value) == SHOWN
    with (
        serving(tmp_path / "h", answer(b"HTTP/1.1 \x1b[2J\r\n\r\n")),
        pytest.raises(SystemFailure) as failed,
    ):
        ask_tunnel(tmp_path / "h", "GET", "/v1/status")
    assert "\x1b" not in str(failed.value)


@pytest.mark.parametrize(
    "error", [KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError]
)
def test_what_is_missing_in_an_answer_is_the_tunnels_fault(error: type[Exception]) -> None:
    with (
        pytest.raises(RemoteProtocolError, match="the tunnel's answer makes no sense"),
        making_sense(),
    ):
        raise error
    with pytest.raises(NotRunning), making_sense():
        raise NotRunning
