"""Names of members, rules and filter on real machines: there with `up`, gone however it ends.

anna ── LAN ── ben        (no internet; anna advertises)
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from ginnel.daemon import service
from ginnel.lab import Home, Lab, LabTopology, Machine, NatKind
from ginnel.lab.scenario import Scenario

pytestmark = pytest.mark.netns

LIMIT_S = 60.0
BY_KERNEL = 3  # of the looks; what is in the others stays until somebody takes it back
ASK = """
import json
from pathlib import Path
from ginnel.cli.client import ask_manager
status = ask_manager(Path("/run/ginnel/demo/manager.sock"), "status")
print(json.dumps({"manager": status["manager"]["pid"], "tunnel": status["tunnel"]["pid"]}))
"""
LOOKS = (
    "ip -o addr | sed 's/^[0-9]*: //; s/valid_lft.*//'",
    "ip -o link | sed 's/^[0-9]*: //; s/ qlen.*//'",
    "ip route show table all; ip -6 route show table all",
    "ip rule; ip -6 rule",
    "nft list ruleset | sed 's/packets.*drop/drop/'",
    "cat /etc/resolv.conf",
)


def look(machine: Machine) -> list[str]:
    return [machine.run(["sh", "-c", command]).stdout for command in LOOKS]


@pytest.fixture(scope="module")
def joined() -> Iterator[tuple[Scenario, list[str]]]:
    """Return two connected members and how anna's network looked before."""
    home = Home("flat", NatKind.PORT_RESTRICTED, hosts=("anna", "ben"))
    with Lab.create(LabTopology(homes=(home,))) as lab:
        scenario = Scenario(lab, lambda _who, _text: None)
        anna = lab.machine("anna")
        before = look(anna)
        scenario.ginnel(
            "anna", "init", "demo", "--name", "anna", "--advertise", anna.address, "--json"
        )
        scenario.up("anna")
        scenario.join_all("anna", ["ben"])

        def are_connected() -> bool:
            return (scenario.peer("anna", "ben") or {}).get("status") == "connected"

        assert scenario.wait_until(are_connected, LIMIT_S)
        yield scenario, before


def test_members_are_reached_by_name(joined: tuple[Scenario, list[str]]) -> None:
    scenario, _ = joined
    anna = scenario.machine("anna")
    assert "1 received" in anna.run(["ping", "-c1", "-W5", "ben.demo.internal"]).stdout
    found = anna.run(["getent", "ahosts", "ben.demo.internal"]).stdout
    addresses = scenario.status("ben")["self"]["addresses"]
    assert all(address in found for address in addresses)
    for address in addresses:
        assert "ben.demo.internal" in anna.run(["getent", "hosts", address]).stdout
    text = anna.run(["cat", "/etc/resolv.conf"]).stdout
    own = scenario.status("anna")["self"]["addresses"][0]
    assert text.startswith(f"# ginnel gn-demo begin\nnameserver {own}\n")


ASK_DNS = """
import json, sys
import dns.message, dns.query, dns.rcode
found = []
for server, name, kind in json.loads(sys.argv[1]):
    for ask in (dns.query.udp, dns.query.tcp):
        answer = ask(dns.message.make_query(name, kind), server, timeout=20)
        words = sorted(item.to_text() for records in answer.answer for item in records)
        words += [records.rdtype.name for records in answer.authority]
        found.append(" ".join([dns.rcode.to_text(answer.rcode()), *words]))
print(json.dumps(found))
"""


def ask_dns(machine: Machine, *questions: tuple[str, str, str]) -> list[str]:
    """Return what servers say over UDP and over TCP, each to a name and a kind."""
    found = machine.run([sys.executable, "-c", ASK_DNS, json.dumps(questions)]).stdout
    answers: list[str] = json.loads(found)
    return answers


