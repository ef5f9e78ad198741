"""Every secret of a run at DEBUG, searched for wherever a machine keeps texts of it.

node1           public, no member
anna            the admin; her records go to a journal, `up --debug`
<a canary>      the member, whose name is to be found; its records go to a file, GINNEL_DEBUG

In each place a canary is planted, which the same search must find: it would find nothing if it
looked at nothing.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

from ginnel.lab import Lab, LabTopology, Machine, PublicMachine, tun_problem
from ginnel.lab.demo import ping
from ginnel.lab.scenario import Scenario
from support import keeper, witness
from support.needles import Haystack, Needle, search

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(tun_problem()), reason=f"a whole run needs a TUN: {tun_problem()}"),
]

NETWORK = "secretive"
LIMIT_S = 60.0
SHORTEST = 8  # bytes; a shorter value shows by chance
CANARIES = {  # a place: what is planted there, in which form
    "log": keeper.CANARY.hex(),
    "journal": keeper.CANARY.hex(),
    "status": bytes.fromhex("c0ffeec0ffee").hex(),
    "argv": base64.urlsafe_b64encode(b"\xfb\xff\xfearguments").decode(),
    "environ": base64.b64encode(b"\xfb\xff\xfeenvironment").decode(),
    "/proc": base64.b64encode(b"/proc is looked at").decode(),
    "files": "a file of the tunnel's own",
}
ADMIN, MEMBER = "anna", CANARIES["status"]
TURN_PASSWORD = "correct-horse-battery"
SETTINGS = f"/etc/ginnel/{NETWORK}/settings.toml"
JOURNAL = """
import os, socket, sys
os.makedirs("/run/systemd/journal")
opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
opened.bind("/run/systemd/journal/socket")
print("ready", flush=True)
with open(sys.argv[1], "ab", buffering=0) as output:
    while True:
        output.write(opened.recv(1 << 20) + b"\\n")
"""
TELL = """
import json, sys
from ginnel.cli.client import ask_manager, ask_tunnel
from ginnel.daemon.paths import NetworkPaths
paths = NetworkPaths(sys.argv[1])
print(json.dumps([
    ask_manager(paths.manager_socket, "status"),
    ask_tunnel(paths.tunnel_socket, "GET", "/v1/status"),
    ask_tunnel(paths.tunnel_socket, "GET", "/v1/netcheck"),
    ask_tunnel(paths.tunnel_socket, "GET", "/v1/events"),
]))
"""
FIND = "find /run /etc/ginnel /var/lib/ginnel* -type f; ls -d /proc/[0-9]*/[ce][mn][dv]*"
PROC = "for f in /proc/[0-9]*; do cat $f/cmdline $f/environ; echo; done 2>/dev/null | base64 -w0"


@dataclass(frozen=True)
class Run:
    """What was kept secret, and the texts of each place."""

    needles: list[Needle]
    places: dict[str, Haystack]
    files: list[bytes]  # that a tunnel could read: path, line end, content


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "hook").mkdir()
    keeper.make_folders(folder / "kept")
    names = ("node1", ADMIN, MEMBER)
    hooked = witness.environment(folder / "hook", "keeper", folder / "kept")
    with (
        Lab.create(LabTopology(public=tuple(map(PublicMachine, names)))) as lab,
        patch.dict(os.environ, hooked),
    ):
        scenario = Scenario(lab, lambda *_: None, NETWORK)
        with journal(lab.machine(ADMIN), folder / "journal"):
            told, texts = play(scenario, folder)
    kept = keeper.read(folder / "kept", "secrets")
    files = keeper.read(folder / "kept", "files")
    places = texts | {
        "journal": [(folder / "journal").read_bytes()],
        "argv": keeper.read(folder / "kept", "argv"),
        "environ": keeper.read(folder / "kept", "environ"),
        "files": files,
    }
    values = dict.fromkeys(value for value in (*told, *kept) if len(value) >= SHORTEST)
    return Run(
        [Needle(f"secret {number}", (value,)) for number, value in enumerate(values)],
        {name: Haystack.of_texts(name, found) for name, found in places.items()},
        files,
    )


@contextmanager
def journal(machine: Machine, path: Path) -> Iterator[None]:
    """Receive a machine's records as systemd's journal would."""
    process = machine.popen([sys.executable, "-c", JOURNAL, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def play(scenario: Scenario, folder: Path) -> tuple[list[bytes], dict[str, list[bytes]]]:
    """Do what users do; return the secrets that were told to them, and the texts found."""
    admin, member = scenario.machine(ADMIN), scenario.machine(MEMBER)
    scenario.start_node("node1")
    try:
        options = ("--name", ADMIN, *scenario.hints(), "--json")
        made = scenario.ginnel(ADMIN, "init", NETWORK, *options)
        entry = f'turn = ["turn:{admin.address}:9 user {TURN_PASSWORD}"]'
        admin.run(["sed", "-i", f"s|^turn = .*|{entry}|", SETTINGS])
        assert TURN_PASSWORD in admin.run(["cat", SETTINGS]).stdout
        admin.run(["ginnel", "up", NETWORK, "--no-wait", "--debug"])
        with patch.dict(os.environ, {"GINNEL_DEBUG": "1"}):
            invite = scenario.join(ADMIN, MEMBER)

        def is_connected() -> bool:
            return (scenario.peer(ADMIN, MEMBER) or {}).get("status") == "connected"

        assert scenario.wait_until(is_connected, LIMIT_S), scenario.status(ADMIN)
        assert ping(member, scenario.status(ADMIN)["self"]["addresses"][0]) is not None
        told = [made["recovery_phrase"].encode(), TURN_PASSWORD.encode(), invite.encode()]
        with planted(member):
            assert scenario.wait_until(lambda: has_looked(scenario, folder), LIMIT_S)
            return told, texts_of(scenario)
    finally:
        scenario.stop_nodes()


@contextmanager
def planted(machine: Machine) -> Iterator[None]:
    """Put canaries among arguments, variables and the tunnel's files."""
    given = os.environ | {"GINNEL_CANARY": CANARIES["environ"]}
    machine.run(["ginnel", "ping", CANARIES["argv"]], env=given, check=False)
    idle = machine.popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()", CANARIES["/proc"]],
        stdin=subprocess.PIPE,
    )
    path = f"/var/lib/ginnel/{NETWORK}/canary"
    machine.run(["sh", "-c", f"umask 0; cat > {path}"], text=CANARIES["files"])
    try:
        yield
    finally:
        idle.communicate("")


