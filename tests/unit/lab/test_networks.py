import os
import subprocess
import sys

import pytest

from ginnel.base.errors import UsageError
from ginnel.lab.networks import Lab, Machine, start_time


def test_commands_are_wrapped() -> None:
    command = Machine("anna", 12, "192.168.1.10").command(["ping", "-c1", "node1"])
    assert command[0] == sys.executable
    assert command[-6:] == ["--pid", "12", "--", "ping", "-c1", "node1"]


def test_start_times_tell_processes_apart() -> None:
    assert start_time(os.getpid()) == start_time(os.getpid())
    assert start_time(2**22 + 1) is None
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        assert start_time(child.pid) is not None


def test_a_lab_that_has_ended_cannot_be_attached_to() -> None:
    state = {"holder": os.getpid(), "started": -1, "links": [], "machines": {}}
    assert Lab.attach(state) is None


def test_an_attached_lab_knows_its_machines_but_cannot_record() -> None:
    fields = {"name": "anna-gw", "pid": 5, "address": "192.0.2.2", "address6": None}
    state = {
        "holder": os.getpid(),
        "started": start_time(os.getpid()),
        "links": ["anna"],
        "machines": {"router:anna": fields},
    }
    lab = Lab.attach(state)
    assert lab is not None
    assert lab.router("anna").pid == 5
    assert lab.machines == {}
    with pytest.raises(UsageError, match="no machine"):
        lab.machine("anna")
    with pytest.raises(UsageError, match="attached"):
        lab.stop_captures()
