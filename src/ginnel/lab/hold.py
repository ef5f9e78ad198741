"""The process that builds a lab and holds it: when it ends, however it ends, nothing is left.

`python -m ginnel.lab.hold` makes namespaces for the lab, becomes their init (process 1), and forks
one holder per node, which makes the node's own network (and for machines mount and UTS) namespace,
configures it from inside, and then waits. No namespace has a name, so the kernel removes all of
them with the last process, and it kills every process of the lab when its init ends. Init ends
when its control socket (standard input) is closed, unless told to stay.

Control: one JSON object a line. First comes the plan; the answer is `{"pids": {node: pid}}` or
`{"error": text}`. Then `{"verb": "capture", "paths": {link: path}}`, `{"verb": "capture-stop"}`,
`{"verb": "stay"}`; each is answered. Process numbers are those inside the lab.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from ginnel.lab.capture import Recording, record_until_terminated
from ginnel.lab.enter import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUTS,
    enter_namespace,
    fork_and_stand_for,
    make_mounts_private,
    mount_proc,
    unshare,
    unshare_all,
)
from ginnel.lab.furnish import furnish
from ginnel.lab.plan import TOOLS_PATH, LabPlan, NodePlan, WirePlan, plan_from_json
from ginnel.lab.wire import run_wire

TOOL_TIMEOUT_S = 20.0  # seconds for one ip or nft; they take milliseconds

SIOCETHTOOL = 0x8946
ETHTOOL_SWITCHES = {  # linux/ethtool.h
    "segmentation": 0x24,  # ETHTOOL_SGSO
    "tcp segmentation": 0x1F,  # ETHTOOL_STSO
    "checksums": 0x17,  # ETHTOOL_STXCSUM
}


class BuildError(Exception):
    """The lab cannot be built; the text says which node and why."""


def run_tool(argv: list[str], text: str) -> None:
    """Run ip or nft with commands on its standard input.

    Raises:
        BuildError: it is missing or refused a command.
    """
    try:
        result = subprocess.run(
            argv,
            input=text,
            text=True,
            capture_output=True,
            timeout=TOOL_TIMEOUT_S,
            env=os.environ | {"PATH": TOOLS_PATH},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{argv[0]}: {error}") from error
    if result.returncode != 0:
        raise BuildError(f"{' '.join(argv)}: {result.stderr.strip()}")


def remove_offloads(device: str) -> None:
    """Let a device send frames as a wire does: checksummed and no larger than the MTU."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in ETHTOOL_SWITCHES.values():
            value = array.array("B", struct.pack("II", command, 0))
            request = struct.pack("16sP", device.encode(), value.buffer_info()[0])
            fcntl.ioctl(control, SIOCETHTOOL, request.ljust(40, b"\0"))


class Child:
    """A forked process that reports to its parent by one pipe and waits on another."""

    def __init__(self, work: Callable[[Child], None]) -> None:
        report_read, self._report = os.pipe()
        self._go, go_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(report_read)
            os.close(go_write)
            self._run(work)
        os.close(self._report)
        os.close(self._go)
        self._reports = open(report_read)  # noqa: SIM115 - lives as long as the lab
        self._go = go_write

    def _run(self, work: Callable[[Child], None]) -> NoReturn:
        try:
            work(self)
        except (OSError, BuildError) as error:
            self.report({"error": str(error)})
        except Exception as error:  # the top of this process; standard error leads nowhere
            self.report({"error": repr(error)})
        finally:
            os._exit(1)

    def report(self, value: dict[str, Any]) -> None:
        """Tell the parent, from the child."""
        os.write(self._report, json.dumps(value).encode() + b"\n")

    def wait_for_go(self) -> None:
        """Wait in the child until the parent calls `go`."""
        if not os.read(self._go, 1):
            os._exit(1)

    def go(self) -> None:
        """Let the child go on, from the parent."""
        os.write(self._go, b"g")

    def close(self) -> None:
        """Close both pipes, from the parent."""
        self._reports.close()
        os.close(self._go)

    def read_report(self) -> dict[str, Any]:
        """Wait for the child's next report. Raises BuildError."""
        line = self._reports.readline()
        report: dict[str, Any] = json.loads(line) if line else {"error": "it ended"}
        if "error" in report:
            raise BuildError(report["error"])
        return report


def hold_node(child: Child, *, node: NodePlan, plan: LabPlan) -> None:
    """Be the holder of one node. Raises OSError, BuildError."""
    unshare(CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWNS)
    socket.sethostname(node.hostname)
    child.report({})
    child.wait_for_go()  # the parent lays the cables
    if node.machine:
        furnish(node.hostname, plan.hosts)
    for name, value in node.sysctls.items():
        with contextlib.suppress(FileNotFoundError), open(f"/proc/sys/{name}", "w") as file:
            file.write(value)
    for device in node.plain_devices:
        remove_offloads(device)
    if node.ruleset:
        run_tool(["nft", "-f", "-"], node.ruleset)
    run_tool(["ip", "-batch", "-"], "\n".join(node.ip_lines) + "\n")
    for wire in node.wires:
        remove_offloads(wire.device_a)
        remove_offloads(wire.device_b)
        start_wire(wire)
    child.report({})
    while True:
        signal.pause()


