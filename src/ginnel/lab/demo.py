"""The demo: machines behind different NATs find each other, with a user's own commands.

Two public nodes that are no members, four homes; `init` on the first machine, `invite`, `join` and
`approve` for the others, `up` on all. Then for each pair the path, a ping and a transfer through
the tunnel. Progress goes to a callback as it happens; the result is one JSON value.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, TypeAlias

from ginnel.base.errors import SystemFailure
from ginnel.lab.networks import Lab, Machine
from ginnel.lab.topology import Home, LabTopology, NatKind, PublicMachine
from ginnel.lab.transfer import transfer

Json: TypeAlias = dict[str, Any]
Say: TypeAlias = Callable[[str, str], None]

NETWORK = "demo"
NODES = ("node1", "node2")
CONNECT_LIMIT_S = 40.0  # seconds from the last `up` until each pair is direct or says why not
JOIN_LIMIT_S = 40.0  # seconds for one machine's invite, join, approve and up
POLL_S = 0.5  # seconds between two looks at the machines' status
PINGS = 3  # of each pair
TRANSFER_BYTES = 16 * 1024 * 1024  # of each pair; a second or two on two cores
NEEDS_RELAY = "needs a relay"
_BLOCKED = frozenset({NatKind.UDP_BLOCKED, NatKind.TCP443})
_CHANGING = frozenset({NatKind.SYMMETRIC, NatKind.SYMMETRIC_SEQ})
_OPEN = frozenset({NatKind.FULL_CONE, NatKind.ADDR_RESTRICTED, NatKind.NONE})


@dataclass(frozen=True)
class DemoHome:
    """One machine of the demo and the kind of NAT that it is behind."""

    name: str
    kind: NatKind


HOMES = (
    DemoHome("anna", NatKind.PORT_RESTRICTED),
    DemoHome("ben", NatKind.PORT_RESTRICTED),
    DemoHome("cleo", NatKind.FULL_CONE),
    DemoHome("dora", NatKind.SYMMETRIC),
)


def can_be_direct(one: NatKind, other: NatKind) -> bool:
    """Say whether two homes behind these NATs can talk without a relay (RFC 4787's terms).

    A NAT that changes ports can only be met by one that takes packets from any port.
    """
    if one in _BLOCKED or other in _BLOCKED:
        return False
    return (one not in _CHANGING or other in _OPEN) and (other not in _CHANGING or one in _OPEN)


def make_demo_lab(homes: Sequence[DemoHome] = HOMES) -> Lab:
    """Build the demo's networks. Raises SystemFailure: see `requirements()`."""
    return Lab.create(
        LabTopology(
            homes=tuple(Home(home.name, home.kind) for home in homes),
            public=tuple(PublicMachine(name) for name in NODES),
        )
    )


@dataclass
class Demo:
    """One run of the demo in a lab; `run()` does all of it and returns what it saw."""

    lab: Lab
    say: Say
    homes: Sequence[DemoHome] = HOMES
    began: float = field(default_factory=time.monotonic)
    _stages: dict[tuple[str, str], str] = field(default_factory=dict)
    _nodes: list[subprocess.Popen[str]] = field(default_factory=list)
    _invites: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> Json:
        """Run the demo.

        Raises:
            SystemFailure: a command failed; the text has its output.
        """
        records = self._start_nodes()
        first, *others = [home.name for home in self.homes]
        self._init(first, records)
        with ThreadPoolExecutor(len(others)) as pool:
            for job in [pool.submit(self._join, first, name, records) for name in others]:
                job.result()
        addresses = {home.name: self._status(home.name)["self"] for home in self.homes}
        self._wait_for_paths()
        pairs = [self._look_at(one, other, addresses) for one, other in self._pairs()]
        seconds = round(time.monotonic() - self.began, 1)
        return {"ok": all(pair["ok"] for pair in pairs), "seconds": seconds, "pairs": pairs}

    def stop(self) -> None:
        """End the public nodes; the lab's end would do it too, but they say good-bye this way."""
        for node in self._nodes:
            node.terminate()
        for node in self._nodes:
            node.wait()

    def _pairs(self) -> list[tuple[DemoHome, DemoHome]]:
        return list(combinations(self.homes, 2))

    def _ginnel(self, name: str, *arguments: str, text: str | None = None) -> Json:
        result = self.lab.machine(name).run(["ginnel", *arguments], text=text)
        answer: Json = json.loads(result.stdout) if "--json" in arguments else {}
        return answer

    def _start_nodes(self) -> list[str]:
        records: list[str] = []
        for name in NODES:
            machine = self.lab.machine(name)
            hints = [part for record in records for part in ("--node", record)]
            argv = ["ginnel", "node", "--json", "--advertise", machine.address, *hints]
            process = machine.popen(argv, stdout=subprocess.PIPE)
            self._nodes.append(process)
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemFailure(f"{name}: `ginnel node` ended with {process.wait()}")
            records.append(json.loads(line)["enr"])
            self.say(name, f"a public node, no member, at {machine.address}")
        return records

    def _init(self, name: str, records: Sequence[str]) -> None:
        hints = [part for record in records for part in ("--node", record)]
        self._ginnel(name, "init", NETWORK, "--name", name, *hints, "--json")
        self.say(name, f"ginnel init {NETWORK}: made the network")
        self._up(name)

    def _up(self, name: str) -> None:
        self._ginnel(name, "up", NETWORK, "--no-wait")
        self.say(name, f"ginnel up: {', '.join(self._status(name)['self']['addresses'])}")

    def _join(self, admin: str, name: str, records: Sequence[str]) -> None:
        with self._invites:
            invite = self._ginnel(admin, "invite", NETWORK, "--json")["invite"]
        self.say(admin, f"ginnel invite: one for {name}")
        joiner = self.lab.machine(name).popen(
            ["ginnel", "join", "--json", "--name", name, "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        timer = threading.Timer(JOIN_LIMIT_S, joiner.kill)
        timer.start()
        try:
            assert joiner.stdin is not None
            assert joiner.stdout is not None
            joiner.stdin.write(invite + "\n")
            joiner.stdin.close()
            approved = False
            for line in joiner.stdout:
                progress = json.loads(line)
                self.say(name, f"ginnel join: {progress['stage']}")
                if progress.get("code") and progress.get("waiting") and not approved:
                    approved = True
                    self._approve(admin, name, progress["code"])
            if joiner.wait() != 0:
                raise SystemFailure(f"{name}: `ginnel join` ended with {joiner.returncode}")
        finally:
            timer.cancel()
        self._up(name)

    def _approve(self, admin: str, name: str, code: str) -> None:
        self._ginnel(admin, "approve", name, "--code", code, "--json")
        self.say(admin, f"ginnel approve {name} --code {code}")

    def _status(self, name: str) -> Json:
        return self._ginnel(name, "status", NETWORK, "--json")

    def _wait_for_paths(self) -> None:
        """Look at every machine until each pair is connected or says that it needs a relay."""
        ends_at = time.monotonic() + CONNECT_LIMIT_S
        while time.monotonic() < ends_at:
            statuses = {home.name: self._status(home.name) for home in self.homes}
            for name, status in statuses.items():
                for peer in status["peers"]:
                    self._tell_stage(name, peer)
            if all(
                _is_settled(statuses[one.name], other.name)
                and _is_settled(statuses[other.name], one.name)
                for one, other in self._pairs()
            ):
                return
            time.sleep(POLL_S)

    def _tell_stage(self, name: str, peer: Json) -> None:
        text = _stage_of(peer)
        if self._stages.get((name, peer["name"])) != text:
            self._stages[name, peer["name"]] = text
            self.say(name, f"{peer['name']}: {text}")

    def _look_at(self, one: DemoHome, other: DemoHome, addresses: Json) -> Json:
        peer = _peer_of(self._status(one.name), other.name) or {}
        expected = can_be_direct(one.kind, other.kind)
        pair: Json = {
            "pair": [one.name, other.name],
            "nats": [one.kind.value, other.kind.value],
            "direct_expected": expected,
            "status": peer.get("status", "unknown"),
            "path": peer.get("path"),
            "reason": peer.get("reason"),
        }
        if pair["status"] == "connected":
            target = addresses[other.name]["addresses"][0]
            pair["ping_ms"] = _ping(self.lab.machine(one.name), target)
            pair["transfer_mbit_s"] = transfer(
                self.lab.machine(one.name), self.lab.machine(other.name), target, TRANSFER_BYTES
            )
            pair["ok"] = expected and pair["ping_ms"] is not None
        else:
            reason = pair["reason"] or ""
            pair["ok"] = not expected and reason.startswith(NEEDS_RELAY)
        self.say(one.name, f"{other.name}: {describe(pair)}")
        return pair


def describe(pair: Json) -> str:
    """Return a pair's path and measurements, or why there is none, as one line."""
    if pair["status"] != "connected":
        return pair["reason"] or "not connected, and no reason given"
    path = pair["path"]
    ends = " <-> ".join(
        f"{path[side]['kind']} {path[side]['address']}" for side in ("local", "remote")
    )
    ping = "no answer" if pair["ping_ms"] is None else f"{pair['ping_ms']:.1f} ms"
    return f"direct, {ends}; ping {ping}; {pair['transfer_mbit_s']:.0f} Mbit/s"


def _peer_of(status: Json, name: str) -> Json | None:
    return next((peer for peer in status["peers"] if peer["name"] == name), None)


def _stage_of(peer: Json) -> str:
    return str(peer.get("reason") or peer["stage"])


def _is_settled(status: Json, name: str) -> bool:
    peer = _peer_of(status, name)
    if peer is None:
        return False
    return peer["status"] == "connected" or _stage_of(peer).startswith(NEEDS_RELAY)


def _ping(machine: Machine, address: str) -> float | None:
    """Return the median round trip in ms of the system's own ping through the tunnel, or None."""
    argv = ["ping", "-n", "-c", str(PINGS), "-i", "0.2", "-W", "2", address]
    output = machine.run(argv, check=False).stdout
    times = sorted(float(part[5:]) for part in output.split() if part.startswith("time="))
    return times[len(times) // 2] if times else None
