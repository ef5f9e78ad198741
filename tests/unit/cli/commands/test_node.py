"""`ginnel node` as a process: its record, its end, and what it refuses."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ginnel.daemon.hints import format_hint
from ginnel.discv5.enr import Enr
from support.console import ginnel

RUN = [sys.executable, "-m", "ginnel.cli.main", "node", "--json", "--advertise", "192.0.2.7"]
WAIT = 20.0  # seconds, at most


def free_port() -> int:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("::", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a folder that another uid can walk to."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder not in (Path("/"), Path("/tmp")):
            folder.chmod(0o711)
    return tmp_path / "state"


@contextmanager
def running(state: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    process = subprocess.Popen(
        [*RUN, "--state", str(state), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield process, json.loads(line)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_tells_its_record_and_ends_when_told(state: Path, number: signal.Signals) -> None:
    port = free_port()
    with running(state, "--port", str(port)) as (process, told):
        record = Enr.from_text(told["enr"])
        assert told["schema"] == 1
        assert str(record.address()) == f"192.0.2.7:{port}"
        assert told["hint"] == format_hint(record)
        process.send_signal(number)
        out, err = process.communicate(timeout=WAIT)
        assert (process.returncode, out, err) == (0, "", "")
    with running(state, "--port", str(port)) as (_, again):
        assert Enr.from_text(again["enr"]).public_key == record.public_key


def test_a_node_may_have_an_address_of_each_ip_version(state: Path) -> None:
    with running(state, "--port", str(free_port()), "--advertise", "[2001:db8::7]:9") as (_, told):
        record = Enr.from_text(told["enr"])
        assert [a is not None and a.ip for a in (record.address(), record.address(ipv6=True))] == [
            "192.0.2.7",
            "2001:db8::7",
        ]


def test_a_port_in_use_is_said_so(state: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        printed = ginnel(
            "node", "--advertise", "192.0.2.7", "--state", str(state), "--port", str(port)
        )
    assert printed.code == 1
    assert f"UDP port {port} is in use" in printed.err
    assert "--port" in printed.err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--advertise", "nonsense"], "nonsense"),
        (["--advertise", "192.0.2.1:99999"], "99999"),
        (["--advertise", "192.0.2.1:x"], "IP:PORT"),
        (["--advertise", "192.0.2.1", "--advertise", "192.0.2.2"], "one of IPv6"),
        (["--port", "0"], "--port"),
    ],
)
def test_wrong_arguments(state: Path, options: list[str], named: str) -> None:
    printed = ginnel("node", "--state", str(state), *options)
    assert printed.code == 2
    assert named in printed.err
