"""Debian's systemd-resolved itself, on a bus and in namespaces of its own: names of one device.

test ── gn-test (TUN) ── our name server on 100.64.0.1:53, or a real manager whose tunnel we are
  ├ dbus-daemon   its own socket, with Debian's policy for resolved
  └ systemd-resolved (stub at 127.0.0.53), under its user, told of by resolvectl

`scripts/resolved` unpacks both where they are not installed.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest

from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.messages import make_settings
from ginnel.net.dns import DnsPlan, find_setter, reverse_zones
from ginnel.net.dns_resolved import Resolved
from ginnel.net.netlink import Netlink
from ginnel.net.tun import open_tun
from support.confined import CLONE_NEWNET, CLONE_NEWNS, in_child, unshare
from support.hostile_tunnel import OWN, OWN6
from support.machine_state import look
from support.raw_tunnel import manager

UNPACKED = Path(__file__).parents[2] / "target/resolved"
ROOT = UNPACKED if (UNPACKED / ".done").exists() else Path("/")
RESOLVED = ROOT / "lib/systemd/systemd-resolved"
POLICY = ROOT / "usr/share/dbus-1/system.d/org.freedesktop.resolve1.conf"
ENVIRONMENT = os.environ | {
    "LD_LIBRARY_PATH": ":".join(
        sorted({str(path.parent) for path in UNPACKED.glob("**/lib*.so*")})
    ),
    "PATH": f"{ROOT / 'usr/bin'}:{os.environ['PATH']}",
}
DBUS_DAEMON = shutil.which("dbus-daemon", path=ENVIRONMENT["PATH"])
USER = "systemd-resolve"
WAIT = 15.0  # seconds, at most
PLAN = DnsPlan(
    ("100.64.0.1",), match=("home.internal", *reverse_zones(ip_network("100.64.0.0/16")))
)
BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen>
<auth>EXTERNAL</auth><policy context="default"><allow user="*"/><deny own="*"/>
<deny send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true" send_type="method_return"/>
<allow send_requested_reply="true" send_type="error"/><allow receive_type="method_call"/>
<allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/>
<allow send_destination="org.freedesktop.DBus"/></policy><include>{policy}</include></busconfig>
"""

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: resolved has a user of its own"),
    pytest.mark.skipif(
        not RESOLVED.exists() or DBUS_DAEMON is None,
        reason="no systemd-resolved on this machine: scripts/resolved",
    ),
]


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def enter(folder: Path) -> None:
    """Enter a room with an empty /run and a user for resolved."""
    unshare(CLONE_NEWNET | CLONE_NEWNS)
    mount("--make-rprivate", "/")
    for name, line in (
        ("passwd", f"{USER}:x:64188:64188::/:/bin/false\n"),
        ("group", f"{USER}:x:64188:\n"),
    ):
        text = Path("/etc", name).read_text()
        (folder / name).write_text(text if f"{USER}:" in text else text + line)
        mount("--bind", str(folder / name), f"/etc/{name}")
    (folder / "resolv.conf").write_text("")
    mount("--bind", str(folder / "resolv.conf"), os.path.realpath("/etc/resolv.conf"))
    mount("-t", "tmpfs", "none", "/run")
    Path("/run/systemd/resolved.conf.d").mkdir(parents=True)
    Path("/run/systemd/resolved.conf.d/test.conf").write_text("[Resolve]\nFallbackDNS=\n")
    Path("/run/dbus").mkdir()
    Path("/run/systemd/resolve").mkdir()
    shutil.chown("/run/systemd/resolve", USER, USER)
    with Netlink() as netlink:
        netlink.set_up("lo")


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(int(WAIT * 20)):
        if condition():
            return
        select.select([], [], [], 0.05)
    raise AssertionError("it took too long")


