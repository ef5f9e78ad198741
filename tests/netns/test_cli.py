"""The command line on real machines: one network, none, several; what it prints as JSON.

node1, node2   public, no members
anna           the admin; port-restricted NAT
ben            joins; port-restricted NAT
cleo           has no network at first, later two
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ginnel.lab import Home, LabTopology, PublicMachine
from ginnel.lab.scenario import Json
from support.mesh_lab import NODES, MeshLab, mesh_lab

pytestmark = pytest.mark.netns

TOPOLOGY = LabTopology(
    homes=(Home("anna"), Home("ben"), Home("cleo")),
    public=tuple(PublicMachine(name) for name in NODES),
)


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshLab]:
    with mesh_lab(TOPOLOGY, ("anna", "ben")) as made:
        made.wait_for_path("anna", "ben")
        yield made


def said(mesh: MeshLab, name: str, *words: str, text: str | None = None) -> tuple[int, str, str]:
    result = mesh.machine(name).run(["ginnel", *words], check=False, text=text)
    assert "Traceback" not in result.stderr
    return result.returncode, result.stdout, result.stderr


READS = [
    ("status",),
    ("netcheck",),
    ("approve",),
    ("ping", "-c", "1", "ben"),
    ("invite",),
    ("version",),
]


@pytest.mark.parametrize("words", READS, ids=lambda words: words[0])
def test_what_is_read_has_a_schema(mesh: MeshLab, words: tuple[str, ...]) -> None:
    code, out, err = said(mesh, "anna", *words, "--json")
    assert (code, err) == (0, "")
    answer: Json = json.loads(out)
    assert answer["schema"] == 1
    code, text, _ = said(mesh, "anna", *words)
    assert code == 0
    assert text.strip()
    assert "\x1b[" not in text  # no colour in a pipe


def test_a_ping_names_the_path(mesh: MeshLab) -> None:
    code, out, _ = said(mesh, "anna", "ping", "-c", "2", "-i", "0", "ben.demo.internal")
    assert code == 0
    assert "2 sent, 2 answered" in out
    assert "<->" in out
    code, out, err = said(mesh, "anna", "ping", "-c", "1", "nobody")
    assert (code, out) == (1, "")
    assert "there are ben" in err
    code, out, _ = said(mesh, "anna", "ping", "-c", "1", mesh.addresses["ben"][1])
    assert code == 0


@pytest.mark.parametrize("words", [("status",), ("up",), ("invite",), ("netcheck",), ("down",)])
def test_without_a_network_the_next_command_is_named(mesh: MeshLab, words: tuple[str, ...]) -> None:
    code, out, err = said(mesh, "cleo", *words)
    assert (code, out) == (1, "")
    assert "sudo ginnel init NAME" in err
    assert "sudo ginnel join" in err


def test_a_network_that_is_not_here(mesh: MeshLab) -> None:
    code, _, err = said(mesh, "anna", "status", "nonsense")
    assert code == 2
    assert "here are: demo" in err


def test_with_several_networks_the_name_is_asked_for(mesh: MeshLab) -> None:
    for name in ("attic", "barn"):
        assert said(mesh, "cleo", "init", name, "--json")[0] == 0
    try:
        code, _, err = said(mesh, "cleo", "status")
        assert code == 2
        assert "which network? attic, barn" in err
        code, _, err = said(mesh, "cleo", "status", "barn")
        assert code == 1
        assert "sudo ginnel up barn" in err
        code, out, _ = said(mesh, "cleo", "down", "barn")
        assert (code, out) == (0, "barn is not running\n")
        for name in ("attic", "barn"):  # both at once
            code, out, err = said(mesh, "cleo", "up", name)
            assert code == 0, err
            assert "No other member yet. Let one in with `sudo ginnel invite`." in out
        assert json.loads(said(mesh, "cleo", "status", "barn", "--json")[1])["network"] == "barn"
    finally:
        for name in ("attic", "barn"):
            said(mesh, "cleo", "down", name)
        mesh.machine("cleo").run(["sh", "-c", "rm -rf /etc/ginnel/* /run/ginnel/*"])


def test_only_the_admins_machine_invites_and_approves(mesh: MeshLab) -> None:
    for words in (("invite",), ("approve",), ("approve", "x", "--code", "AAAA-BBBB")):
        code, _, err = said(mesh, "ben", *words)
        assert code == 1
        assert "no admin key" in err


def test_a_code_that_is_another_approves_nobody(mesh: MeshLab) -> None:
    code, _, err = said(mesh, "anna", "approve", "nobody", "--code", "AAAA-BBBB")
    assert code == 2
    assert "waiting: nobody" in err
    code, out, _ = said(mesh, "anna", "approve")
    assert (code, out) == (0, "Nobody waits for approval.\n")


def test_an_invite_for_a_person_is_text_and_hints(mesh: MeshLab) -> None:
    code, out, err = said(mesh, "anna", "invite", "--expires", "30m", "--qr")
    assert code == 0
    assert out.splitlines()[0].startswith("ginnel")
    assert "█" in out
    assert "valid for 30m, once" in err
    assert said(mesh, "anna", "invite", "--expires", "soon")[0] == 2


def test_ctrl_c_while_waiting_ends_only_the_showing(mesh: MeshLab) -> None:
    """`up` waits for a peer on a machine whose peers are all off."""
    mesh.machine("ben").run(["ginnel", "down"])
    mesh.machine("anna").run(["ginnel", "down"])
    try:
        process = mesh.machine("anna").popen(
            ["ginnel", "up"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with process:
            assert process.stdout is not None
            assert "is up" in process.stdout.readline()
            process.stdout.readline()  # it waits
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "Traceback" not in err
        assert said(mesh, "anna", "status")[0] == 0
    finally:
        mesh.machine("ben").run(["ginnel", "up", "--no-wait"])
        said(mesh, "anna", "up", "--no-wait")
    code, out, _ = said(mesh, "ben", "up")  # shows until the first is connected
    assert code == 0
    assert "anna: connected, " in out


def test_an_ordinary_user_may_look_but_not_touch(mesh: MeshLab) -> None:
    """The tunnel's socket is for everybody; its answers hold no secret."""
    code, out, _ = said(mesh, "ben", "status", "--json")
    assert code == 0
    mode = mesh.machine("ben").run(["stat", "-c", "%a", "/run/ginnel/demo/tunnel.sock"]).stdout
    assert mode.strip() == "666"
    mode = mesh.machine("ben").run(["stat", "-c", "%a", "/run/ginnel/demo/manager.sock"]).stdout
    assert mode.strip() == "600"
    assert "key" not in json.loads(out)["self"]


