"""Addresses: the filter as a table, the dump and the watcher in a namespace of the test's own."""

import json
import shutil
import subprocess
import sys

import pytest

from ginnel.base.types import Address
from ginnel.net.interfaces import (
    AddressWatcher,
    InterfaceAddress,
    addresses_at,
    default_routes,
    list_addresses,
    usable_addresses,
)

CHILD = """
import json, select, subprocess
from ginnel.net.interfaces import *

def ip(words):
    subprocess.run(["ip", *words.split()], check=True)

ip("link set lo up")
watcher = AddressWatcher()
ip("link add uplink type veth peer name far")
ip("link add docker0 type veth peer name far2")
for name in ("uplink", "far", "docker0", "far2"):
    ip(f"link set {name} up")
ip("addr add 192.0.2.7/24 dev uplink")
ip("addr add 10.9.0.1/24 dev far")
ip("addr add 172.17.0.1/16 dev docker0")
ip("addr add 2001:db8::7/64 dev uplink nodad")
ip("addr add 10.8.0.1 peer 10.8.0.2/32 dev far2")
ip("route add default via 192.0.2.1 metric 50")
ip("route add default dev far metric 100")
readable = bool(select.select([watcher], [], [], 5.0)[0])
changed = watcher.drain()
while not all(a.is_up and a.is_usable for a in list_addresses()):
    if not select.select([watcher], [], [], 5.0)[0]:
        break  # the comparison below fails and shows what is not up
    watcher.drain()
ip("addr del 192.0.2.7/24 dev uplink")
select.select([watcher], [], [], 5.0)
print(json.dumps({
    "readable": readable, "changed": changed,
    "gone": watcher.drain(),
    "all": {a.ip: [a.name, a.prefix_len, a.is_up, a.is_loopback] for a in list_addresses()},
    "hosts": [a.ip for a in host_addresses(["far2"])],
    "routes": [[r.name, r.is_ipv6, r.metric] for r in default_routes()],
}))
"""


def address(name: str, ip: str, **flags: bool) -> InterfaceAddress:
    return InterfaceAddress(name, ip, 24, flags.pop("is_up", True), **flags)


@pytest.mark.parametrize(
    "unfit",
    [
        address("eth0", "192.0.2.1", is_up=False),
        address("eth0", "192.0.2.1", is_usable=False),
        address("lo", "192.0.2.1", is_loopback=True),
        address("lo", "127.0.0.1"),
        address("eth0", "169.254.1.1"),
        address("eth0", "fe80::1"),
        address("eth0", "224.0.0.1"),
        address("eth0", "0.0.0.0"),
        *(
            address(name, "10.0.0.1")
            for name in (
                *("docker0", "br-1f2e", "veth12ab", "cni0", "flannel.1", "cali77", "virbr0"),
                *("wg0", "tun3", "tailscale0", "own-device"),
            )
        ),
    ],
)
def test_unfit_addresses_are_left_out(unfit: InterfaceAddress) -> None:
    fit = address("eth0", "192.168.1.2")
    assert usable_addresses([unfit, fit], exclude_names=["own-*"]) == [fit]


def test_fit_addresses_preferred_interfaces_first() -> None:
    wired, radio = address("eth0", "10.0.0.2"), address("wlan0", "2001:db8::2")
    carrier = address("wwan0", "100.64.3.4")
    addresses = [carrier, wired, radio, wired]
    assert usable_addresses(addresses) == [carrier, wired, radio]
    assert usable_addresses(addresses, preferred=["wlan0", "eth0"]) == [radio, wired, carrier]


def test_dump_of_this_machine_has_valid_entries() -> None:
    for entry in list_addresses():
        assert entry.name
        assert 0 <= entry.prefix_len <= (128 if ":" in entry.ip else 32)
    metrics = [route.metric for route in default_routes()]
    assert metrics == sorted(metrics)


def test_a_watcher_can_be_closed_twice() -> None:
    watcher = AddressWatcher()
    assert watcher.fileno() >= 0
    watcher.close()
    watcher.close()
    assert watcher.fileno() == -1


@pytest.mark.netns
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_dump_and_watcher_in_a_namespace() -> None:
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", CHILD]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["readable"], told["changed"], told["gone"]) == (True, True, True)
    assert told["all"]["127.0.0.1"] == ["lo", 8, True, True]
    assert told["all"]["10.9.0.1"] == ["far", 24, True, False]
    assert told["all"]["2001:db8::7"] == ["uplink", 64, True, False]
    assert told["all"]["10.8.0.1"] == ["far2", 32, True, False]
    assert "192.0.2.7" not in told["all"]
    assert sorted(told["hosts"]) == ["10.9.0.1", "2001:db8::7"]
    assert told["routes"] == [["far", False, 100]]


def test_a_socket_has_the_address_that_it_is_bound_to_or_all_of_its_version() -> None:
    ips = ["192.0.2.1", "2001:db8::1", "192.0.2.2"]
    bound = [Address("0.0.0.0", 7), Address("::", 8), Address("127.0.0.1", 9)]
    assert addresses_at(bound, ips) == [
        Address("192.0.2.1", 7),
        Address("192.0.2.2", 7),
        Address("2001:db8::1", 8),
        Address("127.0.0.1", 9),
    ]
