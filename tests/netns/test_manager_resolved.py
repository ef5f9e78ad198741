"""systemd-resolved itself, on a bus and in namespaces of its own: split names of one device.

test ── gn-test (TUN) ── our name server on 100.64.0.1:53
  ├ dbus-daemon   its own socket
  └ systemd-resolved (stub at 127.0.0.53)
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest

from ginnel.net.dns import DnsPlan, find_setter, reverse_zones
from ginnel.net.dns_resolved import Resolved
from ginnel.net.netlink import Netlink
from ginnel.net.tun import open_tun
from support.confined import CLONE_NEWNET, CLONE_NEWNS, in_child, unshare

RESOLVED = Path(os.environ.get("GINNEL_TEST_RESOLVED", "/lib/systemd/systemd-resolved"))
WAIT = 15.0  # seconds, at most
PLAN = DnsPlan(
    ("100.64.0.1",), match=("home.internal", *reverse_zones(ip_network("100.64.0.0/16")))
)
BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/>
<allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>
"""

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: resolved has a user of its own"),
    pytest.mark.skipif(not RESOLVED.exists(), reason="no systemd-resolved on this machine"),
    pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="no dbus-daemon here"),
]


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def enter(folder: Path) -> None:
    """Enter a room with an empty /run and a user for resolved."""
    unshare(CLONE_NEWNET | CLONE_NEWNS)
    mount("--make-rprivate", "/")
    for name, line in (
        ("passwd", "systemd-resolve:x:64188:64188::/:/bin/false\n"),
        ("group", "systemd-resolve:x:64188:\n"),
    ):
        text = Path("/etc", name).read_text()
        (folder / name).write_text(text if "systemd-resolve:" in text else text + line)
        mount("--bind", str(folder / name), f"/etc/{name}")
    (folder / "resolv.conf").write_text("")
    mount("--bind", str(folder / "resolv.conf"), os.path.realpath("/etc/resolv.conf"))
    mount("-t", "tmpfs", "none", "/run")
    Path("/run/systemd/resolved.conf.d").mkdir(parents=True)
    Path("/run/systemd/resolved.conf.d/test.conf").write_text("[Resolve]\nFallbackDNS=\n")
    Path("/run/dbus").mkdir()
    Path("/run/systemd/resolve").mkdir()
    shutil.chown("/run/systemd/resolve", "systemd-resolve", "systemd-resolve")
    with Netlink() as netlink:
        netlink.set_up("lo")


def wait_for(condition: object) -> None:
    assert callable(condition)
    for _ in range(int(WAIT * 20)):
        if condition():
            return
        select.select([], [], [], 0.05)
    raise AssertionError("it took too long")


def ask(name: str, kind: str = "A") -> dns.message.Message:
    return dns.query.udp(dns.message.make_query(name, kind), "127.0.0.53", timeout=WAIT)


def test_only_the_networks_names_are_asked_at_our_server(tmp_path: Path) -> None:
    def child() -> None:
        enter(tmp_path)
        (tmp_path / "bus.conf").write_text(BUS.format(path="/run/dbus/system_bus_socket"))
        os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = "unix:path=/run/dbus/system_bus_socket"
        bus = ["dbus-daemon", f"--config-file={tmp_path / 'bus.conf'}", "--nofork"]
        processes = [subprocess.Popen(bus)]
        try:
            wait_for(Path("/run/dbus/system_bus_socket").exists)
            assert Resolved.find("gn-test") is None
            processes.append(subprocess.Popen([str(RESOLVED)]))
            wait_for(lambda: Resolved.find("gn-test") is not None)
            check_names()
        finally:
            for process in reversed(processes):
                process.kill()
                process.wait()

    in_child(child)


def check_names() -> None:
    open_tun("gn-test")
    with Netlink() as netlink:
        netlink.set_up("gn-test")
        netlink.add_address("gn-test", "100.64.0.1/32")
        netlink.add_route("gn-test", "100.64.0.0/16")
    setter = find_setter("gn-test")
    assert setter.name == "systemd-resolved"
    assert not setter.needs_forwarder
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        for _ in range(2):
            setter.apply(PLAN)
            assert ask("pi.home.internal").answer[0][0].to_text() == "100.64.0.2"
            pointers = ask("2.0.64.100.in-addr.arpa", "PTR").answer
            assert pointers[0][0].to_text() == "pi.home.internal."
            assert ask("9.0.64.100.in-addr.arpa", "PTR").rcode() == dns.rcode.NXDOMAIN
            assert ask("9.0.65.100.in-addr.arpa", "PTR").rcode() != dns.rcode.NOERROR
            assert ask("gone.home.internal").rcode() == dns.rcode.NXDOMAIN
            assert ask("example.org").rcode() != dns.rcode.NOERROR  # nobody to ask, and not us
        setter.take_back()
        setter.take_back()
        assert ask("pi.home.internal").rcode() != dns.rcode.NOERROR
        assert server.poll() is None
    finally:
        server.kill()
        text = server.communicate()[0]
    assert "example.org" not in text
    assert "9.0.65.100" not in text


SERVER = """
import socket
from ipaddress import ip_network
import dns.message
from ginnel.net.dns_answers import Zone, answer
zone = Zone("home.internal", {"pi.home.internal": ("100.64.0.2",)}, (ip_network("100.64.0.0/16"),))
opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
opened.bind(("100.64.0.1", 53))
print("ready", flush=True)
while True:
    query, source = opened.recvfrom(4096)
    print(dns.message.from_wire(query).question[0].name, flush=True)
    found = answer(query, zone)
    opened.sendto(found if isinstance(found, bytes) else found.refusal, source)
"""
