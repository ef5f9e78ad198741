"""The guide's two programs in the lab, without Ginnel: STUN and TURN by coturn, each kind of path.

turn    public: coturn, UDP and TCP on 3478, TLS on 443
pia     port-restricted
cleo    addr-restricted
dora    symmetric
tess    no UDP
hal, ida  in one home whose machines don't hear each other; its router hairpins
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ginnel.lab import Home, Lab, LabTopology, NatKind, PublicMachine
from support.coturn import PASSWORD, USER, coturn_argv

pytestmark = [
    pytest.mark.netns(tun=False),
    pytest.mark.skipif(shutil.which("turnserver") is None, reason="Debian's coturn is not here"),
]

TOPOLOGY = LabTopology(
    homes=(
        Home("pia", NatKind.PORT_RESTRICTED),
        Home("cleo", NatKind.ADDR_RESTRICTED),
        Home("dora", NatKind.SYMMETRIC),
        Home("tess", NatKind.UDP_BLOCKED),
        Home("inn", NatKind.HAIRPIN, hosts=("hal", "ida")),
    ),
    public=(PublicMachine("turn"),),
)
TALK = Path(__file__).resolve().parents[2] / "docs" / "examples" / "ice" / "talk.py"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("coturn")
    with Lab.create(TOPOLOGY) as lab:
        turn = lab.machine("turn")
        argv = coturn_argv(folder, turn.address, 3478, tls_port=443)
        with open(folder / "log", "w") as log:
            server = turn.popen(argv, stdout=log, stderr=log)
        try:
            yield lab
        finally:
            server.terminate()
            server.wait()


def talk(lab: Lab, urls: list[str], **more: str) -> list[str]:
    """Run both programs; return what each was told. `more`: each one, and a server of its own."""
    with ExitStack() as stack:
        processes: list[subprocess.Popen[str]] = []
        for role, (name, login) in zip("10", more.items(), strict=True):
            argv = [sys.executable, str(TALK), role, *urls, *([login] if login else [])]
            process = lab.machine(name).popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            processes.append(stack.enter_context(process))
        said = [process.stdout.readline() for process in processes if process.stdout]
        for process, line in zip(processes, reversed(said), strict=True):
            assert process.stdin is not None
            process.stdin.write(line)
            process.stdin.flush()
        return [process.stdout.readline() for process in processes if process.stdout]


def stun_urls(lab: Lab) -> list[str]:
    at = lab.machine("turn").address
    return [f"stun:{at}:9", f"stun:{at}"]  # the first one is dead


def test_two_homes_meet_by_what_coturn_tells_them_as_a_stun_server(lab: Lab) -> None:
    told = talk(lab, stun_urls(lab), pia="", cleo="")
    for text in told:
        assert text.startswith("hello from srflx "), told


def test_two_guests_of_an_inn_meet_at_its_outer_address_where_the_lan_keeps_them_apart(
    lab: Lab,
) -> None:
    for port in ("p0", "p1"):
        isolate = ["ip", "link", "set", "dev", port, "type", "bridge_slave", "isolated", "on"]
        lab.router("inn").run(isolate)
    told = talk(lab, stun_urls(lab), hal="", ida="")
    for text in told:
        assert text.startswith("hello from srflx "), told


def test_where_direct_can_t_work_the_relay_does(lab: Lab) -> None:
    login = f"turn:{lab.machine('turn').address} {USER} {PASSWORD}"
    told = talk(lab, stun_urls(lab), pia=login, dora="")
    assert any("relay" in text for text in told), told


def test_a_home_without_udp_relays_over_tcp(lab: Lab) -> None:
    login = f"turn:{lab.machine('turn').address}?transport=tcp {USER} {PASSWORD}"
    told = talk(lab, [], tess=login, cleo=stun_urls(lab)[1])
    assert "hello from" in told[0]
    assert told[1].startswith("hello from relay"), told
