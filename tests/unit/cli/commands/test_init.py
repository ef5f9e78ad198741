"""`ginnel init`: arguments that can't be; what it makes is in tests/netns/test_cli.py."""

import json
import os
import subprocess
import sys

import pytest

from support.console import Printed, ginnel, on_machine
from support.umask import umask

KEY = "02" + "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"

BAD = {
    "a name with a dot": (["home.lan"], "home.lan"),
    "a name in capitals": (["Home"], "Home"),
    "a name that is a path": (["../etc"], "../etc"),
    "a member's name": (["home", "--name", "a_b"], "--name"),
    "a hint": (["home", "--node", "nonsense"], "KEY-HEX@NAME:PORT"),
    "a damaged record": (["home", "--node", "enr:-abc"], "--node"),
    "an address": (["home", "--advertise", "nonsense"], "nonsense"),
    "a port in an address": (["home", "--advertise", "192.0.2.1:x"], "IP:PORT"),
    "a port": (["home", "--port", "0"], "--port"),
    "a prefix": (["home", "--ipv4-prefix", "10.0.0.0/7"], "10.0.0.0/7"),
    "a prefix that is none": (["home", "--ipv4-prefix", "x"], "ipv4_prefix"),
    "too many hints": (["home", *["--node", f"{KEY}@192.0.2.1:7"] * 70], "nodes: at most"),
    "no name at all": ([], "NETWORK"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_arguments(case: str) -> None:
    arguments, named = BAD[case]
    printed = on_machine(lambda: ginnel("init", *arguments))
    assert printed.code == 2, printed.err
    assert named in printed.err


def test_a_network_is_made_with_its_phrase() -> None:
    def make() -> tuple[Printed, Printed, list[str]]:
        first = ginnel("init", "home", "--name", "Attic.lan", "--json")
        return first, ginnel("init", "home"), sorted(os.listdir("/etc/ginnel"))

    made, again, folders = on_machine(make)
    facts = json.loads(made.out)
    assert made.code == 0
    assert (facts["schema"], facts["network"], facts["name"]) == (1, "home", "attic")
    assert len(facts["recovery_phrase"].split()) == 24
    assert again.code == 2
    assert "exists" in again.err
    assert folders == ["home"]


def test_for_people_the_next_command_is_named() -> None:
    printed = on_machine(lambda: ginnel("init", "home", "--ipv4-prefix", "10.9.0.0/16"))
    assert printed.code == 0, printed.err
    assert printed.out.splitlines()[0].startswith("Network home, 10.9.0.0/16; this machine is ")
    assert printed.out.endswith("\nNext: sudo ginnel up\n")


def test_under_any_umask_the_tunnel_gets_to_its_state() -> None:
    def make() -> list[int]:
        os.rmdir("/var/lib/ginnel")
        with umask(0o077):
            assert ginnel("init", "home").code == 0
        folders = ("/var/lib/ginnel", "/var/lib/ginnel/home", "/etc/ginnel/home")
        return [os.stat(folder).st_mode & 0o777 for folder in folders]

    assert on_machine(make) == [0o755, 0o700, 0o700]


@pytest.mark.parametrize("output", ["> /dev/full", ">&-", "| true"])
@pytest.mark.parametrize("form", ["", "--json"])
def test_a_phrase_that_nobody_saw_belongs_to_no_network(output: str, form: str) -> None:
    command = f"set -o pipefail; {sys.executable} -m ginnel.cli.main init home {form} {output}"

    def make() -> tuple[int, str, list[str]]:
        done = subprocess.run(
            ["bash", "-c", command], stderr=subprocess.PIPE, text=True, check=False
        )
        left = [*os.listdir("/etc/ginnel"), *os.listdir("/var/lib/ginnel")]
        return done.returncode, done.stderr, left

    code, err, left = on_machine(make)
    assert left == []
    assert code == 1, err
    assert "the recovery phrase can't be shown" in err
    assert "nothing was made" in err
    assert len(err.splitlines()) == 1
