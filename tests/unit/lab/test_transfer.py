import subprocess
import sys

import pytest

from ginnel.base.errors import GinnelError
from ginnel.lab.networks import Machine
from ginnel.lab.transfer import transfer


class Here(Machine):
    """This machine itself as a machine of a lab."""

    def command(self, argv: list[str]) -> list[str]:
        return list(argv)


HERE = Here("here", 1, "127.0.0.1")


def test_bytes_that_arrive_have_a_rate() -> None:
    assert transfer(HERE, HERE, "127.0.0.1", 3_000_001) > 0


def test_a_sender_without_a_way_is_an_error() -> None:
    away = Here("away", 1, "127.0.0.1")
    with pytest.raises(GinnelError):
        transfer(away, HERE, "192.0.2.255", 10)


def test_as_a_command_it_prints_its_port_first() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "ginnel.lab.transfer", "receive", "127.0.0.1"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 0
        process.terminate()