def test_our_server_answers_over_udp_and_tcp_also_that_there_is_nothing(
    joined: tuple[Scenario, list[str]],
) -> None:
    scenario, _ = joined
    anna = scenario.machine("anna")
    bens = scenario.status("ben")["self"]["addresses"]
    pointer = f"{'.'.join(reversed(bens[0].split('.')))}.in-addr.arpa"
    expected = {
        ("ben.demo.internal", "A"): f"NOERROR {bens[0]}",
        ("ben.demo.internal", "AAAA"): f"NOERROR {bens[1]}",
        (pointer, "PTR"): "NOERROR ben.demo.internal.",
        ("ben.demo.internal", "MX"): "NOERROR SOA",
        ("gone.demo.internal", "A"): "NXDOMAIN SOA",
        ("example.org", "A"): "REFUSED",
    }
    for server in scenario.status("anna")["self"]["addresses"]:
        found = ask_dns(anna, *((server, name, kind) for name, kind in expected))
        assert found == [text for text in expected.values() for _ in range(2)]


OTHER_SERVER = """
import socket, sys
import dns.message, dns.rrset
opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
opened.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    data, source = opened.recvfrom(4096)
    reply = dns.message.make_response(dns.message.from_wire(data))
    reply.answer.append(dns.rrset.from_text(reply.question[0].name, 9, "IN", "A", "192.0.2.77"))
    opened.sendto(reply.to_wire(), source)
"""


