"""A user's own commands on the machines of a lab: public nodes, `init`, `invite`, `join`, `up`.

What the demo, the tests and the benchmarks have in common. Progress goes to a callback.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from ginnel.base.errors import SystemFailure
from ginnel.lab.networks import Lab, Machine

Json: TypeAlias = dict[str, Any]
Say: TypeAlias = Callable[[str, str], None]

JOIN_LIMIT_S = 90.0  # seconds for one machine to join and start; a busy machine needs them
POLL_S = 0.3  # seconds between two looks at a machine's status


class Scenario:
    """Ginnel on the machines of one lab; a command that fails raises SystemFailure."""

    def __init__(self, lab: Lab, say: Say, network: str = "demo", *, use_tun: bool = True) -> None:
        self.lab = lab
        self.network = network
        self.use_tun = use_tun
        self.records: list[str] = []  # of the public nodes
        self.say = say
        self._nodes: list[subprocess.Popen[str]] = []
        self._invites = threading.Lock()

    def machine(self, name: str) -> Machine:
        """Return a machine of the lab."""
        return self.lab.machine(name)

    def ginnel(self, name: str, *arguments: str, text: str | None = None) -> Json:
        """Run a command on a machine; return what it printed where that is JSON."""
        result = self.machine(name).run(["ginnel", *arguments], text=text)
        answer: Json = json.loads(result.stdout) if "--json" in arguments else {}
        return answer

    def start_node(self, name: str, *options: str) -> str:
        """Start a public node that knows the ones started before; return its record."""
        machine = self.machine(name)
        argv = ["ginnel", "node", "--json", "--advertise", machine.address, *options, *self.hints()]
        process = machine.popen(argv, stdout=subprocess.PIPE)
        self._nodes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemFailure(f"{name}: `ginnel node` ended with {process.wait()}")
        record: str = json.loads(line)["enr"]
        self.records.append(record)
        self.say(name, f"a public node, no member, at {machine.address}")
        return record

    def hints(self) -> list[str]:
        """Return the options that name the public nodes."""
        return [part for record in self.records for part in ("--node", record)]

    def init(self, name: str, *options: str) -> Json:
        """Make the network on a machine and start it; return what `init` said."""
        options = ("--name", name, *self.hints(), "--json", *options)
        made = self.ginnel(name, "init", self.network, *options)
        self.say(name, f"ginnel init {self.network}: made the network")
        self.up(name)
        return made

    def up(self, name: str) -> None:
        """Start Ginnel on a machine."""
        options = [] if self.use_tun else ["--no-tun"]
        self.ginnel(name, "up", self.network, "--no-wait", *options)
        own = self.status(name)["self"]
        self.say(name, f"ginnel up: {', '.join(own['addresses'])}")

    def join_all(
        self, admin: str, names: Sequence[str], *, relays: Sequence[str] = ()
    ) -> dict[str, str]:
        """Let machines join, all at once, and start them; return their invites.

        Those in `relays` may relay for the others.
        """
        pool = ThreadPoolExecutor(max(1, len(names)))
        try:
            jobs = {
                name: pool.submit(self.join, admin, name, relay=name in relays) for name in names
            }
            return {name: job.result() for name, job in jobs.items()}
        finally:  # after Ctrl-C nobody waits: the lab's end ends what the threads wait for
            pool.shutdown(wait=False, cancel_futures=True)

    def join(
        self, admin: str, name: str, *, relay: bool = False, options: Sequence[str] = ()
    ) -> str:
        """Invite a machine, let it join (`options` of join), approve its code, start it.

        Returns the invite.
        """
        with self._invites:
            invite: str = self.ginnel(admin, "invite", self.network, "--json")["invite"]
        self.say(admin, f"ginnel invite: one for {name}")
        joiner = self.machine(name).popen(
            ["ginnel", "join", "--json", "--name", name, *options, "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        timer = threading.Timer(JOIN_LIMIT_S, joiner.kill)
        timer.start()
        try:
            with joiner:  # closes the pipes, waits
                assert joiner.stdin is not None
                joiner.stdin.write(invite + "\n")
                joiner.stdin.close()
                self._follow_join(joiner, admin, name, ["--relay"] if relay else [])
        finally:
            timer.cancel()
        self.up(name)
        return invite

    def status(self, name: str) -> Json:
        """Return what `ginnel status` says on a machine."""
        return self.ginnel(name, "status", self.network, "--json")

    def peer(self, name: str, other: str) -> Json | None:
        """Return what a machine's status says of another."""
        return peer_of(self.status(name), other)

    def wait_until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Look again and again until the condition holds; return whether it did in time."""
        ends_at = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() >= ends_at:
                return False
            time.sleep(POLL_S)
        return True

    def stop_nodes(self) -> None:
        """End the public nodes; the lab's end would do it too, but they say good-bye this way."""
        for node in self._nodes:
            node.terminate()
        for node in self._nodes:
            node.wait()
            if node.stdout is not None:
                node.stdout.close()
        self._nodes.clear()

    def _follow_join(
        self, joiner: subprocess.Popen[str], admin: str, name: str, options: Sequence[str]
    ) -> None:
        assert joiner.stdout is not None
        approved = False
        for line in joiner.stdout:
            progress = json.loads(line)
            self.say(name, f"ginnel join: {progress['stage']}")
            if progress["waiting"] and not approved:
                approved = True
                code = progress["code"]
                command = ["approve", name, "--code", code, *options]
                self.ginnel(admin, *command, "--network", self.network, "--json")
                self.say(admin, f"ginnel {' '.join(command)}")
        if joiner.wait() != 0:
            raise SystemFailure(f"{name}: `ginnel join` ended with {joiner.returncode}")


def peer_of(status: Json, name: str) -> Json | None:
    """Return the peer of that name in a status."""
    return next((peer for peer in status["peers"] if peer["name"] == name), None)


def stage_of(peer: Json) -> str:
    """Return why there is no path, or else how far it is."""
    return str(peer.get("reason") or peer["stage"])
