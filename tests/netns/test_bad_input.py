"""Bad input at whole members: bytes at their ports, invites, keys, ports, devices, disks, clocks.

node1, node2   public, no members; node1 is attacked too
anna           the admin; port-restricted NAT
pia            a member with a public address, so strangers reach her port
stranger       public, no member
loner          public, the only member of a network of its own, which is down
dave           a member whose clock is a day ahead from the beginning
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from ginnel.cli.commands.node import PORT as NODE_PORT
from ginnel.lab import Home, LabTopology, PublicMachine
from ginnel.lab.scenario import Json
from support.mesh_lab import NODES, MeshLab, mesh_lab
from support.pcap import read_frames, udp_payload

pytestmark = pytest.mark.netns

TOPOLOGY = LabTopology(
    homes=(Home("anna"),),
    public=tuple(PublicMachine(name) for name in (*NODES, "pia", "stranger", "loner", "dave")),
)
ETC, STATE = "/etc/ginnel/solo", "/var/lib/ginnel/solo"  # of loner
ETHERNET = 14  # bytes before the IP header
GROWTH_KIB = 24 * 1024  # KiB that a flood may cost: caches and queues, all bounded
UNKNOWN_S = 8.0  # seconds in which nobody answers to an unknown invite
DAY_S = 86_400
CLOCK_S = 75.0  # seconds until loneliness is blamed on the clock: 35, on a busy machine more

_SEND = """
import socket, sys
lines = sys.stdin.read().split()
plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for line in lines:
    kind, ip, port, data = line.split(",")
    sender = plain if kind == "plain" else raw
    sender.sendto(bytes.fromhex(data), (ip, int(port)))