def start_wire(wire: WirePlan) -> None:
    """Fork the process of one wire; it lives as long as the lab."""
    if os.fork() == 0:
        try:
            run_wire(
                wire.device_a,
                wire.device_b,
                delay_s=wire.delay_s,
                loss=wire.loss,
                seed=wire.seed,
                reorder=wire.reorder,
            )
        finally:
            os._exit(1)


class Holder:
    """Init of a lab: builds it, then serves the control socket."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control.makefile("rw")
        self._plan = LabPlan()
        self._nodes: dict[str, Child] = {}
        self._captures: Child | None = None

    def run(self) -> None:
        """Build, serve, return when the lab is to end."""
        stay = False
        while line := self._control.readline():
            request = json.loads(line)
            try:
                answer = self._serve(request)
            except (BuildError, OSError) as error:
                answer = {"error": str(error)}
            stay = stay or request.get("verb") == "stay"
            self._control.write(json.dumps(answer) + "\n")
            self._control.flush()
            if "plan" in request and "error" in answer:
                return
        while stay:
            signal.pause()

    def _serve(self, request: dict[str, Any]) -> dict[str, Any]:
        if "plan" in request:
            self._build(plan_from_json(request["plan"]))
            return {"pids": {key: child.pid for key, child in self._nodes.items()}}
        if request["verb"] == "capture":
            self._start_captures(request["paths"])
        elif request["verb"] == "capture-stop":
            return {"drops": self._stop_captures()}
        return {}

    def _build(self, plan: LabPlan) -> None:
        self._plan = plan
        for key, node in plan.nodes.items():
            self._nodes[key] = Child(partial(hold_node, node=node, plan=plan))
        self._collect()
        pids = {key: child.pid for key, child in self._nodes.items()}
        lines = [
            f"link add name {device_a} netns {pids[node_a]} type veth "
            f"peer name {device_b} netns {pids[node_b]}\n"
            for node_a, device_a, node_b, device_b in plan.cables
        ]
        run_tool(["ip", "-batch", "-"], "".join(lines))
        for child in self._nodes.values():
            child.go()
        self._collect()
        # From here on nobody asks how a child ended; orphans of the lab must not stay as zombies.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    def _collect(self) -> None:
        for key, child in self._nodes.items():
            try:
                child.read_report()
            except BuildError as error:
                raise BuildError(f"{key}: {error}") from error

    def _start_captures(self, paths: dict[str, str]) -> None:
        if self._captures is not None:
            raise BuildError("captures are running already")
        for link in paths:
            if link not in self._plan.links:
                raise BuildError(f"no link {link!r}; there are {', '.join(self._plan.links)}")
        child = Child(lambda own: self._record(own, paths))
        child.read_report()
        self._captures = child

    def _record(self, child: Child, paths: dict[str, str]) -> None:
        recordings = {}
        for link, path in paths.items():
            node, device = self._plan.links[link]
            holder = os.pidfd_open(self._nodes[node].pid)
            enter_namespace(holder, CLONE_NEWNET)
            os.close(holder)
            recordings[link] = Recording(device, path)
        child.report({})
        child.report({"drops": record_until_terminated(recordings)})

    def _stop_captures(self) -> dict[str, int]:
        if self._captures is None:
            return {}
        child, self._captures = self._captures, None
        os.kill(child.pid, signal.SIGTERM)
        drops: dict[str, int] = child.read_report()["drops"]
        child.close()
        return drops


def become_init() -> None:
    """Make the lab's namespaces and go on as their init; the caller stays and waits for it.

    Raises:
        BuildError: the system does not allow it.
    """
    try:
        unshare_all()
    except OSError as error:
        raise BuildError(f"no namespaces: {error}") from error
    fork_and_stand_for()
    make_mounts_private()
    mount_proc()


def main() -> None:
    """Run the lab whose plan comes on standard input."""
    control = socket.socket(fileno=os.dup(0))
    quiet = os.open(os.devnull, os.O_RDWR)
    os.dup2(quiet, 0)
    os.dup2(quiet, 1)
    try:
        become_init()
    except (BuildError, OSError) as error:
        control.sendall(json.dumps({"error": str(error)}).encode() + b"\n")
        sys.exit(1)
    # Init has no default actions: only what has a handler reaches it from inside its namespace.
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
    Holder(control).run()
    os._exit(0)


if __name__ == "__main__":
    main()