def has_looked(scenario: Scenario, folder: Path) -> bool:
    """Let both tunnels look around once more; say whether both were seen to have."""
    files = []
    for name in (ADMIN, MEMBER):
        machine = scenario.machine(name)
        files += machine.run(["sh", "-c", FIND], check=False).stdout.splitlines()
    (folder / "kept" / keeper.CANDIDATES).write_text("\n".join(dict.fromkeys(files)))
    for name in (ADMIN, MEMBER):
        pid = json.loads(tell(scenario.machine(name)))[0]["tunnel"]["pid"]
        scenario.machine(name).run(["kill", "-USR1", str(pid)])
    texts = ((folder / "journal").read_bytes(), log_of(scenario.machine(MEMBER)))
    seen = keeper.read(folder / "kept", "files")
    return all(keeper.LOG_TEXT.encode() in text for text in texts) and any(
        CANARIES["files"].encode() in text for text in seen
    )


def tell(machine: Machine) -> str:
    return machine.run([sys.executable, "-c", TELL, NETWORK]).stdout


def log_of(machine: Machine) -> bytes:
    return machine.run(["cat", f"/run/ginnel/{NETWORK}/manager.log"]).stdout.encode()


def texts_of(scenario: Scenario) -> dict[str, list[bytes]]:
    machines = [scenario.machine(name) for name in (ADMIN, MEMBER)]
    looks = [machine.run(["sh", "-c", PROC]).stdout for machine in machines]
    return {
        "log": [log_of(machine) for machine in machines],
        "status": [
            text.encode()
            for machine in machines
            for text in (tell(machine), machine.run(["ginnel", "status"]).stdout)
        ],
        "/proc": [base64.b64decode(text) for text in looks],
    }


def test_the_run_had_secrets_and_its_logs_are_at_debug(run: Run) -> None:
    kept = [needle.values[0] for needle in run.needles]
    assert len(kept) > 50
    assert any(value.startswith(b"ginnel1:") for value in kept)  # the keys' bundle
    for process in (b"manager", b"tunnel", b"signer"):
        assert b"GINNEL_PROCESS=%s\n" % process in run.places["journal"].everything
    # The seed's dialect has no name for DEBUG.
    assert b"unspecified tunnel: ginnel.canary" in run.places["log"].everything


@pytest.mark.parametrize("place", CANARIES)
def test_the_canary_of_each_place_is_found(run: Run, place: str) -> None:
    canary = CANARIES[place].encode()
    assert search([run.places[place]], [Needle("canary", (canary,))])
    if place in ("log", "journal"):
        assert search([run.places[place]], [Needle("canary", (keeper.CANARY,))])


@pytest.mark.parametrize("place", [place for place in CANARIES if place != "files"])
def test_no_secret_is_in(run: Run, place: str) -> None:
    assert search([run.places[place]], run.needles) == {}


def test_a_tunnel_can_read_no_secret_but_its_networks_epoch(run: Run) -> None:
    """The epoch's secret is the tunnel's to keep: members give it, and it says where they are."""
    texts = [text.partition(b"\n") for text in run.files]
    paths = {path.decode() for path, _, _ in texts}
    assert all(path.startswith(f"/var/lib/ginnel/{NETWORK}/") for path in paths), paths
    found = search(
        [Haystack.of_texts(path.decode(), [data]) for path, _, data in texts], run.needles
    )
    assert {place.partition(":")[0] for places in found.values() for place in places} == {
        f"/var/lib/ginnel/{NETWORK}/trust"
    }
    assert len(found) == 1