def ask(name: str, kind: str = "A") -> dns.message.Message:
    return dns.query.udp(dns.message.make_query(name, kind), "127.0.0.53", timeout=WAIT)


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program of ours until the end."""
    process = subprocess.Popen(command, env=ENVIRONMENT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def bus(folder: Path) -> Iterator[None]:
    """Run a system bus with the policy that Debian has for resolved."""
    config = folder / "bus.conf"
    config.write_text(BUS.format(policy=POLICY))
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = "unix:path=/run/dbus/system_bus_socket"
    with running("dbus-daemon", f"--config-file={config}", "--nofork"):
        wait_for(Path("/run/dbus/system_bus_socket").exists)
        yield


@contextmanager
def resolved() -> Iterator[subprocess.Popen[bytes]]:
    with running(str(RESOLVED)) as process:
        wait_for(lambda: Resolved.find("gn-test") is not None)
        yield process


def in_room(folder: Path, body: Callable[[], None]) -> None:
    def child() -> None:
        enter(folder)
        os.environ["GINNEL_TEST_ROOT"] = str(folder)
        with bus(folder):
            body()

    in_child(child)


def told(what: str) -> list[str]:
    """Return what resolved says of our device: `dns`, `domain` or `default-route`."""
    done = subprocess.run(
        ["resolvectl", what, "gn-test"], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    return done.stdout.partition(":")[2].split()


def test_only_the_networks_names_are_asked_at_our_server(tmp_path: Path) -> None:
    def body() -> None:
        assert Resolved.find("gn-test") is None
        with resolved():
            check_names()

    in_room(tmp_path, body)


def settings(**names: object) -> pb.NetworkSettingsRequest:
    """Return settings with our addresses and these names."""
    request = make_settings([f"{OWN}/16", f"{OWN6}/48"], ["100.64.0.0/16"], mtu=1380)
    request.dns_settings.MergeFrom(
        pb.NetworkSettingsRequest.DNSSettings(servers=[OWN, OWN6], **names)
    )
    return request


def check_told(servers: list[str], domains: list[str]) -> None:
    assert told("dns") == servers
    assert told("domain") == domains
    assert told("default-route") == (["no"] if servers else told("default-route"))


def test_a_manager_tells_it_changes_it_and_takes_it_back(tmp_path: Path) -> None:
    first = settings(
        search_domains=["lab.home.internal"],
        match_domains=["home.internal", "64.100.in-addr.arpa"],
        match_domains_no_search=True,
    )
    second = settings(domain_name="home.internal", match_domains=["lab.home.internal"])
    bad = settings(match_domains=["home.internal", "example.org"], match_domains_no_search=True)

    def body() -> None:
        with resolved():
            outside = look()
            with manager(tmp_path) as (stream, _):
                stream.begin()
                assert stream.ask(first).success
                routed = ["lab.home.internal", "~home.internal", "~64.100.in-addr.arpa"]
                check_told([OWN, OWN6], routed)
                assert "dns_settings.match_domains: example.org" in stream.ask(bad).error_message
                check_told([OWN, OWN6], routed)
                assert stream.ask(second).success
                check_told([OWN, OWN6], ["home.internal", "lab.home.internal"])
                assert stream.ask(make_settings([f"{OWN}/16"], [], mtu=1380)).success
                check_told([], [])
                assert stream.ask(first).success
                check_told([OWN, OWN6], routed)
            assert look() == outside  # its /etc/resolv.conf too
            open_tun("gn-test")
            check_told([], [])

    in_room(tmp_path, body)


def test_a_killed_manager_leaves_resolved_nothing(tmp_path: Path) -> None:
    def body() -> None:
        with resolved():
            with manager(tmp_path) as (stream, _):
                stream.begin()
                assert stream.ask(settings(match_domains=["home.internal"])).success
                check_told([OWN, OWN6], ["home.internal"])
                os.kill(stream.pid, 9)
            open_tun("gn-test")
            check_told([], [])
            assert ask("pi.home.internal").rcode() != dns.rcode.NOERROR

    in_room(tmp_path, body)


def test_without_resolved_settings_are_refused_whole_and_it_may_start_again(
    tmp_path: Path,
) -> None:
    wanted = settings(match_domains=["home.internal"])

    def body() -> None:
        with resolved() as process, manager(tmp_path) as (stream, _):
            stream.begin()
            before = look()
            process.kill()
            process.wait()
            answer = stream.ask(wanted)
            assert answer.error_message.startswith("dns_settings: SetLinkDNS: ")
            assert look() == before
            with resolved() as process:
                assert stream.ask(wanted).success
                check_told([OWN, OWN6], ["home.internal"])
                process.terminate()
                process.wait()
            with resolved():  # as after an upgrade of it
                check_told([OWN, OWN6], ["home.internal"])

    in_room(tmp_path, body)


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
