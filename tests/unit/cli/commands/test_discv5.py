"""`ginnel discv5 ...`, as a user runs it, over loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ginnel.cli.main import main
from ginnel.discv5.enr import Enr, sign_enr

COMMAND = [sys.executable, "-m", "ginnel.cli.main", "discv5"]
LIMIT = 60  # seconds until a command is given up


def discv5(*words: str, code: int = 0) -> str:
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == code, done.stderr
    return done.stdout or done.stderr


def told(*words: str, code: int = 0) -> str:
    """Return what a command says besides its output."""
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == code, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The ENR of a node that runs meanwhile: its first line."""
    key = tmp_path_factory.mktemp("node") / "key"
    words = ["listen", "--listen", "127.0.0.1", "--key-file", str(key), "--echo", "echo"]
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline().strip()
        yield first
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
    assert (key.stat().st_mode & 0o777) == 0o600
    assert key.with_name("key.enr").read_text().strip() == first


def test_listening_on_one_address_publishes_it(node: str) -> None:
    record = Enr.from_text(node)
    assert record.ip == "127.0.0.1"
    assert record.udp


def test_ping(node: str) -> None:
    assert "sees us at 127.0.0.1:" in discv5("ping", node, "--count", "2")
    facts = json.loads(discv5("ping", node, "--json"))
    assert facts["enr_seq"] == Enr.from_text(node).seq
    assert "--protocol-id other5" in discv5("ping", node, "--protocol-id", "other5", code=1)


def test_findnode_and_lookup(node: str) -> None:
    facts = json.loads(discv5("findnode", node, "0", "--json"))
    assert [item["enr"] for item in facts["nodes"]] == [node]
    assert node in discv5("lookup", "--bootnodes", node)
    assert node in discv5("lookup", "ab" * 32, "--bootnodes", f"{node},{node}")
    assert "--bootnodes" in discv5("lookup", code=2)


def test_talk(node: str) -> None:
    assert discv5("talk", node, "echo", "hello") == "hello\n"
    assert discv5("talk", node, "echo", "0x00ff") == "0x00ff\n"
    assert json.loads(discv5("talk", node, "other", "x", "--json"))["answer"] == ""
    assert "don't know" in told("talk", node, "other", "x")


def test_crawl(node: str, tmp_path: Path) -> None:
    output = tmp_path / "found"
    assert "1 found, 1 asked, 1 answered" in discv5(
        "crawl", "--bootnodes", node, "--output", str(output)
    )
    assert output.read_text() == f"answered {node}\n"
    facts = json.loads(discv5("crawl", "--bootnodes", node, "--json"))
    assert facts["nodes"] == [{"enr": node, "answered": True, "named": 0}]


def test_enr(tmp_path: Path) -> None:
    key = tmp_path / "key"
    words = ["--ip", "192.0.2.1", "--udp", "9000", "--set", "hi=0x0102", "--seq", "7"]
    made = json.loads(discv5("enr", "--key-file", str(key), *words, "--json"))
    assert made["fields"]["hi"] == "0x0102"
    assert (made["seq"], made["addresses"]) == (7, ["192.0.2.1:9000"])
    shown = discv5("enr", made["enr"])
    assert f"node id  {made['node_id']}" in shown
    assert discv5("enr", "--key-file", str(key), *words).startswith(made["enr"])
    assert "not a valid ENR" in discv5("enr", "enr:nonsense", code=2)
    os.truncate(key, 5)
    assert "no secp256k1 key" in discv5("enr", "--key-file", str(key), code=2)


def test_a_node_that_nobody_finds_says_so() -> None:
    with subprocess.Popen(
        [*COMMAND, "listen", "--listen", "0.0.0.0:0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert Enr.from_text(json.loads(process.stdout.readline())["enr"]).addresses == ()
        assert "--listen IP:PORT" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 0


def test_a_port_that_is_taken(node: str) -> None:
    address = str(Enr.from_text(node).address())
    assert "in use" in told("listen", "--listen", address, code=1)


def test_silence_is_a_failure() -> None:
    silent = json.loads(discv5("enr", "--ip", "127.0.0.1", "--udp", "9", "--json"))["enr"]
    assert "no node answered" in told("lookup", "--bootnodes", silent, "--json", code=1)


def test_a_crawl_that_is_interrupted_writes_what_it_found(node: str, tmp_path: Path) -> None:
    output = tmp_path / "found"
    silent = json.loads(discv5("enr", "--ip", "127.0.0.1", "--udp", "9", "--json"))["enr"]
    words = ["crawl", "--bootnodes", f"{node},{silent}", "--output", str(output)]
    with subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "2 found, 1 asked" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 130
    assert output.read_text().split()[1] in (node, silent)


def interrupt(words: list[str]) -> tuple[int, str]:
    """Run a command on a node that is silent, stop it when its first packet has come."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.settimeout(LIMIT)
        port = silent.getsockname()[1]
        record = sign_enr(b"\x05" * 32, 1, {"ip": bytes((127, 0, 0, 1)), "udp": port})
        line = [record.to_text() if word == "RECORD" else word for word in words]
        with subprocess.Popen([*COMMAND, *line], stderr=subprocess.PIPE, text=True) as process:
            try:
                assert silent.recv(2000)
            finally:
                process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=LIMIT)
            return process.returncode, said


@pytest.mark.parametrize(
    "line",
    ["ping RECORD", "findnode RECORD", "talk RECORD echo x", "lookup --bootnodes RECORD"],
)
def test_ctrl_c_ends_every_command_that_waits(line: str) -> None:
    for _ in range(5):  # on a very busy machine it may have given the node up before
        code, said = interrupt(line.split())
        if code != 1:
            break
    assert (code, said.strip()) == (130, "interrupted")


@pytest.mark.parametrize(
    ("line", "next_step"),
    [
        ("ping enr:x", "give the whole text"),
        ("ping", "--help"),
        ("ping enr:x --count 0", "--help"),
        ("ping RECORD", "no address to send to: give one that has"),
        ("findnode enr:x 257", "--help"),
        ("lookup", "--bootnodes enr:"),
        ("lookup ab --bootnodes RECORD", "64 hex digits: write those, or an ENR"),
        ("lookup zz --bootnodes RECORD", "write 0x and two digits a byte"),
        ("crawl", "--bootnodes enr:"),
        ("crawl --bootnodes RECORD --output /dev/null/x", "make its folder first"),
        ("listen --listen nowhere", "write IP:PORT"),
        ("listen --listen 192.0.2.1:70000", "a port is 0 to 65535"),
        ("listen --protocol-id eth", "write 6 characters"),
        ("listen --listen 192.0.2.77:9", "name a free address by --listen"),
        ("enr --ip x", "write one of IPv4 or IPv6"),
        ("enr --set x", "write KEY=VALUE"),
        ("enr --set k=0xz", "write 0x and two digits a byte"),
        ("enr --seq 18446744073709551616", "--help"),
        ("enr RECORD --ip 192.0.2.1", "leave it out to make one"),
        ("nonsense", "--help"),
    ],
)
def test_each_error_says_what_to_do_next(
    line: str, next_step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = sign_enr(b"\x05" * 32, 1, {}).to_text()
    with pytest.raises(SystemExit) as ended:
        main(["discv5", *line.replace("RECORD", record).split()])
    assert ended.value.code in (1, 2)
    told_all = capsys.readouterr()
    assert next_step in told_all.err
    assert told_all.out == ""
