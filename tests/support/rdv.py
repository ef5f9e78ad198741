"""A toy DHT for the three sides of ginnel-rdv: records, and a network that carries commands."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import TypeAlias

from ginnel.base.types import Address, NodeId, Secret
from ginnel.discv5.enr import Enr, address_fields, sign_enr
from ginnel.discv5.requests import Contact
from ginnel.mesh import derive
from ginnel.mesh.finder import Finder, FinderEvent
from ginnel.mesh.registrar import Registered, Registrar
from ginnel.mesh.rendezvous import (
    Lookup,
    Ping,
    RdvCommand,
    TalkRequest,
    TalkResponse,
    Tokens,
    contact_of,
    distance,
)
from ginnel.mesh.storer import Storer

Party: TypeAlias = Registrar | Finder
RdvEvent: TypeAlias = Registered | FinderEvent

UNIX = 1_800_000_000.0
NETWORK_ID = hashlib.sha256(b"a network of tests").digest()
EPOCH = Secret(bytes(range(32)))


def record(ip: str, port: int = 41640) -> Enr:
    """Return a signed record of a node at this address; its key follows from the address."""
    key = hashlib.sha256(f"{ip} {port}".encode()).digest()
    return sign_enr(key, 1, address_fields(Address(ip, port)))


def contact(ip: str, port: int = 41640) -> Contact:
    """Return the contact of `record(ip, port)`."""
    found = contact_of(record(ip, port))
    assert found is not None
    return found


def point(member: int = 1, period: int | None = None) -> derive.Point:
    """Return a member's point under the epoch of the tests."""
    now = derive.period_of(UNIX) if period is None else period
    return derive.member_point(NETWORK_ID, EPOCH, bytes([member]) * 32, now)


def chance(seed: int = 1) -> Callable[[int], bytes]:
    """Return reproducible random bytes."""
    return random.Random(seed).randbytes


class ToyNet:
    """Storers at public addresses; commands of parties are carried at once."""

    def __init__(self, count: int = 2, *, enabled: bool = True) -> None:
        self.now = 0.0
        self.tokens = Tokens()
        self.records = [record(f"203.0.{i}.1") for i in range(count)]
        self.storers: dict[NodeId, Storer] = {}
        for enr in self.records:
            self.storers[enr.node_id] = Storer(
                enr.node_id, self.closest, tokens=self.tokens, now=0.0, enabled=enabled
            )
        self.silent: set[NodeId] = set()
        self.seen_as = Address("198.51.100.7", 3000)
        self.pushes: list[tuple[Contact, bytes]] = []  # storer, payload
        self.carried: list[RdvCommand] = []

    def closest(self, target: NodeId, count: int) -> list[Enr]:
        """Return the closest records."""
        return sorted(self.records, key=lambda r: distance(r.node_id, target))[:count]

    def talk(self, sender: Contact, to: NodeId, payload: bytes) -> bytes | None:
        """Let a storer answer; what it pushes is kept in `pushes`."""
        if to in self.silent:
            return None
        storer = self.storers[to]
        storer.on_talk_received(7, sender, payload, now=self.now)
        answer = None
        while (command := storer.poll_command()) is not None:
            if isinstance(command, TalkResponse):
                answer = command.payload
            elif isinstance(command, TalkRequest):
                pusher = next(r for r in self.records if r.node_id == to)
                found = contact_of(pusher)
                assert found is not None
                self.pushes.append((found, command.payload))
        return answer

    def carry(self, party: Party, sender: Contact) -> list[RdvEvent]:
        """Carry a party's commands until it has none; return its events."""
        events: list[RdvEvent] = []
        for _ in range(1000):
            command = party.poll_command()
            if command is None:
                break
            self.carried.append(command)
            self._carry_one(party, sender, command)
        event: RdvEvent | None
        while (event := party.poll_event()) is not None:
            events.append(event)
        return events

    def run(self, party: Party, sender: Contact, until: float) -> list[RdvEvent]:
        """Let time pass, doing what is due."""
        events = self.carry(party, sender)
        while (due := party.poll_deadline()) is not None and due.at <= until:
            self.now = max(self.now, due.at)
            party.handle_timeout(now=self.now)
            events += self.carry(party, sender)
        self.now = until
        return events

    def _carry_one(self, party: Party, sender: Contact, command: RdvCommand) -> None:
        now, unix_now = self.now, UNIX + self.now
        if isinstance(command, Lookup):
            reachable = [r for r in self.records if r.node_id not in self.silent]
            nodes = sorted(reachable, key=lambda r: distance(r.node_id, command.target))[:16]
            if isinstance(party, Registrar):
                party.on_lookup_done(command.token, nodes, now=now, unix_now=unix_now)
            else:
                party.on_lookup_done(command.token, nodes, now=now)
        elif isinstance(command, TalkRequest):
            answer = self.talk(sender, command.contact.node_id, command.payload)
            if isinstance(party, Registrar):
                party.on_talk_answered(command.token, answer, now=now)
            else:
                party.on_talk_answered(command.token, answer, now=now, unix_now=unix_now)
        elif isinstance(command, Ping) and isinstance(party, Registrar):
            lost = command.contact.node_id in self.silent
            party.on_pong(command.token, None if lost else self.seen_as, now=self.now)