"""
_HOLD_PORT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", int(sys.argv[1])))
print("bound", flush=True)
sys.stdin.read()
"""
_SET_TIME = """
import sys, time
from dataclasses import replace
from pathlib import Path
from ginnel.storage.files import write_atomic
from ginnel.storage.trust import load_trust, save_trust
folder = Path(sys.argv[1])
uid = (folder / "trust").stat().st_uid
trust = load_trust(folder, owners=(0, uid))
save_trust(folder, replace(trust, confirmed_at=int(time.time() + float(sys.argv[2]))), uid=uid)
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshLab]:
    with mesh_lab(TOPOLOGY, ("anna", "pia", "dave")) as made:
        dave = made.machine("dave")
        dave.run(["ginnel", "down"])
        dave.run([sys.executable, "-c", _SET_TIME, "/var/lib/ginnel/demo", str(DAY_S)])
        dave.run(["ginnel", "up", "--no-wait"])
        made.wait_for_path("anna", "pia")
        made.machine("loner").run(["ginnel", "init", "solo", "--name", "lou"])
        yield made


@contextmanager
def down(mesh: MeshLab, name: str = "pia") -> Iterator[None]:
    """Take a member down; bring it up again in the end, connected."""
    machine = mesh.machine(name)
    machine.run(["ginnel", "down"])
    try:
        yield
    finally:
        machine.run(["ginnel", "down"])
        machine.run(["ginnel", "up", "--no-wait", "--reset-clock"])
        mesh.wait_for_path("anna", "pia")


def said(mesh: MeshLab, name: str, *argv: str, text: str | None = None) -> tuple[int, str]:
    """Run a command that may fail; return its code and what it said, which is no traceback."""
    result = mesh.machine(name).run(argv, check=False, text=text)
    output = result.stdout + result.stderr
    assert "Traceback" not in output, output
    return result.returncode, output


def script(mesh: MeshLab, name: str, code: str, *words: str) -> str:
    return mesh.machine(name).run([sys.executable, "-c", code, *words]).stdout


def rss_kib(mesh: MeshLab, pid: int | None) -> int:
    text = mesh.machine("pia").run(["cat", f"/proc/{pid}/status"]).stdout
    return int(text.split("VmRSS:")[1].split()[0])


def drops(status: Json) -> int:
    return sum(sum(counts.values()) for counts in status["drops"].values())


# --- bytes at a port ---------------------------------------------------------------------------


def hostile(chance: random.Random, seen: list[bytes]) -> Iterator[bytes]:
    """Yield random datagrams of every kind, and the seen ones cut, mutated and as they were."""
    heads = [b"", b"\1\0\0\0", b"\2\0\0\0", b"\3\0\0\0", b"\4\0\0\0", b"\x40\0\0\4"]
    heads += [b"\0\1\0\x08\x21\x12\xa4\x42", b"\1\1\0\x0c\x21\x12\xa4\x42", b"discv5"]
    for number in range(2000):
        yield heads[number % len(heads)] + chance.randbytes(chance.randrange(0, 1400))
    for data in seen:
        yield data[: chance.randrange(0, len(data))]
        place = chance.randrange(0, len(data))
        yield data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]
        yield data


def test_random_truncated_and_replayed_datagrams(mesh: MeshLab, tmp_path: Path) -> None:
    pia = mesh.machine("pia")
    mesh.lab.start_captures(tmp_path, ["pia"])
    mesh.machine("anna").run(["ginnel", "down"])
    mesh.machine("anna").run(["ginnel", "up", "--no-wait"])
    mesh.wait_for_path("anna", "pia")
    assert mesh.ping("anna", "pia") is not None
    mesh.lab.stop_captures()
    own = ip_address(pia.address).packed
    frames = list(read_frames(tmp_path / "pia.pcap"))
    packets = [f[ETHERNET:] for f in frames if f[ETHERNET + 16 : ETHERNET + 20] == own][:400]
    seen = [data for data in map(udp_payload, frames) if data][:400]
    assert len(seen) > 50
    before, pids = mesh.scenario.status("pia"), mesh.pids("pia")
    used = rss_kib(mesh, pids["tunnel"])

    chance = random.Random(7)
    lines = []
    for ip, port in ((pia.address, before["port"]), (mesh.machine("node1").address, NODE_PORT)):
        lines += [f"plain,{ip},{port},{data.hex()}" for data in hostile(chance, seen)]
    lines += [f"raw,{pia.address},0,{packet.hex()}" for packet in packets]  # as from the sender
    mesh.machine("stranger").run([sys.executable, "-c", _SEND], text="\n".join(lines))

    after = mesh.scenario.status("pia")
    assert drops(after) > drops(before) + 500, (before["drops"], after["drops"])
    assert mesh.pids("pia") == pids
    assert rss_kib(mesh, pids["tunnel"]) < used + GROWTH_KIB
    mesh.wait_for_path("anna", "pia")
    assert mesh.ping("pia", "anna") is not None
    path = mesh.path("pia", "anna")
    assert path is not None
    assert mesh.machine("stranger").address not in path["remote"]["address"]
    code, text = said(mesh, "pia", "ginnel", "netcheck")  # node1 is asked all along
    assert code == 0
    assert "gets out and back" in text


# --- invites -----------------------------------------------------------------------------------


def join(mesh: MeshLab, invite: str, *options: str) -> tuple[int, str]:
    return said(mesh, "stranger", "ginnel", "join", *options, "-", text=invite + "\n")


def test_a_damaged_invite_is_refused_at_once(mesh: MeshLab) -> None:
    good = mesh.invites["pia"]
    for bad in (good[:-4], good[:40] + ("a" if good[40] != "a" else "b") + good[41:], "ginnel:"):
        code, text = join(mesh, bad, "--name", "sam")
        assert code == 2
        assert "invite" in text
        assert len(text.splitlines()) == 1


def test_a_used_invite_says_so(mesh: MeshLab) -> None:
    code, text = join(mesh, mesh.invites["pia"], "--name", "sam")
    assert code == 1
    assert "used" in text.splitlines()[-1]
    assert said(mesh, "stranger", "ginnel", "status")[0] == 1  # nothing was stored


def test_an_invite_that_nobody_knows_gets_no_answer_that_counts(mesh: MeshLab) -> None:
    """An invite of another network with this one's nodes: its admin is nowhere."""
    machine = mesh.machine("node2")
    machine.run(["ginnel", "init", "elsewhere", "--name", "olga", *mesh.scenario.hints()])
    try:
        machine.run(["ginnel", "up", "--no-wait"])
        invite = mesh.scenario.ginnel("node2", "invite", "--json")["invite"]
        machine.run(["ginnel", "down"])
    finally:
        machine.run(["sh", "-c", "rm -rf /etc/ginnel/* /var/lib/ginnel/elsewhere*"])
    joining = mesh.machine("stranger").popen(
        ["ginnel", "join", "--json", "--name", "sam", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    timer = threading.Timer(UNKNOWN_S, joining.terminate)
    timer.start()
    stages, _ = joining.communicate(invite)
    timer.join()
    assert "searching" in stages
    assert '"waiting": true' not in stages
    assert mesh.scenario.ginnel("anna", "approve", "--json")["requests"] == []
    assert said(mesh, "stranger", "ginnel", "status")[0] == 1


# --- root's files ------------------------------------------------------------------------------


def up_fails(mesh: MeshLab, *options: str) -> str:
    """Return the one line with which `ginnel up` fails on loner."""
    code, text = said(mesh, "loner", "ginnel", "up", "--no-wait", *options)
    said(mesh, "loner", "ginnel", "down")
    assert code == 1, text
    assert len(text.splitlines()) == 1, text
    return text


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (f"truncate -s 100 {ETC}/cert.obj", "objects are damaged"),
        (f": > {ETC}/cert.obj", "objects are damaged"),
        (f"rm {ETC}/cert.obj", "cert.obj can't be read"),
        (f"cat /run/others.obj > {ETC}/cert.obj", "certificate is not accepted"),
        (f"truncate -s 100 {ETC}/network.obj", "objects are damaged"),
        (f"truncate -s 100 {ETC}/node.key", "node.key is damaged: restore it"),
    ],
    ids=["cut off", "empty", "missing", "somebody else's", "network", "key"],
)
def test_a_certificate_or_key_that_is_not_right(mesh: MeshLab, spoil: str, named: str) -> None:
    loner = mesh.machine("loner")
    anna = mesh.machine("anna").run(["base64", "/etc/ginnel/demo/cert.obj"]).stdout
    loner.run(["sh", "-c", f"base64 -d > /run/others.obj; cp -a {ETC} /run/kept"], text=anna)
    try:
        loner.run(["sh", "-c", spoil])
        assert named in up_fails(mesh)
    finally:
        loner.run(["sh", "-c", f"rm -r {ETC} && mv /run/kept {ETC}"])


