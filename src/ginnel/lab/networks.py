"""Make a lab, run commands on its machines, record its links, take it down.

    with Lab.create(LabTopology(homes=(Home("anna"),), public=(PublicMachine("node1"),))) as lab:
        lab.machine("anna").run(["ping", "-c1", lab.machine("node1").address])

Works as root and, in a user namespace, as an ordinary user. A lab lives in a process of its own
(`hold.py`) that ends with this one, so that even kill -9 leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.lab import enter
from ginnel.lab.plan import (
    INTERNET,
    TOOLS_PATH,
    LabPlan,
    NodePlan,
    carrier_key,
    machine_key,
    make_plan,
    router_key,
)
from ginnel.lab.topology import Home, LabTopology

DEBIAN_PACKAGES = {"ip": "iproute2", "nft": "nftables", "ping": "iputils-ping"}
TUN_DEVICE = "/dev/net/tun"
BUILD_TIMEOUT_S = 30.0  # seconds; a lab of ten sites takes less than two
END_TIMEOUT_S = 10.0  # seconds for the kernel to kill all of a lab
RUN_TIMEOUT_S = 60.0  # seconds for a command, unless the caller says otherwise


@dataclass(frozen=True)
class Machine:
    """One machine or router of a lab; commands run there see only its network and its files."""

    name: str
    pid: int  # of the process that holds its namespaces, as seen from here
    address: str  # IPv4, as the machine itself sees it
    address6: str | None = None

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the arguments that run a command there, for any way of starting processes."""
        script = enter.__file__
        return [sys.executable, "-I", "-S", script, "--pid", str(self.pid), "--", *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = RUN_TIMEOUT_S,
        check: bool = True,
        text: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and return its output.

        Args:
            argv: program and arguments; PATH also has the folder of this Python.
            timeout: seconds.
            check: whether to raise if the exit code is not 0.
            text: its standard input; empty if None.
            env: the whole environment; ours if None.

        Raises:
            SystemFailure: it failed (with `check`) or took too long; the text has its output.
        """
        try:
            result = subprocess.run(
                self.command(argv),
                input=text or "",
                text=True,
                capture_output=True,
                timeout=timeout,
                env=env,
                check=False,
                process_group=0,  # Ctrl-C is the caller's to handle, who ends the lab
            )
        except subprocess.TimeoutExpired as error:
            raise SystemFailure(f"{self.name}: {' '.join(argv)}: no end in {timeout} s") from error
        if check and result.returncode != 0:
            output = (result.stdout + result.stderr).strip()
            raise SystemFailure(
                f"{self.name}: {' '.join(argv)}: exit code {result.returncode}: {output}"
            )
        return result

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command; signals sent to the returned process reach it."""
        return subprocess.Popen(
            self.command(argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            text=True,
            process_group=0,  # as above
        )


class Lab:
    """A running lab. Ends with `destroy`, with the `with` block, or with this process."""

    def __init__(
        self,
        machines: Mapping[str, Machine],
        *,
        holder_pid: int,
        links: Sequence[str] = (),
        holder: subprocess.Popen[bytes] | None = None,
        control: socket.socket | None = None,
    ) -> None:
        self._machines = dict(machines)
        self.holder_pid = holder_pid
        self.links = tuple(links)
        self._holder = holder
        self._control = control

    @classmethod
    def create(cls, topology: LabTopology) -> Lab:
        """Build a lab.

        Raises:
            SystemFailure: the system lacks something; `requirements()` says what to do.
        """
        plan = make_plan(topology)
        ours, theirs = socket.socketpair()
        ours.settimeout(BUILD_TIMEOUT_S)
        with theirs:
            holder = subprocess.Popen(
                [sys.executable, "-P", "-m", "ginnel.lab.hold"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # errors come as answers; a terminal must not be kept
                start_new_session=True,  # Ctrl-C is ours to handle
                env=_environment(),
            )
        lab = cls({}, holder_pid=holder.pid, links=tuple(plan.links), holder=holder, control=ours)
        try:
            pids = lab._request({"plan": plan.to_json()})["pids"]
            lab._machines = _find_machines(plan, _outer_pids(holder.pid, pids))
        except BaseException:
            lab.destroy()
            raise
        return lab

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.destroy()

    @property
    def machines(self) -> dict[str, Machine]:
        """Return the machines by name, without routers."""
        return {
            key.partition(":")[2]: machine
            for key, machine in self._machines.items()
            if key.startswith("machine:")
        }

    def machine(self, name: str) -> Machine:
        """Return a machine, a router (`HOME-gw`) or a carrier's router (`HOME-cg`).

        Raises:
            UsageError: there is none of that name.
        """
        keys = [machine_key(name)]
        if name.endswith("-gw"):
            keys.append(router_key(name[:-3]))
        if name.endswith("-cg"):
            keys.append(carrier_key(name[:-3]))
        for key in keys:
            if key in self._machines:
                return self._machines[key]
        raise UsageError(f"no machine {name!r}; there are {', '.join(self.machines)}")

    def router(self, home: str) -> Machine:
        """Return the router of a home. Raises UsageError."""
        return self.machine(f"{home}-gw")

    def internet(self) -> Machine:
        """Return what routes between the sites."""
        return self._machines[INTERNET]

    def start_captures(self, folder: str | Path, links: Sequence[str] | None = None) -> None:
        """Record links (all by default) into `FOLDER/LINK.pcap` until `stop_captures`.

        A link is named as its machine, or as its home with `-wan` (the outer side of the router)
        or `-carrier` (outside the carrier's NAT).

        Raises:
            SystemFailure: no such link, or a file cannot be written.
        """
        folder = Path(folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        paths = {link: str(folder / f"{link}.pcap") for link in links or self.links}
        self._request({"verb": "capture", "paths": paths})

    def stop_captures(self) -> dict[str, int]:
        """Finish the files; return how many frames were too fast to be recorded, by link."""
        drops: dict[str, int] = self._request({"verb": "capture-stop"})["drops"]
        return drops

    def detach(self) -> dict[str, Any]:
        """Let the lab outlive this process; return JSON values for `Lab.attach`."""
        self._request({"verb": "stay"})
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._holder is not None:
            self._holder.returncode = 0  # or Popen would warn that nobody waited for it
            self._holder = None
        return {
            "holder": self.holder_pid,
            "started": start_time(self.holder_pid),
            "links": list(self.links),
            "machines": {key: asdict(machine) for key, machine in self._machines.items()},
        }

    @classmethod
    def attach(cls, state: Mapping[str, Any]) -> Lab | None:
        """Return the lab that `detach` described, or None if it has ended."""
        if start_time(state["holder"]) != state["started"]:
            return None
        machines = {key: Machine(**fields) for key, fields in state["machines"].items()}
        return cls(machines, holder_pid=state["holder"], links=state["links"])

    def destroy(self) -> None:
        """End every process of the lab and wait until they are gone; harmless when repeated."""
        if self._control is not None:
            self._control.close()  # the lab's init ends, and all else with it
            self._control = None
        if self._holder is not None:
            try:
                self._holder.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._holder.kill()  # init dies with it
                self._holder.wait()
            self._holder = None
        elif self.holder_pid:
            _end_and_wait(self.holder_pid)
        self.holder_pid = 0

    def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._control is None:
            raise UsageError("this lab was attached to or has ended; only its maker can do that")
        try:
            self._control.sendall(json.dumps(request).encode() + b"\n")
            answer = _read_line(self._control)
        except OSError as error:
            raise SystemFailure(f"the lab's process does not answer: {error}") from error
        if "error" in answer:
            raise SystemFailure(f"the lab cannot be built: {answer['error']}")
        return answer


def requirements() -> list[str]:
    """Return what this machine lacks for a lab, each with its remedy; empty if nothing."""
    path = os.pathsep.join((TOOLS_PATH, os.environ.get("PATH", "")))
    missing = [tool for tool in DEBIAN_PACKAGES if shutil.which(tool, path=path) is None]
    if missing:
        packages = " ".join(DEBIAN_PACKAGES[tool] for tool in missing)
        return [f"{', '.join(missing)} not found: apt-get install {packages}"]
    lacking = []
    try:
        Lab.create(LabTopology(homes=(Home("probe"),))).destroy()
    except SystemFailure as error:
        lacking.append(
            f"{error} (as an ordinary user the kernel must allow user namespaces: sysctl "
            "user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0; or use root)"
        )
    problem = tun_problem()
    return [*lacking, problem] if problem else lacking


def tun_problem() -> str | None:
    """Return why no network device can be made here, with its remedy, or None."""
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"no {TUN_DEVICE}: modprobe tun (in a container: --device {TUN_DEVICE})"
    except OSError as error:
        return f"{TUN_DEVICE}: {error.strerror}: chmod 666 {TUN_DEVICE} as root"
    return None


def start_time(pid: int) -> int | None:
    """Return when a process started (clock ticks since boot), None if there is none or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _environment() -> dict[str, str]:
    """Return our environment, in which the holder finds the same `ginnel` as we."""
    source = str(Path(__file__).parents[2])
    known = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{source}{os.pathsep}{known}" if known else source}


def _read_line(control: socket.socket) -> dict[str, Any]:
    data = b""
    while not data.endswith(b"\n"):
        part = control.recv(65536)
        if not part:
            raise SystemFailure("the lab's process has ended")
        data += part
    answer: dict[str, Any] = json.loads(data)
    return answer


def _outer_pids(holder_pid: int, inner_pids: Mapping[str, int]) -> dict[str, int]:
    """Translate process numbers inside the lab to ours.

    The lab's init is the only child of the holder; the nodes' holders are children of init.
    """
    parents: dict[int, int] = {}
    inner: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{entry}/status").read_text().splitlines()
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
            parents[int(entry)] = int(fields["PPid"])
            inner[int(entry)] = int(fields["NSpid"].split()[-1])
    inits = [pid for pid, parent in parents.items() if parent == holder_pid]
    nodes = {inner[pid]: pid for pid, parent in parents.items() if parent in inits}
    try:
        return {key: nodes[pid] for key, pid in inner_pids.items()}
    except KeyError as error:
        raise SystemFailure("/proc does not show the lab's processes: is it this one's?") from error


def _find_machines(plan: LabPlan, pids: Mapping[str, int]) -> dict[str, Machine]:
    def describe(key: str, node: NodePlan) -> Machine:
        addresses = node.addresses
        return Machine(node.hostname, pids[key], addresses.get("ipv4", ""), addresses.get("ipv6"))

    return {key: describe(key, node) for key, node in plan.nodes.items()}


def _end_and_wait(pid: int) -> None:
    """End a process that is no child of ours and wait until it is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            if select.select([descriptor], (), (), END_TIMEOUT_S)[0]:
                return
    finally:
        os.close(descriptor)
