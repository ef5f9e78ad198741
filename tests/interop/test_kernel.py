"""`ginnel engine run` against the kernel's WireGuard, Debian's, in qemu: `make interop-kernel`."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from ginnel.base.errors import SystemFailure
from ginnel.lab import Lab, LabTopology, Machine, PublicMachine, requirements
from ginnel.lab.scenario import Scenario
from support import kernel_guest
from support.handshake_flood import flood
from support.kernel_guest import HOST_IP, Guest

pytestmark = [
    pytest.mark.netns,
    pytest.mark.soak,
    pytest.mark.skipif(
        not (kernel_guest.BUILT / "initrd").exists(), reason="make interop-kernel has not run"
    ),
]

HOST = "host"
DEVICE = "gw0"
PORT = 51_820
GUEST_IP = "10.99.0.2"
OURS, THEIRS = "10.78.0.1", "10.78.0.2"  # in the tunnel
REKEY_S = 120  # seconds; whitepaper 6.1
DATA_BYTES = 3_000_000
FLOOD_RATE = 3000  # initiations a second: six times what makes us ask all for a cookie
FLOOD_STEP_S = 0.25  # seconds between bursts: of more than the 512 that must wait for the kernel's
FLOOD_TRIES = 5  # until a handshake is not among those that are let through
PING = ["ping", "-n", "-c", "1", "-W", "2", "-s", "1000", THEIRS]
SEND = f"""
import hashlib, socket, sys
data = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range({DATA_BYTES} // 32))
with socket.create_connection(("{THEIRS}", 7000), timeout=30) as link:
    link.sendall(data)
print(hashlib.sha256(data).hexdigest())
"""
RECEIVE = f"""
import hashlib, socket
with socket.create_server(("{OURS}", 7001)) as server:
    server.settimeout(60)
    print("ready", flush=True)
    link, _ = server.accept()
    found = hashlib.sha256()
    while data := link.recv(65536):
        found.update(data)
print(found.hexdigest())
"""


class Pair:
    """Our device and the kernel's, which know each other's keys."""

    def __init__(self, scenario: Scenario, guest: Guest) -> None:
        self.scenario = scenario
        self.guest = guest
        self.machine: Machine = scenario.machine(HOST)
        private = [self.machine.run(["wg", "genkey"]).stdout for _ in range(2)]
        self.our_key, self.their_key = (
            self.machine.run(["wg", "pubkey"], text=key).stdout.strip() for key in private
        )
        self.wg("set", DEVICE, "private-key", "/dev/stdin", text=private[0])
        self.wg("set", DEVICE, "listen-port", str(PORT))
        guest.run(f"echo {private[1].strip()} > /tmp/key")
        guest.run("ip link del gw0 2>/dev/null; ip link add gw0 type wireguard")
        guest.run(f"wg set gw0 private-key /tmp/key listen-port {PORT}")
        guest.run(f"ip address add {THEIRS}/24 dev gw0 && ip link set gw0 mtu 1400 up")

    def wg(self, *words: str, text: str | None = None) -> str:
        return self.machine.run(["wg", *words], text=text).stdout

    def set_ours(self, *words: str, preshared: str = "") -> None:
        psk = ["preshared-key", "/dev/stdin"] if preshared else []
        allowed = ["allowed-ips", f"{THEIRS}/32"]
        self.wg("set", DEVICE, "peer", self.their_key, *allowed, *words, *psk, text=preshared)

    def set_theirs(self, *words: str, preshared: str = "") -> None:
        psk = "preshared-key /tmp/psk" if preshared else ""
        self.guest.run(f"echo '{preshared.strip()}' > /tmp/psk")
        rest = f"allowed-ips {OURS}/32 {' '.join(words)} {psk}"
        self.guest.run(f"wg set gw0 peer {self.our_key} {rest}")

    def forget(self) -> None:
        self.wg("set", DEVICE, "peer", self.their_key, "remove")
        self.guest.run(f"wg set gw0 peer {self.our_key} remove")

    def pings(self) -> bool:
        return self.machine.run(PING, check=False).returncode == 0

    def guest_pings(self) -> bool:
        answer = self.guest.run(f"ping -c 1 -W 3 -s 1000 {OURS} > /dev/null; echo =$?")
        return answer.endswith("=0")

    def until(self, condition: Callable[[], bool], limit: float = 60) -> bool:
        return self.scenario.wait_until(condition, limit)

    def our_peer(self) -> list[str]:
        """Return public key, preshared key, endpoint, allowed IPs, handshake, rx, tx, keepalive."""
        return self.wg("show", DEVICE, "dump").splitlines()[1].split("\t")

    def their_peer(self) -> list[str]:
        return self.guest.run("wg show gw0 dump | tail -n 1").split("\t")


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Scenario, Guest]]:
    lacking = requirements()
    if lacking:
        pytest.skip(f"no lab with a TUN on this machine: {'; '.join(lacking)}")
    with Lab.create(LabTopology(public=(PublicMachine(HOST),))) as lab:
        scenario = Scenario(lab, lambda *_: None)
        with kernel_guest.boot(lab.machine(HOST), GUEST_IP) as guest:
            yield scenario, guest


@pytest.fixture
def pair(machines: tuple[Scenario, Guest]) -> Iterator[Pair]:
    scenario, guest = machines
    host = scenario.machine(HOST)
    argv = ["ginnel", "engine", "run", DEVICE]

    def is_there() -> bool:
        return host.run(["wg", "show", DEVICE], check=False).returncode == 0

    with host.popen(argv, stdout=subprocess.DEVNULL) as process:
        try:
            assert scenario.wait_until(is_there, 60)
            host.run(["ip", "address", "add", f"{OURS}/24", "dev", DEVICE])
            host.run(["ip", "link", "set", DEVICE, "mtu", "1400", "up"])
            yield Pair(scenario, guest)
        finally:
            process.terminate()
            process.wait(20)
            with suppress(SystemFailure):  # it may be gone already
                host.run(["ip", "link", "del", DEVICE])


@pytest.mark.parametrize("ours_begins", [True, False])
def test_handshake_and_data_both_ways(pair: Pair, ours_begins: bool) -> None:
    preshared = pair.wg("genpsk")
    pair.set_ours(*(["endpoint", f"{GUEST_IP}:{PORT}"] if ours_begins else []), preshared=preshared)
    pair.set_theirs("" if ours_begins else f"endpoint {HOST_IP}:{PORT}", preshared=preshared)
    assert pair.until(pair.pings if ours_begins else pair.guest_pings)
    assert pair.guest_pings()
    assert pair.pings()
    pair.guest.run("nc -l -p 7000 < /dev/null | sha256sum > /tmp/sum & sleep 1")
    sent = pair.machine.run([sys.executable, "-c", SEND]).stdout.strip()
    assert pair.until(lambda: sent in pair.guest.run("cat /tmp/sum"))
    expected = hashlib.sha256(
        b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(DATA_BYTES // 32))
    ).hexdigest()
    assert sent == expected
    program = [sys.executable, "-c", RECEIVE]
    with pair.machine.popen(program, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        pair.guest.run(f"dd if=/dev/urandom of=/tmp/data bs=1000 count={DATA_BYTES // 1000}")
        pair.guest.run(f"nc {OURS} 7001 < /tmp/data")
        assert process.stdout.readline().strip() == pair.guest.run("sha256sum /tmp/data").split()[0]


def test_keys_change_after_two_minutes_without_loss(pair: Pair) -> None:
    pair.set_ours("endpoint", f"{GUEST_IP}:{PORT}")
    pair.set_theirs()
    assert pair.until(pair.pings)
    first = int(pair.our_peer()[4])
    count = (REKEY_S + 20) * 5
    flood = ["ping", "-n", "-q", "-c", str(count), "-i", "0.2", THEIRS]
    result = pair.machine.run(flood, timeout=count, check=False)
    assert f"{count} received" in result.stdout, result.stdout
    assert int(pair.our_peer()[4]) >= first + REKEY_S
    assert int(pair.their_peer()[4]) > 0


def test_only_the_same_preshared_key_opens(pair: Pair) -> None:
    one, other = pair.wg("genpsk"), pair.wg("genpsk")
    pair.set_ours("endpoint", f"{GUEST_IP}:{PORT}", preshared=one)
    pair.set_theirs(preshared=other)
    began = time.monotonic()
    while time.monotonic() < began + 12:  # two attempts of a handshake
        assert not pair.pings()
    assert pair.our_peer()[4] == "0"
    pair.set_theirs(preshared=one)
    assert pair.until(pair.pings)


def test_who_moves_is_followed(pair: Pair) -> None:
    pair.set_ours("endpoint", f"{GUEST_IP}:{PORT}")
    pair.set_theirs()
    assert pair.until(pair.pings)
    # The kernel gets another port, then another address.
    pair.guest.run(f"wg set gw0 listen-port {PORT + 1}")
    assert pair.until(pair.guest_pings)
    assert pair.our_peer()[2] == f"{GUEST_IP}:{PORT + 1}"
    pair.guest.run(f"ip address add 10.99.0.3/24 dev eth0; ip address del {GUEST_IP}/24 dev eth0")
    try:
        pair.guest.run(
            "ip address show dev eth0 | grep -q 10.99.0.3 || ip address add 10.99.0.3/24 dev eth0"
        )
        assert pair.until(pair.guest_pings)
        assert pair.our_peer()[2] == f"10.99.0.3:{PORT + 1}"
        assert pair.pings()
    finally:
        pair.guest.run(
            f"ip address add {GUEST_IP}/24 dev eth0; ip address del 10.99.0.3/24 dev eth0"
        )
        pair.guest.run(f"ip address add {GUEST_IP}/24 dev eth0 2>/dev/null; true")
    assert pair.until(pair.guest_pings)
    # And we.
    pair.wg("set", DEVICE, "listen-port", str(PORT + 2))
    assert pair.until(pair.pings)
    assert pair.their_peer()[2] == f"{HOST_IP}:{PORT + 2}"


def test_keepalives_open_and_hold_the_tunnel(pair: Pair) -> None:
    pair.set_theirs("persistent-keepalive", "0")
    pair.set_ours("endpoint", f"{GUEST_IP}:{PORT}", "persistent-keepalive", "1")
    assert pair.until(lambda: pair.our_peer()[4] != "0")
    received = int(pair.their_peer()[5])
    assert pair.until(lambda: int(pair.their_peer()[5]) >= received + 3 * 32)
    # The other way round: theirs arrive as bytes here.
    pair.set_ours("persistent-keepalive", "0")
    pair.set_theirs("persistent-keepalive", "1")
    received = int(pair.our_peer()[5])
    assert pair.until(lambda: int(pair.our_peer()[5]) >= received)
    sent = int(pair.their_peer()[6])
    assert pair.until(lambda: int(pair.their_peer()[6]) >= sent + 3 * 32)


@pytest.mark.parametrize("ours_is_flooded", [True, False])
def test_a_handshake_needs_a_cookie_under_load(pair: Pair, ours_is_flooded: bool) -> None:
    """The flood comes from our address, or goes to the kernel from it."""
    if ours_is_flooded:
        target, pings = (HOST_IP, pair.our_key), pair.guest_pings
    else:
        target, pings = (GUEST_IP, pair.their_key), pair.pings
    for _ in range(FLOOD_TRIES):
        with flood(pair.machine, *target, PORT, FLOOD_RATE, FLOOD_STEP_S) as counts:
            pair.set_ours(*([] if ours_is_flooded else ["endpoint", f"{GUEST_IP}:{PORT}"]))
            pair.set_theirs(f"endpoint {HOST_IP}:{PORT}" if ours_is_flooded else "")
            assert pair.until(pings, 120)
        assert counts["cookies"] > 0
        assert counts["responses"] == 0
        if counts["retries"]:
            break
        pair.forget()
    assert counts["retries"] > 0