def test_a_resolv_conf_that_is_written_anew_keeps_our_names_and_its_servers(
    joined: tuple[Scenario, list[str]],
) -> None:
    scenario, before = joined
    anna, ben = scenario.machine("anna"), scenario.machine("ben")
    server = ben.popen([sys.executable, "-c", OTHER_SERVER, ben.address], stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    own = scenario.status("anna")["self"]["addresses"][0]
    path = "/etc/resolv.conf"
    try:  # as a DHCP client would, and back again
        anna.run(["sh", "-c", f"echo nameserver {ben.address} > {path}.new; mv {path}.new {path}"])
        assert scenario.wait_until(lambda: own in anna.run(["cat", path]).stdout, LIMIT_S)
        assert scenario.wait_until(
            lambda: ask_dns(anna, (own, "example.org", "A"))[0] == "NOERROR 192.0.2.77", LIMIT_S
        )
        assert "192.0.2.77" in anna.run(["getent", "ahostsv4", "example.org"]).stdout
        assert "ben.demo.internal" in anna.run(["getent", "ahosts", "ben.demo.internal"]).stdout
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    anna.run(["sh", "-c", f"cat > {path}"], text=before[-1])
    assert scenario.wait_until(lambda: own in anna.run(["cat", path]).stdout, LIMIT_S)


def test_overlay_routes_stand_in_a_table_of_their_own(joined: tuple[Scenario, list[str]]) -> None:
    scenario, before = joined
    anna = scenario.machine("anna")
    main = anna.run(["sh", "-c", "ip route; ip -6 route"]).stdout
    assert not [line for line in main.splitlines() if "gn-demo" in line and "fe80" not in line]
    target = scenario.status("ben")["self"]["addresses"][0]
    assert "dev gn-demo table" in anna.run(["ip", "route", "get", target]).stdout
    assert look(anna) != before


def kill(machine: Machine, whom: tuple[str, ...]) -> None:
    """Send SIGKILL to manager, tunnel or both, both at once."""
    pids = json.loads(machine.run([sys.executable, "-c", ASK]).stdout)
    machine.run(["kill", "-9", *(str(pids[name]) for name in whom)])


def test_the_manager_answers_for_a_tunnel_that_is_stuck(
    joined: tuple[Scenario, list[str]],
) -> None:
    scenario, _ = joined
    anna = scenario.machine("anna")
    pids = json.loads(anna.run([sys.executable, "-c", ASK]).stdout)
    anna.run(["kill", "-STOP", str(pids["tunnel"])])
    text = anna.run(["ginnel", "status"]).stdout
    anna.run(["kill", "-CONT", str(pids["tunnel"])])
    assert "demo: only the manager answers" in text
    ben = text.splitlines()[-1].split()
    assert (ben[0], ben[2]) == ("ben", "connected")


def test_a_manager_that_is_stuck_stops_neither_data_nor_paths(
    joined: tuple[Scenario, list[str]],
) -> None:
    scenario, _ = joined
    anna, ben = scenario.machine("anna"), scenario.status("ben")["self"]["addresses"][0]
    pids = json.loads(anna.run([sys.executable, "-c", ASK]).stdout)

    def memory() -> int:
        return int(anna.run(["ps", "-o", "rss=", "-p", str(pids["tunnel"])]).stdout)

    anna.run(["kill", "-STOP", str(pids["manager"])])
    try:
        before = memory()
        echoes = anna.run(["ping", "-c20", "-i0.2", "-W5", ben]).stdout
        assert "20 received" in echoes
        assert json.loads(anna.run(["ginnel", "ping", "ben", "--json"]).stdout)
        assert memory() - before < 4096  # KiB; what it would tell waits as one newest state
    finally:
        anna.run(["kill", "-CONT", str(pids["manager"])])
    assert "ben" in anna.run(["ginnel", "status"]).stdout


def next_start(machine: Machine) -> None:
    machine.run(["ginnel", "up", "--no-wait"])
    machine.run(["ginnel", "down"])


def next_start_without_names(machine: Machine) -> None:
    """A start that sets no names takes the dead manager's out all the same."""
    machine.run(["ginnel", "up", "--no-wait", "--no-dns"])
    assert "ginnel" not in machine.run(["cat", "/etc/resolv.conf"]).stdout
    machine.run(["ginnel", "down"])


def down(machine: Machine) -> None:
    machine.run(["ginnel", "down"])


def exec_stop_post(machine: Machine) -> None:
    """Run what systemd runs after a service's end, whatever ended it."""
    found = re.search("^ExecStopPost=(.*)$", service.unit_text("demo"), re.MULTILINE)
    assert found is not None
    machine.run(shlex.split(found[1]))


@pytest.mark.parametrize(
    ("whom", "way"),
    [
        (("manager",), next_start),
        (("manager",), next_start_without_names),
        (("manager",), down),
        (("manager", "tunnel"), exec_stop_post),
    ],
)
def test_after_kill_9_the_kernel_takes_its_part_back_and_we_the_rest(
    joined: tuple[Scenario, list[str]],
    whom: tuple[str, ...],
    way: Callable[[Machine], None],
) -> None:
    scenario, before = joined
    anna = scenario.machine("anna")
    anna.run(["ginnel", "up", "--no-wait"])
    assert all(now != then for now, then in zip(look(anna), before, strict=True))
    kill(anna, whom)
    assert scenario.wait_until(lambda: look(anna)[:BY_KERNEL] == before[:BY_KERNEL], LIMIT_S)
    way(anna)
    assert look(anna) == before


def test_after_kill_9_of_the_tunnel_all_stays_and_down_takes_it_back(
    joined: tuple[Scenario, list[str]],
) -> None:
    scenario, before = joined
    anna = scenario.machine("anna")
    anna.run(["ginnel", "up", "--no-wait"])
    running = look(anna)
    kill(anna, ("tunnel",))
    assert look(anna) == running

    def is_back() -> bool:
        return "self" in json.loads(anna.run(["ginnel", "status", "--json"]).stdout)

    assert scenario.wait_until(is_back, LIMIT_S)
    assert look(anna) == running
    anna.run(["ginnel", "down"])
    assert look(anna) == before


def test_no_dns_touches_no_file(joined: tuple[Scenario, list[str]]) -> None:
    scenario, before = joined
    anna = scenario.machine("anna")
    anna.run(["ginnel", "up", "--no-wait", "--no-dns"])
    assert look(anna)[-1] == before[-1]
    anna.run(["ginnel", "down"])
    assert look(anna) == before