@pytest.mark.parametrize(
    ("spoil", "mend", "named"),
    [
        (f"chmod 644 {ETC}/node.key", f"chmod 600 {ETC}/node.key", "chmod 600"),
        (f"chmod 755 {ETC}", f"chmod 700 {ETC}", "chmod 700"),
        (f"chmod 666 {ETC}/settings.toml", f"chmod 600 {ETC}/settings.toml", "chmod 600"),
        (f"chmod 644 {STATE}/trust", f"chmod 600 {STATE}/trust", "chmod 600"),
    ],
    ids=["key", "folder", "settings", "trust"],
)
def test_files_that_others_may_use(mesh: MeshLab, spoil: str, mend: str, named: str) -> None:
    loner = mesh.machine("loner")
    loner.run(["sh", "-c", spoil])
    try:
        assert named in up_fails(mesh)
    finally:
        loner.run(["sh", "-c", mend])


def test_an_admin_key_that_others_may_read_signs_nothing(mesh: MeshLab) -> None:
    """The machine stays a member; who wants an invite is told the remedy."""
    loner = mesh.machine("loner")
    loner.run(["chmod", "640", f"{ETC}/admin.key"])
    try:
        loner.run(["ginnel", "up", "--no-wait"])
        code, text = said(mesh, "loner", "ginnel", "invite")
        assert code == 1
        assert "chmod 600" in text
    finally:
        loner.run(["chmod", "600", f"{ETC}/admin.key"])
        loner.run(["ginnel", "down"])