def test_wg_sees_the_mesh_and_changes_nothing(mesh: MeshLab) -> None:
    """`wg show` asks the socket as done here; it gets peers and counters, no keys."""
    program = """
import socket, sys
for request in ("get=1", "set=1\\nreplace_peers=true"):
    with socket.socket(socket.AF_UNIX) as uapi:
        uapi.connect("/var/run/wireguard/gn-demo.sock")
        uapi.sendall(request.encode() + b"\\n\\n")
        print(uapi.recv(65536).decode())
"""
    answer = mesh.machine("anna").run([sys.executable, "-c", program]).stdout.splitlines()
    assert sum(line.startswith("public_key=") for line in answer) == 1
    assert f"allowed_ip={mesh.addresses['ben'][0]}/32" in answer
    assert any(line.startswith("endpoint=") for line in answer)
    assert not any(line.startswith("private_key=") for line in answer)
    assert [line for line in answer if "errno" in line] == ["errno=0", "errno=-1"]


def test_who_was_approved_while_join_was_gone_gets_in_by_the_same_command(mesh: MeshLab) -> None:
    invite = json.loads(said(mesh, "anna", "invite", "--json")[1])["invite"]
    process = mesh.machine("cleo").popen(
        ["ginnel", "join", "--json", "--name", "cleo", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(invite + "\n")
        process.stdin.close()
        code = next(found["code"] for found in map(json.loads, process.stdout) if found["waiting"])
        process.send_signal(signal.SIGINT)
        process.wait(20)  # before its output is closed
    assert process.returncode == 130
    assert said(mesh, "anna", "approve", "cleo", "--code", code)[0] == 0
    again, out, err = said(mesh, "cleo", "join", "--name", "cleo", "-", text=invite)
    assert again == 0, out + err
    assert "This machine is cleo.demo.internal" in out
    kept = mesh.machine("cleo").run(["ls", "-A", "/etc/ginnel"]).stdout.split()
    assert kept == ["demo"]


def test_under_a_careful_umask_ordinary_users_see_the_status(mesh: MeshLab) -> None:
    """As in our service, whose umask is 077."""
    cleo = mesh.machine("cleo")
    cleo.run(["sh", "-c", "rm -rf /run/ginnel /var/run/wireguard; umask 077; ginnel up --no-wait"])
    modes = cleo.run(["stat", "-c", "%a", "/run/ginnel", "/run/ginnel/demo"]).stdout.split()
    assert modes == ["755", "755"]
    assert said(mesh, "cleo", "down")[0] == 0
    assert cleo.run(["ls", "-A", "/run/ginnel"]).stdout == ""
