"""The unit is one that systemd takes; install and remove leave nothing but what they say."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
from click.testing import CliRunner

from ginnel.cli.main import cli
from ginnel.daemon import service
from ginnel.daemon.paths import NetworkPaths
from support.confined import enter_namespaces, in_child

PATHS = NetworkPaths("home")
UIDS = {"tunnel": 64100, "signer": 64101}
NO_SYSTEMD = Path("/nonexistent")


@pytest.fixture(autouse=True)
def without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "SYSTEMD_RUNS", NO_SYSTEMD)


def test_installed_twice_and_removed_twice(tmp_path: Path) -> None:
    def child() -> None:
        if os.geteuid() != 0:
            enter_namespaces()  # whoever makes users has to be root
        install_and_remove(tmp_path)

    in_child(child)


def install_and_remove(tmp_path: Path) -> None:
    assert service.status(PATHS, root=tmp_path)["installed"] is False
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (etc / "group").write_text("root:x:0:\n")
    for _ in range(2):
        done = service.install(PATHS, UIDS, root=tmp_path)
    assert "users and groups: ginnel-64100, ginnel-64101" in done
    entry = "ginnel-64100:x:64100:64100:Ginnel tunnel of home:/:/usr/sbin/nologin\n"
    assert (etc / "passwd").read_text().count(entry) == 1
    assert "ginnel-64101:x:64101:\n" in (etc / "group").read_text()
    unit = etc / "systemd/system/ginnel-home.service"
    link = unit.parent / "multi-user.target.wants/ginnel-home.service"
    assert link.resolve() == unit
    assert unit.stat().st_mode & 0o777 == 0o644
    found = service.status(PATHS, root=tmp_path)
    assert (found["installed"], found["starts_at_boot"], found["state"]) == (True, True, None)
    for _ in range(2):
        assert service.remove(PATHS, root=tmp_path) == [f"removed {unit}"]
    assert [path.name for path in unit.parent.iterdir()] == ["multi-user.target.wants"]
    assert list(link.parent.iterdir()) == list((etc / "sysusers.d").iterdir()) == []
    assert "ginnel" not in (etc / "passwd").read_text() + (etc / "group").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / service.unit_name("home")
    unit.write_text(service.unit_text("home", [sys.executable, "-m", "ginnel.cli.main"]))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "ginnel-home" in line]
    assert said == []


def test_odd_paths_are_quoted() -> None:
    text = service.unit_text("home", ["/opt/my tools/100%/$x", "-m", "ginnel"])
    assert 'ExecStart="/opt/my tools/100%%/$$x" -m ginnel up home --foreground\n' in text


@pytest.mark.parametrize("is_abstract", [False, True])
def test_ready_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_abstract: bool) -> None:
    path = f"@ginnel-{tmp_path.name}-{id(tmp_path)}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{path[1:]}" if is_abstract else path)
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        service.notify("READY=1")
        assert listening.recv(100) == b"READY=1"
    service.notify("STOPPING=1")  # nobody listens any more
    monkeypatch.delenv("NOTIFY_SOCKET")
    service.notify("READY=1")


ROOT = Path(__file__).parents[3]


def test_the_containerfile_names_what_is_there_and_runs_what_the_unit_runs() -> None:
    """No container engine here: files, options, rights and the command are compared instead."""
    text = (ROOT / "Containerfile").read_text()
    steps = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    copied = [words[1:-1] for words in steps if words[0] == "COPY" and "--from" not in words[1]]
    for source in chain.from_iterable(copied):
        assert (ROOT / source).exists(), source
    for name in re.findall(r"-r (\S+)", text):
        assert "--hash=sha256" in (ROOT / name).read_text(), name
    assert re.search("^maturin==", (ROOT / "requirements/dev.txt").read_text(), re.MULTILINE)
    granted = re.search("--cap-add (\\S+)", text)
    assert granted is not None
    assert {f"CAP_{name}" for name in granted[1].split(",")} == set(service.CAPABILITIES.split())
    entry, command = (json.loads(" ".join(words[1:])) for words in steps[-2:])
    started = re.search("^ExecStart=(.*)$", service.unit_text("home", entry), re.MULTILINE)
    assert started is not None
    assert started[1].split() == [*entry, command[0], "home", *command[1:]]
    help_text = CliRunner().invoke(cli, [command[0], "--help"]).output
    assert all(option in help_text for option in (*command[1:], "--no-dns"))
    for package in ("python3", "nftables"):  # and no other tool is called by Ginnel
        assert package in text
