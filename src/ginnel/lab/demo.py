"""The demo: machines behind different NATs find each other, with a user's own commands.

Two public nodes that are no members, four homes; `init` on the first machine, `invite`, `join` and
`approve` for the others, `up` on all; one of them may relay, for pairs that can't be direct. Then
for each pair the path, a ping and a transfer through the tunnel. Progress goes to a callback as it
happens; the result is one JSON value.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from ginnel.lab.networks import Lab, Machine
from ginnel.lab.scenario import Json, Say, Scenario, peer_of, stage_of
from ginnel.lab.topology import Home, LabTopology, NatKind, PublicMachine
from ginnel.lab.transfer import transfer

NODES = ("node1", "node2")
CONNECT_LIMIT_S = 40.0  # seconds from the last `up` until each pair is connected
PINGS = 3  # of each pair
TRANSFER_BYTES = 16 * 1024 * 1024  # of each pair; a second or two on two cores
_BLOCKED = frozenset({NatKind.UDP_BLOCKED, NatKind.TCP443})
_CHANGING = frozenset({NatKind.SYMMETRIC, NatKind.SYMMETRIC_SEQ})
_OPEN = frozenset({NatKind.FULL_CONE, NatKind.ADDR_RESTRICTED, NatKind.NONE})


@dataclass(frozen=True)
class DemoHome:
    """One machine of the demo and the kind of NAT that it is behind."""

    name: str
    kind: NatKind
    relay: bool = False  # may relay for the others


HOMES = (
    DemoHome("anna", NatKind.PORT_RESTRICTED),
    DemoHome("ben", NatKind.PORT_RESTRICTED),
    DemoHome("cleo", NatKind.FULL_CONE, relay=True),
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


class Demo:
    """One run of the demo in a lab; `run()` does all of it and returns what it saw."""

    def __init__(
        self, lab: Lab, say: Say, homes: Sequence[DemoHome] = HOMES, *, use_tun: bool = True
    ) -> None:
        self._homes = tuple(homes)
        self._say = say
        self._began = time.monotonic()
        self._stages: dict[tuple[str, str], str] = {}
        self._scenario = Scenario(lab, say, use_tun=use_tun)

    def run(self) -> Json:
        """Run the demo.

        Raises:
            SystemFailure: a command failed; the text has its output.
        """
        for name in NODES:
            self._scenario.start_node(name)
        first, *others = [home.name for home in self._homes]
        self._scenario.init(first)
        separation = self._scenario.status(first)["separation"]
        self._say(first, f"its tunnel process is separated by: {separation}")
        relays = [home.name for home in self._homes if home.relay]
        self._scenario.join_all(first, others, relays=relays)
        self._scenario.wait_until(self._is_settled, CONNECT_LIMIT_S)
        pairs = [self._look_at(one, other) for one, other in combinations(self._homes, 2)]
        seconds = round(time.monotonic() - self._began, 1)
        return {"ok": all(pair["ok"] for pair in pairs), "seconds": seconds, "pairs": pairs}

    def stop(self) -> None:
        """End the public nodes."""
        self._scenario.stop_nodes()

    def _is_settled(self) -> bool:
        """Tell new stages; say whether each pair is connected."""
        statuses = {home.name: self._scenario.status(home.name) for home in self._homes}
        for name, status in statuses.items():
            for peer in status["peers"]:
                self._tell_stage(name, peer)
        return all(
            _has_settled(statuses[one.name], other.name)
            and _has_settled(statuses[other.name], one.name)
            for one, other in combinations(self._homes, 2)
        )

    def _tell_stage(self, name: str, peer: Json) -> None:
        text = stage_of(peer)
        if self._stages.get((name, peer["name"])) != text:
            self._stages[name, peer["name"]] = text
            self._say(name, f"{peer['name']}: {text}")

    def _look_at(self, one: DemoHome, other: DemoHome) -> Json:
        peer = self._scenario.peer(one.name, other.name) or {}
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
            ends = [self._scenario.machine(home.name) for home in (one, other)]
            target = peer["addresses"][0]
            if self._scenario.use_tun:
                pair["ping_ms"] = ping(ends[0], target)
                pair["transfer_mbit_s"] = transfer(ends[0], ends[1], target, TRANSFER_BYTES)
            else:
                pair["ping_ms"] = self._ping_without_tun(one.name, other.name)
            pair["ok"] = pair["path"]["direct"] == expected and pair["ping_ms"] is not None
        else:
            pair["ok"] = False
        why = (pair["path"] or {}).get("why_relayed")
        text = f"{other.name}: {describe(pair)}"
        self._say(one.name, f"{text}; why: {why}" if why else text)
        return pair

    def _ping_without_tun(self, name: str, other: str) -> float | None:
        """Return the median round trip in ms of `ginnel ping`, which needs no device, or None."""
        argv = ["ginnel", "ping", other, "-c", str(PINGS), "-i", "0.2", "--json"]
        answers = json.loads(self._scenario.machine(name).run(argv, check=False).stdout)["answers"]
        times = sorted(item["latency_s"] for item in answers if item["latency_s"] is not None)
        return 1000 * times[len(times) // 2] if times else None


def describe(pair: Json) -> str:
    """Return a pair's path and measurements, or why there is none, as one line."""
    if pair["status"] != "connected":
        return pair["reason"] or "not connected, and no reason given"
    path = pair["path"]
    ends = " <-> ".join(
        f"{path[side]['kind']} {path[side]['address']}" for side in ("local", "remote")
    )
    answer = "no answer" if pair["ping_ms"] is None else f"{pair['ping_ms']:.1f} ms"
    rate = pair.get("transfer_mbit_s")
    moved = "no transfer without a TUN" if rate is None else f"{rate:.0f} Mbit/s"
    kind = "direct" if path["direct"] else "relayed by a member"
    return f"{kind}, {ends}; ping {answer}; {moved}"


def ping(machine: Machine, address: str) -> float | None:
    """Return the median round trip in ms of the system's own ping through the tunnel, or None."""
    argv = ["ping", "-n", "-c", str(PINGS), "-i", "0.2", "-W", "2", address]
    output = machine.run(argv, check=False).stdout
    times = sorted(float(part[5:]) for part in output.split() if part.startswith("time="))
    return times[len(times) // 2] if times else None


def _has_settled(status: Json, name: str) -> bool:
    peer = peer_of(status, name)
    return peer is not None and peer["status"] == "connected"