# --- what the system lacks ---------------------------------------------------------------------


def test_a_port_in_use(mesh: MeshLab) -> None:
    holder = mesh.machine("loner").popen(
        [sys.executable, "-c", _HOLD_PORT, "45555"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "bound\n"
        text = up_fails(mesh, "--port", "45555")
        holder.stdin.close()
    assert "UDP port 45555 is in use" in text
    assert "--port" in text


def test_without_a_tun_the_remedy_is_named_and_ping_works_all_the_same(mesh: MeshLab) -> None:
    hidden = "mount -t tmpfs none /dev/net && "
    with down(mesh):
        alone = ["unshare", "-m", "sh", "-c"]
        code, text = said(mesh, "pia", *alone, hidden + "ginnel up --no-wait")
        assert code == 1
        assert "/dev/net/tun" in text
        assert "modprobe tun" in text
        code, text = said(mesh, "pia", *alone, hidden + "ginnel up --no-tun --no-wait")
        assert code == 0, text
        mesh.wait_for_path("anna", "pia")
        answer = mesh.scenario.ginnel("pia", "ping", "-c", "1", "--json", "anna")
        assert answer["received"] == 1
        answer = mesh.scenario.ginnel("anna", "ping", "-c", "1", "--json", "pia")
        assert answer["received"] == 1
        links = mesh.machine("pia").run(["ip", "-o", "link"]).stdout
        assert "gn-demo" not in links


@pytest.mark.parametrize("folder", ["/etc/ginnel", "/var/lib/ginnel"])
def test_a_full_disk_leaves_nothing_half_written(mesh: MeshLab, folder: str) -> None:
    """With each size too small `init` fails and leaves nothing; with room the same works."""
    steps = f"""
        rm -rf /etc/ginnel/.joining-*  # joins that got no answer may be made again
        mkdir -p {folder}
        mount -t tmpfs -o size=4k,mode=755 none {folder}
        for pages in 1 2 3 4 5 6 7 8 20; do
            mount -t tmpfs -o remount,size=$((pages * 4))k none {folder}
            if ginnel init solo --name sam >/run/out 2>&1; then
                echo "done with $pages"
                exit 0
            fi
            cat /run/out
            find {folder} /etc/ginnel /var/lib/ginnel -mindepth 1 | sed 's/^/LEFT /'
        done
    """
    try:
        code, text = said(mesh, "stranger", "unshare", "-m", "sh", "-c", steps)
    finally:
        mesh.machine("stranger").run(
            ["sh", "-c", "rm -rf /etc/ginnel/* /var/lib/ginnel/* && ls /etc/ginnel"]
        )
    lines = text.splitlines()
    assert code == 0
    assert lines[-1].startswith("done with ")
    assert len(lines) > 1
    assert all("no room on the disk: make some and try again" in line for line in lines[:-1]), text


# --- clocks ------------------------------------------------------------------------------------


def test_a_clock_beyond_the_certificate_is_said_by_up(mesh: MeshLab) -> None:
    script(mesh, "loner", _SET_TIME, STATE, str(400 * DAY_S))
    assert "Is the clock right?" in up_fails(mesh)
    assert said(mesh, "loner", "ginnel", "up", "--no-wait", "--reset-clock")[0] == 0
    mesh.machine("loner").run(["ginnel", "down"])


def test_a_clock_that_is_a_day_off_is_said_by_status_and_up(mesh: MeshLab) -> None:
    def is_told() -> bool:
        return any("clock" in text for text in mesh.scenario.status("dave")["warnings"])

    told = mesh.scenario.wait_until(is_told, CLOCK_S)
    assert told, json.dumps([mesh.scenario.status("dave"), mesh.events("dave")])
    code, text = said(mesh, "dave", "ginnel", "up", "--timeout", "1")
    assert code == 1
    assert "clock" in text
