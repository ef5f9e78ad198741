"""Rules, filter and switches around a device, in a namespace of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.daemon.guard import TUNNEL_MARK, Guard
from ginnel.daemon.settings_check import Allowance
from ginnel.net.netlink import Netlink
from ginnel.net.tun import TunDevice, open_tun
from support.confined import can_enter_namespaces, enter_namespaces, in_child

DEVICE = "gn-test"
HARDWARE = "02:00:00:00:00:01"
PATIENCE_S = 10.0
GUARD = Guard(
    DEVICE, 64_191, Allowance.of(["100.64.0.0/16", "fd12::/48"], ["100.64.0.1", "fd12::1"])
)
pytestmark = pytest.mark.skipif(
    not (can_enter_namespaces() and os.access("/dev/net/tun", os.R_OK | os.W_OK)),
    reason="no user namespaces or no TUN here",
)


def in_room(body: Callable[[TunDevice], None]) -> None:
    def child() -> None:
        enter_namespaces()
        body(open_tun(DEVICE))

    in_child(child)


def look() -> tuple[object, ...]:
    with Netlink() as netlink:
        rules, excluded = netlink.rules(), netlink.excluded(table=GUARD.table)
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
    return rules, excluded, tables.stdout


def test_installed_twice_and_gone_without_a_trace() -> None:
    def body(_: TunDevice) -> None:
        before = look()
        old = ["nft", f"add table inet {DEVICE.replace('-', '_')}"]  # of an earlier Ginnel, killed
        subprocess.run(old, check=True)
        GUARD.install()
        first = look()
        assert first != before
        assert "inet" not in str(first)
        with Netlink() as netlink:
            netlink.exclude("100.64.9.0/24", table=GUARD.table)
        GUARD.install()  # as after a manager that was killed
        assert look() == first
        for name in ("accept_ra", "autoconf", "accept_redirects"):
            assert Path(f"/proc/sys/net/ipv6/conf/{DEVICE}/{name}").read_text() == "0\n"
        GUARD.clear_stale()
        GUARD.clear_stale()
        assert look() == before

    in_room(body)


def test_a_failure_leaves_nothing() -> None:
    def body(_: TunDevice) -> None:
        before = look()
        bad = Guard('x" ; flush ruleset #', 64_191, GUARD.allowance)
        with pytest.raises(SystemFailure, match="nft refused"):
            bad.install()
        assert look() == before

    in_room(body)


def test_marked_sockets_go_past_the_overlay() -> None:
    def body(_: TunDevice) -> None:
        GUARD.install()
        with Netlink() as netlink:
            netlink.set_up(DEVICE)
            netlink.add_address(DEVICE, "100.64.0.1/32")
            netlink.add_route(DEVICE, "100.64.0.0/16", table=GUARD.table)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
            plain.connect(("100.64.3.3", 9))
            assert plain.getsockname()[0] == "100.64.0.1"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as marked:
            marked.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, TUNNEL_MARK)
            with pytest.raises(OSError, match="unreachable"):
                marked.connect(("100.64.3.3", 9))

    in_room(body)


def packet(source: str, target: str, port: int) -> bytes:
    """Return an IPv4 packet with UDP and one byte in it."""
    udp = (5353).to_bytes(2, "big") + port.to_bytes(2, "big") + b"\0\x09\0\0x"
    head = bytearray(b"\x45\0\0\x1d\0\0\0\0\x40\x11\0\0")
    head += socket.inet_aton(source) + socket.inet_aton(target)
    head[10:12] = checksum(bytes(head))
    return bytes(head) + udp


def checksum(data: bytes) -> bytes:
    """Return the Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    total = (total & 0xFFFF) + (total >> 16)
    return (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")


def icmp(kind: int, version: int) -> bytes:
    """Return an ICMP packet of a member's; nobody looks at its checksums before the filter."""
    body = bytes([kind, 0]) + bytes(38)
    if version == 4:
        head = b"\x45\0\0\x3c\0\0\0\0\x40\x01"
        both = socket.inet_aton("100.64.0.2") + socket.inet_aton("100.64.0.1")
        return head + checksum(head + both) + both + body
    ends = (socket.inet_pton(socket.AF_INET6, text) for text in ("fd12::2", "fd12::1"))
    return b"\x60\0\0\0\0\x28\x3a\xff" + b"".join(ends) + body


def test_redirects_and_router_advertisements_are_dropped() -> None:
    def body(device: TunDevice) -> None:
        GUARD.install()
        with Netlink() as netlink:
            netlink.set_up(DEVICE)
        for packet, rule in (
            (icmp(5, 4), "icmp type redirect"),
            (icmp(137, 6), "icmpv6 type"),
            (icmp(134, 6), "icmpv6 type"),
        ):
            before = packets_of(rule)
            os.write(device.fd, packet)
            assert packets_of(rule) == before + 1

    in_room(body)


def packets_of(rule: str) -> int:
    command = ["nft", "list", "ruleset"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in listed.splitlines() if rule in line)
    return int(line.partition("packets ")[2].split()[0])


def test_where_a_default_route_may_be_only_what_it_leads_to_may_speak_from_the_device() -> None:
    def heard_from(device: TunDevice, heard: socket.socket) -> list[str]:
        for source in ("192.0.2.7", "198.51.100.7", "100.64.0.1", "127.0.0.1", "100.64.0.2"):
            os.write(device.fd, packet(source, "100.64.0.1", 7777))
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(heard.recvfrom(100)[1][0])
        return found

    def body(device: TunDevice) -> None:
        guard = replace(GUARD, allowance=replace(GUARD.allowance, default_route=True))
        guard.install()
        lan = "link add lan0 type veth peer name lan1\naddress add 192.0.2.2/24 dev lan0\n"
        lan += "link set lan0 up\nlink set lan1 up\n"
        subprocess.run(["ip", "-batch", "-"], input=lan, text=True, check=True)
        with Netlink() as netlink:
            netlink.set_up(DEVICE)
            netlink.set_up("lo")
            netlink.add_address(DEVICE, "100.64.0.1/32")
            netlink.add_route(DEVICE, "100.64.0.0/16", table=GUARD.table)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
            heard.bind(("100.64.0.1", 7777))
            heard.setblocking(False)
            assert heard_from(device, heard) == ["100.64.0.2"]
            with Netlink() as netlink:
                netlink.add_route(DEVICE, "0.0.0.0/0", table=GUARD.table)
            assert heard_from(device, heard) == ["198.51.100.7", "100.64.0.2"]
        GUARD.clear_stale()  # root has changed the setting meanwhile
        with Netlink() as netlink:
            assert {priority // 100 for priority, _ in netlink.rules()} == {0, 327}

    in_room(body)


def test_only_members_may_speak_from_the_device() -> None:
    def body(device: TunDevice) -> None:
        GUARD.install()
        with Netlink() as netlink:
            netlink.set_up(DEVICE)
            netlink.set_up("lo")
            netlink.add_address(DEVICE, "100.64.0.1/32")
            netlink.add_route(DEVICE, "0.0.0.0/0")
            netlink.add_route(DEVICE, "100.64.0.0/16", table=GUARD.table)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
            heard.bind(("100.64.0.1", 7777))
            heard.setblocking(False)
            for source in ("192.0.2.7", "100.65.0.1", "100.64.0.1", "100.64.0.2"):
                os.write(device.fd, packet(source, "100.64.0.1", 7777))
            assert heard.recvfrom(100) == (b"x", ("100.64.0.2", 5353))
            with pytest.raises(BlockingIOError):
                heard.recvfrom(100)

    in_room(body)


def test_members_speak_to_our_overlay_addresses_only() -> None:
    """Linux takes packets for any address of the machine's at every device."""
    ours = ["100.64.0.1", "100.64.7.1", "fd12::1", "fd12::7"]
    others = ["127.0.0.1", "192.0.2.2", "100.64.0.9", "224.0.0.1", "fd99::2", "fd12::9"]
    guard = replace(GUARD, allowance=Allowance.of(["100.64.0.0/16", "fd12::/48"], ours))

    def body(device: TunDevice) -> None:
        guard.install()
        lines = [f"address add {address} dev lo" for address in others[1:3] + others[4:]]
        lines += [f"address add {address} dev {DEVICE} nodad" for address in ours[2:]]
        lines += [f"address add {address} dev {DEVICE}" for address in ours[:2]]
        lines += [f"link set {DEVICE} up", "link set lo up", "address add 192.0.2.3 dev lo"]
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as heard:
            heard.bind(("::", 7777))
            for address in ours:
                send_until_heard(heard, lambda to=address: os.write(device.fd, from_member(to)))
            for address in others:
                os.write(device.fd, from_member(address))
            with pytest.raises(BlockingIOError):
                heard.recvfrom(100)
        assert packets_of("ip daddr !=") + packets_of("ip6 daddr !=") == len(others)

    in_room(body)


def send_until_heard(socket_: socket.socket, send: Callable[[], object]) -> None:
    """Send until it arrives: the kernel makes an IPv6 address usable in its own time."""
    socket_.setblocking(False)
    until, has_arrived = time.monotonic() + PATIENCE_S, False
    while not has_arrived:
        send()
        assert time.monotonic() < until
        with suppress(BlockingIOError):
            while True:
                has_arrived = socket_.recvfrom(100)[0] == b"x"


def from_member(address: str) -> bytes:
    if ":" not in address:
        return packet("100.64.0.2", address, 7777)
    return packet6("fd12::2", address, 7777)


def packet6(source: str, destination: str, port: int) -> bytes:
    ends = b"".join(socket.inet_pton(socket.AF_INET6, text) for text in (source, destination))
    udp = packet("0.0.0.0", "0.0.0.0", port)[20:]
    size = len(udp).to_bytes(2, "big")
    udp = udp[:6] + checksum(ends + size + b"\0\x11" + udp) + udp[8:]
    return b"\x60\0\0\0" + size + b"\x11\x40" + ends + udp


def test_from_elsewhere_nobody_speaks_to_our_addresses() -> None:
    """But the host itself, over lo; of two addresses of a family each counts."""
    ours = ["100.64.0.1", "100.64.7.1", "fd12::1", "fd12::7"]
    guard = replace(GUARD, allowance=Allowance.of(["100.64.0.0/16", "fd12::/48"], ours))

    def body(_: TunDevice) -> None:
        guard.install()
        lan = f"link add lan0 address {HARDWARE} type veth peer name lan1\n"
        lan += "link set lan0 up\nlink set lan1 up\n"
        subprocess.run(["ip", "-batch", "-"], input=lan, text=True, check=True)
        with Netlink() as netlink:
            netlink.set_up(DEVICE)
            netlink.set_up("lo")
        for address in ours:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            length = 128 if ":" in address else 32
            add = ["ip", "address", "add", f"{address}/{length}", "dev", DEVICE]
            subprocess.run([*add, *["nodad"] * (family == socket.AF_INET6)], check=True)
            with socket.socket(family, socket.SOCK_DGRAM) as heard:
                heard.bind((address, 7777))
                send_until_heard(heard, lambda: heard.sendto(b"x", heard.getsockname()))
                rule = f"{'ip6' if family == socket.AF_INET6 else 'ip'} daddr {{"
                before = packets_of(rule)
                until = time.monotonic() + PATIENCE_S  # another core may be at it
                while packets_of(rule) == before:
                    send_over_wire("lan1", address)
                    assert time.monotonic() < until, address
                heard.setblocking(False)
                with pytest.raises(BlockingIOError):
                    heard.recvfrom(100)

    in_room(body)


def send_over_wire(device: str, address: str) -> None:
    """Send a packet for an address of ours from a machine at the other end of a veth."""
    if ":" in address:
        body, kind = packet6("fd99::9", address, 7777), 0x86DD
    else:
        body, kind = packet("192.0.2.9", address, 7777), 0x0800
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((device, 0))
        wire.send(
            bytes.fromhex(HARDWARE.replace(":", "")) + bytes(6) + kind.to_bytes(2, "big") + body
        )


@pytest.mark.parametrize("prefixes", [["100.64.0.0/16"], ["100.64.0.0/16", "fd12::/48"]])
def test_without_a_prefix_or_address_of_its_family_nothing_comes_from_the_device(
    prefixes: list[str],
) -> None:
    guard = replace(GUARD, allowance=Allowance.of(prefixes, ["100.64.0.1"]))

    def body(device: TunDevice) -> None:
        guard.install()
        with Netlink() as netlink:
            netlink.set_up(DEVICE)
        os.write(device.fd, icmp(128, 6))
        assert packets_of("\tcounter packets") == 1  # the rule without a condition
        assert packets_of("ip saddr !=") == 0

    in_room(body)
